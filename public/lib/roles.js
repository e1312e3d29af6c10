/**
 * What the two roles of a tab, leading and following, share: what they may ask of the provider, and what they say to
 * each other.
 */

/**
 * @typedef {'connecting' | 'connected' | 'disconnected'} Status
 *
 * @typedef {object} Link
 * @property {string} base the server's address
 * @property {import('./document-api.js').DocumentApi} api
 * @property {import('./replica.js').Replica} replica
 * @property {import('./presence.js').Presence} presence
 * @property {() => string} clientId
 * @property {number} maxBackoffTime
 * @property {number} heartbeatTimeout
 * @property {EventTarget} waker dispatches `wake`, when waiting makes no sense any more, and `drop`, when a stream is
 *   dead whatever it looks like
 * @property {() => { status: Status, isSynced: boolean }} state
 * @property {(message: Message) => void} tell the other tabs
 * @property {() => void} arrive connected, and what the server had is here
 * @property {() => void} lose connected no more, for now
 * @property {(code: string, reason: string) => void} close for good
 * @property {(code: string, reason: string) => void} foreseeEnd the reason to give if a refusal is next
 * @property {() => void} closeOtherLife
 * @property {(failure: import('./document-api.js').ApiError) => void} report it will be tried again
 */

/**
 * An update without bytes stands for the leader's own: those come when they are acknowledged.
 *
 * @typedef {object} PassedEvent
 * @property {number} first
 * @property {number} last
 * @property {Uint8Array} [update]
 * @property {string | null} origin
 *
 * @typedef {object} StateMessage
 * @property {'state'} type
 * @property {Status} status
 * @property {boolean} isSynced
 * @property {string | null} epoch
 * @property {number} seq all up to here has reached the leader
 * @property {number} stream counts the leader's streams
 *
 * @typedef {StateMessage
 *   | { type: 'events', epoch: string, events: PassedEvent[] }
 *   | { type: 'awareness', update: Uint8Array }
 *   | { type: 'closed', code: string, reason: string }
 *   | { type: 'gone', awarenessClient: number }} Message
 */

export {}

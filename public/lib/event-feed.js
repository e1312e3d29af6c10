/**
 * One open event stream: reads it, takes its events apart, and notices when it has gone silent.
 */

import { decodeBase64 } from './base64.js'
import { ApiError, readState } from './document-api.js'
import { EventStreamParser } from './event-stream.js'

/**
 * @typedef {{ type: 'sync', epoch: string | null, seq: number, update: Uint8Array, vector: Uint8Array, resumed: boolean }} SyncEvent
 * @typedef {{ type: 'update', epoch: string, first: number, last: number, update: Uint8Array, origin: string | null }} UpdateEvent
 * @typedef {{ type: 'own', epoch: string, last: number }} OwnEvent in place of an update of this stream's own client
 * @typedef {{ type: 'awareness', update: Uint8Array }} AwarenessEvent
 * @typedef {{ type: 'closed', code: string, detail: string }} ClosedEvent
 * @typedef {SyncEvent | UpdateEvent | OwnEvent | AwarenessEvent | ClosedEvent} FeedEvent
 */

/**
 * Hands over the events of each chunk together, so that a burst becomes one change of the document.
 *
 * Returns when the stream ends, with the reconnection time it asked for, or null.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {object} settings
 * @param {number} settings.silenceMax longest time without a byte, in milliseconds; the server's comments count
 * @param {() => void} settings.onBytes
 * @param {(events: FeedEvent[]) => void} settings.onEvents
 * @param {AbortSignal} settings.signal
 */
export async function readFeed (body, { silenceMax, onBytes, onEvents, signal }) {
  const parser = new EventStreamParser()
  const reader = body.getReader()
  let isSilent = false
  const onSilence = () => {
    isSilent = true
    void reader.cancel().catch(() => {})
  }
  const onAbort = () => void reader.cancel().catch(() => {})
  signal.addEventListener('abort', onAbort)
  let watchdog = setTimeout(onSilence, silenceMax)
  try {
    while (!signal.aborted) {
      const { done, value } = await reader.read()
      if (isSilent) throw new ApiError(0, 'silent', `nothing heard for ${silenceMax} ms`)
      if (done || signal.aborted) break
      clearTimeout(watchdog)
      watchdog = setTimeout(onSilence, silenceMax)
      onBytes()
      const events = parser.push(value).map(readEvent).filter(event => event !== null)
      if (events.length > 0) onEvents(events)
    }
    return parser.retry
  } catch (error) {
    if (error instanceof ApiError || !(error instanceof TypeError)) throw error
    throw new ApiError(0, 'stream_lost', 'the event stream broke off', { cause: error })
  } finally {
    clearTimeout(watchdog)
    signal.removeEventListener('abort', onAbort)
    void reader.cancel().catch(() => {})
  }
}

/**
 * @param {import('./event-stream.js').StreamEvent} event
 * @returns {FeedEvent | null} null: a kind of event that we do not know, or one without meaning for us
 */
function readEvent ({ type, data, id }) {
  if (data === null) return { type: 'own', ...readCursor(id) }
  switch (type) {
    case 'sync': {
      const json = JSON.parse(data)
      return { type, ...readState(json), resumed: json.resumed === true }
    }
    case 'update': {
      const { seq, from = seq, update, origin = null } = JSON.parse(data)
      return { type, ...readCursor(id), first: from, last: seq, update: decodeBase64(update), origin }
    }
    case 'awareness':
      return { type, update: decodeBase64(JSON.parse(data).update) }
    case 'closed': {
      const { code, detail = '' } = JSON.parse(data)
      return { type, code, detail }
    }
    default:
      return null
  }
}

/** @param {string} id `<epoch>.<seq>` */
function readCursor (id) {
  const dot = id.lastIndexOf('.')
  const last = Number(id.slice(dot + 1))
  if (dot < 1 || !Number.isSafeInteger(last)) throw new ApiError(0, 'unexpected_answer', `not an event id: ${id}`)
  return { epoch: id.slice(0, dot), last }
}

/**
 * Keeps a Yjs document in step with a server over plain HTTP.
 *
 * Takes the place of y-websocket's WebsocketProvider: same arguments, same events. What it adds is the truth about
 * what is saved: `unsyncedChanges` is 0 only when everything written here is on the server's disk.
 *
 * How it works, in one paragraph. The event stream brings first what this document lacks (`sync`), then every
 * update. Edits go out as POSTs, one at a time; what is typed meanwhile goes with the next. After each (re)connection
 * the server's state vector says what it lacks, and that is sent, so an edit needs no luck to arrive: the document
 * itself remembers it. Of the tabs of one browser one leads, holds the stream and passes it on, and the others follow;
 * each posts for itself.
 *
 * Here: the public face, and the page's life. Elsewhere: the two roles (`leading.js`, `following.js`) and who has
 * which (`cross-tab.js`); the copy of the document (`replica.js`) and its way to the server (`sender.js`, with
 * `outbox.js`); who is here (`presence.js`); requests and tokens (`document-api.js`).
 */

import { ObservableV2 } from 'lib0/observable'
import { Awareness } from 'y-protocols/awareness'
import { CrossTab } from './cross-tab.js'
import { ApiError, DocumentApi, LEAVING_UPDATE_BYTES_MAX } from './document-api.js'
import { Following } from './following.js'
import { Leading } from './leading.js'
import { Presence } from './presence.js'
import { Replica } from './replica.js'
import { Sender } from './sender.js'

const isBrowser = typeof window !== 'undefined' && typeof document !== 'undefined'

/** A follower's presence is renewed when the leader's messages wake it; the server forgets it after 35 s. */
const RENEW_AFTER_MS = 14_000
/** Later words of a tab repeat its earlier ones: the oldest may be forgotten. */
const HELD_PRESENCE_MAX = 64

/**
 * @typedef {import('./roles.js').Status} Status
 * @typedef {import('./roles.js').Message} Message
 * @typedef {import('yjs').Doc} Doc
 *
 * @typedef {object} Ack
 * @property {number} seq the document's sequence number that the update got
 * @property {number} latency milliseconds from request to answer
 * @property {number} bytes of the update
 * @property {number} edits how many Yjs updates were in it
 *
 * @typedef {object} Events
 * @property {(event: { status: Status }) => void} status
 * @property {(isSynced: boolean) => void} sync
 * @property {(isSynced: boolean) => void} synced
 * @property {(unsyncedChanges: number) => void} unsynced
 * @property {(ack: Ack) => void} ack
 * @property {(error: Error, provider: SseProvider) => void} connection-error it will be tried again
 * @property {(end: { code: string, reason: string }, provider: SseProvider) => void} closed final: nothing is tried any more
 * @property {(role: import('./cross-tab.js').Role) => void} role
 * @property {(update: { origin: string | null, seq: number, bytes: number }) => void} remote-update
 * @property {() => void} gap something was missing on one side, and is being fetched or sent
 * @property {(error: ApiError) => void} rejected the server will not take an edit; it stays unsynced
 *
 * @typedef {object} Options
 * @property {boolean} [connect] at once; default true
 * @property {Awareness} [awareness] default: a new one
 * @property {Record<string, string>} [params] added to every address; `label` names this client in the server's list
 * @property {Record<string, string>} [headers] added to every request
 * @property {import('./document-api.js').Token} [token] sent as `Authorization: Bearer`; a function is asked again,
 *   with `refresh: true`, when the server answers 401
 * @property {string | null} [epoch] the life of the document that a stored copy belongs to
 * @property {number} [resyncInterval] compare with the server so often, in milliseconds; default -1, never
 * @property {number} [maxBackoffTime] longest delay between two tries, in milliseconds; default 2500
 * @property {boolean} [disableBc] do not talk to other tabs; default: false in browsers, true elsewhere
 * @property {'leader' | 'solo'} [crossTab] `leader` (default): the tabs of a browser share one stream
 * @property {number} [heartbeatTimeout] a stream silent for so long is dead, in milliseconds; default 40000
 * @property {number} [requestTimeout] milliseconds; default 15000
 * @property {number} [takeoverTimeout] a leading tab that answers nothing for so long is replaced; default 10000
 * @property {number} [presenceInterval] shortest time between two awareness posts, in milliseconds; default 80
 * @property {number} [presenceGrace] how long others are shown after the connection is lost; default 5000
 * @property {boolean} [warnOnClose] ask before a tab with unsynced changes is closed; default false
 * @property {typeof globalThis.fetch} [fetch]
 */

/** @extends {ObservableV2<{ [K in keyof Events]: Events[K] }>} */
export class SseProvider extends ObservableV2 {
  #api
  #replica
  #sender
  #presence
  /** What `Leading` and `Following` may ask of us. @type {import('./roles.js').Link} */
  #link
  #resyncInterval
  #takeoverTimeout
  #warnOnClose
  #ownsAwareness
  /** What the tabs that belong together have in common; null: we are on our own. */
  #tabsName
  #waker = new EventTarget()

  /** @type {Status} */
  #status = 'disconnected'
  #isSynced = false
  /**
   * What other tabs said of who is here before this one had arrived: the leader greets a newcomer once, and the
   * newcomer's own question to the server is mostly still on its way then. @type {Uint8Array[]}
   */
  #heldPresence = []
  /** @type {Leading | Following | null} */
  #role = null
  /** @type {CrossTab | null} */
  #tabs = null
  /** Why the stream has ended, if that was for its token's sake: another token may be refused as well. @type {{ code: string, reason: string } | null} */
  #foreseenEnd = null
  /** From `connect` to `disconnect`. @type {AbortController | null} */
  #connection = null
  /** For as long as this tab has its role. @type {AbortController | null} */
  #term = null
  #resumeOnReturn = false

  /**
   * @param {string} serverUrl ws:// and wss:// are read as http:// and https://
   * @param {string} documentId
   * @param {Doc} doc
   * @param {Options} [options]
   */
  constructor (serverUrl, documentId, doc, {
    connect = true, awareness, params = {}, headers = {}, token = null, epoch = null,
    resyncInterval = -1, maxBackoffTime = 2500, disableBc = !isBrowser, crossTab = 'leader',
    heartbeatTimeout = 40_000, requestTimeout = 15_000, takeoverTimeout = 10_000,
    presenceInterval = 80, presenceGrace = 5000, warnOnClose = false,
    fetch = globalThis.fetch.bind(globalThis),
  } = {}) {
    super()
    const base = readServerUrl(serverUrl)
    this.doc = doc
    this.roomname = documentId
    this.awareness = awareness ?? new Awareness(doc)
    this.shouldConnect = false
    /** Names this provider to the server. Never stored: a duplicated tab would copy it, and be taken for this one. */
    this.clientId = newClientId()
    /** Milliseconds of the last acknowledged post, or null. @type {number | null} */
    this.latency = null
    /** Resolves when the server's state has arrived for the first time. @type {Promise<void>} */
    this.whenSynced = new Promise(resolve => this.once('synced', () => resolve()))

    this.#resyncInterval = resyncInterval
    this.#takeoverTimeout = takeoverTimeout
    this.#warnOnClose = warnOnClose
    this.#ownsAwareness = awareness === undefined
    const usesTabs = crossTab === 'leader' && !disableBc && CrossTab.isPossible
    this.#tabsName = usesTabs ? `promptgrimoire ${base}/${documentId}?${new URLSearchParams(params)}` : null

    this.#api = new DocumentApi({ base, documentId, params, headers, token, fetch, requestTimeout })
    this.#replica = new Replica(doc, this.#api, {
      epoch,
      origin: this,
      onRemote: update => this.emit('remote-update', [update]),
      onLearned: () => this.#sender.plan(),
      onGap: () => this.emit('gap', []),
      onOtherLife: () => this.#closeOtherLife(),
    })
    this.#sender = new Sender(this.#api, this.#replica, {
      clientId: () => this.clientId,
      maxBackoffTime,
      onAck: ack => this.#onAck(ack),
      onUnsynced: edits => this.emit('unsynced', [edits]),
      onGap: () => this.emit('gap', []),
      onFailure: failure => this.emit('connection-error', [failure, this]),
      onRejected: failure => this.emit('rejected', [failure]),
      onFinal: failure => this.#close(failure.code, failure.message),
      onOtherLife: () => this.#closeOtherLife(),
    })
    this.#presence = new Presence(this.awareness, {
      interval: presenceInterval,
      grace: presenceGrace,
      send: update => this.#api.postAwareness(update, this.clientId, this.#signal),
      tell: update => this.#link.tell({ type: 'awareness', update }),
    })
    this.#link = {
      base,
      api: this.#api,
      replica: this.#replica,
      presence: this.#presence,
      clientId: () => this.clientId,
      maxBackoffTime,
      heartbeatTimeout,
      waker: this.#waker,
      state: () => ({ status: this.#status, isSynced: this.#isSynced }),
      tell: message => this.#tabs?.post(message),
      arrive: () => this.#arrive(),
      lose: () => this.#lose(),
      close: (code, reason) => this.#close(code, reason),
      foreseeEnd: (code, reason) => { this.#foreseenEnd = { code, reason } },
      closeOtherLife: () => this.#closeOtherLife(),
      report: failure => this.emit('connection-error', [failure, this]),
    }

    doc.on('update', this.#onUpdate)
    doc.on('destroy', this.#onDocDestroy)
    if (isBrowser) {
      window.addEventListener('online', this.#onOnline)
      window.addEventListener('offline', this.#onOffline)
      window.addEventListener('pagehide', this.#onPageHide)
      window.addEventListener('pageshow', this.#onPageShow)
      window.addEventListener('beforeunload', this.#onBeforeUnload)
      document.addEventListener('visibilitychange', this.#onVisibility)
    }
    if (connect) this.connect()
  }

  /** @returns {Status} */
  get status () { return this.#status }
  get wsconnected () { return this.#status === 'connected' }
  get wsconnecting () { return this.#status === 'connecting' }
  /** The server's state has arrived on this connection. Says nothing of our own edits: see `unsyncedChanges`. */
  get synced () { return this.#isSynced }
  /** Edits that the server has not acknowledged as durable. */
  get unsyncedChanges () { return this.#sender.unsynced }
  get hasUnsyncedChanges () { return this.#sender.unsynced > 0 }
  /** Whether this tab holds the stream for the tabs of its browser. @returns {import('./cross-tab.js').Role} */
  get role () { return this.#role instanceof Following ? 'follower' : 'leader' }
  /** Which life of the document this copy belongs to; null while it was never written. */
  get epoch () { return this.#replica.epoch }
  /** All of the document's updates up to this sequence number have arrived here. */
  get seq () { return this.#replica.covered.through }

  connect () {
    this.shouldConnect = true
    if (this.#connection !== null) return
    const { signal } = this.#connection = new AbortController()
    this.#api.forgetToken()
    this.#replica.begin(signal)
    this.#sender.begin(signal)
    this.#setStatus('connecting')
    if (this.#tabsName === null) {
      this.#begin('leader')
    } else {
      this.#tabs = new CrossTab(this.#tabsName, this.clientId, {
        takeoverTimeout: this.#takeoverTimeout,
        onRole: role => {
          this.#begin(role)
          this.emit('role', [role])
        },
        onMessage: (message, fromLeader) => this.#onMessage(message, fromLeader),
        onNewcomer: () => { if (this.#role instanceof Leading) this.#role.greet() },
      })
      this.#tabs.start()
    }
    if (this.#resyncInterval > 0) {
      const timer = setInterval(() => { if (this.#isSynced) this.#replica.check(true) }, this.#resyncInterval)
      signal.addEventListener('abort', () => clearInterval(timer))
    }
  }

  /** Stops sending and listening until `connect`. Edits are kept. */
  disconnect () {
    this.shouldConnect = false
    this.#leave()
  }

  /**
   * Takes another client id, for another user: the server keeps one for whoever came with it. Only while not connected.
   */
  takeNewClientId () {
    if (this.#connection !== null) throw new Error('disconnect first: the stream and the other tabs know the present id')
    this.clientId = newClientId()
  }

  destroy () {
    if (this.shouldConnect) this.#sender.sendRest(Infinity)
    this.disconnect()
    this.doc.off('update', this.#onUpdate)
    this.doc.off('destroy', this.#onDocDestroy)
    if (isBrowser) {
      window.removeEventListener('online', this.#onOnline)
      window.removeEventListener('offline', this.#onOffline)
      window.removeEventListener('pagehide', this.#onPageHide)
      window.removeEventListener('pageshow', this.#onPageShow)
      window.removeEventListener('beforeunload', this.#onBeforeUnload)
      document.removeEventListener('visibilitychange', this.#onVisibility)
    }
    this.#presence.destroy()
    if (this.#ownsAwareness) this.awareness.destroy()
    super.destroy()
  }

  // Being connected.

  get #signal () {
    return this.#connection?.signal ?? AbortSignal.abort()
  }

  /** @param {import('./cross-tab.js').Role} role */
  #begin (role) {
    this.#term?.abort()
    const term = this.#term = new AbortController()
    this.#signal.addEventListener('abort', () => term.abort())
    this.#replica.expected = 0
    if (role === 'leader') {
      const leading = this.#role = new Leading(this.#link)
      this.#lose()
      void leading.run(term.signal, this.#tabs !== null)
    } else {
      const following = this.#role = new Following(this.#link)
      this.#lose()
      void following.run(term.signal)
    }
  }

  /** Ends all that belongs to a connection. */
  #leave () {
    if (this.#connection === null) return
    const absence = this.#presence.close()
    if (absence !== null && this.#isSynced) this.#api.sendLeaving('/awareness', absence, this.clientId, null)
    this.#tabs?.stop(/** @type {Message} */ ({ type: 'gone', awarenessClient: this.awareness.clientID }))
    this.#tabs = null
    this.#connection.abort()
    this.#connection = null
    this.#term = null
    this.#heldPresence = []
    this.#foreseenEnd = null
    this.#setSynced(false)
    this.#setStatus('disconnected')
  }

  /**
   * Ends for good: trying again would get the same answer.
   *
   * @param {string} code
   * @param {string} reason
   */
  #close (code, reason) {
    if (this.#connection === null) return
    const isRefused = code === 'unauthorized' || code === 'forbidden'
    const end = isRefused && this.#foreseenEnd !== null ? this.#foreseenEnd : { code, reason }
    this.disconnect()
    this.emit('closed', [end, this])
  }

  #closeOtherLife () {
    this.#close('epoch_changed', 'the document was deleted, and perhaps begun again: this copy belongs to its earlier life')
  }

  #lose () {
    if (this.#connection === null) return
    this.#sender.close()
    this.#presence.lose()
    this.#setSynced(false)
    this.#heldPresence = []
    this.#setStatus('connecting')
    if (this.#role instanceof Leading) this.#role.tellState()
  }

  #arrive () {
    if (this.#connection === null) return // a handler of an earlier event has disconnected
    this.#replica.arrive()
    this.#foreseenEnd = null
    this.#setStatus('connected')
    this.#presence.open() // after which only what is said anew counts
    for (const update of this.#heldPresence.splice(0)) this.#presence.apply(update)
    this.#setSynced(true)
    if (this.#role instanceof Leading) this.#role.tellState()
    this.#sender.open()
  }

  /**
   * @param {Message} message of another tab
   * @param {boolean} fromLeader
   */
  #onMessage (message, fromLeader) {
    if (this.#connection === null) return
    this.#presence.renew(RENEW_AFTER_MS)
    const following = this.#role instanceof Following && fromLeader ? this.#role : null
    switch (message.type) {
      case 'awareness':
        if (this.#isSynced) this.#presence.apply(message.update)
        else if (this.#heldPresence.push(message.update) > HELD_PRESENCE_MAX) this.#heldPresence.shift()
        break
      case 'gone':
        this.#presence.remove(message.awarenessClient)
        break
      case 'state':
        following?.onLeaderState(message)
        break
      case 'events':
        following?.onLeaderEvents(message.epoch, message.events)
        break
      case 'closed':
        if (following === null) break
        // Each tab has a token of its own, and learns from the server what it is worth.
        if (message.code === 'deleted') this.#close(message.code, message.reason)
        else this.#foreseenEnd = { code: message.code, reason: message.reason }
        break
    }
  }

  /** @param {import('./sender.js').Acknowledged} ack */
  #onAck (ack) {
    const { seq, latency, edits, update } = ack
    this.latency = latency
    if (this.#role instanceof Leading) this.#role.passOn(ack)
    this.emit('ack', [{ seq, latency, bytes: update.length, edits }])
  }

  /**
   * @param {Uint8Array} update
   * @param {unknown} origin
   * @param {Doc} _doc
   * @param {import('yjs').Transaction} transaction
   */
  #onUpdate = (update, origin, _doc, transaction) => {
    if (origin !== this) this.#sender.add(update, transaction.local)
  }

  // The page's life.

  #onDocDestroy = () => this.destroy()

  #onOnline = () => { this.#waker.dispatchEvent(new Event('wake')) }

  #onOffline = () => { this.#waker.dispatchEvent(new Event('drop')) }

  #onPageHide = () => {
    if (!this.shouldConnect) return
    this.#sender.sendRest(LEAVING_UPDATE_BYTES_MAX)
    this.#resumeOnReturn = true
    // An open stream or a lock would keep the page out of the back/forward cache, and the other tabs waiting.
    this.#leave()
  }

  /** @param {PageTransitionEvent} event */
  #onPageShow = event => {
    if (!event.persisted || !this.#resumeOnReturn) return
    this.#resumeOnReturn = false
    if (this.shouldConnect) this.connect()
  }

  /** A hidden tab of a phone may end without another word. */
  #onVisibility = () => {
    if (document.visibilityState === 'visible') this.#onOnline()
    else if (this.shouldConnect) this.#sender.sendRest(LEAVING_UPDATE_BYTES_MAX)
  }

  /** @param {BeforeUnloadEvent} event */
  #onBeforeUnload = event => {
    if (this.#warnOnClose && this.hasUnsyncedChanges) event.preventDefault()
  }

  // Telling.

  /** @param {Status} status */
  #setStatus (status) {
    if (status === this.#status) return
    this.#status = status
    this.emit('status', [{ status }])
  }

  /** @param {boolean} isSynced */
  #setSynced (isSynced) {
    if (isSynced === this.#isSynced) return
    this.#isSynced = isSynced
    this.emit('synced', [isSynced])
    this.emit('sync', [isSynced])
  }
}

/**
 * @param {string} serverUrl
 * @returns {string} without a slash at the end
 */
function readServerUrl (serverUrl) {
  const url = new URL(serverUrl, isBrowser ? window.location.href : undefined)
  if (url.protocol === 'ws:') url.protocol = 'http:'
  if (url.protocol === 'wss:') url.protocol = 'https:'
  return (url.origin + url.pathname).replace(/\/+$/, '')
}

function newClientId () {
  // Not crypto.randomUUID: pages on plain http have none.
  const bytes = crypto.getRandomValues(new Uint8Array(12))
  return 'c' + Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('')
}

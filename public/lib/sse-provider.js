/**
 * Keeps a Yjs document in step with a server over plain HTTP.
 *
 * Takes the place of y-websocket's WebsocketProvider: same arguments, same events. What it adds is the truth about
 * what is saved: `unsyncedChanges` is 0 only when everything written here is on the server's disk.
 *
 * How it works, in one paragraph. The event stream brings first what this document lacks (`sync`), then every
 * update. Edits go out as POSTs, one at a time; what is typed meanwhile goes with the next. After each (re)connection
 * the server's state vector says what it lacks, and that is sent, so an edit needs no luck to arrive: the document
 * itself remembers it. Of the tabs of one browser one holds the stream and passes it on (`cross-tab.js`); each posts
 * for itself, and asks the server itself what it lacks.
 *
 * Elsewhere: requests and tokens (`document-api.js`), what waits to be sent (`outbox.js`), reading the stream
 * (`event-feed.js`), who is here (`presence.js`).
 */

import * as Y from 'yjs'
import { ObservableV2 } from 'lib0/observable'
import { Awareness } from 'y-protocols/awareness'
import { Backoff, pause } from './backoff.js'
import { decodeBase64, encodeBase64 } from './base64.js'
import { Covered } from './covered.js'
import { CrossTab } from './cross-tab.js'
import { ADDRESS_VECTOR_CHARACTERS_MAX, ApiError, DocumentApi, LEAVING_UPDATE_BYTES_MAX } from './document-api.js'
import { readFeed } from './event-feed.js'
import { Outbox, compare, hasParked } from './outbox.js'
import { Presence } from './presence.js'

const isBrowser = typeof window !== 'undefined' && typeof document !== 'undefined'

/** A leader tells the others so often that it hears the server, and hidden tabs renew their presence on it. */
const BEAT_MS = 2000
const RENEW_AFTER_MS = 14_000
/** How long a missing part may be on its way before it is fetched. */
const HEAL_AFTER_MS = 300
/** So many pulls may leave the document as incomplete as it was; then we wait for the next connection. */
const PULLS_IN_VAIN_MAX = 5
/** So many differences in a row may be answered "missing updates" before we pull first and wait between tries. */
const GAPS_MAX = 3
/** So many updates in a row may be called invalid before we stop: the document itself is then what is refused. */
const REJECTIONS_MAX = 3

/** Reasons for which the server ends a stream and means it. */
const FINAL_CODES = new Set(['deleted', 'revoked'])

/**
 * @typedef {'connecting' | 'connected' | 'disconnected'} Status
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

/**
 * What the leader passes on. `events` without an update stand for the leader's own, whose bytes come when they are
 * acknowledged.
 *
 * @typedef {{ type: 'state', status: Status, isSynced: boolean, epoch: string | null, seq: number, stream: number }} StateMessage
 * @typedef {{ first: number, last: number, update?: Uint8Array, origin: string | null }} PassedEvent
 * @typedef {StateMessage
 *   | { type: 'events', epoch: string, events: PassedEvent[] }
 *   | { type: 'awareness', update: Uint8Array }
 *   | { type: 'closed', code: string, reason: string }
 *   | { type: 'gone', awarenessClient: number }} Message
 */

/** @extends {ObservableV2<{ [K in keyof Events]: Events[K] }>} */
export class SseProvider extends ObservableV2 {
  /** @type {DocumentApi} */ #api
  /** @type {Outbox} */ #outbox
  /** @type {Presence} */ #presence
  #covered = new Covered()
  /** @type {Required<Pick<Options, 'resyncInterval' | 'maxBackoffTime' | 'heartbeatTimeout' | 'takeoverTimeout' | 'warnOnClose'>>} */ #settings
  #tabsName
  #ownsAwareness
  /** Wakes every wait between two tries. */
  #waker = new EventTarget()

  /** @type {Status} */ #status = 'disconnected'
  #isSynced = false
  /** @type {string | null} */ #epoch
  /** @type {import('./cross-tab.js').Role} */ #role = 'leader'
  /** @type {CrossTab | null} */ #tabs = null
  /** From `connect` to `disconnect`. @type {AbortController | null} */ #connection = null
  /** As long as this tab has its role. @type {AbortController | null} */ #term = null
  #sendBackoff
  #gaps = 0
  #rejections = 0
  /** No edit is sent before this time, or for as long as the connection lasts. */
  #blockedUntil = 0
  /** Largest update that the server takes, once it has said so. */
  #updateBytesMax = Infinity
  #flushIsPlanned = false
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #flushTimer
  #announced = 0

  #isHealing = false
  #healIsCertain = false
  #pullsInVain = 0
  #beatAt = 0
  /** Counts the streams that this tab has led. */
  #stream = 0
  /** As a follower: what the leader last said. @type {StateMessage | null} */ #leader = null
  /** As a follower: the highest sequence that the leader has heard of. */
  #leaderSeq = 0
  /** As a follower: asked the server since the leader's stream began. */
  #hasPulled = false
  #isPulling = false
  #resumeOnReturn = false

  /**
   * @param {string} serverUrl ws:// and wss:// are read as http:// and https://
   * @param {string} documentId
   * @param {Y.Doc} doc
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

    this.#settings = { resyncInterval, maxBackoffTime, heartbeatTimeout, takeoverTimeout, warnOnClose }
    this.#ownsAwareness = awareness === undefined
    this.#epoch = epoch
    this.#sendBackoff = new Backoff(maxBackoffTime)
    this.#api = new DocumentApi({ base, documentId, params, headers, token, fetch, requestTimeout })
    this.#outbox = new Outbox(doc)
    this.#presence = new Presence(this.awareness, {
      interval: presenceInterval,
      grace: presenceGrace,
      send: update => this.#api.postAwareness(update, this.clientId, this.#signal),
      tell: update => this.#tell({ type: 'awareness', update }),
    })
    const usesTabs = crossTab === 'leader' && !disableBc && CrossTab.isPossible
    this.#tabsName = usesTabs ? `promptgrimoire ${base}/${documentId}?${new URLSearchParams(params)}` : null

    this.#announced = this.#outbox.size
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
  get unsyncedChanges () { return this.#outbox.size }
  get hasUnsyncedChanges () { return this.#outbox.size > 0 }
  /** Who holds the stream for the tabs of this browser. */
  get role () { return this.#role }
  /** Which life of the document this copy belongs to; null while it was never written. */
  get epoch () { return this.#epoch }

  connect () {
    this.shouldConnect = true
    if (this.#connection !== null) return
    const connection = this.#connection = new AbortController()
    this.#blockedUntil = 0
    this.#rejections = 0
    this.#gaps = 0
    this.#setStatus('connecting')
    if (this.#tabsName === null) {
      this.#begin('leader')
    } else {
      this.#tabs = new CrossTab(this.#tabsName, this.clientId, {
        takeoverTimeout: this.#settings.takeoverTimeout,
        onRole: role => this.#begin(role),
        onMessage: (message, fromLeader) => this.#onMessage(message, fromLeader),
        onNewcomer: () => this.#greet(),
      })
      this.#tabs.start()
    }
    if (this.#settings.resyncInterval > 0) {
      const timer = setInterval(() => { if (this.#isSynced) void this.#heal(true) }, this.#settings.resyncInterval)
      connection.signal.addEventListener('abort', () => clearInterval(timer))
    }
  }

  /** Stops sending and listening until `connect`. Edits are kept. */
  disconnect () {
    this.shouldConnect = false
    this.#leave()
  }

  destroy () {
    if (this.shouldConnect) this.#sendRest(this.#updateBytesMax)
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

  // Being connected, in one of two roles.

  get #signal () {
    return this.#connection?.signal ?? AbortSignal.abort()
  }

  /** @param {import('./cross-tab.js').Role} role */
  #begin (role) {
    this.#role = role
    this.#term?.abort()
    const term = this.#term = new AbortController()
    this.#signal.addEventListener('abort', () => term.abort())
    this.#leader = null
    this.#leaderSeq = 0
    this.#lose()
    if (this.#tabs !== null) this.emit('role', [role])
    if (term.signal.aborted) return
    if (role === 'leader') void this.#lead(term.signal)
    else void this.#pullAsFollower(term.signal)
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
    clearTimeout(this.#flushTimer)
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
    this.disconnect()
    this.emit('closed', [{ code, reason }, this])
  }

  /** Connected no more, for now. */
  #lose () {
    this.#presence.lose()
    this.#setSynced(false)
    this.#setStatus('connecting')
    this.#tellState()
  }

  /** Connected, and what the server had is here. */
  #arrive () {
    if (this.#connection === null) return // a handler of an earlier event has disconnected
    this.#pullsInVain = 0
    this.#setStatus('connected')
    this.#sendBackoff.reset()
    this.#presence.open()
    this.#setSynced(true)
    this.#tellState()
    this.#planFlush()
  }

  /**
   * Holds a stream open, again and again.
   *
   * @param {AbortSignal} signal
   */
  async #lead (signal) {
    const backoff = new Backoff(this.#settings.maxBackoffTime)
    while (!signal.aborted) {
      let delay = 0
      try {
        delay = await this.#holdStream(backoff, signal)
      } catch (error) {
        if (signal.aborted) return
        const failure = this.#explain(error)
        if (!failure.isTemporary) return this.#close(failure.code, failure.message)
        delay = failure.retryAfter
        this.emit('connection-error', [failure, this])
      }
      if (signal.aborted) return
      this.#lose()
      await pause(backoff.next(delay), signal, this.#waker)
    }
  }

  /**
   * @param {Backoff} backoff
   * @param {AbortSignal} signal
   * @returns {Promise<number>} how long to wait at least before the next, in milliseconds
   */
  async #holdStream (backoff, signal) {
    const ownVector = Y.encodeStateVector(this.doc)
    let vector = encodeBase64(ownVector)
    if (this.#cursor === null && vector.length > ADDRESS_VECTOR_CHARACTERS_MAX) {
      // Too long for an address: ask first, and let the stream begin where the answer ends.
      const state = await this.#api.state(ownVector, signal)
      if (signal.aborted) return 0
      if (!this.#isThisLife(state.epoch)) {
        this.#closeOtherLife()
        return 0
      }
      this.#apply([state.update])
      this.#covered.reset(state.seq)
      vector = encodeBase64(Y.encodeStateVector(this.doc))
    }
    // The signal of this stream alone: `offline` ends it, and the loop goes on.
    const ends = new AbortController()
    const end = () => ends.abort()
    signal.addEventListener('abort', end)
    this.#waker.addEventListener('drop', end)
    try {
      const body = await this.#api.events({ clientId: this.clientId, since: this.#cursor, vector }, ends.signal)
      /** @type {import('./event-feed.js').ClosedEvent | null} */
      let closed = null
      const retry = await readFeed(body, {
        silenceMax: this.#settings.heartbeatTimeout,
        signal: ends.signal,
        onBytes: () => this.#beat(),
        onEvents: events => {
          if (events.some(event => event.type === 'sync')) backoff.reset()
          closed = this.#takeEvents(events)
        },
      })
      return this.#afterStream(closed, retry)
    } finally {
      signal.removeEventListener('abort', end)
      this.#waker.removeEventListener('drop', end)
    }
  }

  /**
   * @param {import('./event-feed.js').ClosedEvent | null} closed
   * @param {number | null} retry
   */
  #afterStream (closed, retry) {
    if (closed === null) return 0
    if (FINAL_CODES.has(closed.code)) {
      this.#tell({ type: 'closed', code: closed.code, reason: closed.detail })
      this.#close(closed.code, closed.detail)
    } else if (closed.code === 'token_expired') {
      if (!this.#api.canRefreshToken) this.#close(closed.code, closed.detail)
      this.#api.expireToken()
    } else {
      // The server stops, and everybody comes back: each at the time drawn for its stream.
      return retry ?? 0
    }
    return 0
  }

  /** Where the stream is to go on. */
  get #cursor () {
    return this.#epoch === null ? null : `${this.#epoch}.${this.#covered.through}`
  }

  /**
   * Takes in the events of one chunk, as one change of the document.
   *
   * @param {import('./event-feed.js').FeedEvent[]} events
   * @returns {import('./event-feed.js').ClosedEvent | null}
   */
  #takeEvents (events) {
    /** @type {Uint8Array[]} */
    const updates = []
    /** What is done when the updates are in the document: nobody's code may run, and edit, inside our transaction. */
    /** @type {(() => void)[]} */
    const after = []
    /** @type {PassedEvent[]} */
    const passed = []
    /** @type {import('./event-feed.js').ClosedEvent | null} */
    let closed = null
    let isOtherLife = false
    for (const event of events) {
      if ('epoch' in event && !this.#isThisLife(event.epoch)) {
        isOtherLife = true
        break
      }
      switch (event.type) {
        case 'sync':
          updates.push(event.update)
          after.push(() => this.#takeSync(event, passed))
          break
        case 'own':
          after.push(() => {
            this.#covered.add(event.last, event.last)
            passed.push({ first: event.last, last: event.last, origin: this.clientId })
          })
          break
        case 'update': {
          const { first, last, update, origin } = event
          updates.push(update)
          after.push(() => {
            this.#covered.add(first, last)
            passed.push({ first, last, update, origin })
            this.emit('remote-update', [{ origin, seq: last, bytes: update.length }])
          })
          break
        }
        case 'awareness':
          after.push(() => {
            this.#presence.apply(event.update)
            this.#tell({ type: 'awareness', update: event.update })
          })
          break
        case 'closed':
          closed = event
          break
      }
    }
    const wasParked = this.#apply(updates)
    for (const action of after) action()
    if (passed.length > 0 && this.#epoch !== null) this.#tell({ type: 'events', epoch: this.#epoch, events: passed })
    if (isOtherLife) this.#closeOtherLife()
    else this.#checkWhole(wasParked)
    return closed
  }

  /**
   * @param {import('./event-feed.js').SyncEvent} event its update is in the document
   * @param {PassedEvent[]} passed
   */
  #takeSync (event, passed) {
    const before = this.#covered.through
    const isResumed = event.resumed && this.#stream > 0
    this.#covered.reset(event.seq)
    this.#stream++
    if (isResumed && event.seq > before) passed.push({ first: before + 1, last: event.seq, update: event.update, origin: null })
    this.#learn(event)
    this.#arrive()
  }

  /**
   * Applies updates of the server as one change.
   *
   * @param {Uint8Array[]} updates
   * @returns {boolean} whether parts of the document were waiting before
   */
  #apply (updates) {
    const wasParked = hasParked(this.doc)
    if (updates.length > 0) {
      Y.transact(this.doc, () => {
        for (const update of updates) Y.applyUpdate(this.doc, update, this)
      }, this, false)
    }
    return wasParked
  }

  /**
   * Learns from the server's state, which is in the document, what the server lacks.
   *
   * @param {import('./document-api.js').State} state
   */
  #learn ({ seq, update, vector }) {
    this.#outbox.learn(vector)
    this.#announceUnsynced()
    if (compare(this.doc, vector).isBehind) this.#checkWhole(true)
    if (update.length > 2) this.emit('remote-update', [{ origin: null, seq, bytes: update.length }])
  }

  /**
   * The epoch under which everything here was written is the only one that may be merged: a document that was deleted
   * and begun again is another one under the same name.
   *
   * @param {string | null} epoch
   */
  #isThisLife (epoch) {
    this.#epoch ??= epoch
    return this.#epoch === epoch
  }

  #closeOtherLife () {
    this.#close('epoch_changed', 'the document was deleted, and perhaps begun again: this copy belongs to its earlier life')
  }

  /**
   * Fetches what is missing if it does not come by itself.
   *
   * @param {boolean} isSuspicious something is missing that cannot be seen here, or was completed in a way that is
   *   not: what the server's update released may never have been sent
   */
  #checkWhole (isSuspicious) {
    if (isSuspicious || !this.#isWhole) void this.#heal(isSuspicious)
  }

  /** @param {boolean} isCertain ask the server even if all seems to be here */
  async #heal (isCertain) {
    this.#healIsCertain ||= isCertain
    if (this.#isHealing) return
    this.#isHealing = true
    const signal = this.#signal
    const backoff = new Backoff(Math.max(this.#settings.maxBackoffTime, 1000))
    await pause(HEAL_AFTER_MS * (1 + Math.random()), signal)
    // Without a connection: whoever makes one learns what is missing anyway.
    while (!signal.aborted && this.#isSynced && (this.#healIsCertain || !this.#isWhole) && this.#pullsInVain < PULLS_IN_VAIN_MAX) {
      if (!this.#isWhole) this.emit('gap', [])
      try {
        await this.#pull(signal)
        this.#healIsCertain = false
        this.#pullsInVain = this.#isWhole ? 0 : this.#pullsInVain + 1
        this.#planFlush()
      } catch (error) {
        if (signal.aborted || !this.#explain(error).isTemporary) break
      }
      // Another node of the server may be a moment behind.
      if (!this.#isWhole) await pause(backoff.next(), signal, this.#waker)
    }
    this.#isHealing = false
  }

  get #isWhole () {
    const hasHole = this.#role === 'leader' ? this.#covered.hasHole : this.#covered.through < this.#leaderSeq
    return !hasHole && !hasParked(this.doc)
  }

  /**
   * Asks the server what is lacking here.
   *
   * @param {AbortSignal} signal
   */
  async #pull (signal) {
    const state = await this.#api.state(Y.encodeStateVector(this.doc), signal)
    if (signal.aborted) return
    if (!this.#isThisLife(state.epoch)) return this.#closeOtherLife()
    const wasParked = this.#apply([state.update])
    this.#covered.add(1, state.seq)
    this.#learn(state)
    if (hasParked(this.doc) && !wasParked) this.#checkWhole(false)
  }

  // Talking with the other tabs.

  /** @param {Message} message */
  #tell (message) {
    this.#tabs?.post(message)
  }

  #tellState () {
    if (this.#role !== 'leader') return
    this.#beatAt = Date.now()
    this.#tell({
      type: 'state', status: this.#status, isSynced: this.#isSynced, epoch: this.#epoch,
      seq: this.#covered.through, stream: this.#stream,
    })
  }

  /** The server was heard. */
  #beat () {
    if (this.#tabs !== null && Date.now() - this.#beatAt > BEAT_MS) this.#tellState()
  }

  #greet () {
    this.#tellState()
    this.#tell({ type: 'awareness', update: this.#presence.snapshot() })
  }

  /**
   * @param {Message} message
   * @param {boolean} fromLeader
   */
  #onMessage (message, fromLeader) {
    const signal = this.#term?.signal
    if (signal === undefined || signal.aborted) return
    this.#presence.renew(RENEW_AFTER_MS)
    switch (message.type) {
      case 'awareness':
        if (this.#isSynced) this.#presence.apply(message.update)
        break
      case 'gone':
        this.#presence.remove(message.awarenessClient)
        break
      case 'closed':
        if (this.#role === 'follower') this.#close(message.code, message.reason)
        break
      case 'state':
        if (this.#role === 'follower' && fromLeader) this.#onLeaderState(message, signal)
        break
      case 'events':
        if (this.#role === 'follower' && fromLeader) this.#onLeaderEvents(message.epoch, message.events)
        break
    }
  }

  /**
   * @param {StateMessage} state
   * @param {AbortSignal} signal
   */
  #onLeaderState (state, signal) {
    const isNewStream = state.isSynced && this.#leader?.isSynced === true && state.stream !== this.#leader.stream
    const isLost = this.#leader?.isSynced === true && !state.isSynced
    const isBack = state.isSynced && this.#leader?.isSynced === false
    this.#leader = state
    if (isLost || isNewStream) {
      this.#hasPulled = false
      this.#lose()
    }
    if (state.isSynced) this.#leaderSeq = isBack || isNewStream ? state.seq : Math.max(this.#leaderSeq, state.seq)
    if ((isNewStream || isBack) && state.seq < this.#covered.through) this.#covered.reset(0)
    if (state.isSynced && !this.#hasPulled) void this.#pullAsFollower(signal)
    this.#followIfReady()
  }

  /**
   * @param {string} epoch
   * @param {PassedEvent[]} events
   */
  #onLeaderEvents (epoch, events) {
    // A leader that knows more of the document's life than we do: our own pull will say what has happened.
    if (this.#epoch !== null && epoch !== this.#epoch) {
      void this.#heal(true)
      return
    }
    this.#epoch = epoch
    const updates = events.flatMap(({ update, origin }) => update === undefined || origin === this.clientId ? [] : [update])
    const wasParked = this.#apply(updates)
    for (const { first, last, update, origin } of events) {
      this.#leaderSeq = Math.max(this.#leaderSeq, last)
      if (update === undefined) continue
      this.#covered.add(first, last)
      if (origin !== this.clientId) this.emit('remote-update', [{ origin, seq: last, bytes: update.length }])
    }
    this.#checkWhole(wasParked)
  }

  /**
   * A follower's own exchange with the server: after each new stream of the leader, and at the start.
   *
   * @param {AbortSignal} signal
   */
  async #pullAsFollower (signal) {
    if (this.#isPulling) return
    this.#isPulling = true
    this.#hasPulled = false
    const backoff = new Backoff(this.#settings.maxBackoffTime)
    while (!signal.aborted) {
      try {
        await this.#pull(signal)
        if (!signal.aborted) this.#hasPulled = true
        break
      } catch (error) {
        if (signal.aborted) break
        const failure = this.#explain(error)
        if (!failure.isTemporary) {
          this.#close(failure.code, failure.message)
          break
        }
        this.emit('connection-error', [failure, this])
        await pause(backoff.next(failure.retryAfter), signal, this.#waker)
      }
    }
    this.#isPulling = false
    if (!signal.aborted) this.#followIfReady()
    else if (this.#role === 'follower' && this.#term !== null && !this.#term.signal.aborted) void this.#pullAsFollower(this.#term.signal)
  }

  #followIfReady () {
    if (this.#role !== 'follower' || this.#isSynced || !this.#hasPulled || this.#leader?.isSynced !== true) return
    this.#arrive()
    this.#checkWhole(false)
  }

  // Sending.

  /**
   * @param {Uint8Array} update
   * @param {unknown} origin
   * @param {Y.Doc} _doc
   * @param {Y.Transaction} transaction
   */
  #onUpdate = (update, origin, _doc, transaction) => {
    if (origin === this) return
    this.#outbox.add(update, transaction.local)
    this.#announceUnsynced()
    this.#planFlush()
  }

  /** In a microtask, so that what happens in one turn goes out in one post. */
  #planFlush () {
    if (this.#flushIsPlanned) return
    this.#flushIsPlanned = true
    queueMicrotask(() => {
      this.#flushIsPlanned = false
      void this.#flush()
    })
  }

  /** @param {number} ms */
  #flushAfter (ms) {
    clearTimeout(this.#flushTimer)
    this.#flushTimer = setTimeout(() => this.#planFlush(), ms)
  }

  async #flush () {
    if (!this.#isSynced || this.#outbox.isFlying || !this.#outbox.hasWaiting) return
    const wait = this.#blockedUntil - Date.now()
    if (wait > 0) {
      if (wait !== Infinity) this.#flushAfter(wait)
      return
    }
    const batch = this.#outbox.take()
    if (batch === null) return
    const signal = this.#signal
    const sentAt = performance.now()
    try {
      if (batch.update.length > this.#updateBytesMax) {
        throw new ApiError(413, 'too_large', `an update of ${batch.update.length} bytes; the server takes ${this.#updateBytesMax}`)
      }
      // Not ended by `disconnect`: whether it arrived is worth knowing even then.
      const { epoch, seq, changed } = await this.#api.postUpdate(batch.update, this.clientId, this.#epoch, new AbortController().signal)
      this.#outbox.settle(batch)
      this.#sendBackoff.reset()
      this.#gaps = 0
      this.#rejections = 0
      this.latency = performance.now() - sentAt
      if (epoch !== null && !this.#isThisLife(epoch)) return this.#closeOtherLife()
      if (changed && this.#role === 'leader' && epoch !== null) {
        // The stream only says that it was logged; these are the bytes for the other tabs.
        const { clientId: origin } = this
        this.#tell({ type: 'events', epoch, events: [{ first: seq, last: seq, update: batch.update, origin }] })
      }
      this.emit('ack', [{ seq, latency: this.latency, bytes: batch.update.length, edits: batch.edits }])
      this.#announceUnsynced()
      this.#planFlush()
    } catch (error) {
      this.#outbox.putBack(batch)
      this.#announceUnsynced()
      if (signal.aborted) this.#planFlush()
      else this.#onSendFailure(this.#explain(error), batch)
    }
  }

  /**
   * @param {ApiError} failure
   * @param {import('./outbox.js').Batch} batch
   */
  #onSendFailure (failure, batch) {
    if (failure.isTemporary) {
      this.emit('connection-error', [failure, this])
      this.#flushAfter(this.#sendBackoff.next(failure.retryAfter))
    } else if (failure.code === 'missing_updates') {
      this.#onMissing(failure)
    } else if (failure.code === 'epoch_changed') {
      this.#close('epoch_changed', failure.message)
    } else if (failure.status === 403 || failure.status === 413 || failure.status === 422) {
      this.#onRejected(failure, batch.update.length)
    } else {
      this.#close(failure.code, failure.message)
    }
  }

  /**
   * The server lacks something that our update builds on, and says what it has.
   *
   * @param {ApiError} failure
   */
  #onMissing (failure) {
    this.emit('gap', [])
    this.#gaps++
    if (typeof failure.problem.state_vector === 'string' && this.#gaps <= GAPS_MAX) {
      this.#outbox.learn(decodeBase64(failure.problem.state_vector))
      this.#outbox.mark()
      this.#announceUnsynced()
      this.#planFlush()
      return
    }
    // The difference is refused as well: perhaps we hold a part that hangs in the air. Fetch first, then try again.
    const signal = this.#signal
    this.#outbox.mark()
    void (async () => {
      await pause(this.#sendBackoff.next(), signal)
      if (signal.aborted) return
      await this.#pull(signal).catch(() => {})
      this.#planFlush()
    })()
  }

  /**
   * The server will not take this. The edit stays here, and unsynced; reading goes on. The next edit may make it
   * acceptable again, if it undoes what was too large.
   *
   * @param {ApiError} failure
   * @param {number} bytes of the update
   */
  #onRejected (failure, bytes) {
    const { limit } = failure.problem
    this.#rejections++
    // A limit below what we tried is one for updates; the other is the whole document's.
    if (typeof limit === 'number' && limit < bytes) this.#updateBytesMax = limit
    this.#outbox.mark()
    if (failure.status === 403) this.#blockedUntil = Infinity
    else this.#blockedUntil = Date.now() + Math.min(30_000, 1000 * 2 ** (this.#rejections - 1))
    this.emit('rejected', [failure])
    if (failure.status === 422 && this.#rejections >= REJECTIONS_MAX) this.#close(failure.code, failure.message)
  }

  /**
   * Sends what is not acknowledged in a request that outlives us.
   *
   * @param {number} bytesMax
   */
  #sendRest (bytesMax) {
    const rest = this.#outbox.peekAll()
    if (rest !== null && rest.length <= bytesMax && this.#blockedUntil <= Date.now()) {
      this.#api.sendLeaving('/updates', rest, this.clientId, this.#epoch)
    }
  }

  // The page's life.

  #onDocDestroy = () => this.destroy()

  #onOnline = () => this.#waker.dispatchEvent(new Event('wake'))

  #onOffline = () => this.#waker.dispatchEvent(new Event('drop'))

  #onPageHide = () => {
    if (!this.shouldConnect) return
    this.#sendRest(LEAVING_UPDATE_BYTES_MAX)
    this.#resumeOnReturn = true
    // An open stream or a lock would keep the page out of the back/forward cache, and the other tabs waiting.
    this.#leave()
  }

  /** @param {PageTransitionEvent} event */
  #onPageShow = event => {
    if (!event.persisted || !this.#resumeOnReturn) return
    this.#resumeOnReturn = false
    this.connect()
  }

  /** A hidden tab of a phone may end without another word. */
  #onVisibility = () => {
    if (document.visibilityState === 'hidden' && this.shouldConnect) this.#sendRest(LEAVING_UPDATE_BYTES_MAX)
    else this.#onOnline()
  }

  /** @param {BeforeUnloadEvent} event */
  #onBeforeUnload = event => {
    if (this.#settings.warnOnClose && this.hasUnsyncedChanges) event.preventDefault()
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

  #announceUnsynced () {
    if (this.#announced === this.#outbox.size) return
    this.#announced = this.#outbox.size
    this.emit('unsynced', [this.#announced])
  }

  /** @param {unknown} error */
  #explain (error) {
    if (error instanceof ApiError) return error
    return new ApiError(0, 'failed', error instanceof Error ? error.message : String(error), { cause: error })
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

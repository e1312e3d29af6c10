/**
 * The tab that holds the event stream, for itself and for the other tabs of its browser.
 *
 * A browser opens six HTTP/1.1 connections to one host. Four may be streams, of four documents; a fifth document is
 * asked for news again and again instead, so that posts and pages always find a connection.
 */

import { Backoff, pause } from './backoff.js'
import { encodeBase64 } from './base64.js'
import { ADDRESS_VECTOR_CHARACTERS_MAX, ApiError } from './document-api.js'
import { readFeed } from './event-feed.js'
import { takeSlot } from './stream-slots.js'

/** The others are told so often that the server was heard; hidden tabs renew their presence on it. */
const BEAT_MS = 2000
/** How often a document without a stream is asked for. */
const POLL_MS = 1000

/** Reasons for which a stream ends and only another token helps. */
const TOKEN_CODES = new Set(['token_expired', 'revoked'])

/**
 * @typedef {import('./roles.js').PassedEvent} PassedEvent
 * @typedef {import('./event-feed.js').FeedEvent} FeedEvent
 * @typedef {import('./event-feed.js').ClosedEvent} ClosedEvent
 */

export class Leading {
  #link
  #stream = 0
  #toldAt = 0

  /** @param {import('./roles.js').Link} link */
  constructor (link) {
    this.#link = link
  }

  /**
   * Connects, again and again, until the signal fires or there is no sense in it.
   *
   * @param {AbortSignal} signal
   * @param {boolean} sharesConnections other documents of this browser may hold streams to the same host
   */
  async run (signal, sharesConnections) {
    const { base, maxBackoffTime, waker, report, lose, close } = this.#link
    const backoff = new Backoff(maxBackoffTime)
    let mayStream = !sharesConnections
    while (!signal.aborted) {
      let delay = 0
      try {
        mayStream ||= await takeSlot(base, signal)
        if (signal.aborted) return
        if (mayStream) delay = await this.#holdStream(backoff, signal)
        else mayStream = await this.#poll(backoff, signal)
      } catch (error) {
        if (signal.aborted) return
        const failure = ApiError.from(error)
        if (!failure.isTemporary) return close(failure.code, failure.message)
        delay = failure.retryAfter
        report(failure)
      }
      if (signal.aborted) return
      lose()
      await pause(backoff.next(delay), signal, waker)
    }
  }

  /** Tells the other tabs how we are connected. */
  tellState () {
    const { tell, state, replica } = this.#link
    this.#toldAt = Date.now()
    tell({ type: 'state', ...state(), epoch: replica.epoch, seq: replica.covered.through, stream: this.#stream })
  }

  /** A tab has just opened. */
  greet () {
    this.tellState()
    this.#link.tell({ type: 'awareness', update: this.#link.presence.snapshot() })
  }

  /**
   * The server has an update of ours. The stream will only say that it was logged; the other tabs need the bytes.
   *
   * @param {import('./sender.js').Acknowledged} ack
   */
  passOn ({ epoch, seq, changed, update }) {
    if (!changed || epoch === null) return
    const { tell, clientId } = this.#link
    const origin = clientId()
    tell({ type: 'events', epoch, events: [{ first: seq, last: seq, update, origin }] })
  }

  /**
   * @param {Backoff} backoff
   * @param {AbortSignal} signal
   * @returns {Promise<number>} how long to wait at least before the next, in milliseconds
   */
  async #holdStream (backoff, signal) {
    const { api, replica, clientId, waker, heartbeatTimeout } = this.#link
    let vector = encodeBase64(replica.vector)
    if (replica.cursor === null && vector.length > ADDRESS_VECTOR_CHARACTERS_MAX) {
      // Too long for an address: ask first, and let the stream begin where the answer ends.
      await replica.pull(signal)
      if (signal.aborted) return 0
      vector = encodeBase64(replica.vector)
    }
    // Of this stream alone: `drop` ends it, and the loop goes on.
    const ends = new AbortController()
    const end = () => ends.abort()
    signal.addEventListener('abort', end)
    waker.addEventListener('drop', end)
    const { epoch } = replica
    try {
      const body = await api.events({ clientId: clientId(), since: replica.cursor, vector }, ends.signal)
      /** @type {ClosedEvent | null} */
      let closed = null
      const retry = await readFeed(body, {
        silenceMax: heartbeatTimeout,
        signal: ends.signal,
        onBytes: () => { if (Date.now() - this.#toldAt > BEAT_MS) this.tellState() },
        onEvents: events => {
          if (events.some(({ type }) => type === 'sync')) backoff.reset()
          closed = this.#take(events, epoch)
        },
      })
      return closed === null ? 0 : await this.#afterClosed(closed, retry, signal)
    } finally {
      signal.removeEventListener('abort', end)
      waker.removeEventListener('drop', end)
    }
  }

  /**
   * @param {ClosedEvent} closed
   * @param {number | null} retry
   * @param {AbortSignal} signal
   * @returns {Promise<number>} how long to wait at least, in milliseconds
   */
  async #afterClosed ({ code, detail }, retry, signal) {
    const { api, tell, close, foreseeEnd } = this.#link
    const isOfToken = TOKEN_CODES.has(code)
    if (code !== 'deleted' && !isOfToken) {
      // The server stops, and everybody comes back: each at the time that was drawn for its stream.
      return retry ?? 0
    }
    if (isOfToken) {
      foreseeEnd(code, detail)
      // Asking takes time, in which there may have been a disconnect.
      if (await api.renewToken() || signal.aborted) return 0
    }
    tell({ type: 'closed', code, reason: detail })
    close(code, detail)
    return 0
  }

  /**
   * Takes in the events of one chunk, as one change of the document.
   *
   * @param {FeedEvent[]} events
   * @param {string | null} asked the epoch when the stream was asked for
   * @returns {ClosedEvent | null}
   */
  #take (events, asked) {
    const { replica, presence, tell, clientId, closeOtherLife } = this.#link
    /** @type {Uint8Array[]} */
    const updates = []
    /** What follows when the updates are in the document. @type {(() => void)[]} */
    const after = []
    /** @type {PassedEvent[]} */
    const passed = []
    /** @type {ClosedEvent | null} */
    let closed = null
    let isOtherLife = false
    for (const event of events) {
      if ('epoch' in event && !replica.isThisLife(event.epoch, asked)) {
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
            replica.covered.add(event.last, event.last)
            passed.push({ first: event.last, last: event.last, origin: clientId() })
          })
          break
        case 'update':
          updates.push(event.update)
          after.push(() => {
            replica.covered.add(event.first, event.last)
            passed.push({ first: event.first, last: event.last, update: event.update, origin: event.origin })
            replica.announce(event)
          })
          break
        case 'awareness':
          after.push(() => {
            presence.apply(event.update)
            tell({ type: 'awareness', update: event.update })
          })
          break
        case 'closed':
          closed = event
          break
      }
    }
    const wasParked = replica.apply(updates)
    for (const action of after) action()
    if (passed.length > 0 && replica.epoch !== null) tell({ type: 'events', epoch: replica.epoch, events: passed })
    if (isOtherLife) closeOtherLife()
    else replica.check(wasParked)
    return closed
  }

  /**
   * @param {import('./event-feed.js').SyncEvent} event its update is in the document
   * @param {PassedEvent[]} passed
   */
  #takeSync (event, passed) {
    const { replica, arrive } = this.#link
    const before = replica.covered.through
    const { seq, update, resumed } = event
    replica.covered.reset(seq)
    this.#stream++
    if (resumed && seq > before) passed.push({ first: before + 1, last: seq, update, origin: null })
    replica.learn(event)
    arrive()
  }

  /**
   * Asks for news until there is room for a stream.
   *
   * @param {Backoff} backoff
   * @param {AbortSignal} signal
   * @returns {Promise<boolean>} whether a stream may be opened now
   */
  async #poll (backoff, signal) {
    const { base, replica, arrive, waker } = this.#link
    // The others take it for a stream: after each new one they ask the server themselves.
    this.#stream++
    for (let isFirst = true; !signal.aborted; isFirst = false) {
      await replica.pull(signal, { onlyIfNew: !isFirst })
      if (signal.aborted) break
      backoff.reset()
      if (isFirst) arrive()
      this.tellState()
      await pause(POLL_MS * (0.75 + 0.5 * Math.random()), signal, waker)
      if (await takeSlot(base, signal)) return true
    }
    return false
  }
}

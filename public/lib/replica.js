/**
 * This tab's copy of the document: takes in what the server sends, and knows whether anything is missing.
 *
 * Invariants:
 * - everything in it belongs to one life of the document, the one that `epoch` names;
 * - nobody's code runs inside a transaction of ours: an edit made there would look like the server's, and stay here.
 */

import * as Y from 'yjs'
import { Backoff, pause } from './backoff.js'
import { Covered } from './covered.js'
import { Outbox, compare, hasParked } from './outbox.js'

/** How long a missing part may be on its way before it is fetched. */
const HEAL_AFTER_MS = 300
/** So many pulls may leave the document as incomplete as it was; then we wait for the next connection. */
const PULLS_IN_VAIN_MAX = 5
/** Longest wait between two of them. */
const HEAL_BACKOFF_MAX_MS = 2500

/** @typedef {import('./document-api.js').State} State */

export class Replica {
  #doc
  #api
  #origin
  #handlers
  #isHealing = false
  #mustAsk = false
  #pullsInVain = 0
  /** Ends with the connection. */
  #signal = AbortSignal.abort()
  /** Which sequence numbers have arrived. */
  covered = new Covered()
  /** Another tab has heard of this sequence number: it should arrive here. */
  expected = 0

  /**
   * @param {Y.Doc} doc
   * @param {import('./document-api.js').DocumentApi} api
   * @param {object} settings
   * @param {string | null} settings.epoch
   * @param {unknown} settings.origin of the transactions that apply the server's updates
   * @param {(update: { origin: string | null, seq: number, bytes: number }) => void} settings.onRemote
   * @param {() => void} settings.onLearned there may be something to send now
   * @param {() => void} settings.onGap
   * @param {() => void} settings.onOtherLife
   */
  constructor (doc, api, { epoch, origin, ...handlers }) {
    this.#doc = doc
    this.#api = api
    this.#origin = origin
    this.#handlers = handlers
    this.epoch = epoch
    this.outbox = new Outbox(doc)
  }

  /** @param {AbortSignal} signal of the new connection */
  begin (signal) {
    this.#signal = signal
  }

  /** Connected: what was tried in vain before may work now. */
  arrive () {
    this.#pullsInVain = 0
  }

  get vector () {
    return Y.encodeStateVector(this.#doc)
  }

  /** Where an event stream has to begin, or null. */
  get cursor () {
    return this.epoch === null ? null : `${this.epoch}.${this.covered.through}`
  }

  /** Nothing is known to be missing. */
  get isWhole () {
    return !this.covered.hasHole && this.covered.through >= this.expected && !hasParked(this.#doc)
  }

  /**
   * A document that was deleted and begun again is another one under the same name.
   *
   * @param {string | null} epoch of something that wants to come in; null: the server has no such document
   * @param {string | null} asked our epoch when we asked. Null on both sides is no contradiction, even if the document
   *   was begun before the answer arrived
   */
  isThisLife (epoch, asked = this.epoch) {
    if (epoch === null && asked === null) return true
    this.epoch ??= epoch
    return this.epoch === epoch
  }

  /**
   * Applies the server's updates as one change.
   *
   * @param {Uint8Array[]} updates
   * @returns {boolean} whether parts of the document were waiting for something before
   */
  apply (updates) {
    const wasParked = hasParked(this.#doc)
    if (updates.length > 0) {
      Y.transact(this.#doc, () => {
        for (const update of updates) Y.applyUpdate(this.#doc, update, this.#origin)
      }, this.#origin, false)
    }
    return wasParked
  }

  /**
   * @param {{ origin: string | null, last: number, update: Uint8Array }} event
   */
  announce ({ origin, last, update }) {
    this.#handlers.onRemote({ origin, seq: last, bytes: update.length })
  }

  /**
   * Learns from the server's state, whose update is in the document, what the server lacks and what we lack.
   *
   * @param {State} state
   */
  learn ({ seq, update, vector }) {
    this.outbox.learn(vector)
    this.#handlers.onLearned()
    if (compare(this.#doc, vector).isBehind) this.check(true)
    if (update.length > 2) this.announce({ origin: null, last: seq, update })
  }

  /**
   * Asks the server what is lacking here.
   *
   * @param {AbortSignal} signal
   * @param {object} [options]
   * @param {boolean} [options.onlyIfNew] the sequence number alone decides
   * @returns {Promise<State | null>} null: nothing new, or not wanted any more
   */
  async pull (signal, { onlyIfNew = false } = {}) {
    const { epoch } = this
    const state = await this.#api.state(this.vector, signal, onlyIfNew ? this.cursor : null)
    if (signal.aborted || state === null) return null
    if (!this.isThisLife(state.epoch, epoch)) {
      this.#handlers.onOtherLife()
      return null
    }
    if (state.epoch !== this.epoch) {
      // The document was begun while the answer was on its way.
      this.check(false)
      return null
    }
    const wasParked = this.apply([state.update])
    this.covered.add(1, state.seq)
    this.learn(state)
    if (!wasParked) this.check(false)
    return state
  }

  /**
   * Fetches what is missing, if it does not come by itself.
   *
   * @param {boolean} isSuspicious ask even if all seems to be here: something may be missing that cannot be seen, or
   *   was completed by an update that released what waited here, and that may never have been sent
   */
  check (isSuspicious) {
    if (isSuspicious || !this.isWhole) void this.#heal(isSuspicious)
  }

  /** @param {boolean} isSuspicious */
  async #heal (isSuspicious) {
    this.#mustAsk ||= isSuspicious
    if (this.#isHealing) return
    this.#isHealing = true
    const signal = this.#signal
    const backoff = new Backoff(HEAL_BACKOFF_MAX_MS)
    await pause(HEAL_AFTER_MS * (1 + Math.random()), signal)
    while (!signal.aborted && (this.#mustAsk || !this.isWhole) && this.#pullsInVain < PULLS_IN_VAIN_MAX) {
      if (this.covered.hasHole || hasParked(this.#doc)) this.#handlers.onGap()
      try {
        await this.pull(signal)
        this.#mustAsk = false
        this.#pullsInVain = this.isWhole ? 0 : this.#pullsInVain + 1
      } catch {
        // Whoever makes the next connection learns what is missing anyway.
        break
      }
      // Another node of the server may be a moment behind.
      if (!this.isWhole) await pause(backoff.next(), signal)
    }
    this.#isHealing = false
  }
}

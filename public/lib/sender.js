/**
 * Brings the edits of this tab to the server: one post at a time, again until it is acknowledged, and each reason for
 * a refusal answered in its own way.
 */

import { Backoff, pause } from './backoff.js'
import { decodeBase64 } from './base64.js'
import { ApiError } from './document-api.js'

/** So many differences in a row may be answered "missing updates" before we pull first and wait between tries. */
const GAPS_MAX = 3
/** So many updates in a row may be called invalid before we stop: the document itself is then what is refused. */
const REJECTIONS_MAX = 3
/** No right to write, too large, no update to the server, a frozen document: the edits stay here, and reading goes on. */
const REFUSALS = new Set([403, 413, 422, 423])
/** Waits after a refusal, doubled each time: every edit would otherwise post the same megabyte again. */
const FIRST_BLOCK_MS = 1000
const LONGEST_BLOCK_MS = 30_000

/**
 * @typedef {object} Acknowledged
 * @property {string | null} epoch
 * @property {number} seq
 * @property {boolean} changed false: the server had it all
 * @property {Uint8Array} update
 * @property {number} edits
 * @property {number} latency
 */

export class Sender {
  #api
  #replica
  #clientId
  #handlers
  #backoff
  #isOpen = false
  #isPlanned = false
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer
  #signal = AbortSignal.abort()
  #gaps = 0
  #rejections = 0
  /** No edit is sent before this time: the server refuses what is here. */
  #blockedUntil = 0
  /** Nor before this one: the server has asked for time. */
  #quietUntil = 0
  /** Largest update that the server takes, once it has said so. */
  #updateBytesMax = Infinity
  #announced

  /**
   * @param {import('./document-api.js').DocumentApi} api
   * @param {import('./replica.js').Replica} replica
   * @param {object} settings
   * @param {() => string} settings.clientId
   * @param {number} settings.maxBackoffTime
   * @param {(ack: Acknowledged) => void} settings.onAck
   * @param {(edits: number) => void} settings.onUnsynced
   * @param {() => void} settings.onGap
   * @param {(failure: ApiError) => void} settings.onFailure it is tried again
   * @param {(failure: ApiError) => void} settings.onRejected
   * @param {(failure: ApiError) => void} settings.onFinal
   * @param {() => void} settings.onOtherLife
   */
  constructor (api, replica, { clientId, maxBackoffTime, ...handlers }) {
    this.#api = api
    this.#replica = replica
    this.#clientId = clientId
    this.#handlers = handlers
    this.#backoff = new Backoff(maxBackoffTime)
    this.#announced = this.unsynced
  }

  /** Edits that the server has not acknowledged. */
  get unsynced () {
    return this.#replica.outbox.size
  }

  /** @param {AbortSignal} signal of the new connection */
  begin (signal) {
    this.#signal = signal
    this.#gaps = 0
    this.#rejections = 0
    this.#blockedUntil = 0
    signal.addEventListener('abort', () => this.close())
  }

  /** The server can be reached, and what it lacks is known. */
  open () {
    this.#isOpen = true
    this.#backoff.reset()
    // Who could only read may have been given another token meanwhile.
    if (this.#blockedUntil === Infinity) this.#blockedUntil = 0
    this.plan()
  }

  close () {
    this.#isOpen = false
    clearTimeout(this.#timer)
  }

  /**
   * @param {Uint8Array} update
   * @param {boolean} isLocal
   */
  add (update, isLocal) {
    this.#replica.outbox.add(update, isLocal)
    this.plan()
  }

  /** Something may have to be sent: in a microtask, so that what happens in one turn goes out in one post. */
  plan () {
    this.#announce()
    if (this.#isPlanned) return
    this.#isPlanned = true
    queueMicrotask(() => {
      this.#isPlanned = false
      void this.#flush()
    })
  }

  /**
   * Sends what is not acknowledged in a request that outlives us.
   *
   * @param {number} bytesMax nothing is sent if it is more
   */
  sendRest (bytesMax) {
    const rest = this.#replica.outbox.peekAll()
    if (rest === null || rest.length > Math.min(bytesMax, this.#updateBytesMax) || this.#blockedUntil > Date.now()) return
    this.#api.sendLeaving('/updates', rest, this.#clientId(), this.#replica.epoch)
  }

  /** @param {number} ms */
  #planAfter (ms) {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.plan(), ms)
  }

  #announce () {
    if (this.#announced === this.unsynced) return
    this.#announced = this.unsynced
    this.#handlers.onUnsynced(this.#announced)
  }

  async #flush () {
    const { outbox } = this.#replica
    if (!this.#isOpen || outbox.isFlying || !outbox.hasWaiting) return
    const blockedFor = Math.max(this.#blockedUntil, this.#quietUntil) - Date.now()
    if (blockedFor > 0) {
      if (blockedFor !== Infinity) this.#planAfter(blockedFor)
      return
    }
    const batch = outbox.take()
    if (batch === null) return
    const { update, edits } = batch
    const signal = this.#signal
    const sentAt = performance.now()
    let answer
    try {
      answer = await this.#post(update)
    } catch (error) {
      outbox.putBack(batch)
      this.#announce()
      if (signal.aborted) this.plan() // a new connection may be waiting for this post to end
      else this.#onFailure(ApiError.from(error), update.length)
      return
    }
    const { epoch, seq, changed } = answer
    outbox.settle(batch)
    this.#backoff.reset()
    this.#gaps = 0
    this.#rejections = 0
    this.plan()
    if (epoch !== null && !this.#replica.isThisLife(epoch)) this.#handlers.onOtherLife()
    else this.#handlers.onAck({ epoch, seq, changed, update, edits, latency: performance.now() - sentAt })
  }

  /** @param {Uint8Array} update */
  async #post (update) {
    if (update.length > this.#updateBytesMax) {
      const detail = `an update of ${update.length} bytes, and the server takes ${this.#updateBytesMax}`
      throw new ApiError(413, 'too_large', detail, { problem: { limit: this.#updateBytesMax } })
    }
    // Not ended by a disconnect: whether it arrived is worth knowing even then.
    return await this.#api.postUpdate(update, this.#clientId(), this.#replica.epoch)
  }

  /**
   * @param {ApiError} failure
   * @param {number} bytes of the update
   */
  #onFailure (failure, bytes) {
    if (failure.isTemporary) {
      this.#handlers.onFailure(failure)
      const delay = this.#backoff.next(failure.retryAfter)
      // What is written meanwhile waits too, and goes along.
      if (failure.retryAfter > 0) this.#quietUntil = Date.now() + delay
      this.#planAfter(delay)
    } else if (failure.code === 'missing_updates') {
      this.#onMissing(failure)
    } else if (failure.code === 'epoch_changed') {
      this.#handlers.onOtherLife()
    } else if (REFUSALS.has(failure.status)) {
      this.#onRejected(failure, bytes)
    } else {
      this.#handlers.onFinal(failure)
    }
  }

  /**
   * The server lacks something that our update builds on, and says what it has.
   *
   * @param {ApiError} failure
   */
  #onMissing (failure) {
    const { outbox } = this.#replica
    this.#handlers.onGap()
    this.#gaps++
    if (typeof failure.problem.state_vector === 'string' && this.#gaps <= GAPS_MAX) {
      outbox.learn(decodeBase64(failure.problem.state_vector))
      outbox.mark()
      this.plan()
    } else {
      outbox.mark()
      void this.#pullAndPlan()
    }
  }

  /** The difference was refused as well: perhaps the document here hangs in the air. Fetches before it sends. */
  async #pullAndPlan () {
    const signal = this.#signal
    await pause(this.#backoff.next(), signal)
    if (signal.aborted) return
    await this.#replica.pull(signal).catch(() => {})
    this.plan()
  }

  /**
   * The server will not take this. The edit stays here, and unsynced; reading goes on. The next edit may make it
   * acceptable, if it undoes what was too large.
   *
   * @param {ApiError} failure
   * @param {number} bytes
   */
  #onRejected (failure, bytes) {
    const { limit } = failure.problem
    // A limit below what we sent is one for updates; any other is for the whole document.
    if (typeof limit === 'number' && limit < bytes) this.#updateBytesMax = limit
    this.#replica.outbox.mark()
    this.#blockedUntil = failure.status === 403
      ? Infinity
      : Date.now() + Math.min(LONGEST_BLOCK_MS, FIRST_BLOCK_MS * 2 ** this.#rejections)
    this.#rejections++
    this.#handlers.onRejected(failure)
    // A frozen document may be thawed: that is worth a look without another edit.
    if (failure.status === 423) this.plan()
    if (failure.status === 422 && this.#rejections >= REJECTIONS_MAX) this.#handlers.onFinal(failure)
  }
}

/**
 * A tab that hears the server through the leading tab, and asks the server itself what it lacks: after each new
 * stream of the leader, and whenever something that the leader has heard of does not arrive. So the leader can make it
 * late, never wrong.
 */

import { Backoff, pause } from './backoff.js'
import { ApiError } from './document-api.js'

/** @typedef {import('./roles.js').StateMessage} StateMessage */

export class Following {
  #link
  #signal = AbortSignal.abort()
  /** What the leader last said. @type {StateMessage | null} */
  #leader = null
  /** The server was asked since the leader's stream began. */
  #hasPulled = false
  #isPulling = false

  /** @param {import('./roles.js').Link} link */
  constructor (link) {
    this.#link = link
  }

  /** @param {AbortSignal} signal */
  async run (signal) {
    this.#signal = signal
    await this.#pull()
  }

  /** @param {StateMessage} state */
  onLeaderState (state) {
    const { replica, lose } = this.#link
    const before = this.#leader
    this.#leader = state
    const isLost = before?.isSynced === true && !state.isSynced
    const isBack = before?.isSynced === false && state.isSynced
    const isOther = before?.isSynced === true && state.isSynced && state.stream !== before.stream
    if (isLost || isOther) {
      this.#hasPulled = false
      lose()
    }
    if (state.isSynced) {
      const isNewStream = isBack || isOther
      // A server that was set back counts again from where it stands.
      if (isNewStream && state.seq < replica.covered.through) replica.covered.reset(0)
      replica.expected = isNewStream ? state.seq : Math.max(replica.expected, state.seq)
      if (this.#hasPulled) replica.check(false)
      else void this.#pull()
    }
    this.#arriveIfReady()
  }

  /**
   * @param {string} epoch
   * @param {import('./roles.js').PassedEvent[]} events
   */
  onLeaderEvents (epoch, events) {
    const { replica, clientId } = this.#link
    if (!replica.isThisLife(epoch)) {
      replica.check(true) // the server itself shall say what has happened
      return
    }
    const isOwn = (/** @type {string | null} */ origin) => origin === clientId()
    const updates = events.flatMap(({ update, origin }) => update === undefined || isOwn(origin) ? [] : [update])
    const wasParked = replica.apply(updates)
    for (const { first, last, update, origin } of events) {
      replica.expected = Math.max(replica.expected, last)
      if (update === undefined) continue
      replica.covered.add(first, last)
      if (!isOwn(origin)) replica.announce({ origin, last, update })
    }
    replica.check(wasParked)
  }

  /** Our own exchange with the server. */
  async #pull () {
    const { replica, maxBackoffTime, waker, report, close } = this.#link
    if (this.#isPulling) return
    this.#isPulling = true
    const signal = this.#signal
    const backoff = new Backoff(maxBackoffTime)
    while (!signal.aborted && !this.#hasPulled) {
      try {
        await replica.pull(signal)
        this.#hasPulled = true
      } catch (error) {
        if (signal.aborted) break
        const failure = ApiError.from(error)
        if (!failure.isTemporary) {
          close(failure.code, failure.message)
          break
        }
        report(failure)
        await pause(backoff.next(failure.retryAfter), signal, waker)
      }
    }
    this.#isPulling = false
    this.#arriveIfReady()
  }

  #arriveIfReady () {
    const { state, arrive, replica } = this.#link
    if (this.#signal.aborted || state().isSynced || !this.#hasPulled || this.#leader?.isSynced !== true) return
    arrive()
    replica.check(false)
  }
}

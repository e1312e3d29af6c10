/** Waiting longer after each failure, never in step with the others who failed at the same moment. */

const FIRST_DELAY_MS = 100

export class Backoff {
  #failures = 0
  #max
  #random

  /**
   * @param {number} max longest delay in milliseconds
   * @param {() => number} [random]
   */
  constructor (max, random = Math.random) {
    this.#max = max
    this.#random = random
  }

  get failures () {
    return this.#failures
  }

  reset () {
    this.#failures = 0
  }

  /**
   * The next delay in milliseconds: 100·2ⁿ up to the longest, half of it certain and half of it drawn.
   *
   * @param {number} [atLeast] what the server asked for; kept, with a little jitter on top
   */
  next (atLeast = 0) {
    const full = Math.min(this.#max, FIRST_DELAY_MS * 2 ** Math.min(this.#failures, 30))
    this.#failures++
    const delay = full * (0.5 + 0.5 * this.#random())
    return atLeast > delay ? atLeast * (1 + 0.1 * this.#random()) : delay
  }
}

/**
 * Waits until `ms` have passed, `signal` fires or `waker` dispatches `wake`, whichever is first.
 *
 * @param {number} ms
 * @param {AbortSignal} signal
 * @param {EventTarget} [waker]
 * @returns {Promise<void>}
 */
export function pause (ms, signal, waker) {
  return new Promise(resolve => {
    const done = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      waker?.removeEventListener('wake', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done)
    waker?.addEventListener('wake', done)
    if (signal.aborted) done()
  })
}

/**
 * Who is here: carries a Yjs `Awareness` to the server and keeps the others' states no longer than they are true.
 *
 * Two habits of y-protocols shape this file. A state is only taken when its clock is higher than the last one seen,
 * and that clock is remembered after the state is removed: so whoever removes a state forgets its clock as well, and
 * whoever returns says its own state again under a new clock. And a Yjs document may change its clientID after a
 * collision, the Awareness does not: only `awareness.clientID` counts here.
 */

import { applyAwarenessUpdate, encodeAwarenessUpdate } from 'y-protocols/awareness'
import { ApiError } from './document-api.js'

/** @typedef {import('y-protocols/awareness').Awareness} Awareness */

export class Presence {
  #awareness
  #send
  #interval
  #grace
  #tell
  #isOpen = false
  #isSending = false
  #hasNews = false
  #sentAt = -Infinity
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #throttle
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #forget

  /**
   * @param {Awareness} awareness
   * @param {object} settings
   * @param {(update: Uint8Array) => Promise<void>} settings.send failures are the next renewal's business
   * @param {number} settings.interval shortest time between two posts, in milliseconds
   * @param {number} settings.grace how long others are shown after the connection is lost, in milliseconds
   * @param {(update: Uint8Array) => void} settings.tell the other tabs, at once
   */
  constructor (awareness, { send, interval, grace, tell }) {
    this.#awareness = awareness
    this.#send = send
    this.#interval = interval
    this.#grace = grace
    this.#tell = tell
    awareness.on('update', this.#onUpdate)
  }

  /** The server can be told, and will tell. */
  open () {
    if (this.#isOpen) return
    this.#isOpen = true
    // Those who left while we were away are not in what the server says now. Whoever has no clock is unconfirmed.
    const { clientID, meta } = this.#awareness
    for (const client of this.#others()) meta.delete(client)
    this.#forgetLater(() => this.#others().filter(client => !meta.has(client)))
    // A new clock, and a renewal: the `update` that this fires is sent.
    if (this.#awareness.getLocalState() !== null) this.#awareness.setLocalState(this.#awareness.getLocalState())
    else if (meta.has(clientID)) this.#schedule()
  }

  /** The connection is lost, perhaps only for a moment. */
  lose () {
    if (!this.#isOpen) return
    this.#isOpen = false
    this.#forgetLater(() => this.#others())
  }

  /**
   * Nothing is heard from now on, and nothing said.
   *
   * @returns {Uint8Array | null} what to tell the server, null: it knows nothing of us
   */
  close () {
    this.#isOpen = false
    clearTimeout(this.#throttle)
    clearTimeout(this.#forget)
    this.#throttle = undefined
    this.#remove(this.#others())
    return this.#absence()
  }

  destroy () {
    this.close()
    this.#awareness.off('update', this.#onUpdate)
  }

  /** @param {Uint8Array} update */
  apply (update) {
    applyAwarenessUpdate(this.#awareness, update, this)
  }

  /**
   * A tab of this browser has gone.
   *
   * @param {number} client
   */
  remove (client) {
    if (client !== this.#awareness.clientID) this.#remove([client])
  }

  /** Everyone who is known to be here, for a tab that has just opened. */
  snapshot () {
    const { states, meta } = this.#awareness
    return encodeAwarenessUpdate(this.#awareness, [...states.keys()].filter(client => meta.has(client)))
  }

  /**
   * Says our state again if it has not been said for long. Timers of hidden tabs sleep for a minute, messages of
   * other tabs wake them: this is called on those.
   *
   * @param {number} after milliseconds
   */
  renew (after) {
    if (this.#isOpen && Date.now() - this.#sentAt > after && this.#awareness.getLocalState() !== null) {
      this.#awareness.setLocalState(this.#awareness.getLocalState())
    }
  }

  /**
   * Our own state has changed; or the server has taken it for gone, and the Awareness has answered with a new clock.
   *
   * @param {{ added: number[], updated: number[], removed: number[] }} changes
   */
  #onUpdate = ({ added, updated, removed }) => {
    const { clientID } = this.#awareness
    if (!this.#isOpen || ![...added, ...updated, ...removed].includes(clientID)) return
    this.#tell(encodeAwarenessUpdate(this.#awareness, [clientID]))
    this.#schedule()
  }

  /** Sends now if the last time is long enough ago, and once more after whatever comes meanwhile. */
  #schedule () {
    this.#hasNews = true
    if (this.#throttle !== undefined || this.#isSending) return
    const wait = Math.max(0, this.#sentAt + this.#interval - Date.now())
    this.#throttle = setTimeout(() => this.#flush(), wait)
  }

  async #flush () {
    this.#throttle = undefined
    if (!this.#isOpen || !this.#hasNews) return
    this.#hasNews = false
    this.#sentAt = Date.now()
    this.#isSending = true
    try {
      await this.#send(encodeAwarenessUpdate(this.#awareness, [this.#awareness.clientID]))
    } catch (error) {
      // Refused or lost. What is true then is said with the next change, or the next renewal within 15 s; or when the
      // time has passed that the server asks for.
      const wait = error instanceof ApiError ? error.retryAfter : 0
      if (wait > 0) {
        this.#hasNews = true
        this.#sentAt = Date.now() + wait
      }
    }
    this.#isSending = false
    if (this.#hasNews && this.#isOpen) this.#schedule()
  }

  /** Our state as null at the same clock, so that our own return, one clock later, wins. */
  #absence () {
    const { clientID, meta } = this.#awareness
    return meta.has(clientID) ? encodeAwarenessUpdate(this.#awareness, [clientID], new Map()) : null
  }

  #others () {
    return [...this.#awareness.states.keys()].filter(client => client !== this.#awareness.clientID)
  }

  /** @param {() => number[]} choose */
  #forgetLater (choose) {
    clearTimeout(this.#forget)
    this.#forget = setTimeout(() => this.#remove(choose()), this.#grace)
  }

  /** @param {number[]} clients */
  #remove (clients) {
    const { states, meta } = this.#awareness
    const removed = clients.filter(client => states.delete(client))
    for (const client of clients) meta.delete(client)
    if (removed.length === 0) return
    const changes = { added: [], updated: [], removed }
    this.#awareness.emit('change', [changes, this])
    this.#awareness.emit('update', [changes, this])
  }
}

/**
 * The edits of one document that the server has not acknowledged yet.
 *
 * Updates wait one by one while they are few. Beyond that the queue is dropped, since the document itself
 * remembers: the next batch is then its difference to what the server has. Merging thousands of updates takes
 * seconds of the main thread and gives ten times the bytes; the difference takes less than a millisecond.
 */

import * as Y from 'yjs'

/** So many updates are merged; more become a difference. */
const WAITING_UPDATES_MAX = 64

/**
 * @typedef {object} Batch
 * @property {Uint8Array} update
 * @property {number} edits how many Yjs updates went into it
 * @property {boolean} isDifference
 * @property {Uint8Array} vector the document's state vector when the batch was made
 * @property {number} lesson which of the server's state vectors it was made against
 */

export class Outbox {
  #doc
  /** @type {Uint8Array[]} */
  #waiting = []
  #waitingEdits = 0
  /** The queue alone does not tell what the server lacks. */
  #needsDifference = false
  /** @type {Batch | null} */
  #flying = null
  /** What the server has, or less than that; null: nothing is known. @type {Uint8Array | null} */
  #vector = null
  #lesson = 0

  /** @param {Y.Doc} doc */
  constructor (doc) {
    this.#doc = doc
    // What was in the document before us may be known to nobody.
    if (!isEmpty(doc)) this.mark()
  }

  /** Edits that are not acknowledged. */
  get size () {
    return this.#waitingEdits + (this.#flying?.edits ?? 0)
  }

  get hasWaiting () {
    return this.#waiting.length > 0 || this.#needsDifference
  }

  get isFlying () {
    return this.#flying !== null
  }

  /**
   * @param {Uint8Array} update
   * @param {boolean} isLocal made by this document's own user. Only those follow each other without a hole; an
   *   update that came from elsewhere, say from a database in the browser, may leave one when merged
   */
  add (update, isLocal) {
    this.#waitingEdits++
    if (!isLocal || this.#waiting.length >= WAITING_UPDATES_MAX) this.#needsDifference = true
    if (this.#needsDifference) this.#waiting = []
    else this.#waiting.push(update)
  }

  /** There is something to send that no update told of. */
  mark () {
    this.#needsDifference = true
    this.#waiting = []
    this.#waitingEdits = Math.max(1, this.#waitingEdits)
  }

  /**
   * The server told what it has.
   *
   * @param {Uint8Array} vector
   */
  learn (vector) {
    this.#vector = vector
    this.#lesson++
    if (compare(this.#doc, vector).isAhead || this.#waitingEdits > 0) this.mark()
  }

  /**
   * Takes everything that waits. Follow with `settle` or `putBack`.
   *
   * @returns {Batch | null}
   */
  take () {
    if (this.#flying !== null || !this.hasWaiting || this.#vector === null) return null
    const isDifference = this.#needsDifference
    this.#flying = {
      update: isDifference ? difference(this.#doc, this.#vector) : merge(this.#waiting),
      edits: this.#waitingEdits,
      isDifference,
      vector: Y.encodeStateVector(this.#doc),
      lesson: this.#lesson,
    }
    this.#waiting = []
    this.#waitingEdits = 0
    this.#needsDifference = false
    return this.#flying
  }

  /**
   * The server has the batch on its disk.
   *
   * @param {Batch} batch
   */
  settle (batch) {
    this.#flying = null
    // Nothing else was waiting when it was made, so the server has all that the document had then. Unless the
    // server told something newer meanwhile: then that stands.
    if (batch.lesson === this.#lesson) this.#vector = batch.vector
  }

  /**
   * The batch may or may not have arrived: it has to be sent again, together with what came since.
   *
   * @param {Batch} batch
   */
  putBack (batch) {
    this.#flying = null
    this.#waitingEdits += batch.edits
    if (batch.isDifference || this.#needsDifference || this.#waiting.length >= WAITING_UPDATES_MAX) this.mark()
    else this.#waiting.unshift(batch.update)
  }

  /**
   * All that is not acknowledged as one update, for a page that is being left. Changes nothing.
   *
   * @returns {Uint8Array | null} null: nothing to send
   */
  peekAll () {
    if (this.size === 0) return null
    if (this.#needsDifference || this.#flying?.isDifference) return difference(this.#doc, this.#vector ?? undefined)
    return merge(this.#flying === null ? this.#waiting : [this.#flying.update, ...this.#waiting])
  }
}

/**
 * @param {Uint8Array[]} updates
 */
function merge (updates) {
  return updates.length === 1 ? updates[0] : Y.mergeUpdates(updates)
}

/**
 * What the holder of `vector` lacks, of what is whole.
 *
 * Yjs would add structs and deletions that it parked because something before them is missing. The server refuses
 * such an update; it is told when the document is whole again.
 *
 * @param {Y.Doc} doc
 * @param {Uint8Array} [vector]
 */
export function difference (doc, vector) {
  const { pendingStructs, pendingDs } = doc.store
  doc.store.pendingStructs = null
  doc.store.pendingDs = null
  try {
    return Y.encodeStateAsUpdate(doc, vector)
  } finally {
    doc.store.pendingStructs = pendingStructs
    doc.store.pendingDs = pendingDs
  }
}

/**
 * Compares clocks. Deletions have none: they are invisible here.
 *
 * @param {Y.Doc} doc
 * @param {Uint8Array} vector the server's state vector
 */
export function compare (doc, vector) {
  const theirs = Y.decodeStateVector(vector)
  let isAhead = false
  let isBehind = false
  for (const client of doc.store.clients.keys()) {
    if (Y.getState(doc.store, client) > (theirs.get(client) ?? 0)) isAhead = true
  }
  for (const [client, clock] of theirs) {
    if (Y.getState(doc.store, client) < clock) isBehind = true
  }
  return { isAhead, isBehind }
}

/**
 * Parts of the document wait for something that is missing.
 *
 * @param {Y.Doc} doc
 */
export function hasParked (doc) {
  return doc.store.pendingStructs !== null || doc.store.pendingDs !== null
}

/** @param {Y.Doc} doc */
function isEmpty (doc) {
  return doc.store.clients.size === 0 && !hasParked(doc)
}

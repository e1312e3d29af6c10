/**
 * Which sequence numbers of a document have arrived: all up to `through`, and perhaps some after a hole.
 */
export class Covered {
  /** Everything up to and including this one has arrived. */
  through = 0
  /** What arrived beyond a hole: first → last. @type {Map<number, number>} */
  #beyond = new Map()

  get hasHole () {
    return this.#beyond.size > 0
  }

  /** @param {number} through */
  reset (through) {
    this.through = through
    this.#beyond.clear()
  }

  /**
   * @param {number} first
   * @param {number} last
   */
  add (first, last) {
    if (last <= this.through) return
    if (first > this.through + 1) {
      this.#beyond.set(first, Math.max(last, this.#beyond.get(first) ?? 0))
      return
    }
    this.through = last
    // What waited beyond the hole may join on now; each round either moves on or ends.
    for (let moved = true; moved;) {
      moved = false
      for (const [from, to] of this.#beyond) {
        if (from > this.through + 1) continue
        this.#beyond.delete(from)
        if (to > this.through) this.through = to
        moved = true
      }
    }
  }
}

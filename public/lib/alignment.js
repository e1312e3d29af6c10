// @ts-check
/**
 * Which part of the text on the screen is which part of the shared text, while the two differ.
 *
 * While an input method composes a word, the textarea must not be written to: the browser would end the
 * composition, or write a syllable twice. So others' edits reach the shared text at once and the screen later, and
 * until then a position in one is another position in the other. An alignment keeps the two apart as a list of runs:
 *
 * - `shared`: in both;
 * - `unseen`: in the shared text only (somebody wrote it, the screen does not show it yet);
 * - `gone`: on the screen only (somebody deleted it, the screen still shows it).
 *
 * Invariant: the `shared` and `gone` runs, in order, are the screen; the `shared` and `unseen` ones the shared text.
 *
 * What is typed where `unseen` text hides goes to the left of it, as if the two had been written at the same time:
 * others' text at the caret lands right of the caret.
 *
 * Pure: no DOM, no Yjs.
 */

/** @typedef {import('./text-difference.js').Splice} Splice */
/** @typedef {{ kind: 'shared' | 'unseen' | 'gone', length: number }} Run */

export class Alignment {
  /** @type {Run[]} */
  #runs

  /** @param {number} length of both texts, which are equal */
  constructor (length) {
    this.#runs = length > 0 ? [{ kind: 'shared', length }] : []
  }

  /** Whether screen and shared text are the same, position by position. */
  get isExact () {
    return this.#runs.every(run => run.kind === 'shared')
  }

  /**
   * Somebody changed the shared text.
   * @param {ReadonlyArray<{ retain?: number, delete?: number, insert?: any }>} delta as in a Y.Text event
   */
  changeShared (delta) {
    let at = 0
    for (const { retain, delete: remove, insert } of delta) {
      if (insert !== undefined) {
        const length = typeof insert === 'string' ? insert.length : 1
        this.#runs.splice(this.#boundary(at, inShared), 0, { kind: 'unseen', length })
        at += length
      } else if (remove !== undefined) {
        this.#removeShared(at, remove)
      } else {
        at += retain ?? 0
      }
    }
    this.#tidy()
  }

  /**
   * The user changed the screen. Returns what that is for the shared text: splices to be made in this order.
   * @param {Splice} splice
   * @returns {Splice[]}
   */
  changeScreen ({ index, remove, insert }) {
    const first = this.#boundary(index, onScreen)
    const at = this.#lengthBefore(first, inShared)
    /** @type {Splice[]} */
    const deletions = []
    let sharedIndex = at
    let left = remove
    for (let i = first; left > 0 && i < this.#runs.length;) {
      const run = this.#runs[i]
      if (run.kind === 'unseen') {
        sharedIndex += run.length
        i++
        continue
      }
      const length = Math.min(left, run.length)
      if (run.kind === 'shared') {
        const last = deletions.at(-1)
        if (last !== undefined && last.index + last.remove === sharedIndex) last.remove += length
        else deletions.push({ index: sharedIndex, remove: length, insert: '' })
        sharedIndex += length
      }
      run.length -= length
      left -= length
      if (run.length === 0) this.#runs.splice(i, 1)
    }
    if (insert !== '') this.#runs.splice(first, 0, { kind: 'shared', length: insert.length })
    this.#tidy()

    // From right to left, so that no deletion moves the next one; the insertion last, at the left edge.
    deletions.reverse()
    if (insert === '') return deletions
    const leftmost = deletions.at(-1)
    if (leftmost?.index === at) leftmost.insert = insert
    else deletions.push({ index: at, remove: 0, insert })
    return deletions
  }

  /**
   * A position of the screen, in the shared text. Where unseen text hides at that position, the answer lies left of
   * it, or right of it if asked for.
   * @param {number} index
   * @param {'left' | 'right'} side
   */
  toShared (index, side = 'left') {
    let boundary = this.#boundary(index, onScreen)
    if (side === 'right') while (this.#runs[boundary]?.kind === 'unseen') boundary++
    return this.#lengthBefore(boundary, inShared)
  }

  /**
   * A position of the shared text, on the screen.
   * @param {number} index
   */
  toScreen (index) {
    let screen = 0
    for (const run of this.#runs) {
      if (index <= 0) break
      if (run.kind === 'shared') screen += Math.min(index, run.length)
      else if (run.kind === 'gone') screen += run.length
      if (run.kind !== 'gone') index -= run.length
    }
    return screen
  }

  /**
   * The number of the run that begins at `index`; a run that holds it is split there. Of several such places the
   * leftmost, right behind the character before `index`.
   * @param {number} index
   * @param {(run: Run) => boolean} counts which runs `index` counts
   */
  #boundary (index, counts) {
    let left = index
    for (let i = 0; i < this.#runs.length; i++) {
      if (left <= 0) return i
      const run = this.#runs[i]
      if (!counts(run)) continue
      if (left < run.length) {
        this.#runs.splice(i, 1, { kind: run.kind, length: left }, { kind: run.kind, length: run.length - left })
        return i + 1
      }
      left -= run.length
    }
    return this.#runs.length
  }

  /**
   * @param {number} boundary
   * @param {(run: Run) => boolean} counts
   */
  #lengthBefore (boundary, counts) {
    let length = 0
    for (let i = 0; i < boundary; i++) if (counts(this.#runs[i])) length += this.#runs[i].length
    return length
  }

  /**
   * @param {number} index
   * @param {number} remove
   */
  #removeShared (index, remove) {
    for (let i = this.#boundary(index, inShared); remove > 0 && i < this.#runs.length;) {
      const run = this.#runs[i]
      if (run.kind === 'gone') {
        i++
        continue
      }
      const length = Math.min(remove, run.length)
      const rest = run.length - length
      /** @type {Run[]} */
      const replacement = []
      if (run.kind === 'shared') replacement.push({ kind: 'gone', length })
      if (rest > 0) replacement.push({ kind: run.kind, length: rest })
      this.#runs.splice(i, 1, ...replacement)
      if (run.kind === 'shared') i++
      remove -= length
    }
  }

  /** Joins neighbours of one kind, so that the list stays as short as the texts are different. */
  #tidy () {
    for (let i = this.#runs.length - 1; i > 0; i--) {
      if (this.#runs[i].kind !== this.#runs[i - 1].kind) continue
      this.#runs[i - 1].length += this.#runs[i].length
      this.#runs.splice(i, 1)
    }
  }
}

/** @param {Run} run */
const inShared = run => run.kind !== 'gone'
/** @param {Run} run */
const onScreen = run => run.kind !== 'unseen'

// Numbers that look random and are the same in every run: a failure names its seed and comes back.

/**
 * @param {number} seed
 */
export function random (seed) {
  let state = seed >>> 0
  /** mulberry32 */
  const next = () => {
    state = (state + 0x6D2B79F5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  /** @param {number} limit @returns {number} 0 ≤ n < limit */
  const below = limit => Math.floor(next() * limit)
  return {
    below,
    /** @template T @param {T[]} list @returns {T} */
    pick: list => list[below(list.length)]
  }
}

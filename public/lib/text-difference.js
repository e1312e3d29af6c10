// @ts-check
/**
 * What one edit changed in a text.
 *
 * A textarea tells that it was edited, not how. Comparing the text before and after finds *one* splice that
 * explains the change; where several would (`aaa` became `aaaa`), the caret says which one the user meant.
 *
 * Pure: no DOM, no Yjs. Lengths and positions are UTF-16 code units, as in JavaScript strings and in Yjs.
 */

/**
 * At `index`, `remove` code units go and `insert` comes.
 * @typedef {{ index: number, remove: number, insert: string }} Splice
 */

/**
 * The splice that turns `before` into `after`, or null where they are equal.
 *
 * Neither edge of the splice lies inside a surrogate pair: 😀 and 😁 share their first half, and a splice of the
 * second half alone would make Yjs store two broken characters.
 *
 * @param {string} before
 * @param {string} after
 * @param {number} caret where the caret stands in `after`: what lies right of it was most likely not edited
 * @returns {Splice | null}
 */
export function difference (before, after, caret = after.length) {
  if (before === after) return null
  const shorter = Math.min(before.length, after.length)
  const rightOfCaret = Math.min(shorter, Math.max(0, after.length - caret))
  const sameFromEnd = (/** @type {number} */ n) =>
    before.charCodeAt(before.length - 1 - n) === after.charCodeAt(after.length - 1 - n)

  let suffix = 0
  while (suffix < rightOfCaret && sameFromEnd(suffix)) suffix++
  let prefix = 0
  while (prefix < shorter - suffix && before.charCodeAt(prefix) === after.charCodeAt(prefix)) prefix++
  // The caret is a hint, not a promise: a script may have edited elsewhere.
  while (suffix < shorter - prefix && sameFromEnd(suffix)) suffix++

  if (splitsPair(before, prefix) || splitsPair(after, prefix)) prefix--
  if (splitsPair(before, before.length - suffix) || splitsPair(after, after.length - suffix)) suffix--
  return {
    index: prefix,
    remove: before.length - suffix - prefix,
    insert: after.slice(prefix, after.length - suffix)
  }
}

/**
 * Whether `index` lies between the two halves of one character.
 * @param {string} text
 * @param {number} index
 */
export function splitsPair (text, index) {
  return index > 0 && index < text.length && isHigh(text.charCodeAt(index - 1)) && isLow(text.charCodeAt(index))
}

/** @param {number} unit */
const isHigh = unit => unit >= 0xD800 && unit <= 0xDBFF
/** @param {number} unit */
const isLow = unit => unit >= 0xDC00 && unit <= 0xDFFF

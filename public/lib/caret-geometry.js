// @ts-check
/**
 * Where on the screen a character of a textarea stands.
 *
 * A textarea does not tell. A hidden copy of its text, laid out with the same font, padding and width, does.
 */

/** A line's piece of text: left and top relative to the textarea's padding box, before scrolling. */
/** @typedef {{ left: number, top: number, width: number, height: number }} Box */

const COPIED = /** @type {const} */ ([
  'direction', 'fontFamily', 'fontFeatureSettings', 'fontKerning', 'fontSize', 'fontSizeAdjust', 'fontStretch', 'fontStyle',
  'fontVariant', 'fontVariationSettings', 'fontWeight', 'letterSpacing', 'lineHeight', 'overflowWrap', 'paddingBottom',
  'paddingLeft', 'paddingRight', 'paddingTop', 'tabSize', 'textAlign', 'textIndent', 'textTransform', 'unicodeBidi',
  'whiteSpace', 'wordBreak', 'wordSpacing'
])

const RIGHT_TO_LEFT = /[\u0590-\u08FF\uFB1D-\uFDFD\uFE70-\uFEFC]/

export class CaretGeometry {
  #textarea
  #copy
  #text = document.createTextNode('')
  #range = document.createRange()

  /**
   * @param {HTMLTextAreaElement} textarea
   * @param {HTMLElement} home where the hidden copy is put
   */
  constructor (textarea, home) {
    this.#textarea = textarea
    this.#copy = document.createElement('div')
    this.#copy.setAttribute('aria-hidden', 'true')
    Object.assign(this.#copy.style, {
      position: 'absolute', top: '0', left: '0', visibility: 'hidden', pointerEvents: 'none', boxSizing: 'border-box', border: '0', margin: '0'
    })
    this.#copy.append(this.#text)
    home.append(this.#copy)
    this.restyle()
  }

  /** The textarea's font or width may have changed. */
  restyle () {
    const style = getComputedStyle(this.#textarea)
    for (const name of COPIED) this.#copy.style[name] = style[name]
    this.#copy.style.width = `${this.#textarea.clientWidth}px` // without the scroll bar
  }

  /** The text may have changed. */
  update () {
    // A line that ends the text with nothing on it has no box: the sign behind it, which has no width, gives it one.
    const text = this.#textarea.value + '\u200B'
    if (this.#text.data !== text) this.#text.data = text
  }

  /**
   * The place of a caret that stands before the character at `index`.
   * @param {number} index
   * @returns {Box}
   */
  caret (index) {
    const text = this.#text.data
    const at = Math.max(0, Math.min(index, text.length - 1))
    const wide = /^[\uD800-\uDBFF][\uDC00-\uDFFF]/.test(text.slice(at, at + 2))
    const [box] = this.#boxes(at, at + (wide ? 2 : 1))
    if (box === undefined) return { left: 0, top: 0, width: 0, height: 0 }
    return { ...box, left: RIGHT_TO_LEFT.test(text[at]) ? box.left + box.width : box.left, width: 0 }
  }

  /**
   * The pieces of line that the characters from `start` to `end` cover.
   * @param {number} start
   * @param {number} end
   */
  boxes (start, end) {
    const length = this.#text.data.length - 1
    return start < end ? this.#boxes(Math.min(start, length), Math.min(end, length)) : []
  }

  remove () {
    this.#copy.remove()
  }

  /**
   * @param {number} start
   * @param {number} end
   * @returns {Box[]}
   */
  #boxes (start, end) {
    this.#range.setStart(this.#text, start)
    this.#range.setEnd(this.#text, end)
    const origin = this.#copy.getBoundingClientRect()
    return Array.from(this.#range.getClientRects(), ({ left, top, width, height }) =>
      ({ left: left - origin.left, top: top - origin.top, width, height }))
  }
}

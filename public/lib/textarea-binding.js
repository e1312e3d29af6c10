// @ts-check
/**
 * Binds a `<textarea>` to a Y.Text: what is typed goes into the text, what others write appears on the screen.
 *
 *     const binding = new TextareaBinding(doc.getText('text'), document.querySelector('textarea'), { awareness })
 *
 * What a simple binding gets wrong, and this one does not:
 *
 * - edits are the smallest that explain the change, anchored at the caret, so that others' carets and edits live on;
 * - the caret, the selection with its direction, and the scroll position survive others' edits;
 * - while an input method composes a word the screen is not written to (browsers then lose or double a syllable),
 *   yet what is composed is sent at once, at the right place (`alignment.js`);
 * - characters of two code units are never cut in half;
 * - undo takes back one's own edits and nobody else's.
 *
 * Others' edits appear in the microtask after they came in: a catch-up of a thousand updates is one write, not a
 * thousand. `flush()` does not wait.
 */
import * as Y from 'yjs'
import { Alignment } from './alignment.js'
import { difference } from './text-difference.js'

/** @typedef {{ anchor: Y.RelativePosition, head: Y.RelativePosition }} Cursor as other Yjs editors have it in awareness */

export class TextareaBinding {
  /** What the textarea held when we last looked. */
  #shown = ''
  /** How `#shown` and the shared text relate. */
  #alignment = new Alignment(0)
  #composing = false
  #settling = false
  /** @type {Cursor | null} the selection before the edit that comes next, for undo */
  #selectionBefore = null
  /** Where the last edit left the caret: an edit elsewhere is a new step for undo. */
  #lastEdit = -1
  /** @type {string | null} */
  #rootName
  #listeners = new AbortController()

  /**
   * @param {Y.Text} ytext
   * @param {HTMLTextAreaElement} textarea
   * @param {object} [options]
   * @param {import('y-protocols/awareness').Awareness | null} [options.awareness] is told our caret, as `cursor`
   * @param {number} [options.captureTimeout] edits less than this many milliseconds apart are undone together
   */
  constructor (ytext, textarea, { awareness = null, captureTimeout = 500 } = {}) {
    if (ytext.doc === null) throw new Error('the Y.Text must be part of a document before it is bound')
    this.doc = ytext.doc
    this.ytext = ytext
    this.textarea = textarea
    this.awareness = awareness
    this.#rootName = ytext._item === null ? Y.findRootTypeKey(ytext) : null
    this.undoManager = new Y.UndoManager(ytext, { trackedOrigins: new Set([this]), captureTimeout })
    this.undoManager.on('stack-item-added', ({ stackItem }) => stackItem.meta.set(this, this.#selectionBefore))
    this.undoManager.on('stack-item-popped', ({ stackItem }) => {
      this.flush()
      this.#restoreSelection(stackItem.meta.get(this))
    })

    this.#write(screenText(ytext), 0, 0, 'none')
    this.#settleSoon()
    ytext.observe(this.#onSharedChange)

    const signal = this.#listeners.signal
    /**
     * @template {keyof HTMLElementEventMap} K
     * @param {K} type
     * @param {(event: HTMLElementEventMap[K]) => void} handler
     */
    const on = (type, handler) => textarea.addEventListener(type, handler, { signal })
    on('beforeinput', event => this.#onBeforeInput(/** @type {InputEvent} */ (event)))
    on('input', () => this.#takeInput())
    on('keydown', event => this.#onKey(event))
    on('compositionstart', () => {
      this.#composing = true
      this.#selectionBefore = this.selection
    })
    on('compositionend', () => this.#endComposition())
    on('blur', () => this.#endComposition()) // a composition whose end is never told must not silence the screen for good
    on('focus', () => this.#tellSelection())
    on('select', () => this.#tellSelection())
    textarea.ownerDocument.addEventListener('selectionchange', () => {
      if (textarea.ownerDocument.activeElement === textarea) this.#tellSelection()
    }, { signal })
  }

  /** Whether an input method is composing a word just now. */
  get composing () {
    return this.#composing
  }

  /** Shows what came in, now instead of in a microtask. */
  flush () {
    this.#settling = false
    if (this.#composing) return
    this.#takeInput()
    const text = screenText(this.ytext)
    if (text !== this.#shown || !this.#alignment.isExact) {
      const { selectionStart, selectionEnd, selectionDirection } = this.textarea
      // A caret stays left of what others wrote at it. A selection neither takes in what they wrote at its edges,
      // or else the next key would overwrite it.
      const end = this.#alignment.toShared(selectionEnd)
      const start = selectionStart === selectionEnd ? end : Math.min(end, this.#alignment.toShared(selectionStart, 'right'))
      this.#write(text, start, end, selectionDirection)
      this.#tellSelection()
    }
    this.#normalise()
  }

  /** Takes back the last edit that was made here. */
  undo () {
    this.#travel(() => this.undoManager.undo())
  }

  redo () {
    this.#travel(() => this.undoManager.redo())
  }

  /** The selection as positions that move along with the text. */
  get selection () {
    const { selectionStart, selectionEnd, selectionDirection } = this.textarea
    const end = this.#alignment.toShared(selectionEnd)
    const start = selectionStart === selectionEnd ? end : Math.min(end, this.#alignment.toShared(selectionStart, 'right'))
    // Bound to the character on their left, or else a caret at the end of the text would run along with what others
    // type there. The left edge of a selection is bound to the first character that is selected.
    const right = Y.createRelativePositionFromTypeIndex(this.ytext, end, -1)
    const left = start === end ? right : Y.createRelativePositionFromTypeIndex(this.ytext, start, 0)
    return selectionDirection === 'backward' ? { anchor: right, head: left } : { anchor: left, head: right }
  }

  /**
   * Where a position that another client sent stands on the screen; null if it is no position in this text.
   * @param {unknown} json
   */
  place (json) {
    if (typeof json !== 'object' || json === null) return null
    try {
      return this.#toScreen(Y.createRelativePositionFromJSON(json))
    } catch {
      return null // another program's idea of a cursor: one caret less is all that it may cost
    }
  }

  /** @param {Y.RelativePosition} position */
  #toScreen (position) {
    // Yjs makes a root type of any name it is asked for; it shall not be asked for what a stranger made up.
    if (position.item === null && position.type === null && position.tname !== this.#rootName) return null
    const absolute = Y.createAbsolutePositionFromRelativePosition(position, this.doc)
    return absolute === null || absolute.type !== this.ytext ? null : this.#alignment.toScreen(absolute.index)
  }

  destroy () {
    this.#listeners.abort()
    this.ytext.unobserve(this.#onSharedChange)
    this.undoManager.destroy()
    this.#settling = false
  }

  /** @type {(event: Y.YTextEvent, transaction: Y.Transaction) => void} */
  #onSharedChange = (event, transaction) => {
    if (transaction.origin === this) return
    this.#alignment.changeShared(event.delta)
    this.#settleSoon()
  }

  #settleSoon () {
    if (this.#settling) return
    this.#settling = true
    queueMicrotask(() => { if (this.#settling) this.flush() })
  }

  /** @param {() => void} step */
  #travel (step) {
    if (this.#composing || this.textarea.readOnly || this.textarea.disabled) return
    this.flush()
    this.#selectionBefore = this.selection
    this.#lastEdit = -1
    step()
  }

  /** Compares the textarea with what it held before, and makes the same change to the shared text. */
  #takeInput () {
    const value = this.textarea.value
    const splice = difference(this.#shown, value, this.textarea.selectionEnd)
    if (splice === null) return
    const end = splice.index + splice.remove
    if (this.#lastEdit !== splice.index && this.#lastEdit !== end) this.undoManager.stopCapturing()
    this.#lastEdit = splice.index + splice.insert.length
    this.#shown = value
    const changes = this.#alignment.changeScreen(splice)
    this.doc.transact(() => {
      for (const { index, remove, insert } of changes) {
        if (remove > 0) this.ytext.delete(index, remove)
        // A lone half of a pair would be stored as U+FFFD on its way to others: better here, where we notice.
        if (insert !== '') this.ytext.insert(index, insert.toWellFormed())
      }
    }, this)
    this.#tellSelection()
  }

  /**
   * @param {string} text
   * @param {number} start
   * @param {number} end
   * @param {'forward' | 'backward' | 'none'} direction
   */
  #write (text, start, end, direction) {
    const textarea = this.textarea
    if (text !== textarea.value) {
      const { scrollTop, scrollLeft } = textarea
      textarea.value = text
      textarea.setSelectionRange(start, end, direction)
      textarea.scrollTop = scrollTop
      textarea.scrollLeft = scrollLeft
    }
    this.#shown = text
    this.#alignment = new Alignment(text.length)
  }

  /**
   * A textarea knows one kind of line end. `\r\n`, which comes from other tools, is shown with a blank for its `\r`,
   * so that positions agree, and the `\r` is then deleted for everybody. Many may do that at once: deleting is the
   * same deletion for all of them.
   */
  #normalise () {
    if (this.textarea.readOnly || this.textarea.disabled) return
    const text = sharedText(this.ytext)
    if (!text.includes('\r\n')) return
    this.doc.transact(() => {
      for (let i = text.lastIndexOf('\r\n'); i >= 0; i = i === 0 ? -1 : text.lastIndexOf('\r\n', i - 1)) this.ytext.delete(i, 1)
    }, 'normalise line ends')
  }

  #endComposition () {
    if (!this.#composing) return
    this.#composing = false
    this.flush()
  }

  /** @param {InputEvent} event */
  #onBeforeInput (event) {
    if (event.inputType === 'historyUndo' || event.inputType === 'historyRedo') {
      // From the menu, or a shake of the phone. The browser's own history knows nothing of others.
      event.preventDefault()
      if (event.inputType === 'historyUndo') this.undo()
      else this.redo()
      return
    }
    if (!this.#composing) this.#selectionBefore = this.selection
    if (/^(insertFrom|deleteByCut)/.test(event.inputType)) this.#lastEdit = -1 // paste, drop and cut are steps of their own
  }

  /** @param {KeyboardEvent} event */
  #onKey (event) {
    if (event.isComposing || event.altKey || event.ctrlKey === event.metaKey) return
    // On a Cyrillic or Greek layout the key is no Latin letter; its place on the keyboard then tells.
    const letter = /^[a-z]$/i.test(event.key) ? event.key.toLowerCase() : event.code.replace(/^Key/, '').toLowerCase()
    if (letter === 'z') {
      event.preventDefault()
      if (event.shiftKey) this.redo()
      else this.undo()
    } else if (letter === 'y' && event.ctrlKey && !event.shiftKey) {
      event.preventDefault()
      this.redo()
    }
  }

  /** @param {Cursor | null | undefined} selection */
  #restoreSelection (selection) {
    if (!selection) return
    const [anchor, head] = [this.#toScreen(selection.anchor), this.#toScreen(selection.head)]
    if (anchor === null || head === null) return
    const backward = head < anchor
    this.textarea.setSelectionRange(Math.min(anchor, head), Math.max(anchor, head), backward ? 'backward' : 'forward')
    this.#tellSelection()
  }

  /** Tells others where our caret stands. */
  #tellSelection () {
    if (this.awareness === null || this.awareness.getLocalState() === null) return
    const known = this.awareness.getLocalState()?.cursor
    if (!known && this.textarea.ownerDocument.activeElement !== this.textarea) return // has not begun to read yet
    const cursor = this.selection
    if (known && samePosition(known.anchor, cursor.anchor) && samePosition(known.head, cursor.head)) return
    this.awareness.setLocalStateField('cursor', cursor)
  }
}

/**
 * The shared text, one code unit for each position: what is embedded in it (an image, from another editor) counts as
 * one and is shown as U+FFFC, the character that Unicode has for the purpose.
 * @param {Y.Text} ytext
 */
function sharedText (ytext) {
  const text = ytext.toString()
  if (text.length === ytext.length) return text
  return ytext.toDelta().map((/** @type {{ insert: unknown }} */ { insert }) => typeof insert === 'string' ? insert : '\uFFFC').join('')
}

/**
 * The shared text as a textarea can show it, of the same length: `.value` turns `\r\n` and `\r` into `\n`.
 * @param {Y.Text} ytext
 */
function screenText (ytext) {
  const text = sharedText(ytext)
  return text.includes('\r') ? text.replace(/\r(?=\n)/g, ' ').replace(/\r/g, '\n') : text
}

/**
 * @param {Y.RelativePosition} a
 * @param {Y.RelativePosition} b
 */
const samePosition = (a, b) => Y.compareRelativePositions(Y.createRelativePositionFromJSON(a), Y.createRelativePositionFromJSON(b))

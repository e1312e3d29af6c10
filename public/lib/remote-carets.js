// @ts-check
/**
 * Draws others' carets, names and selections over a textarea.
 *
 * Styles: `.carets` (the layer), `.caret-owner` with `.caret`, `.caret-name` and `.caret-selection` in it; `--left`, `--top` and
 * `--height` say where, `--scroll` how far the text is scrolled, `--person-light` and `--person-dark` in which colour.
 * All of it is decoration for the eye: hidden from assistive technology, and transparent to the mouse.
 */
import { CaretGeometry } from './caret-geometry.js'

/** How long a name stands at a caret that has moved. Longer, and it hides the line above it. */
const NAME_SHOWN_MS = 2500
/** Laying out a longer text a second time makes typing slow. */
const LONGEST_TEXT = 200_000

/**
 * @typedef {object} Person
 * @property {string} name
 * @property {string} light their colour on a light page, as CSS
 * @property {string} dark their colour on a dark page
 */
/** @typedef {{ root: HTMLElement, name: HTMLElement, boxes: HTMLElement[], at: string, timer: number }} Drawn */

export class RemoteCarets {
  #binding
  #layer = document.createElement('div')
  #geometry
  /** @type {Map<number, Drawn>} by the Yjs client id of awareness */
  #drawn = new Map()
  #person
  #frame = 0
  #resize
  #listeners = new AbortController()

  /**
   * @param {import('./textarea-binding.js').TextareaBinding} binding
   * @param {HTMLElement} frame the positioned element that holds nothing but the textarea; the carets are put in it
   * @param {(state: Record<string, any>) => Person} person reads name and colour from an awareness state
   */
  constructor (binding, frame, person) {
    if (binding.awareness === null) throw new Error('carets come by awareness, and this binding has none')
    this.#binding = binding
    this.#person = person
    this.#layer.className = 'carets'
    this.#layer.setAttribute('aria-hidden', 'true')
    frame.append(this.#layer)
    this.#geometry = new CaretGeometry(binding.textarea, this.#layer)
    this.#resize = new ResizeObserver(() => this.restyle())
    this.#resize.observe(binding.textarea)
    const signal = this.#listeners.signal
    binding.textarea.addEventListener('scroll', () => this.redraw(), { signal, passive: true })
    binding.textarea.addEventListener('input', () => this.redraw(), { signal })
    document.fonts?.addEventListener('loadingdone', () => this.restyle(), { signal })
    binding.ytext.observe(this.redraw)
    binding.awareness.on('change', this.redraw)
    this.redraw()
  }

  /** Draws again, once, before the next frame. */
  redraw = () => {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0
      this.#draw()
    })
  }

  /**
   * Scrolls to somebody's caret and shows the name at it.
   * @param {number} id
   */
  reveal (id) {
    const drawn = this.#drawn.get(id)
    const head = this.#binding.place(this.#binding.awareness?.getStates().get(id)?.cursor?.head)
    if (drawn === undefined || head === null) return
    this.#geometry.update()
    const { top } = this.#geometry.caret(head)
    const { textarea } = this.#binding
    if (top < textarea.scrollTop || top > textarea.scrollTop + textarea.clientHeight - 40) textarea.scrollTop = top - textarea.clientHeight / 3
    this.#showName(drawn)
  }

  /** The textarea looks different now. */
  restyle () {
    this.#geometry.restyle()
    this.redraw()
  }

  destroy () {
    this.#listeners.abort()
    this.#resize.disconnect()
    this.#binding.ytext.unobserve(this.redraw)
    this.#binding.awareness?.off('change', this.redraw)
    cancelAnimationFrame(this.#frame)
    this.#layer.remove()
  }

  #draw () {
    const { awareness, textarea } = this.#binding
    if (awareness === null) return
    const others = [...awareness.getStates()].filter(([id]) => id !== awareness.clientID)
    /** @type {Set<number>} */
    const present = new Set()
    if (others.length > 0 && textarea.value.length <= LONGEST_TEXT) {
      this.#geometry.update()
      this.#layer.style.setProperty('--scroll', `${-textarea.scrollTop}px`)
      for (const [id, state] of others) if (this.#drawOne(id, state)) present.add(id)
    }
    for (const [id, drawn] of this.#drawn) {
      if (present.has(id)) continue
      clearTimeout(drawn.timer)
      drawn.root.remove()
      this.#drawn.delete(id)
    }
  }

  /**
   * @param {number} id
   * @param {Record<string, any>} state
   * @returns {boolean} whether this person has a caret
   */
  #drawOne (id, state) {
    const anchor = this.#binding.place(state.cursor?.anchor)
    const head = this.#binding.place(state.cursor?.head)
    if (anchor === null || head === null) return false
    const drawn = this.#drawn.get(id) ?? this.#create(id)
    const { name, light, dark } = this.#person(state)
    drawn.root.style.setProperty('--person-light', light)
    drawn.root.style.setProperty('--person-dark', dark)
    if (drawn.name.textContent !== name) drawn.name.textContent = name

    const { left, top, height } = this.#geometry.caret(head)
    drawn.root.style.setProperty('--left', `${left}px`)
    drawn.root.style.setProperty('--top', `${top}px`)
    drawn.root.style.setProperty('--height', `${height}px`)
    const { clientWidth, scrollTop } = this.#binding.textarea
    drawn.root.classList.toggle('is-below', top - scrollTop < height) // no room above the first line
    drawn.root.classList.toggle('is-leftward', left > clientWidth - 8 - drawn.name.offsetWidth)

    const boxes = this.#geometry.boxes(Math.min(anchor, head), Math.max(anchor, head))
    while (drawn.boxes.length > boxes.length) drawn.boxes.pop()?.remove()
    for (const [i, box] of boxes.entries()) {
      const element = drawn.boxes[i] ??= append(drawn.root, 'caret-selection')
      Object.assign(element.style, {
        left: `${box.left}px`, top: `${box.top}px`, width: `${Math.max(box.width, 4)}px`, height: `${box.height}px`
      })
    }

    // Not the offset: what others write before a caret moves it too, and that is no news about its owner.
    const at = JSON.stringify(state.cursor)
    if (at !== drawn.at) {
      drawn.at = at
      this.#showName(drawn)
    }
    return true
  }

  /** @param {Drawn} drawn */
  #showName (drawn) {
    drawn.root.classList.add('is-fresh')
    clearTimeout(drawn.timer)
    drawn.timer = window.setTimeout(() => drawn.root.classList.remove('is-fresh'), NAME_SHOWN_MS)
  }

  /** @param {number} id */
  #create (id) {
    const root = append(this.#layer, 'caret-owner')
    append(root, 'caret')
    /** @type {Drawn} */
    const drawn = { root, name: append(root, 'caret-name'), boxes: [], at: '', timer: 0 }
    this.#drawn.set(id, drawn)
    return drawn
  }
}

/**
 * @param {HTMLElement} parent
 * @param {string} className
 */
function append (parent, className) {
  const element = document.createElement('div')
  element.className = className
  parent.append(element)
  return element
}

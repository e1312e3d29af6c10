// @ts-check
/**
 * What went to the server and what came from it: a line for each batch, the newest on top.
 */
import { byId, create } from './dom.js'

const LINES_MAX = 200

/** @typedef {'sent' | 'received' | 'note' | 'trouble'} Kind */
/** @typedef {{ kind: Kind, what: string, bytes?: number, seq?: number, latency?: number }} Entry */

const SIGNS = /** @type {const} */ ({ sent: '↑', received: '↓', note: '•', trouble: '▪' })
const WORDS = /** @type {const} */ ({ sent: 'sent', received: 'received', note: 'note', trouble: 'trouble' })

export class UpdateLog {
  #body = byId('log')
  /** @type {HTMLTableRowElement | null} the line of what waits to be sent */
  #waiting = null

  /** @param {Entry} entry */
  add (entry) {
    this.#body.prepend(row(entry))
    // What waits is the newest thing of all, until it is sent.
    if (this.#waiting !== null) this.#body.prepend(this.#waiting)
    while (this.#body.childElementCount > LINES_MAX) this.#body.lastElementChild?.remove()
  }

  /** @param {number} edits that cannot be sent just now; 0: none */
  showWaiting (edits) {
    const line = edits === 0 ? null : row({ kind: 'sent', what: `you, ${count(edits, 'edit')} waiting` })
    if (line !== null && this.#waiting !== null) this.#waiting.replaceWith(line)
    else if (line !== null) this.#body.prepend(line)
    else this.#waiting?.remove()
    this.#waiting = line
  }
}

/** @param {Entry} entry */
function row ({ kind, what, bytes, seq, latency }) {
  const sign = create('td', { class: `log-${kind}` },
    Object.assign(create('span', { text: SIGNS[kind] }), { ariaHidden: 'true' }), create('span', { class: 'visually-hidden', text: WORDS[kind] }))
  const whatCell = create('td', { class: 'log-what', text: what })
  whatCell.title = what
  const time = create('td', { class: 'log-time', text: new Date().toTimeString().slice(0, 8) })
  if (bytes === undefined) {
    whatCell.colSpan = 4
    return create('tr', {}, time, sign, whatCell)
  }
  return create('tr', {}, time, sign, whatCell,
    create('td', { class: 'log-number', text: size(bytes) }),
    create('td', { class: 'log-number', text: seq === undefined ? '' : `#${seq}` }),
    create('td', { class: 'log-number', text: latency === undefined ? '' : `${Math.round(latency)} ms` }))
}

/** @param {number} bytes */
function size (bytes) {
  if (bytes < 1000) return `${bytes} B`
  const [value, unit] = bytes < 1_000_000 ? [bytes / 1000, 'kB'] : [bytes / 1_000_000, 'MB']
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`
}

/**
 * @param {number} number
 * @param {string} thing
 */
export function count (number, thing) {
  return `${number.toLocaleString('en')} ${thing}${number === 1 ? '' : 's'}`
}

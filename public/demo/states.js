// @ts-check
/**
 * The two answers at the top of the page: is it saved, is there a connection. Told by words and by shape (dot: fine,
 * diamond: under way, square: not), never by colour alone.
 */
import { byId } from './dom.js'

/** @typedef {'fine' | 'pending' | 'bad'} Mood */

/**
 * "Saved" is said a moment late, and taken back at once: it is never untrue, and does not flicker while somebody
 * types.
 */
const SAVED_AFTER_MS = 250

export class States {
  #saved = byId('saved')
  #connected = byId('connected')
  #latency = byId('latency')
  #announcement = byId('announcement')
  #timer = 0
  #hasLoaded = false
  /** There is nothing that could be saved. */
  readOnly = false
  #said = ''

  /**
   * @param {object} now
   * @param {number} now.unsaved edits that the server has not confirmed
   * @param {'connected' | 'connecting' | 'offline'} now.connection
   * @param {boolean} now.onPurpose it is the visitor who went offline
   */
  show ({ unsaved, connection, onPurpose }) {
    clearTimeout(this.#timer)
    this.#hasLoaded ||= connection === 'connected'
    this.#saved.hidden = false
    if (unsaved > 0 && connection === 'connected') paint(this.#saved, 'pending', `Saving ${unsaved}`)
    else if (unsaved > 0) paint(this.#saved, 'bad', `${unsaved} unsaved`)
    else if (this.readOnly) paint(this.#saved, 'fine', 'Read only')
    else if (this.#hasLoaded) this.#timer = window.setTimeout(() => paint(this.#saved, 'fine', 'Saved'), SAVED_AFTER_MS)

    if (connection === 'connected') paint(this.#connected, 'fine', 'Connected')
    else if (connection === 'connecting') paint(this.#connected, 'pending', 'Connecting')
    else paint(this.#connected, 'bad', 'Offline')

    // Read out when it changes for good; "connecting" is on its way to something.
    if (connection === 'connected') this.#say(unsaved === 0 || this.#said === '' ? 'Connected.' : 'Connected again, sending what was written meanwhile.')
    else if (connection === 'offline') this.#say(onPurpose ? 'Offline. What you write stays in this tab until you go online.' : 'Connection lost. What you write stays in this tab until it is back.')
  }

  /** @param {number} milliseconds from the POST to the answer that it is on disk */
  showLatency (milliseconds) {
    this.#latency.textContent = `${Math.round(milliseconds)} ms`
    this.#latency.hidden = false
  }

  /**
   * It has ended: for good, or until there is another token.
   * @param {string} why in one word
   * @param {number} unsaved
   */
  showClosed (why, unsaved) {
    clearTimeout(this.#timer)
    paint(this.#connected, 'bad', why)
    // "Saved" would be wrong of a document that is no more.
    this.#saved.hidden = unsaved === 0
    if (unsaved > 0) paint(this.#saved, 'bad', `${unsaved} unsaved`)
    this.#latency.hidden = true
  }

  /** @param {string} sentence */
  #say (sentence) {
    if (sentence.split('.')[0].split(' ')[0] === this.#said.split('.')[0].split(' ')[0]) return
    this.#said = sentence
    this.#announcement.textContent = sentence
  }
}

/**
 * @param {HTMLElement} pill
 * @param {Mood} mood
 * @param {string} text
 */
function paint (pill, mood, text) {
  pill.dataset.mood = mood
  if (pill.textContent !== text) pill.textContent = text
}

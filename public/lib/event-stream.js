/**
 * Reads `text/event-stream` as the WHATWG describes it, from chunks cut anywhere.
 *
 * Two things differ from an EventSource, on purpose: a block with an id and no data is handed out too (the server
 * sends one in place of each of our own updates, and it moves the cursor), and comments are visible as traffic,
 * since the caller sees the chunks.
 *
 * Format: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>
 */

/**
 * @typedef {object} StreamEvent
 * @property {string} type `message` where the stream named none
 * @property {string | null} data null: the block had no data field, an EventSource would stay silent
 * @property {string} id the last id the stream has given, this block's included
 */

export class EventStreamParser {
  #decoder = new TextDecoder()
  #buffer = ''
  /** The last chunk ended in CR: an LF at the start of the next belongs to it. */
  #afterCarriageReturn = false
  /** @type {string[]} */
  #data = []
  #type = ''
  #id = ''
  #idInBlock = false

  /** The reconnection time that the stream asks for, in milliseconds. @type {number | null} */
  retry = null

  /**
   * @param {Uint8Array} chunk
   * @returns {StreamEvent[]} the events that this chunk completes
   */
  push (chunk) {
    // The decoder takes the byte order mark away and keeps a character that was cut in two.
    let text = this.#decoder.decode(chunk, { stream: true })
    if (text === '') return []
    if (this.#afterCarriageReturn && text.startsWith('\n')) text = text.slice(1)
    this.#afterCarriageReturn = text === '' ? false : text.endsWith('\r')

    const lines = text.split(/\r\n|\r|\n/)
    lines[0] = this.#buffer + lines[0]
    this.#buffer = /** @type {string} */ (lines.pop())

    /** @type {StreamEvent[]} */
    const events = []
    for (const line of lines) {
      if (line === '') this.#dispatch(events)
      else this.#field(line)
    }
    return events
  }

  /** @param {StreamEvent[]} events */
  #dispatch (events) {
    if (this.#data.length > 0) {
      events.push({ type: this.#type || 'message', data: this.#data.join('\n'), id: this.#id })
    } else if (this.#idInBlock) {
      events.push({ type: this.#type || 'message', data: null, id: this.#id })
    }
    this.#data = []
    this.#type = ''
    this.#idInBlock = false
  }

  /** @param {string} line */
  #field (line) {
    const colon = line.indexOf(':')
    if (colon === 0) return // a comment
    const name = colon === -1 ? line : line.slice(0, colon)
    let value = colon === -1 ? '' : line.slice(colon + 1)
    if (value.startsWith(' ')) value = value.slice(1)
    switch (name) {
      case 'data':
        this.#data.push(value)
        break
      case 'event':
        this.#type = value
        break
      case 'id':
        if (!value.includes('\0')) {
          this.#id = value
          this.#idInBlock = true
        }
        break
      case 'retry':
        if (/^[0-9]+$/.test(value)) this.retry = Number(value)
        break
    }
  }
}

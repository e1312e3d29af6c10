// The page on which people write, as a test sees it: opened in a real browser, used with real keys.
import { Y, newDocumentId, until } from './support.mjs'

export { newDocumentId, until }

/**
 * One person at one computer.
 * @param {import('playwright-core').Browser} browser
 * @param {string} name
 * @param {import('playwright-core').BrowserContextOptions} [options]
 */
export async function newPerson (browser, name, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 760 }, ...options })
  await context.addInitScript(name => {
    localStorage.getItem('promptgrimoire.person') ?? localStorage.setItem('promptgrimoire.person', JSON.stringify({ name }))
  }, name)
  return context
}

/**
 * Opens a tab with a document, and waits until it is connected.
 * @param {import('playwright-core').BrowserContext} person
 * @param {string} url the server's
 * @param {string} id
 * @param {string} [token] comes in the address, as in a link that somebody was sent
 */
export async function openEditor (person, url, id, token) {
  const page = await person.newPage()
  const editor = new Editor(page)
  await page.goto(`${url}/conversation/${id}${token === undefined ? '' : `#token=${token}`}`)
  await editor.untilConnected()
  return editor
}

export class Editor {
  /** @type {string[]} errors that the page did not handle, and what its policy forbade */
  complaints = []

  /** @param {import('playwright-core').Page} page */
  constructor (page) {
    this.page = page
    page.on('pageerror', error => this.complaints.push(String(error)))
    page.on('console', message => { if (/Content.Security.Policy/i.test(message.text())) this.complaints.push(message.text()) })
  }

  /** All that matters for understanding a failure. */
  state () {
    return this.page.evaluate(() => {
      const read = (/** @type {string} */ id) => document.getElementById(id)?.textContent ?? null
      const textarea = /** @type {HTMLTextAreaElement} */ (document.getElementById('text'))
      return {
        text: textarea.value,
        selection: [textarea.selectionStart, textarea.selectionEnd],
        saved: document.getElementById('saved')?.hidden ? null : read('saved'),
        connected: read('connected'),
        role: read('role'),
        people: Array.from(document.querySelectorAll('.person'), person => person.textContent),
        log: Array.from(document.querySelectorAll('#log tr'), row => row.textContent).slice(0, 12)
      }
    })
  }

  async text () {
    return (await this.state()).text
  }

  /** @param {string} name of a control, as people read it */
  button (name) {
    return this.page.getByRole('button', { name, exact: true })
  }

  /**
   * Waits for what the two pills at the top say.
   * @param {{ saved?: string | RegExp, connected?: string }} words
   */
  async untilSays ({ saved, connected }) {
    await until(`the page says ${saved ?? ''} ${connected ?? ''}`, async () => {
      const now = await this.state()
      return (connected === undefined || now.connected === connected) &&
        (saved === undefined || (typeof saved === 'string' ? now.saved === saved : saved.test(now.saved ?? '')))
    }, { within: 20_000, seen: () => this.state() })
  }

  untilConnected () {
    return this.untilSays({ connected: 'Connected' })
  }

  /** @param {string} text */
  async untilShows (text) {
    await until(`the text is ${JSON.stringify(text)}`, async () => await this.text() === text, { seen: () => this.state() })
  }

  /**
   * Puts the caret, or a selection, where a person would by mouse.
   * @param {number} start
   * @param {number} [end]
   */
  async select (start, end = start) {
    await this.page.evaluate(([start, end]) => {
      const textarea = /** @type {HTMLTextAreaElement} */ (document.getElementById('text'))
      textarea.focus()
      textarea.setSelectionRange(start, end)
    }, /** @type {const} */ ([start, end]))
  }

  /**
   * Types with real key presses, as fast as the browser takes them, or with a pause between any two.
   * @param {string} letters
   * @param {{ delay?: number }} [options]
   */
  async type (letters, options) {
    await this.page.focus('#text')
    await this.page.keyboard.type(letters, options)
  }

  /** @param {string} keys such as `Control+z` */
  async press (keys) {
    await this.page.focus('#text')
    await this.page.keyboard.press(keys)
  }
}

/**
 * Waits until all editors are saved and show one text, the server's, and answers it.
 * @param {{ text: (id: string) => Promise<string> }} server
 * @param {string} id
 * @param {Editor[]} editors
 * @param {{ length?: number, within?: number }} [options]
 */
export async function untilOneText (server, id, editors, { length, within = 20_000 } = {}) {
  const states = () => Promise.all(editors.map(editor => editor.state()))
  return until('all show one text, saved', async () => {
    const all = await states()
    const [{ text }] = all
    if (length !== undefined && text.length !== length) return null
    if (!all.every(state => state.text === text && state.saved === 'Saved' && state.connected === 'Connected')) return null
    return await server.text(id) === text ? { text } : null
  }, { within, seen: async () => ({ server: await server.text(id), editors: await states() }) }).then(({ text }) => text)
}

/**
 * Somebody else's edit, made without a browser: `change` is applied to a copy of the server's document.
 * @param {{ url: string, token: string | null }} server
 * @param {string} id
 * @param {(text: import('yjs').Text) => void} change
 */
export async function editElsewhere (server, id, change) {
  const doc = new Y.Doc()
  const authorization = server.token === null ? {} : { authorization: `Bearer ${server.token}` }
  const state = await fetch(`${server.url}/docs/${id}/state`, { headers: authorization })
  if (state.ok) Y.applyUpdate(doc, Buffer.from((await state.json()).update, 'base64'))
  const before = Y.encodeStateVector(doc)
  doc.transact(() => change(doc.getText('text')))
  const update = Buffer.from(Y.encodeStateAsUpdate(doc, before)).toString('base64')
  const answer = await fetch(`${server.url}/docs/${id}/updates`, {
    method: 'POST', headers: { ...authorization, 'Content-Type': 'application/json' }, body: JSON.stringify({ update, client_id: 'elsewhere' })
  })
  if (!answer.ok) throw new Error(`the server answers ${answer.status}: ${await answer.text()}`)
}

/**
 * The letters of one typist, in the order in which they stand in the text.
 * @param {string} text
 * @param {string} alphabet
 */
export function lettersOf (text, alphabet) {
  return Array.from(text).filter(letter => alphabet.includes(letter)).join('')
}

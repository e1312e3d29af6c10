// @ts-check
/**
 * Who is here, and on which line. Also: our own name and colour, as others see them.
 */
import { leastUsed, PALETTE, shades } from './colours.js'
import { byId, create } from './dom.js'
import { cleanName, remember, remembered } from './identity.js'

/** @typedef {import('../lib/textarea-binding.js').TextareaBinding} TextareaBinding */
/** @typedef {import('y-protocols/awareness').Awareness} Awareness */

/**
 * What an awareness state says of its person. It was written by a stranger: nothing in it is taken for granted. Only
 * where the server asks for tokens is `id` true: it refuses another than the token's.
 * @param {Record<string, any>} state
 */
export function personOf (state) {
  const user = typeof state.user === 'object' && state.user !== null ? state.user : {}
  return { name: cleanName(user.name) || 'Somebody', id: cleanName(user.id), ...shades(user.color) }
}

export class People {
  #awareness
  #binding
  #list = byId('people')
  #count = byId('people-count')
  #input = /** @type {HTMLInputElement} */ (byId('name'))
  #reveal
  /** Who we are by our token. @type {string | undefined} */
  #user
  #isConnected = false
  #isWaiting = false

  /**
   * @param {Awareness} awareness
   * @param {TextareaBinding} binding
   * @param {object} options
   * @param {string} options.clientId ours, so that others can tell whose an update is
   * @param {string} [options.user] who we are by our token
   * @param {(id: number) => void} options.reveal scrolls to where somebody is
   */
  constructor (awareness, binding, { clientId, user, reveal }) {
    this.#awareness = awareness
    this.#binding = binding
    this.#reveal = reveal
    this.#user = user
    const { name, colour } = remembered(user)
    this.#input.value = name
    // `since` settles who yields when two have one colour: whoever came later.
    awareness.setLocalStateField('user', {
      name, color: colour ?? PALETTE[0], since: Date.now(), client: clientId, ...(user === undefined ? {} : { id: user })
    })
    this.#input.addEventListener('input', () => this.#rename(cleanName(this.#input.value)))
    this.#input.addEventListener('change', () => {
      const name = cleanName(this.#input.value) || remembered(this.#user).name
      this.#input.value = name
      this.#rename(name)
      remember({ name, colour: this.#self.color })
    })
    this.#input.addEventListener('keydown', event => {
      if (event.key === 'Enter' && !event.isComposing) this.#input.blur()
    })
    awareness.on('change', () => this.update())
    binding.ytext.observe(() => this.update())
    this.update()
  }

  /**
   * Another token may be another user's.
   * @param {string | undefined} user
   * @param {string} clientId ours from now on
   */
  identify (user, clientId) {
    const { name } = remembered(user)
    // A name that was chosen stays; one that was made up gives way to the token's.
    this.#input.value = name
    this.#user = user
    const { id: _, ...self } = this.#self
    this.#awareness.setLocalStateField('user', { ...self, name, client: clientId, ...(user === undefined ? {} : { id: user }) })
  }

  /** Others are shown as perhaps gone while we hear nothing of them. @param {boolean} isConnected */
  set connected (isConnected) {
    this.#isConnected = isConnected
    this.update()
  }

  /**
   * The name of whoever sends under this client id.
   * @param {string | null} clientId
   */
  nameOf (clientId) {
    if (clientId === null) return 'somebody'
    for (const state of this.#awareness.getStates().values()) if (state.user?.client === clientId) return personOf(state).name
    return /^c[0-9a-f]{24}$/.test(clientId) ? 'somebody' : clientId // a script's own word says more than nothing
  }

  /** Draws again, once, when the present work is done. */
  update () {
    if (this.#isWaiting) return
    this.#isWaiting = true
    setTimeout(() => {
      this.#isWaiting = false
      this.#chooseColour()
      this.#draw()
    }, 30)
  }

  get #self () {
    return this.#awareness.getLocalState()?.user ?? {}
  }

  /** @param {string} name */
  #rename (name) {
    if (name !== '' && name !== this.#self.name) this.#awareness.setLocalStateField('user', { ...this.#self, name })
  }

  /** Takes another colour if somebody who was here before us has ours and there is one less used. */
  #chooseColour () {
    const self = this.#self
    const others = [...this.#awareness.getStates()].filter(([id]) => id !== this.#awareness.clientID)
    const isLater = others.some(([id, { user }]) => user?.color === self.color &&
      (user.since < self.since || (user.since === self.since && id < this.#awareness.clientID)))
    if (!isLater) return
    const used = others.map(([, { user }]) => user?.color)
    const color = leastUsed(used)
    const uses = (/** @type {string} */ colour) => used.filter(other => other === colour).length
    if (uses(color) < uses(self.color)) this.#awareness.setLocalStateField('user', { ...self, color })
  }

  #draw () {
    const self = this.#awareness.clientID
    const people = [...this.#awareness.getStates()].map(([id, state]) => {
      const { id: user, ...person } = personOf(state)
      return { ...person, user, id, isSelf: id === self, line: this.#line(state) }
    })
    people.sort((a, b) => Number(b.isSelf) - Number(a.isSelf) || a.name.localeCompare(b.name) || a.id - b.id)
    this.#count.textContent = String(people.length)
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.person : undefined
    this.#list.replaceChildren(...people.map(person => this.#row(person)))
    if (focused !== undefined) /** @type {HTMLElement | null} */ (this.#list.querySelector(`[data-person="${focused}"]`))?.focus()
  }

  /** @param {{ id: number, user: string, isSelf: boolean, line: number | null, name: string, light: string, dark: string }} person */
  #row ({ id, user, isSelf, line, name, light, dark }) {
    const isAway = !isSelf && !this.#isConnected
    const place = line === null ? 'reading' : `line ${line}`
    const shownName = create('span', { class: 'person-name', text: isSelf ? `${name} (you)` : name })
    // A name is what its owner likes. Where there are tokens, who it is by the token stands beside it.
    if (this.#user !== undefined && user !== '' && user.toLowerCase() !== name.toLowerCase()) shownName.append(create('span', { class: 'quiet', text: ` ${user}` }))
    const parts = [
      create('span', { class: 'person-dot' }),
      shownName,
      create('span', { class: 'person-place', text: isAway ? `was ${line === null ? 'here' : `on ${place}`}` : place })
    ]
    // Whoever has a place in the text can be found there.
    const element = isSelf || line === null
      ? create('div', { class: 'person' }, ...parts)
      : create('button', { class: 'person' }, ...parts)
    if (element instanceof HTMLButtonElement) {
      element.type = 'button'
      element.dataset.person = String(id)
      element.title = `Show where ${name} is`
      element.addEventListener('click', () => this.#reveal(id))
    }
    element.classList.toggle('is-away', isAway)
    element.style.setProperty('--person-light', light)
    element.style.setProperty('--person-dark', dark)
    return create('li', {}, element)
  }

  /**
   * The line that somebody's caret is on, from 1.
   * @param {Record<string, any>} state
   */
  #line (state) {
    const index = this.#binding.place(state.cursor?.head)
    if (index === null) return null
    const text = this.#binding.textarea.value
    let line = 1
    for (let at = text.indexOf('\n'); at >= 0 && at < index; at = text.indexOf('\n', at + 1)) line++
    return line
  }
}

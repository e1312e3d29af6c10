// @ts-check
/**
 * How to take part from a terminal: commands with this document's real address, to be copied and run.
 */
import { byId, copyButton, create } from './dom.js'

/**
 * @param {string} origin of the server
 * @param {string} id what is allowed in one needs no quoting, in an address or between single quotes
 * @param {object} [options]
 * @param {boolean} [options.asksForToken] which the commands then take from a variable: what is on the page is copied
 *   and shown to others
 */
export function commandsFor (origin, id, { asksForToken = false } = {}) {
  const document = `${origin}/docs/${id}`
  const json = '  -H \'Content-Type: application/json\' \\\n'
  const token = asksForToken ? '-H "Authorization: Bearer $TOKEN" ' : ''
  const first = asksForToken ? [{ title: 'Paste your token, and press Enter', command: 'read -rs TOKEN' }] : []
  return [
    ...first,
    {
      title: 'Add a line',
      command: `curl ${token}-X PATCH '${document}/text' \\\n${json}` +
        '  -d \'{"ops":[{"insert":"\\nHello from curl","at":"end"}]}\''
    },
    { title: 'Read it', command: `curl ${token}'${document}/text'` },
    { title: 'Watch every change as it comes', command: `curl ${token}-N '${document}/events?client_id=curl'` },
    {
      title: 'Be seen among the people, for half a minute',
      command: `curl ${token}-X PUT '${document}/awareness/my-script' \\\n${json}` +
        '  -d \'{"user":{"name":"My script","color":"#00695c"}}\''
    }
  ]
}

/**
 * @param {string} origin
 * @param {string} id
 * @param {{ asksForToken?: boolean }} [options]
 */
export function showCommands (origin, id, options) {
  byId('commands').replaceChildren(...commandsFor(origin, id, options).map(({ title, command }) => {
    const button = create('button', { text: 'Copy' })
    button.type = 'button'
    button.ariaLabel = `Copy: ${title}`
    const code = create('code', { text: command })
    copyButton(button, () => command)
    const box = create('pre', {}, code)
    box.tabIndex = 0 // wide lines scroll, with the keyboard too
    box.ariaLabel = title
    return create('div', { class: 'command' }, create('div', { class: 'command-head' }, create('h3', { text: title }), button), box)
  }))
}

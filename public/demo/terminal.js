// @ts-check
/**
 * How to take part from a terminal: commands with this document's real address, to be copied and run.
 */
import { byId, copyButton, create } from './dom.js'
import { insertion, newcomer } from './insertion.js'

/**
 * @param {string} origin of the server
 * @param {string} id what is allowed in one needs no quoting, in an address or between single quotes
 */
export function commandsFor (origin, id) {
  const document = `${origin}/docs/${id}`
  const post = '  -H \'Content-Type: application/json\' \\\n'
  return [
    {
      title: 'Add a line: one POST with a Yjs update',
      command: `curl '${document}/updates' \\\n${post}` +
        `  -d '{"update":"${insertion('\nHello from curl', newcomer())}"}'`
    },
    { title: 'Read it', command: `curl '${document}/text'` },
    { title: 'Watch every change as it comes', command: `curl -N '${document}/events?client_id=curl'` },
    {
      title: 'Be seen among the people, for half a minute',
      command: `curl -X PUT '${document}/awareness/my-script' \\\n${post}` +
        '  -d \'{"user":{"name":"My script","color":"#00695c"}}\''
    }
  ]
}

/**
 * @param {string} origin
 * @param {string} id
 */
export function showCommands (origin, id) {
  byId('commands').replaceChildren(...commandsFor(origin, id).map(({ title, command }, i) => {
    const button = create('button', { text: 'Copy' })
    button.type = 'button'
    button.ariaLabel = `Copy: ${title}`
    const code = create('code', { text: command })
    // An update that is known already changes nothing: every copy is a new one.
    copyButton(button, () => code.textContent ?? '', () => { code.textContent = commandsFor(origin, id)[i].command })
    const box = create('pre', {}, code)
    box.tabIndex = 0 // wide lines scroll, with the keyboard too
    box.ariaLabel = title
    return create('div', { class: 'command' }, create('div', { class: 'command-head' }, create('h3', { text: title }), button), box)
  }))
}

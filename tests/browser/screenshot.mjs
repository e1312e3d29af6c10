// Takes the pictures of the page: docs/demo.png, which the README shows, and others to look at, in output/.
//
//   node tests/browser/screenshot.mjs
//
// Needs what the browser tests need: a server that is built, npm's packages, and Chromium.
import { mkdir, stat } from 'node:fs/promises'
import { launchBrowser, newToken, startServer, until } from './support.mjs'
import { Editor, editElsewhere, newPerson, openEditor, untilOneText } from './editor-page.mjs'

const output = new URL('output/', import.meta.url)
const readmePicture = new URL('../../docs/demo.png', import.meta.url)
const PHONE = { viewport: { width: 375, height: 812 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }
const TEXT = `# Minutes, Tuesday

The sync backend speaks plain HTTP: one POST per batch of edits,
one event stream for everything that others do.

- offline edits merge when the connection is back
- a lost acknowledgement is simply sent again
- curl is a client like any other

Open points: who writes the inspector?`

/** @type {(() => Promise<void> | void)[]} */
const closing = []
const t = /** @type {import('node:test').TestContext} */ (/** @type {unknown} */ ({ after: (/** @type {() => void} */ close) => closing.unshift(close) }))
const server = await startServer(t)
const browser = await launchBrowser(t)
await mkdir(output, { recursive: true })
await mkdir(new URL('.', readmePicture), { recursive: true })

const id = 'minutes'
const open = async (/** @type {string} */ name, options = {}) => openEditor(await newPerson(browser, name, options), server.url, id)
/** @param {import('./editor-page.mjs').Editor} editor @param {string} before the caret goes behind these words */
const behind = async (editor, before, selected = '') => {
  const end = (await editor.text()).indexOf(before) + before.length
  await editor.select(end - selected.length, end)
}
/** @param {import('./editor-page.mjs').Editor} editor @param {URL | string} file */
const picture = async (editor, file, options = {}) => {
  await until('names have faded in, or out', () => editor.page.evaluate(() => document.getAnimations().length === 0))
  await editor.page.screenshot({ path: (file instanceof URL ? file : new URL(file, output)).pathname, ...options })
}
/** @param {import('./editor-page.mjs').Editor} editor @param {string[]} names */
const untilNamed = (editor, names) => until(`the names of ${names.join(', ')} are shown`, async () =>
  (await editor.page.locator('.is-fresh .caret-name').allTextContents()).sort().join() === [...names].sort().join())

const ada = await open('Ada')
await ada.type(TEXT.slice(0, -10), { delay: 4 })
const [grace, kurt] = [await open('Grace'), await open('Kurt')]
await ada.type(TEXT.slice(-10), { delay: 30 })
await untilOneText(server, id, [ada, grace, kurt], { length: TEXT.length })
await behind(kurt, 'a lost')
await kurt.type(' or late', { delay: 60 })
await behind(grace, 'speaks plain HTTP', 'speaks plain HTTP')
await ada.untilShows(TEXT.replace('a lost', 'a lost or late'))
await untilNamed(ada, ['Grace', 'Kurt'])
await picture(ada, readmePicture)

const phone = await open('Phone', PHONE)
await phone.select(3)
await behind(grace, 'others do.')
await behind(kurt, 'one POST', 'one POST')
await untilNamed(phone, ['Ada', 'Grace', 'Kurt'])
await picture(phone, 'phone.png')
await picture(phone, 'phone-whole.png', { fullPage: true })

const dark = await open('Dark', { colorScheme: 'dark' })
await dark.select(3)
await behind(grace, 'event stream')
await behind(kurt, 'offline edits', 'offline edits')
await untilNamed(dark, ['Ada', 'Grace', 'Kurt', 'Phone'])
await picture(dark, 'dark.png')
await picture(dark, 'dark-whole.png', { fullPage: true })

await grace.page.context().setOffline(true)
await grace.untilSays({ connected: 'Offline' })
await grace.select((await grace.text()).length)
await grace.type(' Grace, on the train.')
await grace.untilSays({ saved: '21 unsaved' })
await picture(grace, 'offline.png')

await fetch(`${server.url}/docs/${id}`, { method: 'DELETE' })
await until('the end is told', () => kurt.page.getByRole('alert').isVisible())
await picture(kurt, 'deleted.png')

for (const [name, options] of /** @type {const} */ ([['home.png', {}], ['home-phone.png', PHONE], ['home-dark.png', { colorScheme: 'dark' }]])) {
  const page = await (await newPerson(browser, 'Ada', options)).newPage()
  await page.goto(server.url)
  await page.screenshot({ path: new URL(name, output).pathname, fullPage: true })
}

// With tokens: asked for, a reader's, one that has ended.
const guarded = await startServer(t, { asksForTokens: true })
await editElsewhere(guarded, id, text => text.insert(0, TEXT))
const writer = await openEditor(await newPerson(browser, 'Ada'), guarded.url, id, newToken('ada', { '*': 'write' }))
await writer.select(3)
for (const [suffix, options] of /** @type {const} */ ([['', {}], ['-phone', PHONE], ['-dark', { colorScheme: 'dark' }]])) {
  const stranger = new Editor(await (await newPerson(browser, 'Grace', options)).newPage())
  await stranger.page.goto(`${guarded.url}/conversation/${id}`)
  await stranger.untilSays({ connected: 'No token' })
  await picture(stranger, `token${suffix}.png`)
  const reader = await openEditor(await newPerson(browser, 'Vic', options), guarded.url, id, newToken('vic', { '*': 'read' }))
  await reader.untilSays({ saved: 'Read only' })
  await reader.select(12)
  await until('Ada is shown', async () => (await reader.state()).people.some(person => person?.startsWith('Ada')))
  await picture(reader, `reader${suffix}.png`)
  const ended = await openEditor(await newPerson(browser, 'Kurt', options), guarded.url, id, newToken('kurt', { '*': 'write' }, { seconds: 2 }))
  await ended.untilSays({ connected: 'Token ended' })
  await ended.type('kept ')
  await ended.untilSays({ saved: '5 unsaved' })
  await picture(ended, `ended${suffix}.png`)
}

for (const close of closing) await close()
console.log(`docs/demo.png: ${(await stat(readmePicture)).size} bytes; the others are in tests/browser/output/`)

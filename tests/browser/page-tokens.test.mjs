// The pages on a server that asks for tokens, and the policy that they run under.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'
import { launchBrowser, newToken, startServer } from './support.mjs'
import { Editor, editElsewhere, newDocumentId, newPerson, openEditor, until, untilOneText } from './editor-page.mjs'

const axe = await readFile(createRequire(new URL('../../public/package.json', import.meta.url)).resolve('axe-core/axe.min.js'), 'utf8')
const TEXT = 'Minutes of Tuesday\n'
const short = { timeout: 40_000 }

/** @param {import('playwright-core').Page} page */
async function violations (page) {
  await page.evaluate(axe)
  return page.evaluate(async () => (await globalThis.axe.run(document)).violations.map(({ id, help }) => [id, help]))
}

test('pages with tokens', { timeout: 240_000 }, async t => {
  const server = await startServer(t, { asksForTokens: true })
  const browser = await launchBrowser(t)

  /** @param {import('node:test').TestContext} t */
  const person = async (t, name = '', options = {}) => {
    const context = await newPerson(browser, name, options)
    t.after(() => context.close())
    return context
  }
  const documentWithText = async () => {
    const id = newDocumentId()
    await editElsewhere(server, id, text => text.insert(0, TEXT))
    return id
  }
  const notice = (/** @type {Editor} */ editor) => editor.page.getByRole('alert')
  /** @param {Editor} editor @param {RegExp} words */
  const untilNotice = (editor, words) => until(`the notice says ${words}`, async () => words.test(await notice(editor).textContent() ?? ''),
    { seen: async () => [await notice(editor).textContent(), await editor.state()] })
  /** @param {Editor} editor @param {string} token */
  const give = async (editor, token) => {
    await editor.page.getByLabel('Your token', { exact: true }).fill(token)
    await editor.page.keyboard.press('Enter')
  }

  await t.test('without a token the page asks for one, says how one is made, and goes on with it', short, async t => {
    const id = await documentWithText()
    const page = await (await person(t)).newPage()
    const editor = new Editor(page)
    await page.goto(`${server.url}/conversation/${id}`)
    await untilNotice(editor, /This server asks for a token/)
    await editor.untilSays({ connected: 'No token' })
    assert.match(await notice(editor).textContent() ?? '', new RegExp(`promptgrimoire token --sub YOUR-NAME --docs '${id}=write'`))
    assert.equal(await page.$eval('#text', text => text.readOnly), true)
    assert.deepEqual(await violations(page), [])
    await give(editor, 'no token, öäü')
    await untilNotice(editor, /That is no token/)
    await give(editor, `${newToken('ada', { [id]: 'write' }).slice(0, -4)}AAAA`)
    await untilNotice(editor, /does not accept this token.*The server says/)
    await give(editor, `  Bearer ${newToken('ada', { [id]: 'write' })}\n`)
    await editor.untilShows(TEXT)
    await editor.untilSays({ saved: 'Saved', connected: 'Connected' })
    assert.equal(await notice(editor).textContent(), '')
    assert.match(await page.textContent('#holder-text') ?? '', /^Token of ada: may read and write$/)
    assert.equal(await page.inputValue('#name'), 'ada', 'a name that nobody has chosen is the token\'s')
    await editor.type('x')
    await editor.untilSays({ saved: 'Saved' })
    assert.equal(await server.text(id), `x${TEXT}`)
    assert.deepEqual(editor.complaints, [])
  })

  await t.test('a token in the address is taken out of it, and goes nowhere but into headers', short, async t => {
    const id = await documentWithText()
    const token = newToken('ada', { [id]: 'write' })
    const context = await person(t, 'Ada')
    const addresses = /** @type {string[]} */ ([])
    context.on('request', request => addresses.push(request.url()))
    const editor = await openEditor(context, server.url, id, token)
    const { page } = editor
    assert.equal(page.url(), `${server.url}/conversation/${id}`)
    assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage }).includes('eyJ')), false)
    assert.equal(await page.content().then(html => html.includes(token)), false)
    // No request has it in its address, the fragment of the page itself aside, which stays in the browser.
    assert.deepEqual(addresses.filter(address => address.split('#')[0].includes('eyJ')), [])
    assert.ok(!server.log.includes('eyJ'))

    await page.reload()
    await editor.untilShows(TEXT)
    await editor.untilConnected()
    const [opened] = await Promise.all([context.waitForEvent('page'), page.getByRole('link', { name: 'Open a second tab' }).click()])
    const second = new Editor(opened)
    await second.untilConnected()
    await second.untilShows(TEXT)

    // Another link of that kind, opened in the same tab.
    const other = newToken('bob', { [id]: 'read' })
    await page.evaluate(token => { location.hash = `token=${token}` }, other)
    await until('it is bob\'s', async () => await page.textContent('#holder-text') === 'Token of bob: may read')
    assert.equal(page.url(), `${server.url}/conversation/${id}`)
    assert.deepEqual([...editor.complaints, ...second.complaints], [])
  })

  await t.test('a reader is told so, writes nothing, and is seen with a caret', short, async t => {
    const id = await documentWithText()
    const vic = await openEditor(await person(t, 'Vic'), server.url, id, newToken('v.17', { [id]: 'read' }))
    const ada = await openEditor(await person(t, 'Ada'), server.url, id, newToken('ada', { [id]: 'write' }))
    await vic.untilSays({ saved: 'Read only', connected: 'Connected' })
    await vic.untilShows(TEXT)
    assert.match(await vic.page.textContent('#hint') ?? '', /^You may read this document, but not write in it/)
    await vic.select(8)
    await until('the caret is seen', async () => await ada.page.locator('.caret-name').textContent() === 'Vic')
    await vic.type('nothing')
    await ada.type('Written. ')
    await vic.untilShows(`Written. ${TEXT}`)
    assert.equal(await server.text(id), `Written. ${TEXT}`)
    // Names are chosen; who somebody is by the token stands beside them.
    await until('both are known', async () => (await ada.state()).people.join() === 'Ada (you)line 1,Vic v.17line 1', { seen: () => ada.state() })
    assert.deepEqual(await violations(vic.page), [])
    assert.deepEqual(vic.complaints, [])
  })

  await t.test('whoever finds out only by writing is told so, and another token brings the edits home', short, async t => {
    const id = await documentWithText()
    // The page believes this token, which says `write`, and the server does not: it was signed before access was taken.
    const editor = await openEditor(await person(t, 'Ada'), server.url, id, newToken('ada', { [id]: 'write' }))
    await editor.page.context().route(/\/updates$/, route => route.fulfill({
      status: 403, contentType: 'application/problem+json',
      body: JSON.stringify({ type: 'about:blank', title: 'Forbidden', status: 403, detail: 'the token gives no write access to this', code: 'forbidden' }),
    }))
    await editor.type('x') // no more: the page takes nothing in from then on
    await untilNotice(editor, /You may read only.*stays in this tab/)
    assert.equal(await editor.page.$eval('#text', text => text.readOnly), true)
    await editor.untilSays({ saved: /^\d unsaved$|^Saving \d$/ })
    await editor.page.context().unroute(/\/updates$/)
    await give(editor, newToken('ada', { [id]: 'write' }))
    await editor.untilSays({ saved: 'Saved', connected: 'Connected' })
    assert.equal(await server.text(id), `x${TEXT}`)
    assert.equal(await notice(editor).textContent(), '')
  })

  await t.test('a token that ends is told, writing goes on, and a new one sends what was written', short, async t => {
    const id = await documentWithText()
    const editor = await openEditor(await person(t, 'Ada'), server.url, id, newToken('ada', { [id]: 'write' }, { seconds: 3 }))
    await untilNotice(editor, /Your token has ended/)
    await editor.untilSays({ connected: 'Token ended' })
    await editor.type('kept ')
    await editor.untilSays({ saved: '5 unsaved' })
    assert.deepEqual(await violations(editor.page), [])
    await give(editor, newToken('ada', { [id]: 'write' }))
    await untilOneText(server, id, [editor])
    assert.equal(await server.text(id), `kept ${TEXT}`)
    assert.deepEqual(editor.complaints, [])
  })

  await t.test('whoever is thrown out is told in every tab, and another user can go on there', short, async t => {
    const id = await documentWithText()
    const context = await person(t, 'Ada')
    const token = newToken('ada', { [id]: 'write' }, { issuedBefore: 60 })
    const tabs = [await openEditor(context, server.url, id, token), await openEditor(context, server.url, id, token)]
    await Promise.all(tabs.map(tab => tab.untilShows(TEXT)))
    await server.revoke({ sub: 'ada' })
    for (const tab of tabs) {
      await untilNotice(tab, /Your permission was taken back/)
      await tab.untilSays({ connected: 'Revoked' })
    }
    await tabs[0].type('by bob ')
    await give(tabs[0], newToken('bob', { [id]: 'write' }))
    await tabs[0].untilSays({ saved: 'Saved', connected: 'Connected' })
    assert.equal(await server.text(id), `by bob ${TEXT}`)
    const { updates } = await server.get(`/docs/${id}/updates`)
    assert.equal(updates.at(-1).user, 'bob')
  })

  await t.test('a token for other documents: not open to you', short, async t => {
    const id = await documentWithText()
    const page = await (await person(t)).newPage()
    const editor = new Editor(page)
    await page.goto(`${server.url}/conversation/${id}#token=${newToken('eve', { 'other-*': 'write' })}`)
    await untilNotice(editor, /This document is not open to you/)
    await editor.untilSays({ connected: 'No access' })
    assert.equal(await editor.text(), '')
  })

  await t.test('the commands on the page take the token from a variable', short, async t => {
    const id = await documentWithText()
    const token = newToken('ada', { [id]: 'write' })
    const { page } = await openEditor(await person(t), server.url, id, token)
    const commands = await page.$$eval('#commands code', codes => codes.map(code => code.textContent ?? ''))
    assert.equal(commands[0], 'read -rs TOKEN')
    const { stdout } = await promisify(execFile)('sh', ['-c', `${commands[2]} --silent --fail`], { env: { ...process.env, TOKEN: token } })
    assert.equal(stdout, TEXT)
    await page.goto(server.url)
    await until('those of the front page do so too', async () => await page.locator('#commands code').first().textContent() === 'read -rs TOKEN')
  })
})

test('the pages run under a policy that forbids scripts in them', { timeout: 60_000 }, async t => {
  const server = await startServer(t)
  const browser = await launchBrowser(t)
  const context = await newPerson(browser, 'Ada')
  t.after(() => context.close())
  for (const path of ['/', '/demo/crdt-sync', `/conversation/${newDocumentId()}`]) {
    const page = await context.newPage()
    const { complaints } = new Editor(page)
    const answer = await page.goto(server.url + path)
    const policy = await answer?.headerValue('content-security-policy') ?? ''
    for (const directive of ["default-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]) {
      assert.ok(policy.split('; ').includes(directive), `${path}: ${directive} in ${policy}`)
    }
    assert.doesNotMatch(policy, /unsafe/)
    await until('the page is ready', () => page.evaluate(() => (document.getElementById('connected')?.textContent ?? 'Connected') === 'Connected' &&
      document.querySelectorAll('#commands .command').length > 3))
    assert.deepEqual(complaints, [], path)
    // What gets into the page as markup runs nothing.
    await page.evaluate(() => {
      document.body.append(Object.assign(document.createElement('script'), { textContent: 'globalThis.hasRun = true' }))
      document.body.insertAdjacentHTML('beforeend', '<img src="/nowhere.png" onerror="globalThis.hasRun = true" alt="">')
    })
    await until('both are reported', () => complaints.length >= 2, { seen: () => complaints })
    assert.equal(await page.evaluate(() => 'hasRun' in globalThis), false)
    await page.close()
  }
})

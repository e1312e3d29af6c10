// The page itself: on a phone, in the dark, by keyboard, for assistive technology, and when things are missing.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'
import { launchBrowser, startServer } from './support.mjs'
import { Editor, editElsewhere, newDocumentId, newPerson, openEditor, until } from './editor-page.mjs'

const axe = await readFile(createRequire(new URL('../../public/package.json', import.meta.url)).resolve('axe-core/axe.min.js'), 'utf8')
const PHONE = { viewport: { width: 375, height: 812 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }
const TEXT = '# Minutes, Tuesday\n\nThe sync backend speaks plain HTTP: one POST per batch of edits,\none event stream for everything that others do.\n'

/**
 * What axe-core has against a page: WCAG 2.0 to 2.2, A and AA, and its own best practices.
 * @param {import('playwright-core').Page} page
 */
async function violations (page) {
  await page.evaluate(axe)
  return page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, {
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']
    })
    return violations.map(({ id, help, nodes }) => ({ id, help, nodes: nodes.slice(0, 3).map(node => [node.html.slice(0, 160), node.failureSummary]) }))
  })
}

/** @param {import('playwright-core').Page} page */
const sideways = page => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)

test('the page', { timeout: 240_000 }, async t => {
  const server = await startServer(t)
  const browser = await launchBrowser(t)
  const short = { timeout: 40_000 }

  /**
   * Somebody's window on a document in which Grace has a selection.
   * @param {import('node:test').TestContext} t
   * @param {import('playwright-core').BrowserContextOptions} options
   */
  const withGrace = async (t, options) => {
    const id = newDocumentId()
    await editElsewhere(server, id, text => text.insert(0, TEXT))
    const [person, other] = [await newPerson(browser, 'Ada', { permissions: ['clipboard-write'], ...options }), await newPerson(browser, 'Grace')]
    t.after(() => Promise.all([person.close(), other.close()]))
    const [ada, grace] = [await openEditor(person, server.url, id), await openEditor(other, server.url, id)]
    await grace.untilShows(TEXT)
    await grace.select(25, 60)
    await until('Grace is here', async () => await ada.page.locator('.caret-name').textContent() === 'Grace')
    return { id, ada, grace, person }
  }

  await t.test('on a desktop: nothing for axe to say, and the state in words', short, async t => {
    const { ada } = await withGrace(t, {})
    await ada.select(3)
    await ada.type('x')
    await ada.untilSays({ saved: 'Saved', connected: 'Connected' })
    assert.deepEqual(await violations(ada.page), [])
    const state = await ada.state()
    assert.match(state.log[0] ?? '', /^\d\d:\d\d:\d\d↑sentyou, 1 edit\d+ B#2\d+ ms$/)
    assert.deepEqual(state.people, ['Ada (you)line 1', 'Graceline 3'])
    assert.match(await ada.page.textContent('#latency') ?? '', /^\d+ ms$/)
    assert.equal(await ada.page.textContent('#length'), `${TEXT.length + 1} characters`)
    assert.deepEqual(ada.complaints, [])
  })

  await t.test('in the dark: enough contrast everywhere, and people\'s colours are light', short, async t => {
    const { ada } = await withGrace(t, { colorScheme: 'dark' })
    assert.deepEqual(await violations(ada.page), [])
    assert.notEqual(await ada.page.evaluate(() => getComputedStyle(document.body).backgroundColor), 'rgb(244, 246, 249)')
    const name = await ada.page.locator('.caret-name').evaluate(element => [getComputedStyle(element).color, getComputedStyle(element).backgroundColor])
    assert.equal(name[0], 'rgb(16, 18, 23)')
    assert.equal(name[1], await ada.page.locator('.person-dot').nth(1).evaluate(element => getComputedStyle(element).borderTopColor))
  })

  await t.test('on a phone: no sideways scrolling, fingers find the buttons, people are in sight', short, async t => {
    const { ada } = await withGrace(t, PHONE)
    assert.deepEqual(await violations(ada.page), [])
    assert.equal(await sideways(ada.page), 0)
    const small = await ada.page.$$eval('button, a, input', controls => controls.map(control => ({
      name: control.textContent || control.id, height: control.getBoundingClientRect().height, width: control.getBoundingClientRect().width
    })).filter(({ height, width }) => height > 0 && (height < 44 || width < 28)))
    assert.deepEqual(small, [])
    for (const field of ['#text', '#name']) { // under 16 px a phone zooms in on focus
      assert.ok(await ada.page.$eval(field, element => Number.parseFloat(getComputedStyle(element).fontSize)) >= 16, field)
    }
    const people = await ada.page.locator('#people').boundingBox()
    assert.ok(people !== null && people.y < 812 - 44, `people begin at ${people?.y}`)
    for (const width of [320, 768]) {
      await ada.page.setViewportSize({ width, height: 700 })
      assert.equal(await sideways(ada.page), 0, `${width} px`)
    }
  })

  await t.test('offline: said in words and by shape, announced, and still nothing for axe to say', short, async t => {
    const { ada, person } = await withGrace(t, {})
    const shape = () => ada.page.$eval('#connected', pill => getComputedStyle(pill, '::before').borderRadius)
    const round = await shape()
    await person.setOffline(true)
    await ada.untilSays({ connected: 'Offline' })
    await ada.type('y')
    await ada.untilSays({ saved: '1 unsaved' })
    assert.notEqual(await shape(), round)
    assert.match(await ada.page.textContent('#announcement') ?? '', /^Connection lost/)
    assert.deepEqual(await violations(ada.page), [])
    await person.setOffline(false)
    await ada.untilSays({ saved: 'Saved', connected: 'Connected' })
    assert.match(await ada.page.textContent('#announcement') ?? '', /^Connected/)
  })

  await t.test('everything can be reached by keyboard, in the order in which it stands', short, async t => {
    const { ada } = await withGrace(t, {})
    await ada.page.focus('#text')
    const order = []
    for (let i = 0; i < 9; i++) {
      order.push(await ada.page.evaluate(() => document.activeElement?.id || document.activeElement?.className))
      await ada.page.keyboard.press('Tab')
    }
    assert.deepEqual(order, ['text', 'undo', 'redo', 'offline', 'name', 'person', 'second-tab', 'copy-link', 'log-frame'])
    await ada.page.focus('#offline')
    await ada.page.keyboard.press('Enter')
    await ada.untilSays({ connected: 'Offline' })
    await ada.page.keyboard.press('Enter')
    await ada.untilConnected()
  })

  await t.test('the name is kept for the next visit, the client id is not, and a name is never markup', short, async t => {
    const { id, ada, grace, person } = await withGrace(t, {})
    const name = '<img src=x onerror=alert(1)>'
    await ada.page.fill('#name', name)
    await ada.page.keyboard.press('Enter')
    await until('Grace sees it', async () => (await grace.state()).people.some(text => text?.startsWith(name)), { seen: () => grace.state() })
    assert.equal(await grace.page.locator('#people img, .carets img').count(), 0)
    const stored = await ada.page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]))
    assert.doesNotMatch(stored, /c[0-9a-f]{24}/)
    await ada.page.close()
    const again = await openEditor(person, server.url, id)
    assert.equal(await again.page.inputValue('#name'), name)
  })

  await t.test('a second tab is a second person with another colour, and the first still holds the stream', short, async t => {
    const { ada, person } = await withGrace(t, {})
    const [page] = await Promise.all([person.waitForEvent('page'), ada.page.getByRole('link', { name: 'Open a second tab' }).click()])
    const second = new Editor(page)
    await second.untilConnected()
    await second.untilShows(TEXT)
    await until('three people, three colours', async () => {
      const colours = await page.$$eval('.person-dot', dots => dots.map(dot => getComputedStyle(dot).borderTopColor))
      return colours.length === 3 && new Set(colours).size === 3
    }, { seen: () => second.state() })
    assert.equal((await ada.state()).role, 'this tab holds the stream')
    assert.equal((await second.state()).role, 'another tab holds the stream')
  })

  await t.test('the commands on the page work as they are', short, async t => {
    const { ada } = await withGrace(t, {})
    const commands = await ada.page.$$eval('#commands code', codes => codes.map(code => code.textContent ?? ''))
    const [add, read, watch, appear] = commands
    const run = async (/** @type {string} */ command) => (await promisify(execFile)('sh', ['-c', `${command} --silent --show-error --fail`])).stdout
    await run(add)
    await ada.untilShows(`${TEXT}\nHello from curl`)
    assert.equal(await run(read), `${TEXT}\nHello from curl`)
    await run(add)
    await ada.untilShows(`${TEXT}\nHello from curl\nHello from curl`)
    assert.match(watch, /^curl -N /)
    await run(appear)
    await until('the script is among the people', async () => (await ada.state()).people.some(person => person?.startsWith('My script')), { seen: () => ada.state() })
  })

  await t.test('whatever others say of themselves, the page goes on', short, async t => {
    const { id, ada, grace } = await withGrace(t, {})
    const states = [
      { user: 'a string' },
      { user: { name: 7, color: 'red; background: url(//example.org)', since: 'never' } },
      { user: { name: '\u202Egnol'.repeat(50), color: '#ffff00' }, cursor: 'somewhere' },
      { cursor: { anchor: { type: { client: 1, clock: -5 } }, head: { type: { client: 1, clock: -5 } } } },
      { cursor: { anchor: { tname: 'other', item: null }, head: { tname: 'other', item: null } } },
      { cursor: { anchor: { item: { client: 9e15, clock: 9e15 } }, head: null } },
      { cursor: { anchor: [], head: {} }, user: [] }
    ]
    for (const [i, state] of states.entries()) {
      const answer = await fetch(`${server.url}/docs/${id}/awareness/stranger-${i}`, {
        method: 'PUT', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(state)
      })
      assert.ok(answer.ok, await answer.text())
    }
    await until('all are listed', async () => (await ada.state()).people.length === 2 + states.length, { seen: () => ada.state() })
    await ada.type('still here ')
    await until('Grace has it', async () => (await grace.text()).includes('still here '))
    assert.equal(await sideways(ada.page), 0)
    assert.equal(await ada.page.locator('.caret-owner').count(), 1)
    assert.deepEqual([...ada.complaints, ...grace.complaints], [])
  })

  await t.test('a deleted document: the page says so, keeps the text, and can go on with it elsewhere', short, async t => {
    const { id, ada } = await withGrace(t, {})
    await fetch(`${server.url}/docs/${id}`, { method: 'DELETE' })
    const notice = ada.page.getByRole('alert')
    await until('it says so', async () => /This document was deleted/.test(await notice.textContent() ?? ''))
    assert.equal(await ada.text(), TEXT)
    assert.equal(await ada.page.$eval('#text', element => /** @type {HTMLTextAreaElement} */ (element).readOnly), true)
    assert.deepEqual(await violations(ada.page), [])
    await ada.button('Go on in a new document').click()
    await ada.page.waitForURL(url => url.pathname.startsWith('/conversation/') && !url.pathname.endsWith(id))
    await ada.untilConnected()
    await ada.untilShows(TEXT)
  })

  await t.test('a document that was deleted and begun again meanwhile is not mixed with the old one', short, async t => {
    const { id, ada, grace } = await withGrace(t, {})
    await ada.button('Go offline').click()
    await ada.type('old words')
    await grace.page.goto('about:blank')
    await fetch(`${server.url}/docs/${id}`, { method: 'DELETE' })
    await editElsewhere(server, id, text => text.insert(0, 'another text'))
    await ada.button('Go online').click()
    await until('it says so', async () => /This document was begun again/.test(await ada.page.getByRole('alert').textContent() ?? ''))
    assert.equal(await server.text(id), 'another text')
    await ada.page.evaluate(() => { window.onbeforeunload = null })
    ada.page.on('dialog', dialog => dialog.accept())
    await ada.button('Open the present one').click()
    await ada.untilShows('another text')
  })

  await t.test('without the third-party modules the page says what is missing and what to run', short, async t => {
    const person = await newPerson(browser, 'Ada')
    t.after(() => person.close())
    await person.route('**/vendor/**', route => route.fulfill({ status: 404, contentType: 'text/plain', body: 'Run: npm --prefix public ci' }))
    const page = await person.newPage()
    await page.goto(`${server.url}/demo/crdt-sync`)
    const notice = page.getByRole('alert')
    await until('it says so', async () => /npm --prefix public ci/.test(await notice.textContent() ?? ''))
    assert.match(await notice.textContent() ?? '', /\/vendor\/yjs\.js/)
    assert.equal(await page.locator('textarea').count(), 0)
    assert.deepEqual(await violations(page), [])
  })

  await t.test('without JavaScript the page says so', short, async t => {
    const person = await browser.newContext({ javaScriptEnabled: false })
    t.after(() => person.close())
    const page = await person.newPage()
    await page.goto(`${server.url}/demo/crdt-sync`)
    assert.ok(await page.getByRole('heading', { name: 'This page needs JavaScript' }).isVisible())
  })

  await t.test('an address that names no document says what a name looks like', short, async t => {
    const person = await newPerson(browser, 'Ada')
    t.after(() => person.close())
    const page = await person.newPage()
    await page.goto(`${server.url}/demo/crdt-sync?doc=two%20words`)
    await until('it says so', async () => /names no document/.test(await page.getByRole('alert').textContent() ?? ''))
    await page.getByRole('link', { name: 'Open the welcome document' }).click()
    await new Editor(page).untilConnected()
    assert.equal(await page.textContent('#document-name'), 'welcome')
  })

  await t.test('the front page leads to the shared text and to a document of one\'s own', short, async t => {
    const person = await newPerson(browser, 'Ada')
    t.after(() => person.close())
    const page = await person.newPage()
    await page.goto(`${server.url}/`)
    await until('its commands are there', () => page.getByText('Watch every change as it comes').isVisible())
    assert.deepEqual(await violations(page), [])
    assert.match(await page.textContent('#commands code') ?? '', new RegExp(server.url))
    const links = await page.$$eval('a', links => links.map(link => link.href))
    for (const link of links.filter(link => link.startsWith(server.url))) assert.equal((await fetch(link)).status, 200, link)
    await page.getByRole('link', { name: 'Begin a document of your own' }).click()
    await new Editor(page).untilConnected()
    assert.match(page.url(), /\/conversation\/[a-z0-9]{8}$/)
    await page.goto(`${server.url}/`)
    await page.getByRole('link', { name: 'Open the shared text' }).click()
    await new Editor(page).untilConnected()
    for (const colorScheme of /** @type {const} */ (['light', 'dark'])) {
      const phone = await newPerson(browser, 'Ada', { ...PHONE, colorScheme })
      t.after(() => phone.close())
      const small = await phone.newPage()
      await small.goto(`${server.url}/`)
      assert.equal(await sideways(small), 0)
      assert.deepEqual(await violations(small), [])
    }
  })
})

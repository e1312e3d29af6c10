// Several people write at once, in real browsers with real keys, and nothing is lost or mixed up.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { launchBrowser, startServer } from './support.mjs'
import { lettersOf, newDocumentId, newPerson, openEditor, until, untilOneText } from './editor-page.mjs'

/** So many letters, as anybody would type who tests a keyboard. */
const letters = (/** @type {string} */ alphabet, /** @type {number} */ length) => Array.from({ length }, (_, i) => alphabet[i % alphabet.length]).join('')
const ALPHABETS = ['abcdefg', 'ABCDEFG', '0123456', 'hijklmn', 'HIJKLMN', 'αβγδεζη', 'opqrstu', 'OPQRSTU']

test('writing together', { timeout: 240_000 }, async t => {
  const server = await startServer(t, { isDurable: true })
  const browser = await launchBrowser(t)

  await t.test('two tabs of one browser, both typing at full speed, end with one text', { timeout: 60_000 }, async t => {
    const id = newDocumentId()
    const ada = await newPerson(browser, 'Ada')
    t.after(() => ada.close())
    const tabs = [await openEditor(ada, server.url, id), await openEditor(ada, server.url, id)]
    const typed = [letters(ALPHABETS[0], 150), letters(ALPHABETS[1], 150)]
    await Promise.all(tabs.map((tab, i) => tab.type(typed[i])))
    const text = await untilOneText(server, id, tabs, { length: 300 })
    assert.equal(lettersOf(text, ALPHABETS[0]), typed[0])
    assert.equal(lettersOf(text, ALPHABETS[1]), typed[1])
    assert.deepEqual(tabs.flatMap(tab => tab.complaints), [])
  })

  await t.test('two people in the middle of one sentence each keep their own words together', { timeout: 60_000 }, async t => {
    const id = newDocumentId()
    const people = [await newPerson(browser, 'Ada'), await newPerson(browser, 'Kurt')]
    t.after(() => Promise.all(people.map(person => person.close())))
    const [ada, kurt] = [await openEditor(people[0], server.url, id), await openEditor(people[1], server.url, id)]
    await ada.type('begin end')
    await kurt.untilShows('begin end')
    await Promise.all([ada.select(5), kurt.select(5)])
    await Promise.all([ada.type(' one two three'), kurt.type(' ONE TWO THREE')])
    const text = await untilOneText(server, id, [ada, kurt], { length: 9 + 2 * 14 })
    assert.equal(lettersOf(text, 'ONETWHR'), 'ONETWOTHREE')
    assert.match(text, /^begin .* end$/)
  })

  await t.test('three people, each with a browser of their own', { timeout: 90_000 }, async t => {
    const id = newDocumentId()
    const people = await Promise.all(['Ada', 'Grace', 'Kurt'].map(name => newPerson(browser, name)))
    t.after(() => Promise.all(people.map(person => person.close())))
    const editors = await Promise.all(people.map(person => openEditor(person, server.url, id)))
    const typed = ALPHABETS.slice(0, 3).map(alphabet => letters(alphabet, 80))
    await Promise.all(editors.map((editor, i) => editor.type(typed[i])))
    const text = await untilOneText(server, id, editors, { length: 240 })
    for (const [i, own] of typed.entries()) assert.equal(lettersOf(text, ALPHABETS[i]), own)
    await until('everybody sees three people with three colours', async () => {
      const colours = await editors[0].page.$$eval('.person-dot', dots => dots.map(dot => getComputedStyle(dot).borderColor))
      return colours.length === 3 && new Set(colours).size === 3
    }, { seen: () => editors[0].state() })
  })

  await t.test('eight tabs of one browser share one event stream, and all of them can write', { timeout: 120_000 }, async t => {
    const id = newDocumentId()
    const ada = await newPerson(browser, 'Ada')
    t.after(() => ada.close())
    const tabs = []
    for (let i = 0; i < 8; i++) tabs.push(await openEditor(ada, server.url, id))
    const streams = (await server.clients(id)).reduce((sum, client) => sum + client.streams, 0)
    assert.equal(streams, 1)
    const typed = ALPHABETS.map(alphabet => letters(alphabet, 20))
    await Promise.all(tabs.map((tab, i) => tab.type(typed[i])))
    const text = await untilOneText(server, id, tabs, { length: 160, within: 40_000 })
    for (const [i, own] of typed.entries()) assert.equal(lettersOf(text, ALPHABETS[i]), own)
    const roles = await Promise.all(tabs.map(async tab => (await tab.state()).role))
    assert.equal(roles.filter(role => role === 'this tab holds the stream').length, 1, roles.join(', '))
  })

  await t.test('what is written offline is called unsaved, and merged when the writer is back', { timeout: 60_000 }, async t => {
    const id = newDocumentId()
    const people = [await newPerson(browser, 'Ada'), await newPerson(browser, 'Grace')]
    t.after(() => Promise.all(people.map(person => person.close())))
    const [ada, grace] = [await openEditor(people[0], server.url, id), await openEditor(people[1], server.url, id)]
    await ada.type('Minutes. ')
    await grace.untilShows('Minutes. ')
    await grace.button('Go offline').click()
    await grace.untilSays({ connected: 'Offline' })
    await grace.select('Minutes. '.length)
    await grace.type('Grace, on the train.')
    await grace.untilSays({ saved: '20 unsaved' })
    await ada.type('Ada, at the desk.')
    await ada.untilSays({ saved: 'Saved' })
    assert.equal(await grace.text(), 'Minutes. Grace, on the train.')
    assert.equal(await ada.text(), 'Minutes. Ada, at the desk.')
    await grace.button('Go online').click()
    const text = await untilOneText(server, id, [ada, grace])
    assert.ok(text.includes('Grace, on the train.') && text.includes('Ada, at the desk.'), text)
  })

  await t.test('a network that goes away is noticed, and nothing written meanwhile is lost', { timeout: 60_000 }, async t => {
    const id = newDocumentId()
    const person = await newPerson(browser, 'Ada')
    t.after(() => person.close())
    const ada = await openEditor(person, server.url, id)
    await ada.type('before ')
    await ada.untilSays({ saved: 'Saved' })
    await person.setOffline(true)
    await ada.untilSays({ connected: 'Offline' })
    await ada.type('meanwhile ')
    await ada.untilSays({ saved: /^\d+ unsaved$/ })
    await person.setOffline(false)
    await ada.untilConnected()
    await ada.type('after')
    assert.equal(await untilOneText(server, id, [ada]), 'before meanwhile after')
  })

  await t.test('the server is killed and started again in the middle of a word: not a letter is missing', { timeout: 120_000 }, async t => {
    const id = newDocumentId()
    const people = await Promise.all(['Ada', 'Grace'].map(name => newPerson(browser, name)))
    t.after(() => Promise.all(people.map(person => person.close())))
    const editors = await Promise.all(people.map(person => openEditor(person, server.url, id)))
    const typed = ALPHABETS.slice(0, 2).map(alphabet => letters(alphabet, 200))
    const typing = Promise.all(editors.map((editor, i) => editor.type(typed[i], { delay: 15 })))
    for (let round = 0; round < 2; round++) {
      const before = (await server.text(id).catch(() => '')).length
      await until('something more has arrived at the server', async () => (await server.text(id)).length > before + 20)
      await server.kill()
      await until('a page has noticed', async () => (await editors[0].state()).connected !== 'Connected')
      await server.start()
      await until('all are connected again', async () =>
        (await Promise.all(editors.map(editor => editor.state()))).every(state => state.connected === 'Connected'), { within: 20_000 })
    }
    await typing
    const text = await untilOneText(server, id, editors, { length: 400 })
    for (const [i, own] of typed.entries()) assert.equal(lettersOf(text, ALPHABETS[i]), own)
    // And the disk has it too, not only the pages.
    await server.kill()
    await server.start()
    assert.equal(await server.text(id), text)
  })
})

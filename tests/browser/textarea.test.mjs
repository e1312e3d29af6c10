// The textarea and the shared text: carets, composing, emoji, undo. One person in a browser, others without.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { launchBrowser, startServer } from './support.mjs'
import { editElsewhere, newDocumentId, newPerson, openEditor, until, untilOneText } from './editor-page.mjs'

test('the textarea', { timeout: 240_000 }, async t => {
  const server = await startServer(t)
  const browser = await launchBrowser(t)
  const person = await newPerson(browser, 'Ada')

  /**
   * A document of its own for each test. A browser has six connections to one host: tabs are closed when done.
   * @param {import('node:test').TestContext} t
   * @param {string} [text] what the document holds, written elsewhere
   */
  const open = async (t, text = '') => {
    const id = newDocumentId()
    if (text !== '') await editElsewhere(server, id, shared => shared.insert(0, text))
    const editor = await openEditor(person, server.url, id)
    t.after(() => editor.page.close())
    await editor.untilShows(text)
    return { id, editor }
  }
  /** @param {string} id @param {(text: import('yjs').Text) => void} change */
  const elsewhere = (id, change) => editElsewhere(server, id, change)
  const selectionOf = (/** @type {import('./editor-page.mjs').Editor} */ editor) => editor.page.$eval('#text', element => {
    const { selectionStart, selectionEnd, selectionDirection } = /** @type {HTMLTextAreaElement} */ (element)
    return [selectionStart, selectionEnd, selectionDirection]
  })
  const short = { timeout: 30_000 }

  await t.test('the caret stays left of what others write at it, and moves with what they write before it', short, async t => {
    const { id, editor } = await open(t, 'one two')
    await editor.select(3)
    await elsewhere(id, text => text.insert(3, ' and'))
    await editor.untilShows('one and two')
    assert.deepEqual((await selectionOf(editor)).slice(0, 2), [3, 3])
    await elsewhere(id, text => text.insert(0, 'zero '))
    await editor.untilShows('zero one and two')
    assert.deepEqual((await selectionOf(editor)).slice(0, 2), [8, 8])
    await elsewhere(id, text => text.delete(2, 7))
    await editor.untilShows('zeand two')
    assert.deepEqual((await selectionOf(editor)).slice(0, 2), [2, 2])
  })

  await t.test('a selection keeps its direction, and does not take in what others write at its edges', short, async t => {
    const { id, editor } = await open(t, 'one two three')
    await editor.page.evaluate(() => {
      const textarea = /** @type {HTMLTextAreaElement} */ (document.getElementById('text'))
      textarea.focus()
      textarea.setSelectionRange(4, 7, 'backward')
    })
    await elsewhere(id, text => {
      text.insert(7, '>')
      text.insert(4, '<')
    })
    await editor.untilShows('one <two> three')
    assert.deepEqual(await selectionOf(editor), [5, 8, 'backward'])
    await editor.type('2')
    await editor.untilShows('one <2> three')
  })

  await t.test('the view does not jump when others write', short, async t => {
    const { id, editor } = await open(t, Array.from({ length: 300 }, (_, i) => `line ${i + 1}`).join('\n'))
    await editor.select(0)
    await editor.page.$eval('#text', element => { element.scrollTop = 2000 })
    await elsewhere(id, text => text.insert(text.length, '\nthe end'))
    await until('the end has arrived', async () => (await editor.text()).endsWith('the end'))
    assert.equal(await editor.page.$eval('#text', element => element.scrollTop), 2000)
  })

  await t.test('a word that is being composed is not broken by what others write meanwhile', short, async t => {
    const { id, editor } = await open(t, 'ab')
    await editor.select(2)
    const seen = await editor.page.evaluateHandle(() => {
      const events = /** @type {string[]} */ ([])
      for (const type of ['compositionstart', 'compositionend']) document.getElementById('text')?.addEventListener(type, () => events.push(type))
      return events
    })
    const devtools = await person.newCDPSession(editor.page)
    /** @param {string} text */
    const compose = text => devtools.send('Input.imeSetComposition', { text, selectionStart: text.length, selectionEnd: text.length })
    await compose('に')
    // What is composed is sent at once: Android composes every word, and others want to see it grow.
    await until('the syllable is at the server', async () => await server.text(id) === 'abに')
    await elsewhere(id, text => text.insert(0, 'R1 '))
    await elsewhere(id, text => text.insert(text.length, ' R2'))
    await until('the page has heard of both', async () => (await editor.state()).log.filter(line => line?.includes('elsewhere')).length === 2, { seen: () => editor.state() })
    assert.equal(await editor.text(), 'abに') // not written to while composing
    await compose('にほ')
    await compose('にほん')
    await compose('日本')
    await until('the word is at the server', async () => await server.text(id) === 'R1 ab日本 R2', { seen: () => server.text(id) })
    await devtools.send('Input.insertText', { text: '日本' })
    assert.equal(await untilOneText(server, id, [editor]), 'R1 ab日本 R2')
    assert.deepEqual((await selectionOf(editor)).slice(0, 2), [7, 7])
    assert.deepEqual(await seen.jsonValue(), ['compositionstart', 'compositionend'])
    await editor.type('!')
    await editor.untilShows('R1 ab日本! R2')
  })

  await t.test('others may delete the very place at which a word is being composed', short, async t => {
    const { id, editor } = await open(t, 'keep this, drop that')
    await editor.select(16)
    const devtools = await person.newCDPSession(editor.page)
    await devtools.send('Input.imeSetComposition', { text: 'に', selectionStart: 1, selectionEnd: 1 })
    await until('it is at the server', async () => await server.text(id) === 'keep this, drop にthat')
    await elsewhere(id, text => text.delete(9, text.length - 9))
    await until('the page has heard of it', async () => (await editor.state()).log.some(line => line?.includes('elsewhere')))
    await devtools.send('Input.imeSetComposition', { text: '日', selectionStart: 1, selectionEnd: 1 })
    await devtools.send('Input.insertText', { text: '日' })
    assert.equal(await untilOneText(server, id, [editor]), 'keep this日')
  })

  await t.test('a composition that is given up leaves the text as it was', short, async t => {
    const { id, editor } = await open(t, 'ab')
    await editor.select(1)
    const devtools = await person.newCDPSession(editor.page)
    await devtools.send('Input.imeSetComposition', { text: 'ni', selectionStart: 2, selectionEnd: 2 })
    await elsewhere(id, text => text.insert(2, '?')) // between the two letters
    await devtools.send('Input.imeSetComposition', { text: '', selectionStart: 0, selectionEnd: 0 })
    await editor.page.$eval('#text', element => element.blur())
    const text = await untilOneText(server, id, [editor])
    assert.equal(text.replace('?', ''), 'ab')
    assert.equal(text.length, 3)
  })

  await t.test('emoji that share half a surrogate pair stay whole, here and at the server', short, async t => {
    const { id, editor } = await open(t, 'x😀y')
    await editor.select(1, 3)
    await editor.page.keyboard.insertText('😁')
    await untilOneText(server, id, [editor])
    assert.equal(await server.text(id), 'x😁y')
    await editor.press('Backspace')
    await editor.untilShows('xy')
    await editor.page.keyboard.insertText('👨‍👩‍👧')
    assert.equal(await untilOneText(server, id, [editor]), 'x👨‍👩‍👧y')
  })

  await t.test('undo takes back one\'s own edits and nobody else\'s, and puts the caret back', short, async t => {
    const { id, editor } = await open(t, 'start ')
    await editor.select(6)
    await editor.type('mine')
    await editor.untilSays({ saved: 'Saved' })
    await elsewhere(id, text => text.insert(6, 'theirs '))
    await until('theirs has come', async () => (await editor.text()).includes('theirs '))
    await editor.press('Control+z')
    await editor.untilShows('start theirs ')
    assert.equal((await selectionOf(editor))[0], 6)
    await editor.press('Control+z') // nothing of ours is left
    await editor.untilShows('start theirs ')
    await editor.press('Control+Shift+Z')
    assert.equal(lettersSorted(await untilOneText(server, id, [editor])), lettersSorted('start theirs mine'))
    await editor.press('Control+z')
    await editor.untilShows('start theirs ')
    await editor.press('Control+y')
    await until('it is there again', async () => (await editor.text()).includes('mine'))
    await editor.button('Undo').click()
    await editor.untilShows('start theirs ')
    await editor.button('Redo').click()
    await until('it is there again', async () => (await editor.text()).includes('mine'))
    assert.equal(await untilOneText(server, id, [editor]), await server.text(id))
  })

  await t.test('a deleted selection comes back selected', short, async t => {
    const { editor } = await open(t, 'one two three')
    await editor.select(4, 8)
    await editor.press('Delete')
    await editor.untilShows('one three')
    await editor.press('Control+z')
    await editor.untilShows('one two three')
    assert.deepEqual((await selectionOf(editor)).slice(0, 2), [4, 8])
  })

  await t.test('line ends from other systems are one line end here, and positions still agree', short, async t => {
    const { id, editor } = await open(t)
    await elsewhere(id, text => text.insert(0, 'one\r\ntwo\r\nthree'))
    await editor.untilShows('one\ntwo\nthree')
    await editor.select(7)
    await editor.type('!')
    assert.equal(await untilOneText(server, id, [editor]), 'one\ntwo!\nthree')
  })

  await t.test('what is no text in the document takes one place, and edits around it go right', short, async t => {
    const id = newDocumentId()
    await elsewhere(id, text => {
      text.insert(0, 'before  after')
      text.insertEmbed(7, { image: 'cat.png' })
    })
    const editor = await openEditor(person, server.url, id)
    t.after(() => editor.page.close())
    await editor.untilShows('before \uFFFC after')
    await editor.select(8)
    await editor.type('!')
    await editor.untilSays({ saved: 'Saved' })
    assert.equal(await server.text(id), 'before ! after')
  })

  await t.test('a text of 100 KB is still written in, and others\' edits arrive', { timeout: 60_000 }, async t => {
    const line = 'All work and no play makes a long text. '.repeat(2).trim() + '\n'
    const long = line.repeat(Math.ceil(100_000 / line.length))
    const { id, editor } = await open(t, long)
    await editor.select(0)
    await editor.type('hello ')
    await elsewhere(id, text => text.insert(text.length, 'the end'))
    assert.equal(await untilOneText(server, id, [editor], { length: long.length + 13 }), `hello ${long}the end`)
  })

  await t.test('another person\'s caret has their name, and stays where it is while others write at it', short, async t => {
    const { id, editor } = await open(t, 'one two')
    const other = await newPerson(browser, 'Grace')
    t.after(() => other.close())
    const grace = await openEditor(other, server.url, id)
    await grace.untilShows('one two')
    await grace.select(7)
    const caret = editor.page.locator('.caret-owner')
    await until('the name is shown', async () => await caret.locator('.caret-name').textContent() === 'Grace')
    await until('the name is visible', async () => await caret.locator('.caret-name').evaluate(name => getComputedStyle(name).opacity) === '1')
    const place = () => caret.locator('.caret').evaluate(element => {
      const { left, top } = element.getBoundingClientRect()
      return { left: Math.round(left), top: Math.round(top) }
    })
    const { left, top } = await place()
    // Every place it is drawn at, for Grace's own page would put a wrong one right a moment later.
    const places = await caret.evaluateHandle(element => {
      const places = new Set([element.style.getPropertyValue('--left')])
      new MutationObserver(() => places.add(element.style.getPropertyValue('--left'))).observe(element, { attributeFilter: ['style'] })
      return places
    })
    await editor.select(7)
    await editor.type(' three')
    await grace.untilShows('one two three')
    assert.deepEqual((await grace.state()).selection, [7, 7])
    assert.deepEqual(await place(), { left, top })
    assert.equal(await places.evaluate(places => places.size), 1)
    await editor.select(0)
    await editor.type('\n')
    await until('the caret is a line further down', async () => (await place()).top === top + 24, { seen: place })
    assert.equal((await place()).left, left)
    await until('the list says so', async () => (await editor.state()).people.includes('Graceline 2'), { seen: () => editor.state() })

    await grace.select(1, 4)
    await until('the selection is drawn', async () => await caret.locator('.caret-selection').count() === 1)
    await grace.page.goto('about:blank')
    await until('who leaves is gone', async () => await caret.count() === 0 && (await editor.state()).people.length === 1, { seen: () => editor.state() })
  })

  await t.test('names stay inside the textarea, and a click on a person shows where they are', short, async t => {
    const { id, editor } = await open(t, Array.from({ length: 200 }, (_, i) => `line ${i + 1}`).join('\n'))
    const other = await newPerson(browser, 'Grace')
    t.after(() => other.close())
    const grace = await openEditor(other, server.url, id)
    await grace.untilShows(await editor.text())
    await grace.select((await editor.text()).length)
    await editor.page.getByRole('button', { name: 'Grace line 200' }).click()
    await until('her caret is in view', async () => editor.page.evaluate(() => {
      const caret = document.querySelector('.caret')?.getBoundingClientRect()
      const frame = document.getElementById('text')?.getBoundingClientRect()
      return caret && frame && caret.top > frame.top && caret.bottom < frame.bottom
    }))
  })
})

/** @param {string} text */
const lettersSorted = text => Array.from(text).sort().join('')

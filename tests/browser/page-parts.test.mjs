// What the page computes without a browser: colours, names of documents, commands.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { contrast, leastUsed, PALETTE, parse, shades } from '../../public/demo/colours.js'
import { documentId, newDocumentId } from '../../public/demo/document-id.js'
import { commandsFor } from '../../public/demo/terminal.js'
import { accessTo, claimsOf, cleanToken } from '../../public/demo/token.js'
import { random } from './random.mjs'
import { newToken } from './support.mjs'

/** @param {string} css @returns {[number, number, number]} */
const rgb = css => {
  const [red, green, blue] = css.match(/\d+/g).map(Number)
  return [red, green, blue]
}

test('a name is readable on any colour that somebody may have, in both colour schemes', () => {
  const dice = random(3)
  const some = Array.from({ length: 2000 }, () => '#' + dice.below(0x1000000).toString(16).padStart(6, '0'))
  for (const colour of [...PALETTE, '#000000', '#ffffff', '#ffff00', 'red', '', null, 7, {}, '#fff', ...some]) {
    const { light, dark } = shades(colour)
    assert.ok(contrast(rgb(light), [255, 255, 255]) >= 4.5, `${colour} light: ${light}`)
    assert.ok(contrast(rgb(dark), [16, 18, 23]) >= 4.5, `${colour} dark: ${dark}`)
  }
  for (const colour of PALETTE) assert.deepEqual(rgb(shades(colour).light), parse(colour)) // chosen well, as they are
})

test('contrast is what WCAG says it is', () => {
  assert.equal(contrast([0, 0, 0], [255, 255, 255]), 21)
  assert.equal(contrast([119, 119, 119], [255, 255, 255]).toFixed(2), '4.48')
})

test('the next colour is one of the least used', () => {
  assert.equal(leastUsed([]), PALETTE[0])
  assert.equal(leastUsed([PALETTE[0], PALETTE[2]]), PALETTE[1])
  assert.equal(leastUsed([...PALETTE, PALETTE[0], '#123456']), PALETTE[1])
})

test('the address names the document', () => {
  const at = (/** @type {string} */ address) => documentId(new URL(address, 'http://localhost'))
  assert.deepEqual(at('/demo/crdt-sync'), { id: 'welcome' })
  assert.deepEqual(at('/demo/crdt-sync?doc=minutes'), { id: 'minutes' })
  assert.deepEqual(at('/conversation/ws-17'), { id: 'ws-17' })
  assert.deepEqual(at('/conversation/%41da'), { id: 'Ada' })
  assert.deepEqual(at('/conversation/ws-17?doc=other'), { id: 'ws-17' })
  for (const refused of ['', '.hidden', 'a/b', 'a b', 'é', 'x'.repeat(129)]) {
    assert.deepEqual(at(`/conversation/${refused}`), { refused })
  }
  for (let i = 0; i < 100; i++) assert.match(newDocumentId(), /^[a-z0-9]{8}$/)
})

test('commands name the document that is open', () => {
  const commands = commandsFor('http://localhost:8080', 'ws-17').map(({ command }) => command)
  assert.ok(commands.length >= 3)
  for (const command of commands) assert.match(command, /^curl .*'http:\/\/localhost:8080\/docs\/ws-17\//)
})

test('a token is taken as people paste it, and nothing that no header can hold', () => {
  const token = newToken('ada', { '*': 'read' })
  for (const pasted of [token, ` ${token}\n`, `Bearer ${token}`, `bearer  ${token.slice(0, 40)}\r\n ${token.slice(40)}`]) {
    assert.equal(cleanToken(pasted), token)
  }
  for (const pasted of ['', ' ', 'Bearer ', 'töken', 'a\u0000b', '<b>', 'a"b', 'a;b']) assert.equal(cleanToken(pasted), '', pasted)
})

test('what a token says is read, whoever it is for, and what is none says nothing', () => {
  assert.deepEqual(claimsOf(newToken('Zoë 𝄞?>', { 'a-*': 'write' })), { user: 'Zoë 𝄞?>', docs: { 'a-*': 'write' } })
  const part = (/** @type {unknown} */ claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.x`
  for (const token of [null, '', 'abc', 'a.b.c', '..', part(null), part({ sub: 'a' }), part({ docs: {} }), part({ sub: 7, docs: {} }), part({ sub: '', docs: {} })]) {
    assert.equal(claimsOf(token), null, String(token))
  }
})

test('access is that of the strongest pattern that matches, as the server has it', () => {
  const docs = { 'lecture-*': 'read', 'lecture-7': 'write', '*-notes': 'admin', 'a.b': 'write', odd: 7 }
  const expected = { 'lecture-7': 'write', 'lecture-8': 'read', 'lecture-': 'read', 'lecture-7-notes': 'admin', 'a.b': 'write', 'a-b': null, odd: null, 'Lecture-7': null }
  for (const [id, access] of Object.entries(expected)) assert.equal(accessTo(docs, id), access, id)
  assert.equal(accessTo({ [`${'a*'.repeat(9)}b`]: 'read' }, 'a'.repeat(128)), null)
  assert.equal(accessTo({ '**': 'read' }, 'x'), 'read')
})

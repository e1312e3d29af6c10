// The difference of two texts as one splice: pure, no browser.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { difference, splitsPair } from '../../public/lib/text-difference.js'
import { random } from './random.mjs'

const Y = createRequire(new URL('../../public/package.json', import.meta.url))('yjs')

/** @param {string} text @param {import('../../public/lib/text-difference.js').Splice} splice */
const applied = (text, { index, remove, insert }) => text.slice(0, index) + insert + text.slice(index + remove)

test('equal texts differ in nothing', () => {
  assert.equal(difference('', ''), null)
  assert.equal(difference('same', 'same', 2), null)
})

test('the caret tells which of several explanations is the right one', () => {
  assert.deepEqual(difference('aaa', 'aaaa', 1), { index: 0, remove: 0, insert: 'a' })
  assert.deepEqual(difference('aaa', 'aaaa', 3), { index: 2, remove: 0, insert: 'a' })
  assert.deepEqual(difference('aaaa', 'aaa', 0), { index: 0, remove: 1, insert: '' })
  assert.deepEqual(difference('aaaa', 'aaa', 2), { index: 2, remove: 1, insert: '' })
  assert.deepEqual(difference('\n\n', '\n\n\n', 1), { index: 0, remove: 0, insert: '\n' })
})

test('a caret that explains nothing is only a hint', () => {
  assert.deepEqual(difference('one two', 'one 2 two', 0), { index: 3, remove: 0, insert: ' 2' })
  assert.deepEqual(difference('abc', 'abcd', 99), { index: 3, remove: 0, insert: 'd' })
})

test('emoji that share half of a surrogate pair are exchanged whole', () => {
  assert.deepEqual(difference('x😀y', 'x😁y', 3), { index: 1, remove: 2, insert: '😁' }) // same first half
  assert.deepEqual(difference('x😀y', 'x🐀y', 3), { index: 1, remove: 2, insert: '🐀' })
  assert.deepEqual(difference('\u{10400}', '\u{10800}', 2), { index: 0, remove: 2, insert: '\u{10800}' }) // same second half
  assert.deepEqual(difference('😀', '😀😀', 4), { index: 2, remove: 0, insert: '😀' })
  assert.deepEqual(difference('😀😁', '😁', 0), { index: 0, remove: 2, insert: '' })
})

test('50,000 random pairs of texts: the splice leads from one to the other, in Y.Text too', () => {
  const dice = random(20240917)
  const alphabet = ['a', 'a', 'b', '\n', 'é', '世', '😀', '😁', '🐀', '\u{10400}', '\u{10800}']
  const word = (/** @type {number} */ most) => Array.from({ length: dice.below(most) }, () => dice.pick(alphabet)).join('')
  let text = new Y.Doc().getText('text')
  let before = ''
  for (let round = 0; round < 50_000; round++) {
    if (round % 500 === 0) { // a document with all of 50,000 edits in it would only be slow
      text = new Y.Doc().getText('text')
      before = ''
    }
    const characters = Array.from(before)
    const at = dice.below(characters.length + 1)
    const inserted = word(5)
    const removed = before.length > 60 ? dice.below(40) : dice.below(3)
    const head = characters.slice(0, at).join('') + inserted
    const after = dice.below(20) === 0 ? word(30) : head + characters.slice(at + removed).join('')
    const caret = dice.below(4) === 0 ? dice.below(after.length + 1) : Math.min(head.length, after.length)
    const splice = difference(before, after, caret)
    if (splice === null) {
      assert.equal(before, after)
      continue
    }
    const { index, remove, insert } = splice
    const told = JSON.stringify({ before, after, caret, splice })
    assert.equal(applied(before, splice), after, told)
    assert.ok(!splitsPair(before, index) && !splitsPair(before, index + remove), told)
    assert.ok(insert.isWellFormed(), told)
    assert.ok(remove + insert.length > 0, told)
    if (remove) text.delete(index, remove)
    if (insert) text.insert(index, insert)
    assert.equal(text.toString(), after, told)
    before = after
  }
})

test('an insertion at the caret is found as exactly that, whatever stands around it', () => {
  const dice = random(7)
  for (let round = 0; round < 10_000; round++) {
    const before = 'a'.repeat(dice.below(6)) + 'b'.repeat(dice.below(3)) + 'a'.repeat(dice.below(6))
    const index = dice.below(before.length + 1)
    const insert = dice.pick(['a', 'b', 'ab', 'aa'])
    const after = before.slice(0, index) + insert + before.slice(index)
    const splice = difference(before, after, index + insert.length)
    assert.deepEqual(splice, { index, remove: 0, insert }, JSON.stringify({ before, after, index }))
  }
})

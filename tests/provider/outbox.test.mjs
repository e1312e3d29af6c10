import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Outbox, compare, difference } from '../../public/lib/outbox.js'
import { Y } from '../browser/support.mjs'

const nothing = Uint8Array.of(0)

/** A document whose edits go into an outbox. The server is known to be empty. */
function begin () {
  const doc = new Y.Doc()
  const outbox = new Outbox(doc)
  outbox.learn(nothing)
  doc.on('update', (update, origin, _doc, transaction) => {
    if (origin !== 'server') outbox.add(update, transaction.local)
  })
  return { doc, outbox, text: doc.getText('text') }
}

/** @param {Uint8Array[]} updates */
function read (...updates) {
  const doc = new Y.Doc()
  for (const update of updates) Y.applyUpdate(doc, update)
  assert.equal(doc.store.pendingStructs, null)
  return doc.getText('text').toString()
}

test('what is written while a batch is on its way goes with the next', () => {
  const { outbox, text } = begin()
  text.insert(0, 'a')
  const first = outbox.take()
  text.insert(1, 'b')
  text.insert(2, 'c')
  assert.equal(outbox.take(), null, 'one at a time')
  assert.equal(outbox.size, 3)
  outbox.settle(first)
  const second = outbox.take()
  assert.equal(second.edits, 2)
  assert.equal(read(first.update, second.update), 'abc')
  outbox.settle(second)
  assert.equal(outbox.size, 0)
})

test('a batch that failed goes again with what came since', () => {
  const { outbox, text } = begin()
  text.insert(0, 'a')
  const lost = outbox.take()
  text.insert(1, 'b')
  outbox.putBack(lost)
  assert.equal(outbox.size, 2)
  const again = outbox.take()
  assert.equal(again.edits, 2)
  assert.equal(read(again.update), 'ab')
})

test('twenty thousand keystrokes become a difference, not a merge', () => {
  const { outbox, text } = begin()
  for (let i = 0; i < 20_000; i++) text.insert(i, 'x')
  const started = performance.now()
  const batch = outbox.take()
  assert.ok(performance.now() - started < 500, 'merging takes ten seconds')
  assert.ok(batch.isDifference)
  assert.equal(batch.edits, 20_000)
  assert.ok(batch.update.length < 25_000)
  assert.equal(read(batch.update), 'x'.repeat(20_000))
})

test('after a difference is acknowledged the next one starts there', () => {
  const { outbox, text } = begin()
  for (let i = 0; i < 100; i++) text.insert(i, 'x')
  outbox.settle(outbox.take())
  for (let i = 0; i < 100; i++) text.insert(100 + i, 'y')
  const batch = outbox.take()
  assert.ok(batch.isDifference)
  assert.ok(batch.update.length < 140)
})

test('what the server says meanwhile is not overruled by an older batch', () => {
  const { outbox, text } = begin()
  text.insert(0, 'abc')
  const batch = outbox.take()
  outbox.learn(nothing) // a server that has lost what it had
  outbox.settle(batch)
  assert.equal(read(outbox.take().update), 'abc')
})

test('content from before, and updates from elsewhere, are sent as a difference', () => {
  const stored = new Y.Doc()
  stored.getText('text').insert(0, 'stored')
  const outbox = new Outbox(stored)
  assert.equal(outbox.size, 1)
  assert.equal(outbox.take(), null, 'nothing is known of the server yet')
  outbox.learn(nothing)
  assert.equal(read(outbox.take().update), 'stored')

  const { doc, outbox: other } = begin()
  Y.applyUpdate(doc, Y.encodeStateAsUpdate(stored), 'database')
  assert.ok(other.take().isDifference)
})

test('updates from elsewhere with one of the server between them leave no hole', () => {
  // Two of the three go through the outbox: merged, they would skip the one that the server sent.
  const author = new Y.Doc()
  const updates = []
  author.on('update', update => updates.push(update))
  for (const letter of 'abc') author.getText('text').insert(author.getText('text').length, letter)
  const { doc, outbox } = begin()
  Y.applyUpdate(doc, updates[0], 'database')
  Y.applyUpdate(doc, updates[1], 'server')
  Y.applyUpdate(doc, updates[2], 'database')
  assert.equal(read(outbox.take().update), 'abc')
})

test('deletions alone are sent', () => {
  const { doc, outbox, text } = begin()
  text.insert(0, 'abc')
  outbox.settle(outbox.take())
  const before = Y.encodeStateAsUpdate(doc)
  text.delete(0, 1)
  outbox.learn(Y.encodeStateVector(doc)) // clocks are equal: they do not show the deletion
  assert.equal(read(before, outbox.take().update), 'bc')
})

test('what waits for a missing part is left out of a difference, and kept', () => {
  const author = new Y.Doc()
  const updates = []
  author.on('update', update => updates.push(update))
  author.getText('text').insert(0, 'a')
  author.getText('text').insert(1, 'b')
  const { doc, outbox, text } = begin()
  Y.applyUpdate(doc, updates[1], 'server') // the first is missing
  assert.notEqual(doc.store.pendingStructs, null)
  text.insert(0, 'own')
  assert.equal(read(difference(doc, nothing)), 'own')
  assert.notEqual(doc.store.pendingStructs, null)
  assert.deepEqual(compare(doc, nothing), { isAhead: true, isBehind: false })
  Y.applyUpdate(doc, updates[0], 'server')
  assert.match(text.toString(), /own/)
  assert.equal(text.length, 5)
  assert.equal(read(outbox.take().update), 'own')
})

test('a page that is left sends all that is not acknowledged, and forgets nothing', () => {
  const { outbox, text } = begin()
  assert.equal(outbox.peekAll(), null)
  text.insert(0, 'a')
  const flying = outbox.take()
  text.insert(1, 'b')
  assert.equal(read(outbox.peekAll()), 'ab')
  outbox.putBack(flying)
  assert.equal(outbox.size, 2)
  assert.equal(read(outbox.peekAll()), 'ab')
})

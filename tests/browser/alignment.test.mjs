// Screen and shared text while they differ: pure, no browser. The oracle is Yjs itself: a screen that shows nothing
// new while an input method composes is a replica that nobody sends updates to.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { Alignment } from '../../public/lib/alignment.js'
import { random } from './random.mjs'

const Y = createRequire(new URL('../../public/package.json', import.meta.url))('yjs')

test('a syllable grows in place while others write before, at and behind it', () => {
  const alignment = new Alignment('ab'.length)
  assert.deepEqual(alignment.changeScreen({ index: 2, remove: 0, insert: 'に' }), [{ index: 2, remove: 0, insert: 'に' }])
  alignment.changeShared([{ insert: 'R1 ' }]) // "R1 abに", the screen shows "abに"
  alignment.changeShared([{ retain: 6 }, { insert: ' R2' }])
  assert.deepEqual(alignment.changeScreen({ index: 2, remove: 1, insert: '日' }), [{ index: 5, remove: 1, insert: '日' }])
  assert.equal(alignment.toShared(3), 6)
  assert.equal(alignment.toShared(3, 'right'), 9)
  assert.equal(alignment.isExact, false)
})

test('what others deleted may still be deleted or typed around on the screen', () => {
  const alignment = new Alignment(6) // "abcdef"
  alignment.changeShared([{ retain: 1 }, { delete: 4 }]) // "af"
  assert.deepEqual(alignment.changeScreen({ index: 3, remove: 0, insert: 'X' }), [{ index: 1, remove: 0, insert: 'X' }])
  // The screen shows "abcXdef": deleting "cXdef" deletes X and f, for the rest is gone.
  assert.deepEqual(alignment.changeScreen({ index: 2, remove: 5, insert: '' }), [{ index: 1, remove: 2, insert: '' }])
  assert.equal(alignment.toShared(2), 1)
})

test('a replacement across unseen text leaves that text alone', () => {
  const alignment = new Alignment(4) // "abcd"
  alignment.changeShared([{ retain: 2 }, { insert: 'RR' }]) // "abRRcd"
  assert.deepEqual(alignment.changeScreen({ index: 1, remove: 2, insert: 'x' }),
    [{ index: 4, remove: 1, insert: '' }, { index: 1, remove: 1, insert: 'x' }])
})

test('positions are mapped both ways', () => {
  const alignment = new Alignment(4) // screen "abcd"
  alignment.changeShared([{ retain: 1 }, { delete: 1 }, { insert: 'xyz' }]) // shared "axyzcd"
  assert.deepEqual([0, 1, 2, 3, 4].map(i => alignment.toShared(i)), [0, 1, 4, 5, 6])
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6].map(i => alignment.toScreen(i)), [0, 1, 1, 1, 1, 3, 4])
})

test('20,000 random composing sessions end with the text that the CRDT makes of them', () => {
  for (let seed = 1; seed <= 20_000; seed++) session(seed)
})

/**
 * One session: `shown` is edited as the frozen screen; `other` writes at the same time; `shared` hears of both, of
 * the screen's edits through the alignment. At the end `shown` and `other` are merged, and `shared` must equal that.
 *
 * Where text was deleted, Yjs leaves open on which side of the deleted text a new insertion lands, so that the order
 * of the screen's and others' insertions *there* is a matter of taste. All else is not: in the sessions that delete,
 * the screen's text and the others' text are compared each for itself; in those that do not, everything is.
 * @param {number} seed
 */
function session (seed) {
  const dice = random(seed)
  const deletes = seed % 3 !== 0
  const doc = (/** @type {number} */ clientID) => {
    const doc = new Y.Doc()
    doc.clientID = clientID
    return doc
  }
  // Of two insertions at one place the lower client id stands left: ours, as the alignment has it.
  const start = doc(9)
  start.getText('text').insert(0, 'abcdefgh'.slice(0, dice.below(9)))
  const [shown, shared, other] = [doc(1), doc(2), doc(3)]
  for (const replica of [shown, shared, other]) Y.applyUpdate(replica, Y.encodeStateAsUpdate(start))
  const [screen, text, others] = [shown, shared, other].map(replica => replica.getText('text'))

  const alignment = new Alignment(text.length)
  text.observe((/** @type {any} */ event, /** @type {any} */ transaction) => {
    if (transaction.origin !== 'screen') alignment.changeShared(event.delta)
  })
  /** @param {any} target @param {import('../../public/lib/text-difference.js').Splice} splice */
  const splice = (target, { index, remove, insert }) => {
    if (remove) target.delete(index, remove)
    if (insert) target.insert(index, insert)
  }
  // Every character is written once, so that a text tells where each of them went.
  let [screenNext, othersNext] = [0x4E00, 0x3041]
  /** @param {number} length @param {() => number} next */
  const edit = (length, next) => {
    const index = dice.below(length + 1)
    return {
      index,
      remove: deletes && dice.below(2) ? dice.below(Math.min(4, length - index + 1)) : 0,
      insert: Array.from({ length: dice.below(3) }, () => String.fromCharCode(next())).join('')
    }
  }

  for (let step = 0; step < 12; step++) {
    if (dice.below(2)) {
      const change = edit(screen.length, () => screenNext++)
      splice(screen, change)
      shared.transact(() => { for (const part of alignment.changeScreen(change)) splice(text, part) }, 'screen')
    } else {
      const known = Y.encodeStateVector(other)
      other.transact(() => splice(others, edit(others.length, () => othersNext++)))
      Y.applyUpdate(shared, Y.encodeStateAsUpdate(other, known), 'network')
    }
    // Both maps stay inside the texts and in order.
    let last = 0
    for (let i = 0; i <= screen.length; i++) {
      const [left, right] = [alignment.toShared(i), alignment.toShared(i, 'right')]
      assert.ok(last <= left && left <= right && right <= text.length, `seed ${seed}: position ${i}`)
      last = left
    }
    assert.equal(alignment.toShared(screen.length, 'right'), text.length, `seed ${seed}: lengths`)
  }

  Y.applyUpdate(shown, Y.encodeStateAsUpdate(other))
  const [ours, crdts] = [text.toString(), screen.toString()]
  if (!deletes) assert.equal(ours, crdts, `seed ${seed}`)
  for (const strangers of [/[\u4E00-\u9FFF]/g, /[\u3041-\u30FF]/g]) {
    assert.equal(ours.replace(strangers, ''), crdts.replace(strangers, ''), `seed ${seed}`)
  }
}

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Covered } from '../../public/lib/covered.js'

test('what arrives in order leaves no hole', () => {
  const covered = new Covered()
  covered.reset(4)
  covered.add(5, 5)
  covered.add(6, 9)
  assert.equal(covered.through, 9)
  assert.equal(covered.hasHole, false)
})

test('a hole stays until it is filled, and what lay behind it counts then', () => {
  const covered = new Covered()
  covered.add(3, 4)
  covered.add(6, 6)
  assert.equal(covered.through, 0)
  assert.equal(covered.hasHole, true)
  covered.add(1, 2)
  assert.equal(covered.through, 4)
  assert.equal(covered.hasHole, true)
  covered.add(5, 5)
  assert.equal(covered.through, 6)
  assert.equal(covered.hasHole, false)
})

test('repeats and overlaps never move it back', () => {
  const covered = new Covered()
  covered.add(1, 8)
  covered.add(2, 3)
  covered.add(6, 10)
  covered.add(1, 1)
  assert.equal(covered.through, 10)
})

test('any order of any overlapping pieces covers the same', () => {
  for (let round = 0; round < 500; round++) {
    const pieces = Array.from({ length: 20 }, (_, i) => [i + 1, Math.min(20, i + 1 + Math.floor(Math.random() * 4))])
    pieces.sort(() => Math.random() - 0.5)
    const covered = new Covered()
    for (const [first, last] of pieces) covered.add(first, last)
    assert.equal(covered.through, 20)
    assert.equal(covered.hasHole, false)
  }
})

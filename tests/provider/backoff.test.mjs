import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Backoff, pause } from '../../public/lib/backoff.js'
import { readRetryAfter } from '../../public/lib/document-api.js'

test('delays double from 100 ms to the longest', () => {
  const backoff = new Backoff(2500, () => 1)
  assert.deepEqual(Array.from({ length: 7 }, () => backoff.next()), [100, 200, 400, 800, 1600, 2500, 2500])
  backoff.reset()
  assert.equal(backoff.next(), 100)
})

test('half of a delay is drawn, so that those who failed together do not return together', () => {
  assert.equal(new Backoff(2500, () => 0).next(), 50)
  const delays = new Set(Array.from({ length: 100 }, () => new Backoff(2500).next()))
  assert.ok(delays.size > 50)
  for (const delay of delays) assert.ok(delay >= 50 && delay <= 100)
})

test('a thousand failures later it is still the longest delay', () => {
  const backoff = new Backoff(2500, () => 1)
  for (let i = 0; i < 1000; i++) backoff.next()
  assert.equal(backoff.next(), 2500)
})

test('what the server asks for is kept, and never undercut', () => {
  assert.equal(new Backoff(2500, () => 0).next(7000), 7000)
  assert.ok(new Backoff(2500, () => 1).next(7000) < 7701)
  assert.equal(new Backoff(2500, () => 1).next(20), 100)
})

test('Retry-After is read as seconds and as a date', () => {
  const now = Date.parse('2026-01-01T00:00:00Z')
  assert.equal(readRetryAfter('3', now), 3000)
  assert.equal(readRetryAfter('Thu, 01 Jan 2026 00:00:05 GMT', now), 5000)
  for (const nothing of [null, '', 'soon', '-1', '0', 'Wed, 31 Dec 2025 23:59:59 GMT']) {
    assert.equal(readRetryAfter(nothing, now), 0)
  }
})

test('a wait ends early when it is woken or no longer wanted', { timeout: 5000 }, async () => {
  const waker = new EventTarget()
  const end = new AbortController()
  const waits = [pause(60_000, new AbortController().signal, waker), pause(60_000, end.signal), pause(60_000, AbortSignal.abort())]
  waker.dispatchEvent(new Event('wake'))
  end.abort()
  await Promise.all(waits)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EventStreamParser } from '../../public/lib/event-stream.js'

const encoder = new TextEncoder()

/** @param {string | Uint8Array} input */
function parse (input) {
  return new EventStreamParser().push(typeof input === 'string' ? encoder.encode(input) : input)
}

/** A small generator with a seed, so that a failure can be repeated. */
function randomFrom (seed) {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

// The cases of the WHATWG text, and those that its parsers have got wrong.
const cases = [
  ['a data line and a blank line make an event', 'data: one\n\n', [['message', 'one', '']]],
  ['several data lines are joined', 'data: YHOO\ndata: +2\ndata: 10\n\n', [['message', 'YHOO\n+2\n10', '']]],
  ['only the first space after the colon is taken away', 'data:  two\n\n', [['message', ' two', '']]],
  ['no space is needed', 'data:test\n\ndata: test\n\n', [['message', 'test', ''], ['message', 'test', '']]],
  ['a field without a colon is an empty one', 'data\n\ndata\ndata\n\ndata:', [['message', '', ''], ['message', '\n', '']]],
  ['comments are nothing', ': hello\n\n:\n\ndata: a\n: between\n\n', [['message', 'a', '']]],
  ['what the end cuts off is discarded', 'data: a\n\ndata: b\n', [['message', 'a', '']]],
  ['the type is for one event only', 'event: x\ndata: a\n\ndata: b\n\n', [['x', 'a', ''], ['message', 'b', '']]],
  ['a type without data is forgotten', 'event: x\n\ndata: b\n\n', [['message', 'b', '']]],
  ['the id stays', 'id: 1\ndata: a\n\ndata: b\n\n', [['message', 'a', '1'], ['message', 'b', '1']]],
  ['an empty id clears it', 'id: 1\ndata: a\n\nid\ndata: b\n\n', [['message', 'a', '1'], ['message', 'b', '']]],
  ['an id with NUL is ignored', 'id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n', [['message', 'a', '1'], ['message', 'b', '1']]],
  ['an id alone is told, without data', 'id: e.7\n\ndata: b\n\n', [['message', null, 'e.7'], ['message', 'b', 'e.7']]],
  ['CR, LF and CRLF all end a line', 'data: a\rdata: b\r\ndata: c\n\r\n\r', [['message', 'a\nb\nc', '']]],
  ['CRLF is one line end', 'data: a\r\n\r\n', [['message', 'a', '']]],
  ['a byte order mark at the start is taken away', '\uFEFFdata: a\n\n', [['message', 'a', '']]],
  ['a second byte order mark makes an unknown field', '\uFEFF\uFEFFdata: a\n\n', []],
  ['unknown fields and wrong case are ignored', 'Data: a\nfoo: b\ndata: c\n\n', [['message', 'c', '']]],
  ['colons in a value stay', 'data: a:b: c\n\n', [['message', 'a:b: c', '']]],
  ['other languages survive', 'data: 世界 🌍 é\n\n', [['message', '世界 🌍 é', '']]],
  ['other line separators are text', 'data: a\u2028b\u0085c\vd\n\n', [['message', 'a\u2028b\u0085c\vd', '']]],
]

for (const [name, input, expected] of cases) {
  test(name, () => {
    assert.deepEqual(parse(input).map(({ type, data, id }) => [type, data, id]), expected)
  })
}

test('retry takes digits and nothing else', () => {
  const parser = new EventStreamParser()
  parser.push(encoder.encode('retry: 1734\n\n'))
  assert.equal(parser.retry, 1734)
  parser.push(encoder.encode('retry: 1.5\nretry: -3\nretry: 12s\nretry\n\n'))
  assert.equal(parser.retry, 1734)
})

test('wherever the network cuts, the events are the same', () => {
  for (let seed = 0; seed < 4000; seed++) {
    const random = randomFrom(seed)
    const parts = Array.from({ length: 1 + Math.floor(random() * 12) }, () => {
      const [, input] = cases[Math.floor(random() * cases.length)]
      return random() < 0.3 ? input.replaceAll('\n', '\r\n') : input
    })
    const bytes = encoder.encode(parts.join('\n\n'))
    const whole = parse(bytes)

    const parser = new EventStreamParser()
    const events = []
    for (let start = 0; start < bytes.length;) {
      const end = Math.min(bytes.length, start + Math.floor(random() * 9))
      events.push(...parser.push(bytes.subarray(start, end)))
      start = end
    }
    assert.deepEqual(events, whole, `seed ${seed}`)
  }
})

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { decodeBase64, decodeBase64Slowly, encodeBase64, encodeBase64Slowly } from '../../public/lib/base64.js'

const encoders = [encodeBase64, encodeBase64Slowly]
const decoders = [decodeBase64, decodeBase64Slowly]

test('every length around the slices comes out as the standard says', () => {
  for (const length of [0, 1, 2, 3, 4, 5, 100, 24_575, 24_576, 24_577, 49_151, 49_152, 49_153, 1 << 20]) {
    const bytes = new Uint8Array(randomBytes(length))
    const expected = Buffer.from(bytes).toString('base64')
    for (const encode of encoders) assert.equal(encode(bytes), expected, `${length} bytes`)
    for (const decode of decoders) assert.deepEqual(decode(expected), bytes, `${length} bytes`)
  }
})

test('a view into a larger buffer is encoded alone', () => {
  const bytes = Uint8Array.of(9, 1, 2, 3, 9).subarray(1, 4)
  for (const encode of encoders) assert.equal(encode(bytes), 'AQID')
})

test('what is not base64 throws', () => {
  for (const decode of decoders) assert.throws(() => decode('A*=='))
})

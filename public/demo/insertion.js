// @ts-check
/**
 * A Yjs update that inserts a piece of text, made without Yjs: the smallest there is, and how the format begins. Pure.
 *
 * Format: <https://docs.yjs.dev/api/document-updates>, version 1.
 */
import { encodeBase64 } from '../lib/base64.js'

/**
 * Client ids so high that, of texts that hang on nothing, this one stands last: behind what is there already.
 * @returns {number}
 */
export const newcomer = () => 0xFF000000 + Math.floor(Math.random() * 0x1000000)

/**
 * @param {string} text
 * @param {number} client who writes it, an id that has written nothing before in this document
 * @param {string} root the name of the text
 * @returns {string} in base64
 */
export function insertion (text, client, root = 'text') {
  return encodeBase64(Uint8Array.from([
    1, // one client
    1, // with one struct
    ...number(client),
    0, // from its clock 0 on
    4, // a piece of text that hangs on no other
    1, // but on a root, whose name follows
    ...string(root),
    ...string(text),
    0 // nothing is deleted
  ]))
}

/**
 * Seven bits a byte, the lowest first; the eighth bit says that more follow.
 * @param {number} value
 */
function number (value) {
  const bytes = []
  for (; value > 127; value = Math.floor(value / 128)) bytes.push(128 | (value % 128))
  return [...bytes, value]
}

/** @param {string} text */
function string (text) {
  const bytes = new TextEncoder().encode(text)
  return [...number(bytes.length), ...bytes]
}

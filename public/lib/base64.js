/**
 * Base64 in the standard alphabet, with padding.
 *
 * New engines do it natively, two orders of magnitude faster than a loop (Chrome 140, Firefox 133, Safari 18.2).
 */

/** A multiple of three, so that slices join without padding between them; small enough for an argument list. */
const SLICE_BYTES = 3 * 8192

/**
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export function encodeBase64 (bytes) {
  const native = /** @type {Uint8Array & { toBase64?: () => string }} */ (bytes)
  return native.toBase64 !== undefined ? native.toBase64() : encodeBase64Slowly(bytes)
}

/**
 * @param {string} text
 * @returns {Uint8Array}
 * @throws when `text` is not base64
 */
export function decodeBase64 (text) {
  const native = /** @type {{ fromBase64?: (text: string) => Uint8Array }} */ (/** @type {unknown} */ (Uint8Array))
  return native.fromBase64 !== undefined ? native.fromBase64(text) : decodeBase64Slowly(text)
}

/**
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export function encodeBase64Slowly (bytes) {
  let text = ''
  for (let start = 0; start < bytes.length; start += SLICE_BYTES) {
    text += btoa(String.fromCharCode(...bytes.subarray(start, start + SLICE_BYTES)))
  }
  return text
}

/**
 * @param {string} text
 * @returns {Uint8Array}
 */
export function decodeBase64Slowly (text) {
  const binary = atob(text)
  const bytes = new Uint8Array(binary.length)
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i)
  return bytes
}

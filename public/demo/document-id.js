// @ts-check
/**
 * Which document a page's address means. Pure.
 */

/** As the server has it: what matches is a document id, anything else is refused. */
const DOCUMENT_ID = /^[A-Za-z0-9][A-Za-z0-9._~:@-]{0,127}$/
const DEFAULT = 'welcome'

/**
 * `/conversation/{id}` names its document in the path, `/demo/crdt-sync` in `?doc=`, or means the one for visitors.
 * @param {{ pathname: string, search: string }} location
 * @returns {{ id: string } | { refused: string }}
 */
export function documentId ({ pathname, search }) {
  const [, raw] = /^\/conversation\/(.*)$/.exec(pathname) ?? []
  const name = raw === undefined ? new URLSearchParams(search).get('doc') ?? DEFAULT : decoded(raw)
  return DOCUMENT_ID.test(name) ? { id: name } : { refused: name }
}

/** A name that nobody has had before. */
export function newDocumentId () {
  const bytes = crypto.getRandomValues(new Uint8Array(8))
  return Array.from(bytes, byte => 'bcdfghjkmnpqrstvwxyz23456789abcd'[byte & 31]).join('')
}

/** @param {string} raw */
function decoded (raw) {
  try {
    return decodeURIComponent(raw)
  } catch {
    return raw
  }
}

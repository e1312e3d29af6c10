// @ts-check
/**
 * The visitor's token: how it comes, where it is kept, what it says.
 *
 * It comes in the fragment of the address, which a browser sends to nobody, or is pasted. It is kept for this tab and
 * the tabs that it opens, and taken out of the address bar when this module runs, which is before all others.
 *
 * What a token says is read for showing it and for nothing else: whether it is true, the server decides.
 */

const KEY = 'promptgrimoire.token'
const IN_FRAGMENT = /^#token=(.*)$/

/** Where storage is forbidden, it lasts as long as the page. */
let current = stored()
takeFromAddress()

/** @typedef {'read' | 'write' | 'admin'} Access */
/** @typedef {{ user: string, docs: Record<string, unknown> }} Claims */

/** @returns {string | null} */
export function token () {
  return current
}

/**
 * @param {string} raw as somebody pastes it
 * @returns {boolean} whether it can be one
 */
export function keepToken (raw) {
  const cleaned = cleanToken(raw)
  if (cleaned === '') return false
  current = cleaned
  try {
    sessionStorage.setItem(KEY, cleaned)
  } catch {
    // A private window may forbid it.
  }
  return true
}

/**
 * Takes a token out of the address bar, of a link that was opened in this tab.
 * @returns {boolean} whether there was one
 */
export function takeFromAddress () {
  const [, raw] = IN_FRAGMENT.exec(globalThis.location?.hash ?? '') ?? []
  if (raw === undefined) return false
  history.replaceState(history.state, '', location.pathname + location.search)
  return keepToken(raw)
}

/**
 * What can stand in a header, or nothing. People paste line ends along, and what they copied from a command.
 * @param {string} raw
 */
export function cleanToken (raw) {
  const cleaned = raw.replace(/\s+/g, ' ').trim().replace(/^Bearer /i, '').replaceAll(' ', '')
  return /^[\w-]+\.[\w-]+\.[\w-]+$/.test(cleaned) ? cleaned : ''
}

/**
 * @param {string | null} token
 * @returns {Claims | null} null: it says nothing that we understand
 */
export function claimsOf (token) {
  try {
    const part = (token ?? '').split('.')[1].replaceAll('-', '+').replaceAll('_', '/')
    const bytes = Uint8Array.from(atob(part), letter => letter.charCodeAt(0))
    const { sub, docs } = JSON.parse(new TextDecoder().decode(bytes))
    return typeof sub === 'string' && sub !== '' && typeof docs === 'object' && docs !== null ? { user: sub, docs } : null
  } catch {
    return null
  }
}

/**
 * The strongest access of the patterns that match; `*` matches any run of characters.
 * @param {Record<string, unknown>} docs
 * @param {string} id
 * @returns {Access | null}
 */
export function accessTo (docs, id) {
  const matching = Object.entries(docs).filter(([pattern]) => matches(pattern, id)).map(([, access]) => access)
  return /** @type {const} */ (['admin', 'write', 'read']).find(access => matching.includes(access)) ?? null
}

/**
 * As the server does it, in no more time than both lengths: a regular expression might take for ever.
 * @param {string} pattern
 * @param {string} id
 */
function matches (pattern, id) {
  const [first, ...parts] = pattern.split('*')
  const last = parts.pop()
  if (last === undefined) return id === first
  if (!id.startsWith(first)) return false
  let rest = id.slice(first.length)
  for (const part of parts) {
    const at = rest.indexOf(part)
    if (at < 0) return false
    rest = rest.slice(at + part.length)
  }
  return rest.endsWith(last)
}

function stored () {
  try {
    return sessionStorage.getItem(KEY)
  } catch {
    return null
  }
}

// @ts-check
/**
 * Who the visitor is: a name and a colour, kept for the next visit.
 *
 * The client id is not kept: two tabs share this storage, and two tabs with one id would be taken for one.
 */
import { PALETTE } from './colours.js'

const KEY = 'promptgrimoire.person'
export const NAME_MAX = 40

const FIRST = ['Amber', 'Bright', 'Calm', 'Daring', 'Early', 'Gentle', 'Happy', 'Keen', 'Lucky', 'Merry', 'Patient', 'Quiet', 'Swift', 'Witty']
const SECOND = ['Badger', 'Crane', 'Dolphin', 'Finch', 'Gecko', 'Heron', 'Ibis', 'Lynx', 'Magpie', 'Otter', 'Panda', 'Raven', 'Tortoise', 'Wren']

/** @typedef {{ name: string, colour: string | null }} Identity */

/**
 * @param {string} [user] who it is by the token, for a name if there is no other
 * @returns {Identity}
 */
export function remembered (user) {
  const stored = read()
  return {
    name: cleanName(stored.name) || cleanName(user) || invented(),
    colour: PALETTE.find(colour => colour === stored.colour) ?? null
  }
}

/** @param {Partial<Identity>} identity */
export function remember (identity) {
  try {
    localStorage.setItem(KEY, JSON.stringify({ ...read(), ...identity }))
  } catch {
    // Private windows may forbid it; the name then lasts as long as the tab.
  }
}

/**
 * A name as it is shown: one line, not too long. Others' names come from strangers.
 * @param {unknown} name
 */
export function cleanName (name) {
  if (typeof name !== 'string') return ''
  return Array.from(name.replace(/[\p{Cc}\p{Zl}\p{Zp}\u202A-\u202E\u2066-\u2069]+/gu, ' ').trim()).slice(0, NAME_MAX).join('')
}

function invented () {
  const pick = (/** @type {string[]} */ list) => list[Math.floor(Math.random() * list.length)]
  return `${pick(FIRST)} ${pick(SECOND)}`
}

/** @returns {Record<string, unknown>} */
function read () {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? '{}')
    return typeof stored === 'object' && stored !== null ? stored : {}
  } catch {
    return {}
  }
}

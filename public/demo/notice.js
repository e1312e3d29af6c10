// @ts-check
/**
 * What has ended and why, and what the visitor can do about it.
 */
import { newDocumentId } from './document-id.js'
import { byId, copyButton, create } from './dom.js'

/** @type {Record<string, { title: string, text: string, reload: string, keepsText: boolean }>} */
const ENDINGS = {
  deleted: {
    title: 'This document was deleted',
    text: 'Somebody deleted it on the server. What you see is the last copy in this tab; nothing that you write here goes anywhere.',
    reload: 'Open it empty',
    keepsText: true
  },
  epoch_changed: {
    title: 'This document was begun again',
    text: 'It was deleted on the server while this tab was away, and may have been begun anew under the same name. The two are not mixed: what you see is the old one.',
    reload: 'Open the present one',
    keepsText: true
  },
  unauthorized: {
    title: 'This server wants to know who you are',
    text: 'Documents here are for people with a token, and yours is missing or has run out. Log in where you got the address of this page, then load it again.',
    reload: 'Load again',
    keepsText: true
  },
  forbidden: {
    title: 'This document is not open to you',
    text: 'Your token does not cover it. Whoever gave you the address can extend it.',
    reload: 'Load again',
    keepsText: true
  },
  revoked: {
    title: 'Your permission was taken back',
    text: 'The server has ended this connection for good. What you see is the last copy in this tab.',
    reload: 'Load again',
    keepsText: true
  }
}

/**
 * @param {{ code: string, reason: string }} end as the provider tells it
 * @param {() => string} text what the tab holds
 */
export function showEnd ({ code, reason }, text) {
  const ending = ENDINGS[code] ?? {
    title: 'The server does not go on with this document',
    text: `It says: ${reason || code}.`,
    reload: 'Load again',
    keepsText: true
  }
  const reload = create('button', { class: 'button', text: ending.reload })
  reload.addEventListener('click', () => window.location.reload())
  /** @type {HTMLElement[]} */
  const buttons = [reload]
  if (ending.keepsText && text() !== '') {
    const copy = create('button', { class: 'button', text: 'Copy this text' })
    copyButton(copy, text)
    const move = create('button', { class: 'button', text: 'Go on in a new document' })
    move.addEventListener('click', () => goOnElsewhere(move, text()))
    buttons.unshift(copy, move)
  }
  show(ending.title, ending.text, buttons)
}

/**
 * The server refuses an edit. It stays in the tab; reading goes on.
 * @param {{ status: number, message: string }} failure
 */
export function showRefusal ({ status, message }) {
  if (status === 423) {
    show('This document is frozen', 'It takes no changes now. What you write is only in this tab, and is sent when the document is thawed.', [])
    return
  }
  const why = status === 403
    ? 'You may read this document, but not write in it. What you wrote is only in this tab.'
    : `What you wrote last is only in this tab. The server says: ${message}.`
  show('Your edits are not accepted', why, [])
}

/** @param {string} refused what the address asked for */
export function showBadAddress (refused) {
  const home = create('a', { class: 'button', text: 'Open the welcome document' })
  home.href = '/demo/crdt-sync'
  show('This address names no document',
    `“${refused.slice(0, 80)}” cannot be the name of one: letters, digits and . _ ~ : @ - will do, the first a letter or a digit, 128 at most.`, [home])
}

export function hideNotice () {
  byId('notice').replaceChildren()
}

/**
 * @param {string} title
 * @param {string} text
 * @param {HTMLElement[]} buttons
 */
function show (title, text, buttons) {
  const notice = create('div', { class: 'notice' }, create('h2', { text: title }), create('p', { text }))
  if (buttons.length > 0) notice.append(create('div', { class: 'buttons' }, ...buttons))
  byId('notice').replaceChildren(notice)
}

/**
 * @param {HTMLButtonElement} button
 * @param {string} text
 */
async function goOnElsewhere (button, text) {
  const id = newDocumentId()
  button.disabled = true
  try {
    const answer = await fetch(`/docs/${id}/text`, {
      method: 'PUT', headers: { 'Content-Type': 'text/plain' }, body: text
    })
    if (!answer.ok) throw new Error(`status ${answer.status}`)
    window.location.assign(`/conversation/${id}`)
  } catch {
    button.disabled = false
    button.textContent = 'That did not work, try again'
  }
}

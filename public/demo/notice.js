// @ts-check
/**
 * What has ended and why, and what the visitor can do about it.
 */
import { newDocumentId } from './document-id.js'
import { byId, copyButton, create } from './dom.js'
import { keepToken, token } from './token.js'

/** @type {Record<string, { title: string, text: string, reload: string }>} */
const ENDINGS = {
  deleted: {
    title: 'This document was deleted',
    text: 'Somebody deleted it on the server. What you see is the last copy in this tab; nothing that you write here goes anywhere.',
    reload: 'Open it empty'
  },
  epoch_changed: {
    title: 'This document was begun again',
    text: 'It was deleted on the server while this tab was away, and may have been begun anew under the same name. The two are not mixed: what you see is the old one.',
    reload: 'Open the present one'
  }
}

/** Endings after which another token helps: a word for the top of the page, and what is said below it. */
const TOKEN_ENDINGS = {
  missing: { word: 'No token', title: 'This server asks for a token', text: 'Whoever runs it can make one for you.' },
  unauthorized: { word: 'Token refused', title: 'The server does not accept this token', text: 'It may have ended, or be meant for another server.' },
  token_expired: { word: 'Token ended', title: 'Your token has ended', text: 'Tokens last for a time. With a new one this page goes on where it is.' },
  revoked: { word: 'Revoked', title: 'Your permission was taken back', text: 'Your token is good for nothing here any more.' },
  forbidden: { word: 'No access', title: 'This document is not open to you', text: 'Your token does not cover it. Whoever gave you the address can give you another.' }
}

/**
 * @param {string} code as the provider tells it
 * @returns {(typeof TOKEN_ENDINGS)[keyof typeof TOKEN_ENDINGS] | null} null: no token would help
 */
export function tokenEnding (code) {
  if (code === 'unauthorized' && token() === null) return TOKEN_ENDINGS.missing
  return Object.hasOwn(TOKEN_ENDINGS, code) ? TOKEN_ENDINGS[/** @type {keyof typeof TOKEN_ENDINGS} */ (code)] : null
}

/**
 * Asks for a token, here or instead of the present one.
 * @param {{ title: string, text: string }} why
 * @param {object} context
 * @param {string} context.id of the document
 * @param {boolean} context.keeps the text is here, and what is written now is sent later
 * @param {() => void} context.onToken it is kept
 */
export function askForToken ({ title, text }, { id, keeps, onToken }) {
  const kept = keeps ? ' What is not saved stays in this tab, and is sent then.' : ''
  show(title, text + kept, [tokenForm(onToken), tokenCommand(id)])
  const focused = document.activeElement
  // Whoever is writing is not torn away from it.
  if (focused === null || focused === document.body) byId('token').focus({ preventScroll: true })
}

/**
 * @param {{ code: string, reason: string }} end as the provider tells it
 * @param {() => string} text what the tab holds
 */
export function showEnd ({ code, reason }, text) {
  const ending = ENDINGS[code] ?? {
    title: 'The server does not go on with this document',
    text: `It says: ${reason || code}.`,
    reload: 'Load again'
  }
  const reload = create('button', { class: 'button', text: ending.reload })
  reload.addEventListener('click', () => window.location.reload())
  /** @type {HTMLElement[]} */
  const buttons = [reload]
  if (text() !== '') {
    const copy = create('button', { class: 'button', text: 'Copy this text' })
    copyButton(copy, text)
    const move = create('button', { class: 'button', text: 'Go on in a new document' })
    move.addEventListener('click', () => goOnElsewhere(move, text()))
    buttons.unshift(copy, move)
  }
  show(ending.title, ending.text, [create('div', { class: 'buttons' }, ...buttons)])
}

/**
 * The server refuses an edit. It stays in the tab; reading goes on.
 * @param {{ status: number, message: string }} failure
 * @param {{ id: string, keeps: boolean, onToken: () => void }} context
 */
export function showRefusal ({ status, message }, context) {
  if (status === 423) {
    show('This document is frozen', 'It takes no changes now. What you write is only in this tab, and is sent when the document is thawed.', [])
  } else if (status === 403) {
    askForToken({ title: 'You may read only', text: 'The server takes no edits from you here; others see your caret. With another token you can write.' }, context)
  } else {
    show('Your edits are not accepted', `What you wrote last is only in this tab. The server says: ${message}.`, [])
  }
  isRefusal = true
}

/** @param {string} refused what the address asked for */
export function showBadAddress (refused) {
  const home = create('a', { class: 'button', text: 'Open the welcome document' })
  home.href = '/demo/crdt-sync'
  show('This address names no document',
    `“${refused.slice(0, 80)}” cannot be the name of one: letters, digits and . _ ~ : @ - will do, the first a letter or a digit, 128 at most.`, [create('div', { class: 'buttons' }, home)])
}

/** What is shown says that an edit was refused: no longer true when all are saved. */
let isRefusal = false

export function hideNotice () {
  byId('notice').replaceChildren()
}

export function hideRefusal () {
  if (isRefusal) hideNotice()
}

/**
 * @param {string} title
 * @param {string} text
 * @param {HTMLElement[]} more
 */
function show (title, text, more) {
  isRefusal = false
  byId('notice').replaceChildren(create('div', { class: 'notice' }, create('h2', { text: title }), create('p', { text }), ...more))
}

/** @param {() => void} onToken */
function tokenForm (onToken) {
  const label = create('label', { text: 'Your token' })
  label.htmlFor = 'token'
  const input = create('input')
  // Not shown to whoever looks at the screen, and kept by no form of the browser.
  Object.assign(input, { id: 'token', type: 'password', autocomplete: 'off', spellcheck: false })
  const use = create('button', { class: 'button main', text: 'Use it' })
  use.type = 'submit'
  const complaint = create('p', { class: 'complaint' })
  complaint.hidden = true
  const form = create('form', { class: 'token-form' }, label, input, use, complaint)
  form.addEventListener('submit', event => {
    event.preventDefault()
    if (keepToken(input.value)) return onToken()
    complaint.textContent = 'That is no token: one is a long word of letters and digits with two dots in it.'
    complaint.hidden = false
    input.focus()
  })
  return form
}

/** @param {string} id of the document */
function tokenCommand (id) {
  const command = `promptgrimoire token --sub YOUR-NAME --docs '${id}=write' --ttl 8h`
  const copy = create('button', { text: 'Copy' })
  copy.type = 'button'
  copy.ariaLabel = 'Copy the command'
  copyButton(copy, () => command)
  const box = create('pre', {}, create('code', { text: command }))
  box.tabIndex = 0
  box.ariaLabel = 'The command that makes a token'
  return create('div', { class: 'command token-command' },
    create('div', { class: 'command-head' }, create('p', { class: 'quiet', text: 'Where the server runs, with its settings, this makes one:' }), copy), box)
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
      method: 'PUT',
      headers: { 'Content-Type': 'text/plain', ...(token() === null ? {} : { Authorization: `Bearer ${token()}` }) },
      body: text
    })
    if (!answer.ok) throw new Error(`status ${answer.status}`)
    window.location.assign(`/conversation/${id}`)
  } catch {
    button.disabled = false
    button.textContent = 'That did not work, try again'
  }
}

// @ts-check
/**
 * The page on which people write one text together: puts the parts together.
 *
 * The document is a Yjs document, `SseProvider` keeps it in step with the server, `TextareaBinding` with the
 * textarea. All else here shows what those two know.
 */
import * as Y from 'yjs'
import { Awareness } from 'y-protocols/awareness'
import { RemoteCarets } from '../lib/remote-carets.js'
import { SseProvider } from '../lib/sse-provider.js'
import { TextareaBinding } from '../lib/textarea-binding.js'
import { documentId } from './document-id.js'
import { byId, copyButton } from './dom.js'
import { askForToken, hideNotice, hideRefusal, showBadAddress, showEnd, showRefusal, tokenEnding } from './notice.js'
import { People, personOf } from './people.js'
import { States } from './states.js'
import { showCommands } from './terminal.js'
import { accessTo, claimsOf, takeFromAddress, token } from './token.js'
import { count, UpdateLog } from './update-log.js'

export function start () {
  const address = documentId(window.location)
  if ('refused' in address) {
    byId('desk').replaceChildren()
    byId('saved').parentElement?.remove()
    showBadAddress(address.refused)
    return
  }
  const { id } = address
  document.title = `${id} – PromptGrimoire Sync`
  byId('document-name').textContent = id
  byId('document-name').title = id

  const doc = new Y.Doc()
  const text = doc.getText('text')
  const awareness = new Awareness(doc)
  const textarea = /** @type {HTMLTextAreaElement} */ (byId('text'))
  const binding = new TextareaBinding(text, textarea, { awareness })
  const carets = new RemoteCarets(binding, byId('text-frame'), personOf)
  const provider = new SseProvider(window.location.origin, id, doc, { awareness, connect: false, warnOnClose: true, token })
  const people = new People(awareness, binding, {
    clientId: provider.clientId, user: claimsOf(token())?.user, reveal: id => carets.reveal(id)
  })

  showConnection(provider, people, textarea, id)
  showLength(text)
  offerUndo(binding)
  const secondTab = /** @type {HTMLAnchorElement} */ (byId('second-tab'))
  secondTab.href = window.location.href
  copyButton(/** @type {HTMLButtonElement} */ (byId('copy-link')), () => window.location.href)

  provider.connect()
}

/**
 * @param {SseProvider} provider
 * @param {People} people
 * @param {HTMLTextAreaElement} textarea
 * @param {string} id of the document
 */
function showConnection (provider, people, textarea, id) {
  const states = new States()
  const log = new UpdateLog()
  const role = byId('role')
  const frame = byId('text-frame')
  const button = byId('offline')
  // A try has failed since the connection was last there: "connecting" would be too hopeful a word.
  let failed = false
  let closed = false
  /** It has ended for want of a token: the word for it. @type {string | null} */
  let wanting = null
  let wasSynced = false
  /** By the button. */
  let isOffline = false
  /** @type {string | null} what the log said last about the connection */
  let logged = null

  const update = () => {
    if (wanting !== null) states.showClosed(wanting, provider.unsyncedChanges)
    // Disconnected, but not by the button: this is the end, and `closed` tells of it next.
    if (closed || wanting !== null || (!provider.shouldConnect && !isOffline)) return
    const connection = provider.status === 'connected' ? 'connected'
      : provider.status === 'disconnected' || failed || !navigator.onLine ? 'offline' : 'connecting'
    states.show({ unsaved: provider.unsyncedChanges, connection, onPurpose: isOffline })
    people.connected = connection === 'connected'
    frame.classList.toggle('is-away', connection !== 'connected')
    role.hidden = connection !== 'connected'
    log.showWaiting(connection === 'connected' ? 0 : provider.unsyncedChanges)
    button.textContent = isOffline ? 'Go online' : 'Go offline'
    if (connection !== logged && (connection !== 'connecting' && (logged !== null || connection === 'connected'))) {
      logged = connection
      if (connection === 'connected') log.add({ kind: 'note', what: 'connected' })
      else log.add({ kind: 'trouble', what: isOffline ? 'went offline' : 'connection lost' })
    }
  }
  button.addEventListener('click', () => {
    failed = false
    isOffline = !isOffline
    if (isOffline) provider.disconnect()
    else provider.connect()
    update()
  })
  window.addEventListener('online', update)
  window.addEventListener('offline', update)

  provider.on('status', ({ status }) => {
    if (status === 'connected') failed = false
    update()
  })
  provider.on('connection-error', () => {
    failed = true
    update()
  })
  const hint = byId('hint')
  const forWriters = { hint: hint.textContent, placeholder: textarea.placeholder }
  const becomeReader = () => {
    states.readOnly = true
    textarea.readOnly = true
    textarea.placeholder = 'Nobody has written here yet.'
    hint.textContent = 'You may read this document, but not write in it. Others see where your caret is.'
    for (const control of ['undo', 'redo']) byId(control).hidden = true
  }
  const becomeWriter = () => {
    states.readOnly = false
    textarea.readOnly = false
    textarea.placeholder = forWriters.placeholder
    hint.textContent = forWriters.hint
    for (const control of ['undo', 'redo']) byId(control).hidden = false
  }
  const showHolder = () => {
    const claims = claimsOf(token())
    const access = claims === null ? null : accessTo(claims.docs, id)
    byId('holder').hidden = claims === null
    const may = access === null ? 'not for this document' : access === 'read' ? 'may read' : 'may read and write'
    byId('holder-text').textContent = claims === null ? '' : `Token of ${claims.user}: ${may}`
    // What the token says before the server has said anything: nobody writes what cannot be saved.
    if (access === 'read') becomeReader()
    else becomeWriter()
    // With a way back to us, a tab that we open has our token.
    byId('second-tab').setAttribute('rel', token() === null ? 'noopener' : 'opener')
    showCommands(window.location.origin, id, { asksForToken: token() !== null })
  }
  let user = claimsOf(token())?.user
  const goOnWithToken = () => {
    const now = claimsOf(token())?.user
    provider.disconnect()
    if (now !== user) {
      user = now
      provider.takeNewClientId()
      people.identify(now, provider.clientId)
    }
    hideNotice()
    showHolder()
    wanting = null
    isOffline = false
    button.hidden = false
    provider.connect()
    update()
  }
  const tokenContext = () => ({ id, keeps: wasSynced, onToken: goOnWithToken })
  byId('change-token').addEventListener('click', () => {
    askForToken({ title: 'Another token', text: 'It takes the place of the one that this tab has.' }, tokenContext())
    byId('token').focus()
  })
  window.addEventListener('hashchange', () => { if (!closed && takeFromAddress()) goOnWithToken() })
  showHolder()

  provider.on('unsynced', unsynced => {
    if (unsynced === 0 && !closed) hideRefusal()
    update()
  })
  provider.on('ack', ({ seq, latency, bytes, edits }) => {
    states.showLatency(latency)
    log.add({ kind: 'sent', what: `you, ${count(edits, 'edit')}`, bytes, seq, latency })
  })
  provider.on('remote-update', ({ origin, seq, bytes }) => {
    // What comes before `synced` is the state of the document, whoever wrote it.
    const what = provider.synced ? people.nameOf(origin) : wasSynced ? 'what was missed' : 'the text so far'
    log.add({ kind: 'received', what, bytes, seq })
  })
  provider.on('synced', isSynced => { wasSynced ||= isSynced })
  provider.on('gap', () => log.add({ kind: 'note', what: 'fetching what was missing' }))
  provider.on('rejected', failure => {
    log.add({ kind: 'trouble', what: `refused: ${failure.code}` })
    showRefusal(failure, tokenContext())
    if (failure.status === 403) becomeReader()
  })
  provider.on('role', now => {
    role.textContent = now === 'leader' ? 'this tab holds the stream' : 'another tab holds the stream'
  })
  provider.on('closed', end => {
    log.add({ kind: 'trouble', what: `closed: ${end.code}` })
    const ending = tokenEnding(end.code)
    if (ending !== null) {
      wanting = ending.word
      logged = null
      states.showClosed(wanting, provider.unsyncedChanges)
      role.hidden = true
      button.hidden = true
      log.showWaiting(0)
      people.connected = false
      // Writing on is safe where the text has come before: it is kept, and merged.
      if (!wasSynced) Object.assign(textarea, { readOnly: true, placeholder: '' })
      const words = end.code === 'unauthorized' && token() !== null ? ` The server says: ${end.reason}.` : ''
      askForToken({ title: ending.title, text: ending.text + words }, tokenContext())
      return
    }
    closed = true
    states.showClosed(end.code === 'deleted' || end.code === 'epoch_changed' ? 'Deleted' : 'Closed', provider.unsyncedChanges)
    role.hidden = true
    log.showWaiting(0)
    people.connected = false
    textarea.readOnly = true
    for (const control of ['undo', 'redo', 'offline']) byId(control).hidden = true
    showEnd(end, () => textarea.value)
  })
}

/** @param {Y.Text} text */
function showLength (text) {
  const length = byId('length')
  let isWaiting = false
  const show = () => {
    isWaiting = false
    // As people count, more or less: an emoji of two code units is one character.
    const characters = text.toString().replace(/[\uD800-\uDBFF][\uDC00-\uDFFF]/g, '.').length
    length.textContent = count(characters, 'character')
  }
  text.observe(() => {
    if (isWaiting) return
    isWaiting = true
    setTimeout(show, 50)
  })
  show()
}

/** @param {TextareaBinding} binding */
function offerUndo (binding) {
  const [undo, redo] = [byId('undo'), byId('redo')]
  const { undoManager } = binding
  const update = () => {
    // Not `disabled`, which would drop the keyboard's focus when the last step is taken back.
    undo.ariaDisabled = String(!undoManager.canUndo())
    redo.ariaDisabled = String(!undoManager.canRedo())
  }
  for (const [button, step] of /** @type {const} */ ([[undo, () => binding.undo()], [redo, () => binding.redo()]])) {
    button.addEventListener('click', () => {
      if (button.ariaDisabled !== 'true') step()
    })
    // A click leaves the caret, and a phone's keyboard, where they are.
    button.addEventListener('mousedown', event => event.preventDefault())
  }
  undoManager.on('stack-item-added', update)
  undoManager.on('stack-item-popped', update)
  undoManager.on('stack-cleared', update)
  update()
}

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
import { hideNotice, showBadAddress, showEnd, showRefusal } from './notice.js'
import { People, personOf } from './people.js'
import { States } from './states.js'
import { showCommands } from './terminal.js'
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
  showCommands(window.location.origin, id)

  const doc = new Y.Doc()
  const text = doc.getText('text')
  const awareness = new Awareness(doc)
  const textarea = /** @type {HTMLTextAreaElement} */ (byId('text'))
  const binding = new TextareaBinding(text, textarea, { awareness })
  const carets = new RemoteCarets(binding, byId('text-frame'), personOf)
  const provider = new SseProvider(window.location.origin, id, doc, { awareness, connect: false, warnOnClose: true })
  const people = new People(awareness, binding, { clientId: provider.clientId, reveal: id => carets.reveal(id) })

  showConnection(provider, people, textarea)
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
 */
function showConnection (provider, people, textarea) {
  const states = new States()
  const log = new UpdateLog()
  const role = byId('role')
  const frame = byId('text-frame')
  const button = byId('offline')
  // A try has failed since the connection was last there: "connecting" would be too hopeful a word.
  let failed = false
  let closed = false
  /** By the button. */
  let isOffline = false
  /** @type {string | null} what the log said last about the connection */
  let logged = null

  const update = () => {
    // Disconnected, but not by the button: this is the end, and `closed` tells of it next.
    if (closed || (!provider.shouldConnect && !isOffline)) return
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
  provider.on('unsynced', unsynced => {
    if (unsynced === 0 && !closed) hideNotice()
    update()
  })
  provider.on('ack', ({ seq, latency, bytes, edits }) => {
    states.showLatency(latency)
    log.add({ kind: 'sent', what: `you, ${count(edits, 'edit')}`, bytes, seq, latency })
  })
  let wasSynced = false
  provider.on('remote-update', ({ origin, seq, bytes }) => {
    // What comes before `synced` is the state of the document, whoever wrote it.
    const what = provider.synced ? people.nameOf(origin) : wasSynced ? 'what was missed' : 'the text so far'
    log.add({ kind: 'received', what, bytes, seq })
  })
  provider.on('synced', isSynced => { wasSynced ||= isSynced })
  provider.on('gap', () => log.add({ kind: 'note', what: 'fetching what was missing' }))
  provider.on('rejected', failure => {
    log.add({ kind: 'trouble', what: `refused: ${failure.code}` })
    showRefusal(failure)
  })
  provider.on('role', now => {
    role.textContent = now === 'leader' ? 'this tab holds the stream' : 'another tab holds the stream'
  })
  provider.on('closed', end => {
    closed = true
    log.add({ kind: 'trouble', what: `closed: ${end.code}` })
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

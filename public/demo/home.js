// @ts-check
/**
 * The front page: a name for a new document, and commands with this server's own address.
 */
import { newDocumentId } from './document-id.js'
import { byId } from './dom.js'
import { showCommands } from './terminal.js'

const link = /** @type {HTMLAnchorElement} */ (byId('new'))
link.href = `/conversation/${newDocumentId()}`
showCommands(window.location.origin, 'welcome')
const list = await fetch('/docs?limit=1').catch(() => null)
await list?.body?.cancel()
if (list?.status === 401) showCommands(window.location.origin, 'welcome', { asksForToken: true })

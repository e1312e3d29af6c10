/**
 * What the provider's tests stand on: the real server, a real browser, a proxy that cuts real connections, and
 * `until`, which waits for a fact and says what it saw when the fact does not come.
 */

import { spawn } from 'node:child_process'
import { createHmac, randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { inspect } from 'node:util'

const publicFolder = new URL('../../public/', import.meta.url)
/** Packages lie in public/node_modules, which node would not search from here. */
const require = createRequire(new URL('package.json', publicFolder))

export const Y = await import(pathToFileURL(require.resolve('yjs')).href.replace(/yjs\.cjs$/, 'yjs.mjs'))
export const awarenessProtocol = await import(pathToFileURL(require.resolve('y-protocols/awareness')).href.replace('dist/awareness.cjs', 'awareness.js'))
export const { SseProvider } = await import(new URL('lib/sse-provider.js', publicFolder).href)

const serverBinary = process.env.SERVER_BIN ?? fileURLToPath(new URL('../../target/debug/promptgrimoire', import.meta.url))
const chromiumBinary = process.env.CHROMIUM ?? '/usr/bin/chromium'

// Children and folders end with this process, however it ends.
const children = new Set()
process.on('exit', () => { for (const child of children) child.kill('SIGKILL') })

/**
 * Waits until `check` answers something true, and answers that.
 *
 * @template T
 * @param {string} what
 * @param {() => T | Promise<T>} check an exception counts as "not yet"
 * @param {object} [options]
 * @param {number} [options.within] milliseconds
 * @param {() => unknown} [options.seen] shown when time is up
 * @returns {Promise<NonNullable<T>>}
 */
export async function until (what, check, { within = 10_000, seen } = {}) {
  const end = Date.now() + within
  for (;;) {
    let failure
    try {
      const answer = await check()
      if (answer) return /** @type {NonNullable<T>} */ (answer)
    } catch (error) {
      failure = error
    }
    if (Date.now() > end) {
      const shown = seen === undefined ? '' : `\nseen: ${inspect(await seen(), { depth: 5 })}`
      throw new Error(`after ${within} ms still not: ${what}${shown}`, { cause: failure })
    }
    await new Promise(resolve => setTimeout(resolve, 15))
  }
}

/** A name that no other test uses. */
export function newDocumentId (prefix = 'doc') {
  return `${prefix}-${Math.random().toString(36).slice(2, 10)}`
}

const SECRET = 'the secret of the tests, which has over thirty-two bytes'

/**
 * A token as the servers of `startServer` take it when they ask for one.
 *
 * @param {string} user
 * @param {Record<string, 'read' | 'write' | 'admin'>} docs
 * @param {object} [options]
 * @param {number} [options.seconds] from now, or since when it has been over
 * @param {number} [options.issuedBefore] seconds; what is revoked in the second of its issue concerns it too
 */
export function newToken (user, docs, { seconds = 600, issuedBefore = 0 } = {}) {
  const now = Math.floor(Date.now() / 1000)
  const claims = { sub: user, iat: now - issuedBefore, exp: now + seconds, jti: randomUUID(), docs }
  const encode = (/** @type {object} */ part) => Buffer.from(JSON.stringify(part)).toString('base64url')
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`
}

/**
 * Starts the server. Its store is in memory unless the test needs it to survive.
 *
 * @param {import('node:test').TestContext} t
 * @param {object} [options]
 * @param {boolean} [options.isDurable] keeps the documents over `kill` and `start`
 * @param {boolean} [options.asksForTokens] takes those of `newToken`, and nobody without one
 * @param {Record<string, string>} [options.env]
 */
export async function startServer (t, { isDurable = false, asksForTokens = false, env = {} } = {}) {
  if (!existsSync(serverBinary)) throw new Error(`no server at ${serverBinary}: run cargo build, or set SERVER_BIN`)
  const folder = isDurable ? await mkdtemp(join(tmpdir(), 'promptgrimoire-test-')) : null
  const auth = asksForTokens
    ? { PROMPTGRIMOIRE__AUTH__MODE: 'jwt', PROMPTGRIMOIRE__AUTH__ALGORITHM: 'HS256', PROMPTGRIMOIRE__AUTH__KEY: SECRET }
    : {}
  const server = new Server({ PROMPTGRIMOIRE__STORE__URL: folder === null ? 'memory' : `sqlite:${folder}`, ...auth, ...env })
  if (asksForTokens) server.token = newToken('the test', { '*': 'admin' })
  t.after(async () => {
    await server.kill()
    if (folder !== null) await rm(folder, { recursive: true, force: true })
  })
  await server.start()
  return server
}

class Server {
  #env
  /** @type {import('node:child_process').ChildProcess | null} */
  #child = null
  port = 0
  log = ''
  /** What the test itself asks with. @type {string | null} */
  token = null
  scheme = 'http'

  /** @param {Record<string, string>} env */
  constructor (env) {
    this.#env = env
  }

  get url () {
    return `${this.scheme}://127.0.0.1:${this.port}`
  }

  /** Again on the same port, if it has run before. */
  async start () {
    const child = spawn(serverBinary, [], {
      env: { ...process.env, ...this.#env, PROMPTGRIMOIRE_PORT: String(this.port), PROMPTGRIMOIRE__SERVER__PORT: String(this.port) },
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    children.add(child)
    this.#child = child
    // Even if this process is killed and can clean up nothing: its end of the pipe closes then.
    const guard = spawn('/bin/sh', ['-c', 'cat; kill -9 "$0"', String(child.pid)], { stdio: ['pipe', 'ignore', 'ignore'] })
    child.once('exit', () => guard.kill('SIGKILL'))
    let out = ''
    child.stdout.on('data', chunk => { out += chunk })
    child.stderr.on('data', chunk => { this.log = (this.log + chunk).slice(-20_000) })
    const line = await until('the server listens', () => {
      if (child.exitCode !== null) throw new Error(`the server ended with ${child.exitCode}`)
      return /listening on (https?):\/\/[^\s]*:(\d+)/.exec(out)
    }, { within: 20_000, seen: () => out + this.log })
    this.scheme = line[1]
    this.port = Number(line[2])
  }

  /** `kill -9`, or what `signal` says. */
  async kill (signal = /** @type {NodeJS.Signals} */ ('SIGKILL')) {
    const child = this.#child
    if (child === null) return
    this.#child = null
    if (child.exitCode === null && child.signalCode === null) {
      const ended = new Promise(resolve => child.once('exit', resolve))
      child.kill(signal)
      await ended
    }
    children.delete(child)
  }

  /**
   * @param {string} path
   * @param {RequestInit} [init]
   */
  async ask (path, init = {}) {
    const authorization = this.token === null ? {} : { authorization: `Bearer ${this.token}` }
    const response = await fetch(this.url + path, { ...init, headers: { ...authorization, ...init.headers } })
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
    return response
  }

  /** @param {string} path */
  async get (path) {
    return (await this.ask(path)).json()
  }

  /**
   * Takes tokens back, or everybody's access to a document.
   *
   * @param {{ sub: string } | { jti: string } | { doc: string }} whose
   */
  revoke (whose) {
    return this.ask('/admin/revoke', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(whose) })
  }

  /**
   * The text that the server has, read through the plain state interface.
   *
   * @param {string} documentId
   */
  async text (documentId) {
    const { update } = await this.get(`/docs/${documentId}/state`)
    const doc = new Y.Doc()
    Y.applyUpdate(doc, Buffer.from(update, 'base64'))
    return doc.getText('text').toString()
  }

  /**
   * Those who hold a stream.
   *
   * @param {string} documentId
   * @returns {Promise<{ client_id: string, streams: number }[]>}
   */
  async clients (documentId) {
    return (await this.get(`/docs/${documentId}/clients`)).clients
  }
}

/**
 * A TCP proxy that can go wrong.
 *
 * @param {import('node:test').TestContext} t
 * @param {{ port: number }} target
 */
export async function startProxy (t, target) {
  const proxy = new Proxy_(target)
  await proxy.listen()
  t.after(() => proxy.close())
  return proxy
}

class Proxy_ {
  #target
  #server
  /** @type {Set<net.Socket>} */
  #sockets = new Set()
  /** New connections are refused. */
  isDown = false
  /** Nothing is passed on any more, and nobody is told. */
  isDark = false
  /** Called with what a browser sends; true: the answer to it never arrives, the connection is cut instead. */
  dropsAnswerTo = /** @param {string} _request */ _request => false

  /** @param {{ port: number }} target */
  constructor (target) {
    this.#target = target
    this.#server = net.createServer(socket => this.#accept(socket))
  }

  get url () {
    return `http://127.0.0.1:${/** @type {net.AddressInfo} */ (this.#server.address()).port}`
  }

  listen () {
    return new Promise(resolve => this.#server.listen(0, '127.0.0.1', () => resolve(undefined)))
  }

  close () {
    this.cut()
    return new Promise(resolve => this.#server.close(resolve))
  }

  /** Cuts every connection that is open now. */
  cut () {
    for (const socket of this.#sockets) socket.destroy()
  }

  /** @param {net.Socket} client */
  #accept (client) {
    if (this.isDown) return client.resetAndDestroy()
    const server = net.connect(this.#target.port, '127.0.0.1')
    let isDropped = false
    for (const [socket, other] of [[client, server], [server, client]]) {
      this.#sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        this.#sockets.delete(socket)
        other.destroy()
      })
    }
    client.on('data', data => {
      if (this.isDark) return
      if (this.dropsAnswerTo(data.toString('latin1'))) isDropped = true
      server.write(data)
    })
    server.on('data', data => {
      if (this.isDark) return
      if (isDropped) client.destroy()
      else client.write(data)
    })
  }
}

/**
 * @param {import('node:test').TestContext} t
 * @param {string[]} [args]
 */
export async function launchBrowser (t, args = []) {
  const { chromium } = require('playwright-core')
  const browser = await chromium.launch({
    executablePath: chromiumBinary,
    headless: true,
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--no-first-run', '--disable-quic', ...args],
  })
  t.after(() => browser.close())
  return browser
}

const blankPage = readFile(new URL('vendor/importmap.json', publicFolder), 'utf8').then(importMap => `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>test</title><link rel="icon" href="data:,">
<script type="importmap">${importMap}</script>
<script type="module">
  import * as Y from 'yjs'
  import { SseProvider } from '/lib/sse-provider.js'
  Object.assign(globalThis, { Y, SseProvider })
</script>`)

/**
 * One person at one computer: a browser profile of its own, with any number of tabs.
 *
 * The page and the modules are put in the way of the requests, on the server's origin, so that the server needs no
 * test pages. Requests to the documents are left alone: they meet the real network.
 *
 * @param {import('playwright-core').Browser} browser
 */
export async function newUser (browser) {
  const context = await browser.newContext()
  await context.route(/\/(test-page|lib\/.*|vendor\/.*)$/, async route => {
    const { pathname } = new URL(route.request().url())
    if (pathname === '/test-page') return route.fulfill({ contentType: 'text/html', body: await blankPage })
    return route.fulfill({ contentType: 'text/javascript', body: await readFile(new URL(`.${pathname}`, publicFolder)) })
  })
  return context
}

/**
 * Opens a tab with a document, a text and a provider in it: `doc`, `text`, `provider` are globals there.
 *
 * @param {import('playwright-core').BrowserContext} user
 * @param {string} url the server's
 * @param {string} documentId
 * @param {Record<string, unknown>} [options] the provider's
 */
export async function openTab (user, url, documentId, options = {}) {
  const page = await user.newPage()
  const complaints = /** @type {string[]} */ ([])
  page.on('pageerror', error => complaints.push(String(error)))
  await page.goto(`${url}/test-page`)
  await page.waitForFunction(() => 'SseProvider' in globalThis)
  await page.evaluate(([url, documentId, options]) => {
    const doc = new Y.Doc()
    const provider = new SseProvider(url, documentId, doc, options)
    const events = []
    for (const name of ['status', 'synced', 'closed', 'rejected', 'gap', 'role', 'ack', 'connection-error']) {
      provider.on(name, event => events.push([name, event instanceof Error ? String(event) : event]))
    }
    Object.assign(globalThis, { doc, text: doc.getText('text'), provider, events })
  }, /** @type {const} */ ([url, documentId, options]))
  return new Tab(page, complaints)
}

export class Tab {
  /**
   * @param {import('playwright-core').Page} page
   * @param {string[]} complaints
   */
  constructor (page, complaints) {
    this.page = page
    this.complaints = complaints
  }

  text () {
    return this.page.evaluate(() => text.toString())
  }

  /**
   * Appends, in one edit.
   *
   * @param {string} more
   */
  write (more) {
    return this.page.evaluate(more => text.insert(text.length, more), more)
  }

  /**
   * Appends letter by letter, each an edit of its own in a task of its own.
   *
   * @param {string} letters
   */
  type (letters) {
    return this.page.evaluate(async letters => {
      for (const letter of letters) {
        text.insert(text.length, letter)
        await new Promise(resolve => setTimeout(resolve))
      }
    }, letters)
  }

  state () {
    return this.page.evaluate(() => ({
      text: text.toString(),
      status: provider.status,
      synced: provider.synced,
      unsynced: provider.unsyncedChanges,
      role: provider.role,
      clientId: provider.clientId,
      people: [...provider.awareness.getStates().keys()].length,
      events: events.slice(-30),
    }))
  }

  /** @param {number} [within] */
  async untilSaved (within) {
    await until('everything is saved', async () => {
      const { synced, unsynced } = await this.state()
      return synced && unsynced === 0
    }, { within, seen: () => this.state() })
  }
}

/**
 * Waits until all tabs are saved and show the same text, of this length if it is given, and answers it.
 *
 * @param {Tab[]} tabs
 * @param {object} [options]
 * @param {number} [options.length]
 * @param {number} [options.within]
 */
export function untilEqual (tabs, { length, within } = {}) {
  const all = () => Promise.all(tabs.map(tab => tab.state()))
  return until('all tabs show the same', async () => {
    const states = await all()
    const [{ text }] = states
    const isDone = states.every(state => state.text === text && state.synced && state.unsynced === 0)
    return isDone && (length === undefined || text.length === length) ? { text } : null
  }, { within, seen: all }).then(({ text }) => text)
}

// Pages of other origins on a server that asks for tokens, and browsers that hold a token in a cookie or use a ticket.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'
import { Tab, launchBrowser, newDocumentId, newToken, startServer, until } from './support.mjs'

const timeout = 60_000
const publicFolder = new URL('../../public/', import.meta.url)
const importMap = await readFile(new URL('vendor/importmap.json', publicFolder), 'utf8')

/** @type {import('playwright-core').Browser} */
let browser
const closing = []
before(async () => { browser = await launchBrowser({ after: close => closing.push(close) }) })
after(async () => { for (const close of closing) await close() })

/**
 * Somebody else's web server, which has the provider among its files.
 *
 * @param {import('node:test').TestContext} t
 * @returns {Promise<string>} its origin
 */
async function startSite (t) {
  const site = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://site')
    if (pathname === '/') {
      response.setHeader('content-type', 'text/html')
      return response.end(`<!doctype html><title>site</title><link rel="icon" href="data:,"><script type="importmap">${importMap}</script>
<script type="module">
  import * as Y from 'yjs'
  import { SseProvider } from '/lib/sse-provider.js'
  Object.assign(globalThis, { Y, SseProvider })
</script>`)
    }
    response.setHeader('content-type', 'text/javascript')
    response.end(/^\/(lib|vendor)\/[\w.-]+$/.test(pathname) ? await readFile(new URL(`.${pathname}`, publicFolder)) : '')
  })
  await new Promise(resolve => site.listen(0, '127.0.0.1', () => resolve(undefined)))
  t.after(() => {
    site.closeAllConnections()
    return new Promise(resolve => site.close(resolve))
  })
  return `http://127.0.0.1:${/** @type {import('node:net').AddressInfo} */ (site.address()).port}`
}

/** @param {import('node:test').TestContext} t */
async function begin (t) {
  const [app, evil] = [await startSite(t), await startSite(t)]
  const server = await startServer(t, { asksForTokens: true, env: { PROMPTGRIMOIRE__CORS__ORIGINS: app, PROMPTGRIMOIRE__CORS__CREDENTIALS: 'true' } })
  const context = await browser.newContext()
  t.after(() => context.close())
  return { app, evil, server, context, id: newDocumentId() }
}

/**
 * A tab of a site, with a provider of the server's.
 *
 * @param {import('playwright-core').BrowserContext} context
 * @param {string} site
 * @param {string} url the server's
 * @param {string} id
 * @param {string | null} token
 */
async function openAt (context, site, url, id, token) {
  const page = await context.newPage()
  await page.goto(site)
  await page.waitForFunction(() => 'SseProvider' in globalThis)
  await page.evaluate(([url, id, token]) => {
    const doc = new Y.Doc()
    const provider = new SseProvider(url, id, doc, { token })
    const events = []
    for (const name of ['closed', 'rejected', 'ack', 'connection-error']) provider.on(name, event => events.push([name, event instanceof Error ? `${event.code}` : event]))
    Object.assign(globalThis, { doc, text: doc.getText('text'), provider, events })
  }, /** @type {const} */ ([url, id, token]))
  return new Tab(page, [])
}

/** What the server holds of a document, all that would show a write. @param {any} server @param {string} id */
const held = async (server, id) => [await server.get(`/docs/${id}/updates`), (await server.get('/docs')).documents.map(({ id }) => id), await server.clients(id)]

/** A cookie as a login page of the server would set it. @param {string} url @param {string} token */
const cookie = (url, token) => ({ name: 'token', value: token, url, sameSite: /** @type {const} */ ('Strict'), httpOnly: true })

test('a page of a listed origin edits and listens with a token, from two browsers', { timeout }, async t => {
  const { app, server, context, id } = await begin(t)
  const other = await browser.newContext()
  t.after(() => other.close())
  const [ada, bob] = [
    await openAt(context, app, server.url, id, newToken('ada', { [id]: 'write' })),
    await openAt(other, app, server.url, id, newToken('bob', { [id]: 'write' })),
  ]
  await ada.untilSaved()
  await ada.write('from ada')
  await until('bob has it', async () => await bob.text() === 'from ada', { seen: () => bob.state() })
  await bob.write(', from bob')
  await until('ada has it', async () => await ada.text() === 'from ada, from bob', { seen: () => ada.state() })
  await ada.untilSaved()
  await bob.untilSaved()
  assert.equal(await server.text(id), 'from ada, from bob')
  await until('they see each other', async () => (await ada.state()).people === 2, { seen: () => ada.state() })
})

test('a page of another origin can neither read nor write, with whatever its visitor has', { timeout }, async t => {
  const { evil, server, context, id } = await begin(t)
  const token = newToken('ada', { [id]: 'write' })
  await server.ask(`/docs/${id}/text`, { method: 'PUT', headers: { 'content-type': 'text/plain' }, body: 'secret' })
  const before = await held(server, id)
  // The site of a page takes no notice of ports: this cookie goes along with what the other page asks for.
  for (const cookies of [[], [cookie(server.url, token)]]) {
    await context.addCookies(cookies)
    const page = await context.newPage()
    await page.goto(evil)
    const seen = await page.evaluate(async ([url, id, token]) => {
      const outcome = async (/** @type {string} */ path, /** @type {RequestInit} */ init) => {
        try {
          const answer = await fetch(url + path, { credentials: 'include', ...init })
          return answer.type === 'opaque' ? 'opaque' : `read ${answer.status} ${await answer.text()}`
        } catch {
          return 'kept from the page'
        }
      }
      const json = { 'content-type': 'application/json' }
      const update = '{"update":"AQEBAAQBBHRleHQFSGVsbG8A","client_id":"evil"}'
      const stream = await new Promise(resolve => {
        const source = new EventSource(`${url}/docs/${id}/events?client_id=evil`, { withCredentials: true })
        for (const name of ['sync', 'update', 'open']) source.addEventListener(name, () => resolve('heard'))
        source.addEventListener('error', () => {
          source.close()
          resolve('kept from the page')
        })
      })
      const image = await new Promise(resolve => {
        const image = new Image()
        image.onload = () => resolve('loaded')
        image.onerror = () => resolve('kept from the page')
        image.src = `${url}/docs/${id}/text`
      })
      // A form needs nobody's leave to post; it comes with the cookie, and shows its answer to the visitor alone.
      const frame = document.createElement('iframe')
      frame.name = 'sink'
      const sent = new Promise(resolve => frame.addEventListener('load', resolve))
      const form = Object.assign(document.createElement('form'), { method: 'POST', enctype: 'text/plain', target: 'sink', action: `${url}/docs/${id}/updates` })
      form.append(Object.assign(document.createElement('input'), { name: update.slice(0, -2), value: '"}' }))
      document.body.append(frame, form)
      form.submit()
      await sent
      return {
        stream, image,
        state: await outcome(`/docs/${id}/state`, {}),
        opaque: await outcome(`/docs/${id}/text`, { mode: 'no-cors' }),
        list: await outcome('/docs', { headers: { authorization: `Bearer ${token}` } }),
        post: await outcome(`/docs/${id}/updates`, { method: 'POST', headers: json, body: update }),
        simple: await outcome(`/docs/${id}/updates`, { method: 'POST', headers: { 'content-type': 'text/plain' }, body: update }),
        blind: await outcome(`/docs/${id}/updates`, { method: 'POST', mode: 'no-cors', body: update }),
        withToken: await outcome(`/docs/${id}/updates`, { method: 'POST', headers: { ...json, authorization: `Bearer ${token}` }, body: update }),
        ticket: await outcome('/tickets', { method: 'POST' }),
        remove: await outcome(`/docs/${id}`, { method: 'DELETE' }),
        presence: await outcome(`/docs/${id}/awareness`, { method: 'POST', mode: 'no-cors', body: update }),
      }
    }, /** @type {const} */ ([server.url, id, token]))
    for (const [what, outcome] of Object.entries(seen)) {
      // `Cross-Origin-Resource-Policy` keeps even an opaque answer out of the page's process; a browser may name it opaque.
      assert.ok(outcome === 'kept from the page' || outcome === 'opaque', `${what}, ${cookies.length} cookies: ${outcome}`)
    }
    const provider = await openAt(context, evil, server.url, id, token)
    await provider.write('from evil')
    await until('the provider finds no way in', async () => (await provider.state()).events.some(([name]) => name === 'connection-error'), { seen: () => provider.state() })
    assert.equal((await provider.state()).text, 'from evil')
    await provider.page.close()
    await page.close()
    assert.deepEqual(await held(server, id), before)
  }
})

test('a cookie is enough for a page of the server\'s own origin, with a plain EventSource and fetch', { timeout }, async t => {
  const { server, context, id } = await begin(t)
  await context.addCookies([cookie(server.url, newToken('ada', { [id]: 'write' }))])
  const page = await context.newPage()
  await page.goto(`${server.url}/healthz`)
  const heard = await page.evaluate(async id => {
    const source = new EventSource(`/docs/${id}/events?client_id=listener`)
    const first = new Promise(resolve => source.addEventListener('sync', resolve))
    const update = new Promise(resolve => source.addEventListener('update', event => resolve(JSON.parse(event.data))))
    await first
    const answer = await fetch(`/docs/${id}/text`, { method: 'PUT', headers: { 'content-type': 'text/plain' }, body: 'by cookie' })
    const { seq } = await update
    source.close()
    return [answer.status, seq, await (await fetch(`/docs/${id}/text`)).text()]
  }, id)
  assert.deepEqual(heard, [200, 1, 'by cookie'])
  const { updates: [{ user }] } = await server.get(`/docs/${id}/updates`)
  assert.equal(user, 'ada')
})

test('a plain EventSource listens with a ticket, once', { timeout }, async t => {
  const { app, server, context, id } = await begin(t)
  await server.ask(`/docs/${id}/text`, { method: 'PUT', headers: { 'content-type': 'text/plain' }, body: 'abc' })
  const page = await context.newPage()
  await page.goto(app)
  const heard = await page.evaluate(async ([url, id, token]) => {
    const answer = await fetch(`${url}/tickets`, { method: 'POST', headers: { authorization: `Bearer ${token}` } })
    const { ticket } = await answer.json()
    const listen = () => new Promise(resolve => {
      const source = new EventSource(`${url}/docs/${id}/events?client_id=listener&ticket=${ticket}`)
      source.addEventListener('sync', event => {
        source.close()
        resolve(JSON.parse(event.data).seq)
      })
      source.addEventListener('error', () => {
        source.close()
        resolve('refused')
      })
    })
    return [await listen(), await listen()]
  }, /** @type {const} */ ([server.url, id, newToken('ada', { [id]: 'read' })]))
  assert.deepEqual(heard, [1, 'refused'])
})

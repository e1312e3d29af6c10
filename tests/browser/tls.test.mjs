// Eight tabs over TLS, each with an event stream of its own. A browser opens six HTTP/1.1 connections to one host, and with
// six streams on them nothing else gets through; over HTTP/2 all share one.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { X509Certificate, createHash } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { launchBrowser, newDocumentId, startServer, until } from './support.mjs'

const timeout = 60_000
const TABS = 8
const hasOpenssl = spawnSync('openssl', ['version']).status === 0

/**
 * A server with a certificate that signs itself, and a browser that takes this one and no other.
 *
 * @param {import('node:test').TestContext} t
 */
async function begin (t) {
  const folder = await mkdtemp(join(tmpdir(), 'promptgrimoire-tls-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  const [certificate, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
  const made = spawnSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', certificate])
  assert.equal(made.status, 0, String(made.stderr))
  const publicKey = new X509Certificate(await readFile(certificate)).publicKey.export({ type: 'spki', format: 'der' })
  const pin = createHash('sha256').update(publicKey).digest('base64')
  const server = await startServer(t, { env: { PROMPTGRIMOIRE__TLS__CERTIFICATE: certificate, PROMPTGRIMOIRE__TLS__KEY: key } })
  assert.match(server.url, /^https:/)
  const browser = await launchBrowser(t, [`--ignore-certificate-errors-spki-list=${pin}`])
  const context = await browser.newContext()
  t.after(() => context.close())
  return { server, context }
}

test('eight tabs with a native event stream each all hear an update, over one connection', { timeout, skip: hasOpenssl ? false : 'openssl is missing' }, async t => {
  const { server, context } = await begin(t)
  const id = newDocumentId()
  const tabs = []
  for (let i = 0; i < TABS; i++) {
    const page = await context.newPage()
    await page.goto(`${server.url}/healthz`)
    assert.equal(await page.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol), 'h2')
    await page.evaluate(([id, i]) => {
      const source = new EventSource(`/docs/${id}/events?client_id=tab-${i}`)
      globalThis.heard = []
      for (const name of ['sync', 'update']) source.addEventListener(name, event => heard.push([name, JSON.parse(event.data).seq]))
    }, /** @type {const} */ ([id, i]))
    tabs.push(page)
  }
  const heard = () => Promise.all(tabs.map(page => page.evaluate(() => JSON.stringify(heard))))
  const all = (/** @type {unknown} */ events) => async () => (await heard()).every(events_ => events_ === JSON.stringify(events))
  await until('all streams are open', all([['sync', 0]]), { seen: heard })
  const status = await tabs[TABS - 1].evaluate(async id =>
    (await fetch(`/docs/${id}/text`, { method: 'PUT', headers: { 'content-type': 'text/plain' }, body: 'for everybody' })).status, id)
  assert.equal(status, 200)
  await until('all have the update', all([['sync', 0], ['update', 1]]), { seen: heard })
  const clients = await tabs[0].evaluate(async id => (await (await fetch(`/docs/${id}/clients`)).json()).clients.length, id)
  assert.equal(clients, TABS)
})

test('eight tabs of the page over TLS, each with a document of its own, are all told at once', { timeout, skip: hasOpenssl ? false : 'openssl is missing' }, async t => {
  const { server, context } = await begin(t)
  const tabs = []
  for (let i = 0; i < TABS; i++) {
    const id = newDocumentId()
    const page = await context.newPage()
    await page.goto(`${server.url}/conversation/${id}`)
    await until('it is connected', async () => await page.textContent('#connected') === 'Connected')
    tabs.push({ page, id })
  }
  // Over HTTP/1.1 the provider holds four streams, and asks for the other documents now and then.
  for (const { page, id } of tabs) {
    const clients = await page.evaluate(async id => (await (await fetch(`/docs/${id}/clients`)).json()).clients.length, id)
    assert.equal(clients, 1, 'it has a stream')
    await page.evaluate(async id => {
      await fetch(`/docs/${id}/text`, { method: 'PUT', headers: { 'content-type': 'text/plain' }, body: `hello ${id}` })
    }, id)
    await until('it shows what was written', async () => await page.inputValue('#text') === `hello ${id}`)
  }
})

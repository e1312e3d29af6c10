// The same over plain http on a host name of the local network, where browsers have no Web Locks.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { launchBrowser, newDocumentId, newUser, openTab, startServer, until, untilEqual } from './support.mjs'

const timeout = 60_000

/** @type {import('playwright-core').Browser} */
let browser
const closing = []
before(async () => {
  browser = await launchBrowser({ after: close => closing.push(close) }, [
    '--host-resolver-rules=MAP classroom.test 127.0.0.1',
    // The test page comes from the test and not from an address; Chromium would keep it from asking a local one.
    '--disable-features=LocalNetworkAccessChecks',
  ])
})
after(async () => { for (const close of closing) await close() })

/** @param {import('node:test').TestContext} t */
async function begin (t) {
  const server = await startServer(t)
  const context = await newUser(browser)
  t.after(() => context.close())
  return { server, context, url: server.url.replace('127.0.0.1', 'classroom.test'), id: newDocumentId() }
}

const leaders = async tabs => (await Promise.all(tabs.map(tab => tab.state()))).filter(({ role }) => role === 'leader')

const untilOneLeads = (server, id, tabs) => until('one tab leads, with the only stream', async () => {
  const [leader, ...more] = await leaders(tabs)
  const clients = await server.clients(id)
  return more.length === 0 && clients.length === 1 && clients[0].client_id === leader.clientId
}, { seen: async () => [await server.clients(id), await Promise.all(tabs.map(tab => tab.state()))] })

test('eight tabs elect one of them, and write at once', { timeout }, async t => {
  const { server, context, url, id } = await begin(t)
  const tabs = []
  for (let i = 0; i < 8; i++) tabs.push(await openTab(context, url, id))
  assert.equal(await tabs[0].page.evaluate(() => [isSecureContext, typeof navigator.locks].join()), 'false,undefined')
  await untilEqual(tabs)
  await untilOneLeads(server, id, tabs)
  await Promise.all(tabs.map((tab, i) => tab.type('abcdefgh'[i].repeat(10))))
  const text = await untilEqual(tabs, { length: 80 })
  assert.equal(await server.text(id), text)
})

test('tabs that open at the same moment end with one leader', { timeout }, async t => {
  const { server, context, url, id } = await begin(t)
  const tabs = await Promise.all(Array.from({ length: 4 }, () => openTab(context, url, id)))
  await untilEqual(tabs)
  await untilOneLeads(server, id, tabs)
  await Promise.all(tabs.map((tab, i) => tab.write('abcd'[i])))
  await untilEqual(tabs, { length: 4 })
})

test('the leader says goodbye, and another takes over at once', { timeout }, async t => {
  const { server, context, url, id } = await begin(t)
  const tabs = [await openTab(context, url, id), await openTab(context, url, id), await openTab(context, url, id)]
  await untilEqual(tabs)
  await untilOneLeads(server, id, tabs)
  const [{ clientId }] = await leaders(tabs)
  const states = await Promise.all(tabs.map(tab => tab.state()))
  const [leader] = tabs.splice(states.findIndex(state => state.clientId === clientId), 1)
  await leader.page.goto('about:blank')
  await untilOneLeads(server, id, tabs)
  await tabs[0].write('go on')
  await untilEqual(tabs, { length: 5 })
})

test('the leader crashes without a word, and another takes over', { timeout }, async t => {
  const { server, context, url, id } = await begin(t)
  const options = { takeoverTimeout: 1000 }
  const tabs = [await openTab(context, url, id, options), await openTab(context, url, id, options)]
  await untilEqual(tabs)
  const states = await Promise.all(tabs.map(tab => tab.state()))
  const [leader] = tabs.splice(states.findIndex(({ role }) => role === 'leader'), 1)
  const session = await context.newCDPSession(leader.page)
  session.send('Page.crash').catch(() => {})
  await untilOneLeads(server, id, tabs)
  await tabs[0].write('go on')
  await untilEqual(tabs, { length: 5 })
  assert.equal(await server.text(id), 'go on')
})

// The provider in a real browser: tabs that share a stream, people who type at once, and what goes wrong.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { launchBrowser, newDocumentId, newToken, newUser, openTab, startProxy, startServer, until, untilEqual } from './support.mjs'

const timeout = 60_000

/** @type {import('playwright-core').Browser} */
let browser
const closing = []
before(async () => { browser = await launchBrowser({ after: close => closing.push(close) }) })
after(async () => { for (const close of closing) await close() })

/** @param {import('node:test').TestContext} t */
async function user (t) {
  const context = await newUser(browser)
  t.after(() => context.close())
  return context
}

const roles = async tabs => (await Promise.all(tabs.map(tab => tab.state()))).map(({ role }) => role).sort()

/** Until exactly one of the tabs leads, and the server sees one stream, its own. */
const untilOneStream = (server, documentId, tabs) => until('one stream for all tabs', async () => {
  const states = await Promise.all(tabs.map(tab => tab.state()))
  const leaders = states.filter(({ role }) => role === 'leader')
  const clients = await server.clients(documentId)
  return leaders.length === 1 && clients.length === 1 && clients[0].streams === 1 && clients[0].client_id === leaders[0].clientId
}, { seen: async () => [await server.clients(documentId), await Promise.all(tabs.map(tab => tab.state()))] })

/** @param {import('./support.mjs').Tab[]} tabs */
async function findLeader (tabs) {
  const states = await Promise.all(tabs.map(tab => tab.state()))
  const i = states.findIndex(({ role }) => role === 'leader')
  return { leader: tabs[i], followers: tabs.filter((_, n) => n !== i) }
}

for (const count of [2, 3, 8]) {
  test(`${count} tabs of one browser write at once, over one stream`, { timeout }, async t => {
    const server = await startServer(t)
    const id = newDocumentId()
    const context = await user(t)
    const tabs = []
    for (let i = 0; i < count; i++) tabs.push(await openTab(context, server.url, id))
    await untilEqual(tabs)
    await untilOneStream(server, id, tabs)
    await Promise.all(tabs.map((tab, i) => tab.type('abcdefgh'[i].repeat(20))))
    const text = await untilEqual(tabs, { length: count * 20 })
    assert.equal(await server.text(id), text)
    assert.deepEqual((await roles(tabs)).filter(role => role === 'leader').length, 1)
    await untilOneStream(server, id, tabs)
    for (const tab of tabs) assert.deepEqual(tab.complaints, [])
  })
}

test('followers hear everything from the leader, and need not ask', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const context = await user(t)
  const tabs = [await openTab(context, server.url, id), await openTab(context, server.url, id), await openTab(context, server.url, id)]
  const other = await openTab(await user(t), server.url, id)
  await untilEqual([...tabs, other])
  await context.route('**/state?*', route => route.abort())
  const { leader, followers } = await findLeader(tabs)
  await leader.type('leader ')
  await followers[0].type('follower ')
  await other.type('other ')
  await until('all have it', async () =>
    (await Promise.all(tabs.map(tab => tab.text()))).every(text => text.length === 'leader follower other '.length))
})

test('two people type at once, and each one\'s letters stay in order', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const tabs = [await openTab(await user(t), server.url, id), await openTab(await user(t), server.url, id)]
  await Promise.all([tabs[0].type('abcdefghijklmnopqrstuvwxyz'), tabs[1].type('ABCDEFGHIJKLMNOPQRSTUVWXYZ')])
  const text = await untilEqual(tabs, { length: 52 })
  assert.equal(text.replace(/[^a-z]/g, ''), 'abcdefghijklmnopqrstuvwxyz')
  assert.equal(text.replace(/[^A-Z]/g, ''), 'ABCDEFGHIJKLMNOPQRSTUVWXYZ')
  assert.equal(await server.text(id), text)
  assert.equal((await server.clients(id)).length, 2)
})

test('tabs and people see who is there', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const [ada, bob] = [await user(t), await user(t)]
  const tabs = [await openTab(ada, server.url, id), await openTab(ada, server.url, id), await openTab(bob, server.url, id)]
  const people = () => Promise.all(tabs.map(async tab => (await tab.state()).people))
  await until('each sees three', async () => (await people()).every(count => count === 3), { seen: people })
  for (const [i, tab] of tabs.entries()) await tab.page.evaluate(i => provider.awareness.setLocalStateField('name', `n${i}`), i)
  const names = () => Promise.all(tabs.map(tab =>
    tab.page.evaluate(() => [...provider.awareness.getStates().values()].map(({ name }) => name).sort().join())))
  await until('each knows the names', async () => (await names()).every(list => list === 'n0,n1,n2'), { seen: names })
})

test('a follower that leaves is gone for everybody at once', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const [ada, bob] = [await user(t), await user(t)]
  const tabs = [await openTab(ada, server.url, id), await openTab(bob, server.url, id)]
  const follower = await openTab(ada, server.url, id)
  const people = () => Promise.all(tabs.map(async tab => (await tab.state()).people))
  await until('both see three', async () => (await people()).every(count => count === 3), { seen: people })
  await follower.page.goto('about:blank')
  await until('both see two', async () => (await people()).every(count => count === 2), { seen: people, within: 5000 })
})

test('the server is killed and restarted in the middle of a word', { timeout: 90_000 }, async t => {
  const server = await startServer(t, { isDurable: true })
  const id = newDocumentId()
  const ada = await user(t)
  const tabs = [await openTab(ada, server.url, id), await openTab(ada, server.url, id), await openTab(await user(t), server.url, id)]
  await untilEqual(tabs)
  for (let round = 1; round <= 2; round++) {
    const typing = Promise.all(tabs.map((tab, i) => tab.type('abc'[i].repeat(150))))
    await until('some of it is saved', async () => (await server.text(id)).length > 450 * (round - 1) + 5)
    await server.kill()
    await typing
    await server.start()
  }
  const text = await untilEqual(tabs, { length: 900, within: 20_000 })
  assert.equal(await server.text(id), text)
})

test('offline and back: both sides go on writing, and nothing is lost', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const away = await user(t)
  const tabs = [await openTab(away, server.url, id), await openTab(away, server.url, id), await openTab(await user(t), server.url, id)]
  await tabs[0].write('one ')
  await untilEqual(tabs, { length: 4 })
  await away.setOffline(true)
  await until('they know that they are offline', async () =>
    (await Promise.all(tabs.slice(0, 2).map(tab => tab.state()))).every(({ status, synced }) => status === 'connecting' && !synced))
  await tabs[0].write('two ')
  await tabs[1].write('three ')
  await tabs[2].write('four ')
  await tabs[2].untilSaved()
  assert.equal((await tabs[0].state()).unsynced, 1)
  assert.equal((await tabs[1].state()).unsynced, 1)
  await away.setOffline(false)
  const text = await untilEqual(tabs, { length: 'one two three four '.length })
  assert.equal(await server.text(id), text)
})

test('connections that are cut, again and again', { timeout }, async t => {
  const server = await startServer(t)
  const proxy = await startProxy(t, server)
  const id = newDocumentId()
  const ada = await user(t)
  const tabs = [await openTab(ada, proxy.url, id), await openTab(ada, proxy.url, id), await openTab(await user(t), proxy.url, id)]
  await untilEqual(tabs)
  const cutting = setInterval(() => proxy.cut(), 200)
  t.after(() => clearInterval(cutting))
  await Promise.all(tabs.map((tab, i) => tab.type('abc'[i].repeat(200))))
  clearInterval(cutting)
  const text = await untilEqual(tabs, { length: 600, within: 20_000 })
  assert.equal(await server.text(id), text)
})

test('answers that are lost lose nothing and double nothing', { timeout }, async t => {
  const server = await startServer(t)
  const proxy = await startProxy(t, server)
  const id = newDocumentId()
  const tabs = [await openTab(await user(t), proxy.url, id), await openTab(await user(t), server.url, id)]
  await untilEqual(tabs)
  let dropped = 0
  proxy.dropsAnswerTo = request => /^POST \/docs\/[^/]+\/updates/.test(request) && ++dropped <= 5
  await tabs[0].type('abcdefghijklmnopqrstuvwxyz')
  const text = await untilEqual(tabs, { length: 26 })
  assert.equal(text, 'abcdefghijklmnopqrstuvwxyz')
  assert.ok(dropped >= 5, `${dropped} answers were dropped`)
})

test('an update that the server lacks is answered with the difference', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const tab = await openTab(await user(t), server.url, id)
  await tab.untilSaved()
  // Acknowledged by somebody in between who did not pass it on.
  let eaten = 0
  await tab.page.route('**/updates', route => eaten++ === 0
    ? route.fulfill({ json: { epoch: null, seq: 0, changed: false } })
    : route.continue())
  await tab.write('first ')
  await until('it was eaten', () => eaten === 1)
  await tab.untilSaved()
  await tab.write('second')
  await until('all of it is on the server', async () => await server.text(id) === 'first second', { seen: () => tab.state() })
  await tab.untilSaved()
  assert.ok((await tab.state()).events.some(([name]) => name === 'gap'))
})

test('the server says 503 for a while', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const tab = await openTab(await user(t), server.url, id)
  await tab.untilSaved()
  let refused = 0
  await tab.page.route('**/docs/**', route => refused++ < 6
    ? route.fulfill({ status: 503, headers: { 'retry-after': '0' }, json: { code: 'unavailable', status: 503, title: 'x', detail: 'x' } })
    : route.continue())
  await tab.type('abc')
  await tab.untilSaved()
  assert.equal(await server.text(id), 'abc')
  assert.ok(refused > 6)
})

test('a deleted document that begins again is not mixed with the old one', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const away = await user(t)
  const tabs = [await openTab(away, server.url, id), await openTab(away, server.url, id)]
  await tabs[0].write('old life')
  await untilEqual(tabs, { length: 8 })
  await away.setOffline(true)
  await until('they are offline', async () => (await Promise.all(tabs.map(tab => tab.state()))).every(({ status }) => status === 'connecting'))
  await tabs[1].write(' unsent')
  assert.equal((await fetch(`${server.url}/docs/${id}`, { method: 'DELETE' })).status, 204)
  const fresh = await openTab(await user(t), server.url, id)
  await fresh.write('new life')
  await fresh.untilSaved()
  await away.setOffline(false)
  const closed = async tab => (await tab.state()).events.find(([name]) => name === 'closed')
  for (const tab of tabs) {
    const [, { code }] = await until('it has ended', () => closed(tab), { seen: () => tab.state() })
    assert.equal(code, 'epoch_changed')
    assert.equal((await tab.state()).status, 'disconnected')
  }
  assert.equal(await tabs[1].text(), 'old life unsent')
  assert.equal(await server.text(id), 'new life')
})

test('deleting a document ends it in all tabs, and says why', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const context = await user(t)
  const tabs = [await openTab(context, server.url, id), await openTab(context, server.url, id)]
  await tabs[0].write('abc')
  await untilEqual(tabs, { length: 3 })
  assert.equal((await fetch(`${server.url}/docs/${id}`, { method: 'DELETE' })).status, 204)
  for (const tab of tabs) {
    const [, { code }] = await until('it has ended', async () => (await tab.state()).events.find(([name]) => name === 'closed'), { seen: () => tab.state() })
    assert.equal(code, 'deleted')
  }
  await until('no stream is left', async () => (await server.clients(id)).length === 0)
})

test('a document that begins while a tab asks for it is not taken for another one', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const context = await user(t)
  const leader = await openTab(context, server.url, id)
  await leader.untilSaved()
  let wasAsked = false
  let answer = () => {}
  const mayAnswer = new Promise(resolve => { answer = () => resolve(undefined) })
  await context.route('**/state?*', async route => {
    const response = await route.fetch()
    wasAsked = true
    await mayAnswer
    await route.fulfill({ response })
  }, { times: 1 })
  const follower = await openTab(context, server.url, id)
  await until('it was told that there is no such document', () => wasAsked)
  await leader.write('begun')
  await until('it hears otherwise from the other tab', async () => await follower.text() === 'begun')
  answer()
  await untilEqual([leader, follower], { length: 5 })
})

test('the leading tab is closed: another takes over', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const context = await user(t)
  const tabs = [await openTab(context, server.url, id), await openTab(context, server.url, id), await openTab(context, server.url, id)]
  const other = await openTab(await user(t), server.url, id)
  await untilEqual([...tabs, other])
  const { leader, followers } = await findLeader(tabs)
  await leader.page.close()
  await other.write('meanwhile ')
  await followers[0].write('and here ')
  await untilEqual([...followers, other], { length: 'meanwhile and here '.length })
  assert.deepEqual(await roles(followers), ['follower', 'leader'])
})

test('the leading tab crashes: another takes over', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const context = await user(t)
  const tabs = [await openTab(context, server.url, id), await openTab(context, server.url, id)]
  const other = await openTab(await user(t), server.url, id)
  await untilEqual([...tabs, other])
  const { leader, followers } = await findLeader(tabs)
  const session = await context.newCDPSession(leader.page)
  session.send('Page.crash').catch(() => {})
  await until('it leads', async () => (await followers[0].state()).role === 'leader', { seen: () => followers[0].state() })
  await other.write('meanwhile')
  await untilEqual([...followers, other], { length: 9 })
})

test('the leading tab hangs: another takes its place, and it steps down when it wakes', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const context = await user(t)
  const options = { takeoverTimeout: 1000 }
  const tabs = [await openTab(context, server.url, id, options), await openTab(context, server.url, id, options)]
  const other = await openTab(await user(t), server.url, id)
  await untilEqual([...tabs, other])
  const { leader, followers } = await findLeader(tabs)
  // Busy until the other tab leads, which it learns from the lock that it no longer has.
  const hanging = leader.page.evaluate(() => {
    for (const end = Date.now() + 4000; Date.now() < end;) { /* hang */ }
  })
  await until('the other leads', async () => (await followers[0].state()).role === 'leader', { seen: () => followers[0].state() })
  await other.write('meanwhile')
  await untilEqual([...followers, other], { length: 9 })
  await hanging
  await untilEqual([...tabs, other], { length: 9 })
  await until('it is still seen by the others', async () => (await other.state()).people === 3)
  await until('it follows', async () => (await leader.state()).role === 'follower')
  const { clientId: otherId } = await other.state()
  const ours = { clients: async () => (await server.clients(id)).filter(client => client.client_id !== otherId) }
  await untilOneStream(ours, id, tabs)
})

test('a page that is left at once sends what it still holds', { timeout }, async t => {
  const server = await startServer(t)
  for (let round = 0; round < 5; round++) {
    const id = newDocumentId()
    const context = await user(t)
    const tab = await openTab(context, server.url, id)
    await tab.untilSaved()
    await context.route('**/updates', async route => {
      // A slow server: the first post is still on its way when the page goes.
      await new Promise(resolve => setTimeout(resolve, 40))
      await route.continue().catch(() => {})
    })
    await tab.page.evaluate(() => {
      for (let i = 0; i < 30; i++) text.insert(text.length, 'x')
      setTimeout(() => { text.insert(text.length, 'y'); location.href = 'about:blank' }, 5)
    })
    await until('all of it is there', async () => await server.text(id) === `${'x'.repeat(30)}y`)
  }
})

test('a page from the back/forward cache, or loaded again, is connected', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const tab = await openTab(await user(t), server.url, id)
  await tab.write('abc')
  await tab.untilSaved()
  // What the browser tells a page that it keeps, and brings back.
  await tab.page.evaluate(() => dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true })))
  assert.equal((await tab.state()).status, 'disconnected')
  await until('its stream has ended', async () => (await server.clients(id)).length === 0)
  await tab.page.evaluate(() => dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true })))
  await tab.write('def')
  await tab.untilSaved()
  assert.equal(await server.text(id), 'abcdef')
})

test('a tab with unsynced changes asks before it is closed, if it was told to', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const context = await user(t)
  const tab = await openTab(context, server.url, id, { warnOnClose: true })
  await tab.untilSaved()
  await context.setOffline(true)
  await tab.page.click('html') // browsers only ask for pages that were touched
  await tab.write('unsaved')
  const asked = tab.page.waitForEvent('dialog')
  await tab.page.close({ runBeforeUnload: true })
  const dialog = await asked
  assert.equal(dialog.type(), 'beforeunload')
  await dialog.accept()
})

test('tokens: a new one is asked for when the old one is refused', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const tab = await openTab(await user(t), server.url, id, { connect: false })
  await tab.page.evaluate(([url, id]) => {
    provider.destroy()
    globalThis.asked = []
    provider = new SseProvider(url, id, doc, {
      token: async ({ refresh }) => { asked.push(refresh); return refresh ? 'good' : 'old' },
      fetch: (address, init) => init.headers.Authorization === 'Bearer good'
        ? fetch(address, init)
        : Promise.resolve(Response.json({ code: 'unauthorized', status: 401, title: '', detail: '' }, { status: 401 })),
    })
  }, /** @type {const} */ ([server.url, id]))
  await tab.write('abc')
  await tab.untilSaved()
  assert.deepEqual(await tab.page.evaluate(() => asked), [false, true])
  assert.equal(await server.text(id), 'abc')
})

test('tokens: each tab has its own, and outlives the leading tab whose token is taken back', { timeout }, async t => {
  const server = await startServer(t, { asksForTokens: true })
  const id = newDocumentId()
  const context = await user(t)
  const ada = await openTab(context, server.url, id, { token: newToken('ada', { '*': 'write' }, { issuedBefore: 60 }) })
  await ada.untilSaved()
  const bob = await openTab(context, server.url, id, { token: newToken('bob', { '*': 'write' }) })
  const also = await openTab(context, server.url, id, { token: newToken('ada', { '*': 'write' }, { issuedBefore: 60 }) })
  await Promise.all([bob.untilSaved(), also.untilSaved()])
  assert.deepEqual([(await ada.state()).role, (await bob.state()).role], ['leader', 'follower'])

  await server.revoke({ sub: 'ada' })
  const ends = async (/** @type {import('./support.mjs').Tab} */ tab) => (await tab.state()).events.filter(([name]) => name === 'closed').map(([, { code }]) => code).join()
  for (const tab of [ada, also]) await until('it is told why it has ended', async () => await ends(tab) === 'revoked', { seen: () => tab.state() })
  await until('the other one leads', async () => (await bob.state()).role === 'leader' && (await bob.state()).synced, { seen: () => bob.state() })
  await bob.write('goes on')
  await bob.untilSaved()
  assert.equal(await server.text(id), 'goes on')
  assert.equal(await ends(bob), '')
})

test('a handler that throws is the page\'s own trouble, and stops nothing', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const tab = await openTab(await user(t), server.url, id)
  await tab.untilSaved()
  await tab.page.evaluate(() => provider.on('ack', () => { throw new Error('a handler') }))
  await tab.type('abc')
  await tab.untilSaved()
  assert.equal(await server.text(id), 'abc')
  await until('the page hears of it', () => tab.complaints.some(complaint => complaint.includes('a handler')))
})

test('where a page may not use Web Locks, its tabs elect a leader', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const context = await user(t)
  await context.addInitScript(() => {
    navigator.locks.request = () => Promise.reject(new DOMException('not here', 'SecurityError'))
  })
  const tabs = [await openTab(context, server.url, id), await openTab(context, server.url, id)]
  await tabs[0].write('abc')
  await untilEqual(tabs, { length: 3 })
  assert.deepEqual(await roles(tabs), ['follower', 'leader'])
})

test('documents in different tabs do not hear each other', { timeout }, async t => {
  const server = await startServer(t)
  const [one, two] = [newDocumentId(), newDocumentId()]
  const context = await user(t)
  const tabs = [await openTab(context, server.url, one), await openTab(context, server.url, two)]
  await tabs[0].write('one')
  await tabs[1].write('two')
  for (const tab of tabs) await tab.untilSaved()
  assert.equal(await tabs[0].text(), 'one')
  assert.equal(await tabs[1].text(), 'two')
  assert.deepEqual(await roles(tabs), ['leader', 'leader'])
})

test('seven tabs with seven documents: each is kept in step, and no post waits for a connection', { timeout }, async t => {
  const server = await startServer(t)
  const ids = Array.from({ length: 7 }, () => newDocumentId())
  const [here, there] = [await user(t), await user(t)]
  const tabs = []
  for (const id of ids) tabs.push(await openTab(here, server.url, id))
  for (const [i, tab] of tabs.entries()) await tab.type(`tab ${i} `)
  for (const tab of tabs) await tab.untilSaved()
  const streams = async () => (await Promise.all(ids.map(id => server.clients(id)))).flat().length
  assert.equal(await streams(), 4)

  const other = await openTab(there, server.url, ids[6])
  await other.write('news')
  await untilEqual([tabs[6], other], { length: 10 })

  await tabs.shift().page.close()
  ids.shift()
  await until('one of the others has its place', async () => await streams() === 4 + 1, { seen: streams })
  await tabs[5].write(' and more')
  await untilEqual([tabs[5], other], { length: 19 })
})

// The provider against a server that asks for tokens: what it does when they are missing, over, weak or taken back.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { SseProvider, Y, newDocumentId, newToken, startServer, until } from '../browser/support.mjs'

const timeout = 30_000

/**
 * @param {import('node:test').TestContext} t
 * @param {string} url
 * @param {string} documentId
 * @param {object} [options]
 */
function open (t, url, documentId, options = {}) {
  const doc = new Y.Doc()
  /** @type {{ method: string, path: string, status: number }[]} */
  const requests = []
  const provider = new SseProvider(url, documentId, doc, {
    fetch: async (address, init) => {
      const response = await fetch(address, init)
      requests.push({ method: init.method, path: new URL(address).pathname.split('/').at(-1), status: response.status })
      return response
    },
    ...options,
  })
  const events = []
  for (const name of ['status', 'synced', 'closed', 'rejected', 'ack', 'unsynced', 'connection-error']) {
    provider.on(name, event => events.push([name, event]))
  }
  t.after(() => provider.destroy())
  return {
    doc, text: doc.getText('text'), provider, requests,
    named: name => events.filter(([kind]) => kind === name).map(([, event]) => event),
    statuses: path => requests.filter(request => request.path === path).map(({ status }) => status),
    show: () => ({ text: doc.getText('text').toString(), status: provider.status, unsynced: provider.unsyncedChanges, requests, events: events.slice(-15) }),
  }
}

const untilSaved = peer => until('all is saved', () => peer.provider.synced && !peer.provider.hasUnsyncedChanges, { seen: peer.show })
const untilClosed = async peer => (await until('it ends', () => peer.named('closed').length > 0 && peer.named('closed'), { seen: peer.show })).at(-1)

/** @param {import('node:test').TestContext} t */
const begin = async t => ({ server: await startServer(t, { asksForTokens: true }), id: newDocumentId() })

/** A state vector that no address takes, so that the state has to be asked for first. */
const ofManyAuthors = doc => {
  for (let i = 0; i < 400; i++) {
    const other = new Y.Doc()
    other.getText('other').insert(0, 'x')
    Y.applyUpdate(doc, Y.encodeStateAsUpdate(other))
  }
}

test('the token goes with every request: posts, stream, state and awareness', { timeout }, async t => {
  const { server, id } = await begin(t)
  const ada = open(t, server.url, id, { token: newToken('ada', { '*': 'write' }), connect: false })
  ofManyAuthors(ada.doc)
  ada.text.insert(0, 'abc')
  ada.provider.awareness.setLocalStateField('user', { name: 'Ada', id: 'ada' })
  ada.provider.connect()
  await untilSaved(ada)
  for (const path of ['updates', 'events', 'state', 'awareness']) {
    await until(`${path} was asked`, () => ada.statuses(path).length > 0, { seen: ada.show })
    // A state that was never written is not found.
    assert.ok(ada.statuses(path).every(status => status < 300 || status === 404), `${path}: ${ada.statuses(path)}`)
  }
  assert.equal(await server.text(id), 'abc')
  const [{ user }] = await until('the server knows who it is', () => server.clients(id))
  assert.equal(user, 'ada')
  assert.ok(!server.log.includes(server.token) && !server.log.includes('eyJ'), 'no token is logged')
})

test('without a token it ends, and goes on with all edits when there is one', { timeout }, async t => {
  const { server, id } = await begin(t)
  let token = null
  const ada = open(t, server.url, id, { token: () => token })
  ada.text.insert(0, 'abc')
  assert.equal((await untilClosed(ada)).code, 'unauthorized')
  assert.equal(ada.provider.unsyncedChanges, 1)
  token = newToken('ada', { [id]: 'write' })
  ada.provider.connect()
  await untilSaved(ada)
  assert.equal(await server.text(id), 'abc')
})

test('a 401 in the middle of writing is answered with a new token, and no edit is lost', { timeout }, async t => {
  const { server, id } = await begin(t)
  const asked = []
  const ada = open(t, server.url, id, {
    token: ({ refresh }) => {
      asked.push(refresh)
      // What was issued up to now is revoked below; a later one is good.
      return newToken('ada', { '*': 'write' }, { issuedBefore: refresh ? -2 : 60 })
    },
  })
  await untilSaved(ada)
  ada.text.insert(0, 'before ')
  await untilSaved(ada)
  await server.revoke({ sub: 'ada' })
  for (const letter of 'after') ada.text.insert(ada.text.length, letter)
  await until('the new one was asked for', () => asked.length > 1, { seen: ada.show })
  await untilSaved(ada)
  assert.equal(await server.text(id), 'before after')
  assert.deepEqual(ada.named('closed'), [])
  assert.deepEqual(asked, [false, true])
})

test('requests that are refused at the same time ask for one new token', { timeout }, async t => {
  const { server, id } = await begin(t)
  const asked = []
  const ada = open(t, server.url, id, {
    presenceInterval: 0,
    token: async ({ refresh }) => {
      asked.push(refresh)
      await new Promise(resolve => setImmediate(resolve))
      return newToken('ada', { '*': 'write' }, { issuedBefore: refresh ? -2 : 60 })
    },
  })
  await untilSaved(ada)
  await server.revoke({ sub: 'ada' })
  ada.text.insert(0, 'abc')
  ada.provider.awareness.setLocalStateField('user', { name: 'Ada' })
  await until('a new stream', () => ada.statuses('events').filter(status => status === 200).length === 2, { seen: ada.show })
  await untilSaved(ada)
  assert.deepEqual(asked, [false, true])
})

test('a token that gives no access ends in `forbidden`', { timeout }, async t => {
  const { server, id } = await begin(t)
  const eve = open(t, server.url, id, { token: () => newToken('eve', { 'other-*': 'write' }) })
  eve.text.insert(0, 'x')
  const { code, reason } = await untilClosed(eve)
  assert.equal(code, 'forbidden')
  assert.match(reason, /read/)
  assert.deepEqual(eve.statuses('events'), [403], 'asking again would get the same answer')
  assert.equal(eve.provider.unsyncedChanges, 1)
})

test('a reader reads on, is seen, and keeps what it wrote until a token lets it write', { timeout }, async t => {
  const { server, id } = await begin(t)
  let access = /** @type {'read' | 'write'} */ ('read')
  const vic = open(t, server.url, id, { token: () => newToken('vic', { '*': access }) })
  const ada = open(t, server.url, id, { token: newToken('ada', { '*': 'write' }) })
  await untilSaved(vic)
  await untilSaved(ada)
  vic.text.insert(0, 'not mine ')
  const [failure] = await until('it is rejected', () => vic.named('rejected').length > 0 && vic.named('rejected'), { seen: vic.show })
  assert.deepEqual([failure.status, failure.code], [403, 'forbidden'])
  vic.provider.awareness.setLocalStateField('cursor', { head: 3 })
  await until('its caret is seen', () => ada.provider.awareness.getStates().get(vic.provider.awareness.clientID)?.cursor?.head === 3, { seen: ada.show })
  ada.text.insert(0, 'news ')
  await until('it still hears', () => vic.text.toString().includes('news'), { seen: vic.show })
  vic.text.insert(0, 'again ')
  assert.deepEqual(vic.statuses('updates'), [403], 'it is not tried again and again')
  assert.equal(vic.provider.unsyncedChanges, 2)
  assert.deepEqual(vic.named('closed'), [])

  // A new connection asks for the token of the day.
  access = 'write'
  vic.provider.disconnect()
  vic.provider.connect()
  await untilSaved(vic)
  assert.equal(vic.text.toString(), await server.text(id))
  assert.match(vic.text.toString(), /again .*not mine/)
})

test('a document that is closed to everybody ends in `revoked`', { timeout }, async t => {
  const { server, id } = await begin(t)
  const ada = open(t, server.url, id, { token: () => newToken('ada', { '*': 'write' }, { issuedBefore: 60 }) })
  ada.text.insert(0, 'abc')
  await untilSaved(ada)
  await server.revoke({ doc: id })
  // It tries the other token that it is given, which is refused as well.
  await until('it has tried', () => ada.statuses('events').includes(403), { seen: ada.show })
  assert.equal((await untilClosed(ada)).code, 'revoked')
})

test('a token that ends is replaced at once, and the stream goes on', { timeout }, async t => {
  const { server, id } = await begin(t)
  const asked = []
  const ada = open(t, server.url, id, {
    token: ({ refresh }) => {
      asked.push(refresh)
      return newToken('ada', { '*': 'write' }, { seconds: refresh ? 600 : 2 })
    },
  })
  await untilSaved(ada)
  await until('there is a second stream', () => ada.statuses('events').length === 2 && ada.provider.synced, { seen: ada.show })
  ada.text.insert(0, 'abc')
  await untilSaved(ada)
  assert.deepEqual(asked, [false, true])
  assert.deepEqual(ada.named('closed'), [])
  assert.equal(await server.text(id), 'abc')
})

test('a token that ends, and the same again in its place, is the end', { timeout }, async t => {
  const { server, id } = await begin(t)
  const token = newToken('ada', { '*': 'write' }, { seconds: 1 })
  const asked = []
  const ada = open(t, server.url, id, { token: ({ refresh }) => { asked.push(refresh); return token } })
  const { code, reason } = await untilClosed(ada)
  assert.equal(code, 'token_expired')
  assert.notEqual(reason, '')
  assert.deepEqual(asked, [false, true])
  // The server takes it for some seconds more, for clocks that differ: the stream would come and go all that time.
  assert.equal(ada.statuses('events').length, 1)
  ada.text.insert(0, 'kept')
  assert.equal(ada.provider.unsyncedChanges, 1)
})

test('a token that ends and is only a string is the end', { timeout }, async t => {
  const { server, id } = await begin(t)
  const ada = open(t, server.url, id, { token: newToken('ada', { '*': 'write' }, { seconds: 1 }) })
  assert.equal((await untilClosed(ada)).code, 'token_expired')
})

test('a revoked token is the end, unless there is another one', { timeout }, async t => {
  const { server, id } = await begin(t)
  const old = newToken('ada', { '*': 'write' }, { issuedBefore: 60 })
  const final = open(t, server.url, id, { token: () => old })
  const fresh = open(t, server.url, id, { token: ({ refresh }) => refresh ? newToken('ada', { '*': 'write' }, { issuedBefore: -2 }) : old })
  await untilSaved(final)
  await untilSaved(fresh)
  await server.revoke({ sub: 'ada' })
  assert.equal((await untilClosed(final)).code, 'revoked')
  await until('there is a second stream', () => fresh.statuses('events').at(-1) === 200 && fresh.statuses('events').length > 1 && fresh.provider.synced, { seen: fresh.show })
  fresh.text.insert(0, 'abc')
  await untilSaved(fresh)
  assert.deepEqual(fresh.named('closed'), [])
})

test('another user goes on in the same document, with what the first had not sent', { timeout }, async t => {
  const { server, id } = await begin(t)
  let token = newToken('ada', { '*': 'write' }, { issuedBefore: 60 })
  const peer = open(t, server.url, id, { token: () => token })
  await untilSaved(peer)
  peer.text.insert(0, 'sent ')
  await untilSaved(peer)
  await server.revoke({ sub: 'ada' })
  await untilClosed(peer)
  peer.text.insert(5, 'kept')
  token = newToken('bob', { '*': 'write' })
  const before = peer.provider.clientId
  peer.provider.takeNewClientId()
  assert.notEqual(peer.provider.clientId, before)
  peer.provider.connect()
  assert.throws(() => peer.provider.takeNewClientId())
  await untilSaved(peer)
  assert.equal(await server.text(id), 'sent kept')
  const { updates } = await server.get(`/docs/${id}/updates`)
  assert.deepEqual(updates.map(({ user }) => user), ['ada', 'bob'])
})

test('over its rate it waits as long as the server asks, and what it wrote meanwhile goes along', { timeout }, async t => {
  const server = await startServer(t, {
    asksForTokens: true,
    env: { PROMPTGRIMOIRE__RATES__UPDATES_PER_CLIENT: '1', PROMPTGRIMOIRE__RATES__BURST_SECONDS: '1' },
  })
  const id = newDocumentId()
  const ada = open(t, server.url, id, { token: newToken('ada', { '*': 'write' }) })
  await untilSaved(ada)
  let typed = ''
  await until('it is over its rate', async () => {
    ada.text.insert(typed.length, 'x')
    typed += 'x'
    return ada.statuses('updates').includes(429)
  }, { seen: ada.show })
  const tries = ada.statuses('updates').length
  for (let i = 0; i < 20; i++) {
    ada.text.insert(typed.length, 'y')
    typed += 'y'
    await new Promise(resolve => setImmediate(resolve))
  }
  assert.equal(ada.statuses('updates').length, tries, 'typing on does not try again before its time')
  await untilSaved(ada)
  assert.equal(await server.text(id), typed)
  assert.deepEqual(ada.named('rejected'), [])
  assert.ok(ada.named('connection-error').some(({ status, retryAfter }) => status === 429 && retryAfter >= 1000))
})

// The provider in node, against the real server: no browser, no other tabs.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { SseProvider, Y, newDocumentId, startProxy, startServer, until } from '../browser/support.mjs'

const timeout = 30_000

/**
 * @param {import('node:test').TestContext} t
 * @param {string} url
 * @param {string} documentId
 * @param {object} [options]
 * @param {Y.Doc} [doc]
 */
function open (t, url, documentId, options = {}, doc = new Y.Doc()) {
  const provider = new SseProvider(url, documentId, doc, options)
  const events = []
  for (const name of ['status', 'synced', 'closed', 'rejected', 'gap', 'ack', 'unsynced', 'remote-update', 'connection-error']) {
    provider.on(name, event => events.push([name, event]))
  }
  t.after(() => provider.destroy())
  return { doc, text: doc.getText('text'), provider, events, named: name => events.filter(([kind]) => kind === name).map(([, event]) => event) }
}

const show = (...peers) => () => peers.map(({ text, provider, events }) =>
  ({ text: text.toString().slice(0, 200), status: provider.status, synced: provider.synced, unsynced: provider.unsyncedChanges, events: events.slice(-15) }))

const untilSaved = (...peers) => until('all is saved', () => peers.every(({ provider }) => provider.synced && !provider.hasUnsyncedChanges), { seen: show(...peers) })

const untilEqual = (...peers) => until('all texts are equal and saved', () =>
  peers.every(({ text, provider }) => text.toString() === peers[0].text.toString() && provider.synced && !provider.hasUnsyncedChanges), { seen: show(...peers) })

/**
 * A fetch that answers some requests itself.
 *
 * @param {(method: string, path: string, init: RequestInit) => Response | null | undefined | Promise<Response | null | undefined>} answer
 */
const fetchWith = answer => async (address, init) =>
  await answer(init.method, new URL(address).pathname, init) ?? fetch(address, init)

const problem = (status, code, more = {}, headers = {}) =>
  new Response(JSON.stringify({ type: 'about:blank', title: code, status, detail: code, code, ...more }),
    { status, headers: { 'content-type': 'application/problem+json', ...headers } })

test('two documents converge, and what is saved is on the server', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const ada = open(t, server.url, id)
  const bob = open(t, server.url.replace('http:', 'ws:'), id)
  await untilSaved(ada, bob)
  ada.text.insert(0, 'Hello ')
  bob.text.insert(0, 'World')
  await until('both have both', () => ada.text.length === 11 && ada.text.toString() === bob.text.toString(), { seen: show(ada, bob) })
  await untilSaved(ada, bob)
  assert.equal(await server.text(id), ada.text.toString())
  const [{ seq, latency, bytes, edits }] = ada.named('ack')
  assert.ok(seq >= 1 && latency > 0 && bytes > 0 && edits === 1)
  assert.equal(ada.provider.latency, ada.named('ack').at(-1).latency)
  assert.deepEqual(ada.named('status').map(({ status }) => status), ['connected'])
  assert.ok(ada.named('remote-update').some(({ origin }) => origin === bob.provider.clientId))
  assert.equal(ada.provider.epoch, bob.provider.epoch)
})

test('what was in the document before the provider is saved', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const doc = new Y.Doc()
  doc.getText('text').insert(0, 'before')
  const peer = open(t, server.url, id, { connect: false }, doc)
  assert.equal(peer.provider.unsyncedChanges, 1, 'nobody has acknowledged it')
  peer.text.insert(6, ' connect')
  assert.equal(peer.provider.unsyncedChanges, 2)
  assert.equal(peer.provider.status, 'disconnected')
  peer.provider.connect()
  await peer.provider.whenSynced
  await untilSaved(peer)
  assert.equal(await server.text(id), 'before connect')
})

test('edits made while disconnected are kept and merged', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const [ada, bob] = [open(t, server.url, id), open(t, server.url, id)]
  ada.text.insert(0, 'one ')
  await untilEqual(ada, bob)
  ada.provider.disconnect()
  assert.equal(ada.provider.status, 'disconnected')
  assert.equal(ada.provider.synced, false)
  await until('the server knows', async () => (await server.clients(id)).every(client => client.client_id !== ada.provider.clientId))
  for (const letter of 'two ') ada.text.insert(ada.text.length, letter)
  bob.text.insert(bob.text.length, 'three ')
  assert.equal(ada.provider.unsyncedChanges, 4)
  await untilSaved(bob)
  ada.provider.connect()
  await untilEqual(ada, bob)
  assert.equal(ada.text.length, 'one two three '.length)
})

test('twenty thousand edits offline come back in two posts', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const peer = open(t, server.url, id, { connect: false })
  for (let i = 0; i < 20_000; i++) peer.text.insert(i, 'x')
  assert.equal(peer.provider.unsyncedChanges, 20_000)
  peer.provider.connect()
  await untilSaved(peer)
  assert.equal((await server.text(id)).length, 20_000)
  assert.ok(peer.named('ack').length <= 2)
})

test('every edit of a burst arrives, in few posts', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const [ada, bob] = [open(t, server.url, id), open(t, server.url, id)]
  await untilSaved(ada, bob)
  for (let i = 0; i < 300; i++) {
    ada.text.insert(ada.text.length, 'a')
    if (i % 3 === 0) bob.text.insert(0, 'b')
    if (i % 10 === 0) await new Promise(resolve => setImmediate(resolve))
  }
  await until('everything is everywhere', () => ada.text.length === 400 && bob.text.length === 400, { seen: show(ada, bob) })
  await untilEqual(ada, bob)
  assert.equal(ada.named('ack').reduce((sum, { edits }) => sum + edits, 0), 300)
  assert.ok(ada.named('ack').length < 150)
})

test('one post is in flight at a time', { timeout }, async t => {
  const server = await startServer(t)
  let flying = 0
  let most = 0
  const counting = async (address, init) => {
    if (!new URL(address).pathname.endsWith('/updates')) return fetch(address, init)
    most = Math.max(most, ++flying)
    try { return await fetch(address, init) } finally { flying-- }
  }
  const peer = open(t, server.url, newDocumentId(), { fetch: counting })
  await peer.provider.whenSynced
  for (let i = 0; i < 50; i++) {
    peer.text.insert(0, 'x')
    await new Promise(resolve => setImmediate(resolve))
  }
  await untilSaved(peer)
  assert.equal(most, 1)
})

test('a lost answer loses nothing and doubles nothing', { timeout }, async t => {
  const server = await startServer(t)
  const proxy = await startProxy(t, server)
  const id = newDocumentId()
  const peer = open(t, proxy.url, id)
  const other = open(t, server.url, id)
  await untilSaved(peer, other)
  let dropped = 0
  proxy.dropsAnswerTo = request => /^POST \/docs\/[^/]+\/updates/.test(request) && ++dropped <= 3
  peer.text.insert(0, 'abc')
  await until('the answer was lost', () => dropped >= 1)
  peer.text.insert(3, 'def')
  await untilEqual(peer, other)
  assert.equal(await server.text(id), 'abcdef')
  assert.ok(dropped >= 4)
})

test('a stream that is cut goes on where it was', { timeout }, async t => {
  const server = await startServer(t)
  const proxy = await startProxy(t, server)
  const id = newDocumentId()
  const streams = []
  const peer = open(t, proxy.url, id, {
    fetch: async (address, init) => {
      const { pathname, searchParams } = new URL(address)
      if (pathname.endsWith('/events')) streams.push(searchParams.get('since'))
      return fetch(address, init)
    },
  })
  const other = open(t, server.url, id)
  await untilSaved(peer, other)
  // One edit of somebody else and one of its own each time: both move the place.
  for (let round = 1; round <= 3; round++) {
    other.text.insert(0, `${round}`)
    await until('it is heard', () => peer.text.length === 2 * round - 1)
    peer.text.insert(0, 'x')
    await untilEqual(peer, other)
    const { seq } = await server.get(`/docs/${id}`)
    await until('its own is heard of', () => peer.provider.seq === seq, { seen: show(peer) })
    proxy.cut()
    await until('a new stream', () => streams.length > round, { seen: show(peer) })
    assert.equal(streams.at(-1), `${peer.provider.epoch}.${seq}`)
    await until('it is synced', () => peer.provider.synced)
  }
  assert.equal(peer.text.toString(), 'x3x2x1')
})

test('cut five times a second while both write, nothing is lost', { timeout: 60_000 }, async t => {
  const server = await startServer(t)
  const proxy = await startProxy(t, server)
  const id = newDocumentId()
  const [ada, bob] = [open(t, proxy.url, id), open(t, proxy.url, id)]
  await untilSaved(ada, bob)
  const cutting = setInterval(() => proxy.cut(), 200)
  t.after(() => clearInterval(cutting))
  for (let i = 0; i < 150; i++) {
    ada.text.insert(ada.text.length, 'a')
    bob.text.insert(0, 'b')
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  clearInterval(cutting)
  await until('both have both', () => ada.text.length === 300 && bob.text.length === 300, { seen: show(ada, bob), within: 20_000 })
  await untilEqual(ada, bob)
})

test('a link that goes dark without a word is noticed', { timeout }, async t => {
  const server = await startServer(t)
  const proxy = await startProxy(t, server)
  const id = newDocumentId()
  const peer = open(t, proxy.url, id, { heartbeatTimeout: 600, requestTimeout: 600 })
  const other = open(t, server.url, id)
  await untilSaved(peer, other)
  proxy.isDark = true
  peer.text.insert(0, 'mine ')
  other.text.insert(0, 'theirs ')
  await until('the silence is noticed', () => peer.provider.status === 'connecting')
  proxy.isDark = false
  proxy.cut()
  await untilEqual(peer, other)
  assert.equal(peer.text.length, 'mine theirs '.length)
})

test('killed and restarted in the middle of a word', { timeout: 60_000 }, async t => {
  const server = await startServer(t, { isDurable: true })
  const id = newDocumentId()
  const peers = [open(t, server.url, id), open(t, server.url, id), open(t, server.url, id)]
  await untilSaved(...peers)
  for (let round = 0; round < 2; round++) {
    const writing = peers.map(async ({ text }, i) => {
      for (let n = 0; n < 60; n++) {
        text.insert(text.length, 'abc'[i])
        await new Promise(resolve => setTimeout(resolve, 5))
      }
    })
    await until('some of it is saved', () => peers[0].named('ack').length > 3 * (round + 1))
    await server.kill()
    await server.start()
    await Promise.all(writing)
  }
  await until('all is everywhere', () => peers.every(({ text }) => text.length === 360), { seen: show(...peers), within: 20_000 })
  await untilEqual(...peers)
  assert.equal(await server.text(id), peers[0].text.toString())
})

test('a server that stops in good order is waited for', { timeout }, async t => {
  const server = await startServer(t, { isDurable: true })
  const id = newDocumentId()
  const [ada, bob] = [open(t, server.url, id), open(t, server.url, id)]
  ada.text.insert(0, 'before ')
  await untilEqual(ada, bob)
  await server.kill('SIGTERM')
  await until('they have noticed', () => [ada, bob].every(({ provider }) => provider.status === 'connecting'))
  ada.text.insert(0, 'during ')
  await server.start()
  await untilEqual(ada, bob)
  assert.equal(bob.text.toString(), 'during before ')
  assert.deepEqual([...ada.named('closed'), ...bob.named('closed')], [])
})

test('unavailable for a while: waits as long as the server asks, then goes on', { timeout }, async t => {
  const server = await startServer(t)
  let refusals = 0
  const times = []
  const peer = open(t, server.url, newDocumentId(), {
    fetch: fetchWith((method, path) => {
      if (!path.endsWith('/updates')) return null
      times.push(performance.now())
      return ++refusals <= 2 ? problem(503, 'unavailable', {}, { 'retry-after': '1' }) : null
    }),
  })
  await peer.provider.whenSynced
  peer.text.insert(0, 'abc')
  await untilSaved(peer)
  assert.equal(times.length, 3)
  assert.ok(times[1] - times[0] >= 990 && times[2] - times[1] >= 990, `${times}`)
  assert.equal(peer.provider.status, 'connected', 'the stream is not the post')
})

test('a stream refused with 503 is tried again', { timeout }, async t => {
  const server = await startServer(t)
  let refusals = 0
  const peer = open(t, server.url, newDocumentId(), {
    fetch: fetchWith((method, path) => path.endsWith('/events') && ++refusals <= 3 ? problem(503, 'unavailable') : null),
  })
  await untilSaved(peer)
  assert.equal(peer.named('connection-error').length, 3)
})

test('updates that the server lacks are answered with the difference', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  let isEaten = false
  let posts = 0
  const peer = open(t, server.url, id, {
    // The first post is acknowledged by somebody who does not keep it.
    fetch: fetchWith((method, path) => {
      if (!path.endsWith('/updates') || ++posts > 1) return null
      isEaten = true
      return Response.json({ epoch: null, seq: 0, changed: false })
    }),
  })
  await peer.provider.whenSynced
  peer.text.insert(0, 'first ')
  await until('it was eaten', () => isEaten)
  await untilSaved(peer)
  peer.text.insert(6, 'second')
  await until('it is on the server', async () => await server.text(id) === 'first second', { seen: show(peer) })
  await untilSaved(peer)
  assert.equal(peer.named('gap').length, 1)
  assert.equal(posts, 3, 'the one that was eaten, the one that was refused, and the difference')
  assert.equal(peer.provider.status, 'connected')
})

test('missing updates have a patience of their own', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  let refusals = 0
  const peer = open(t, server.url, id, {
    fetch: fetchWith((method, path) => path.endsWith('/updates') && ++refusals <= 6
      ? problem(409, 'missing_updates', { state_vector: 'AA==' })
      : null),
  })
  await peer.provider.whenSynced
  peer.text.insert(0, 'abc')
  await untilSaved(peer)
  assert.equal(refusals, 7)
  assert.equal(await server.text(id), 'abc')
})

test('a document that begins while its stream is opened is not taken for another one', { timeout }, async t => {
  const server = await startServer(t)
  const proxy = await startProxy(t, server)
  const id = newDocumentId()
  const gates = []
  /** Lets the request through when the test opens its gate. */
  const gate = name => new Promise(open => gates.push({ name, open }))
  let streams = 0
  const peer = open(t, proxy.url, id, {
    fetch: async (address, init) => {
      const { pathname } = new URL(address)
      // The post does not go through the proxy: it survives the cut.
      if (pathname.endsWith('/updates')) return gate('post').then(() => fetch(address.replace(proxy.url, server.url), init))
      const response = await fetch(address, init)
      if (pathname.endsWith('/events') && ++streams === 2) await gate('stream')
      return response
    },
  })
  await peer.provider.whenSynced
  peer.text.insert(0, 'begun')
  await until('the post waits', () => gates.length === 1)
  proxy.cut()
  await until('the second stream is open', () => gates.length === 2)
  gates[0].open()
  await until('the post is acknowledged', () => peer.named('ack').length === 1)
  gates[1].open()
  await until('it is synced again', () => peer.provider.synced, { seen: show(peer) })
  await until('everything is posted', () => {
    for (const { name, open } of gates) if (name === 'post') open()
    return !peer.provider.hasUnsyncedChanges
  })
  assert.deepEqual(peer.named('closed'), [])
  assert.equal(await server.text(id), 'begun')
})

test('a document deleted meanwhile is not merged into the one that follows it', { timeout }, async t => {
  const server = await startServer(t)
  const proxy = await startProxy(t, server)
  const id = newDocumentId()
  const stale = open(t, proxy.url, id)
  stale.text.insert(0, 'old life')
  await untilSaved(stale)
  const { epoch } = stale.provider
  proxy.isDown = true
  proxy.cut()
  await until('it is offline', () => stale.provider.status === 'connecting')
  stale.text.insert(0, 'unsent ')
  assert.equal((await fetch(`${server.url}/docs/${id}`, { method: 'DELETE' })).status, 204)
  const fresh = open(t, server.url, id)
  fresh.text.insert(0, 'new life')
  await untilSaved(fresh)
  proxy.isDown = false
  const [{ code, reason }] = await until('it ends', () => stale.named('closed').length > 0 && stale.named('closed'), { seen: show(stale) })
  assert.equal(code, 'epoch_changed')
  assert.ok(reason.length > 0)
  assert.equal(stale.provider.status, 'disconnected')
  assert.equal(stale.text.toString(), 'unsent old life', 'nothing merged here')
  assert.ok(stale.provider.hasUnsyncedChanges)
  assert.equal(await server.text(id), 'new life', 'nothing merged there')
  assert.notEqual(fresh.provider.epoch, epoch)
})

test('a stored copy of an earlier life is recognised by its epoch', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const fresh = open(t, server.url, id)
  fresh.text.insert(0, 'new life')
  await untilSaved(fresh)
  const doc = new Y.Doc()
  doc.getText('text').insert(0, 'stored')
  const stored = open(t, server.url, id, { epoch: 'aaaaaaaa' }, doc)
  await until('it ends', () => stored.named('closed').length > 0)
  assert.equal(stored.named('closed')[0].code, 'epoch_changed')
  assert.equal(await server.text(id), 'new life')
})

test('deleting a document ends its providers', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const peer = open(t, server.url, id)
  peer.text.insert(0, 'abc')
  await untilSaved(peer)
  await fetch(`${server.url}/docs/${id}`, { method: 'DELETE' })
  await until('it ends', () => peer.named('closed').length > 0, { seen: show(peer) })
  assert.equal(peer.named('closed')[0].code, 'deleted')
})

for (const [status, code] of [[400, 'invalid_client_id'], [403, 'forbidden'], [404, 'not_found'], [405, 'method_not_allowed'], [410, 'gone']]) {
  test(`a stream refused with ${status} is not tried again`, { timeout }, async t => {
    const server = await startServer(t)
    let tries = 0
    const peer = open(t, server.url, newDocumentId(), {
      fetch: fetchWith((method, path) => {
        if (!path.endsWith('/events')) return null
        tries++
        return problem(status, code)
      }),
    })
    const [end] = await until('it ends', () => peer.named('closed').length > 0 && peer.named('closed'))
    assert.deepEqual(end, { code, reason: code })
    assert.equal(tries, 1)
    assert.equal(peer.provider.status, 'disconnected')
    assert.equal(peer.provider.shouldConnect, false)
  })
}

test('a document id that the server refuses ends with its words', { timeout }, async t => {
  const server = await startServer(t)
  const peer = open(t, server.url, '-no-name')
  const [{ code }] = await until('it ends', () => peer.named('closed').length > 0 && peer.named('closed'), { seen: show(peer) })
  assert.equal(code, 'invalid_document_id')
})

test('an edit that is too large stays unsaved, is told, and the rest of the day goes on', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  let posts = 0
  const peer = open(t, server.url, id, { fetch: fetchWith((method, path) => { if (path.endsWith('/updates')) posts++ }) })
  const other = open(t, server.url, id)
  await untilSaved(peer, other)
  peer.text.insert(0, 'x'.repeat(1_200_000))
  const [{ status, code, problem: { limit } }] = await until('it is rejected', () => peer.named('rejected').length > 0 && peer.named('rejected'), { seen: () => peer.named('connection-error') })
  assert.deepEqual([status, code, limit], [413, 'too_large', 1_048_576])
  assert.equal(posts, 1)
  assert.equal(peer.provider.unsyncedChanges, 1)
  other.text.insert(0, 'news')
  await until('it still hears', () => peer.text.length === 1_200_004)
  peer.text.delete(peer.text.toString().indexOf('x'), 1_200_000)
  await untilEqual(peer, other)
  assert.equal(await server.text(id), 'news')
})

test('what is written into a frozen document waits until it is thawed', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const peer = open(t, server.url, id)
  const other = open(t, server.url, id)
  peer.text.insert(0, 'before')
  await untilEqual(peer, other)
  const set = async verb => assert.equal((await fetch(`${server.url}/docs/${id}/${verb}`, { method: 'POST' })).status, 200)
  await set('freeze')
  peer.text.insert(6, ' after')
  const [{ status, code }] = await until('it is refused', () => peer.named('rejected').length > 0 && peer.named('rejected'), { seen: show(peer) })
  assert.deepEqual([status, code], [423, 'frozen'])
  assert.equal(peer.provider.unsyncedChanges, 1)
  assert.equal(await server.text(id), 'before')
  await set('thaw')
  await untilEqual(peer, other)
  assert.equal(await server.text(id), 'before after')
  assert.deepEqual(peer.named('closed'), [])
})

test('what is no update to the server is told, and tried three times at most', { timeout }, async t => {
  const server = await startServer(t)
  let posts = 0
  const peer = open(t, server.url, newDocumentId(), {
    fetch: fetchWith((method, path) => {
      if (!path.endsWith('/updates')) return null
      posts++
      return problem(422, 'invalid_update')
    }),
  })
  await peer.provider.whenSynced
  await until('it ends', () => {
    peer.text.insert(0, 'x')
    return peer.named('closed').length > 0
  }, { seen: show(peer) })
  assert.equal(posts, 3)
  assert.equal(peer.named('rejected').length, 3)
  assert.equal(peer.named('closed')[0].code, 'invalid_update')
})

test('a reader who writes is told, and goes on reading', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  let posts = 0
  const reader = open(t, server.url, id, {
    fetch: fetchWith((method, path) => {
      if (!path.endsWith('/updates')) return null
      posts++
      return problem(403, 'forbidden')
    }),
  })
  const writer = open(t, server.url, id)
  await untilSaved(reader, writer)
  reader.text.insert(0, 'not mine')
  await until('it is rejected', () => reader.named('rejected').length > 0)
  reader.text.insert(0, 'again ')
  writer.text.insert(0, 'news')
  await until('it still hears', () => reader.text.toString().includes('news'), { seen: show(reader) })
  assert.equal(posts, 1)
  assert.equal(reader.provider.unsyncedChanges, 2)
  assert.deepEqual(reader.named('closed'), [])
})

test('a token function is asked again when its token has run out', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const asked = []
  let valid = 'token-2'
  const peer = open(t, server.url, id, {
    token: async ({ refresh }) => {
      asked.push(refresh)
      return `token-${asked.length}`
    },
    fetch: fetchWith((method, path, init) =>
      init.headers.Authorization === `Bearer ${valid}` ? null : problem(401, 'unauthorized')),
  })
  await untilSaved(peer)
  assert.deepEqual(asked, [false, true])
  valid = 'token-3'
  peer.text.insert(0, 'abc')
  await untilSaved(peer)
  assert.deepEqual(asked, [false, true, true])
  assert.equal(await server.text(id), 'abc')
})

for (const [code, expected] of [['token_expired', 'goes on'], ['shutting_down', 'goes on'], ['too_slow', 'goes on'], ['revoked', 'ends']]) {
  test(`a stream that ends with ${code} ${expected}`, { timeout }, async t => {
    const server = await startServer(t)
    const asked = []
    let streams = 0
    const peer = open(t, server.url, newDocumentId(), {
      token: ({ refresh }) => { asked.push(refresh); return code === 'token_expired' ? `token-${asked.length}` : 'token' },
      // The first stream brings what the server says, and then this.
      fetch: async (address, init) => {
        const response = await fetch(address, init)
        if (!new URL(address).pathname.endsWith('/events') || ++streams > 1) return response
        const reader = response.body.getReader()
        let text = ''
        while (!text.includes('event: sync') || !text.endsWith('\n\n')) text += Buffer.from((await reader.read()).value)
        await reader.cancel()
        return new Response(`${text}event: closed\ndata: {"code":"${code}","detail":"because"}\n\n`, { headers: response.headers })
      },
    })
    if (expected === 'ends') {
      const [end] = await until('it ends', () => peer.named('closed').length > 0 && peer.named('closed'), { seen: show(peer) })
      assert.deepEqual(end, { code, reason: 'because' })
      assert.equal(streams, 1)
    } else {
      await until('it is connected again', () => streams === 2 && peer.provider.synced, { seen: show(peer) })
      peer.text.insert(0, 'abc')
      await untilSaved(peer)
      assert.deepEqual(peer.named('closed'), [])
      assert.deepEqual(asked, code === 'token_expired' ? [false, true] : [false])
    }
  })
}

test('a second 401 ends it', { timeout }, async t => {
  const server = await startServer(t)
  const asked = []
  const peer = open(t, server.url, newDocumentId(), {
    token: ({ refresh }) => { asked.push(refresh); return 'wrong' },
    fetch: fetchWith(() => problem(401, 'unauthorized')),
  })
  await until('it ends', () => peer.named('closed').length > 0, { seen: show(peer) })
  assert.equal(peer.named('closed')[0].code, 'unauthorized')
  assert.deepEqual(asked, [false, true])
})

test('a token that is only a string is not tried twice', { timeout }, async t => {
  const server = await startServer(t)
  let tries = 0
  const peer = open(t, server.url, newDocumentId(), {
    token: 'wrong',
    fetch: fetchWith((method, path, init) => {
      tries++
      assert.equal(init.headers.Authorization, 'Bearer wrong')
      return problem(401, 'unauthorized')
    }),
  })
  await until('it ends', () => peer.named('closed').length > 0)
  assert.equal(tries, 1)
})

test('a token function that fails is asked again later', { timeout }, async t => {
  const server = await startServer(t)
  let asked = 0
  const peer = open(t, server.url, newDocumentId(), {
    token: () => {
      if (++asked < 3) throw new Error('the login service is down')
      return 'token'
    },
  })
  await untilSaved(peer)
  assert.equal(asked, 3)
})

test('an observer that throws stops nothing', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const [ada, bob] = [open(t, server.url, id), open(t, server.url, id)]
  await untilSaved(ada, bob)
  bob.text.observe(() => { throw new Error('an observer') })
  for (const letter of 'abc') {
    ada.text.insert(ada.text.length, letter)
    await until('it has arrived', () => bob.text.toString().endsWith(letter), { seen: show(ada, bob) })
  }
  await untilEqual(ada, bob)
  assert.ok(bob.named('connection-error').some(({ message }) => message === 'an observer'), 'it is told')
})

test('parameters and headers go with every request', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const seen = []
  const peer = open(t, server.url, id, {
    params: { label: 'Ada' },
    headers: { 'X-Class': '7b' },
    fetch: async (address, init) => {
      seen.push([new URL(address).searchParams.get('label'), init.headers['X-Class']])
      return fetch(address, init)
    },
  })
  peer.text.insert(0, 'abc')
  await untilSaved(peer)
  for (const pair of seen) assert.deepEqual(pair, ['Ada', '7b'])
  assert.ok(seen.length >= 2)
})

test('people see each other, and see each other leave', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const [ada, bob] = [open(t, server.url, id), open(t, server.url, id)]
  await untilSaved(ada, bob)
  ada.provider.awareness.setLocalStateField('user', { name: 'Ada' })
  const seenBy = (peer, other) => peer.provider.awareness.getStates().get(other.provider.awareness.clientID)
  await until('Bob sees Ada', () => seenBy(bob, ada)?.user?.name === 'Ada')
  await until('Ada sees Bob', () => seenBy(ada, bob))

  ada.provider.disconnect()
  assert.equal(seenBy(ada, bob), undefined)
  await until('Bob sees that Ada is gone', () => seenBy(bob, ada) === undefined)
  ada.provider.connect()
  await until('Bob sees Ada again, at once', () => seenBy(bob, ada)?.user?.name === 'Ada', { within: 5000 })
  await until('Ada sees Bob again, at once', () => seenBy(ada, bob), { within: 5000 })
})

test('a burst of caret moves is a few posts, the last one included', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  let posts = 0
  const ada = open(t, server.url, id, { fetch: fetchWith((method, path) => { if (path.endsWith('/awareness')) posts++ }) })
  const bob = open(t, server.url, id)
  await untilSaved(ada, bob)
  const started = Date.now()
  for (let caret = 0; caret <= 100; caret++) {
    ada.provider.awareness.setLocalStateField('caret', caret)
    await new Promise(resolve => setImmediate(resolve))
  }
  await until('Bob sees the last', () => bob.provider.awareness.getStates().get(ada.provider.awareness.clientID)?.caret === 100)
  assert.ok(posts <= 3 + (Date.now() - started) / 80, `${posts} posts`)
})

test('whoever loses the connection no longer shows the others for long', { timeout }, async t => {
  const server = await startServer(t)
  const proxy = await startProxy(t, server)
  const id = newDocumentId()
  const ada = open(t, proxy.url, id, { presenceGrace: 300 })
  const bob = open(t, server.url, id)
  const others = () => ada.provider.awareness.getStates().size - 1
  await until('Ada sees Bob', () => others() === 1)
  proxy.isDown = true
  proxy.cut()
  await until('Bob is forgotten', () => others() === 0)
  proxy.isDown = false
  await until('Ada sees Bob again', () => others() === 1)
  assert.ok(bob.provider.synced)
})

test('a provider that is destroyed sends what it still holds', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const peer = open(t, server.url, id)
  await peer.provider.whenSynced
  peer.text.insert(0, 'last words')
  peer.provider.destroy()
  await until('they are on the server', async () => await server.text(id) === 'last words')
})

test('an update that builds on a missing one is completed from the server', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  // A stream that leaves one event out.
  let toSkip = 0
  const deaf = open(t, server.url, id, {
    fetch: async (address, init) => {
      const response = await fetch(address, init)
      if (!new URL(address).pathname.endsWith('/events')) return response
      const skipping = new TransformStream({
        transform (chunk, controller) {
          if (toSkip > 0 && Buffer.from(chunk).includes('event: update')) toSkip--
          else controller.enqueue(chunk)
        },
      })
      return new Response(response.body.pipeThrough(skipping), { headers: response.headers })
    },
  })
  const other = open(t, server.url, id)
  await untilSaved(deaf, other)
  toSkip = 1
  other.text.insert(0, 'one ')
  await until('it was skipped', () => toSkip === 0)
  await untilSaved(other)
  other.text.insert(4, 'two')
  await until('it is whole', () => deaf.text.toString() === 'one two', { seen: show(deaf) })
  assert.ok(deaf.named('gap').length >= 1)
})

test('a document of many authors syncs, though its state vector is too long for an address', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const doc = new Y.Doc()
  for (let i = 0; i < 400; i++) {
    const author = new Y.Doc()
    author.getText('text').insert(0, 'x')
    Y.applyUpdate(doc, Y.encodeStateAsUpdate(author))
  }
  assert.ok(Y.encodeStateVector(doc).length > 1000)
  const addresses = []
  const peer = open(t, server.url, id, { fetch: fetchWith((method, path) => { addresses.push(`${method} ${path.split('/').pop()}`) }) }, doc)
  const other = open(t, server.url, id)
  await untilEqual(peer, other)
  assert.equal(other.text.length, 400)
  assert.ok(addresses.includes('POST state'))
})

test('a mute server is compared with now and then, if asked for', { timeout }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const streams = []
  const peer = open(t, server.url, id, {
    resyncInterval: 200,
    // A stream that brings the sync event and then never anything.
    fetch: async (address, init) => {
      const response = await fetch(address, init)
      if (!new URL(address).pathname.endsWith('/events')) return response
      const reader = response.body.getReader()
      streams.push(reader)
      return new Response(new ReadableStream({
        async start (controller) {
          for (let text = ''; !text.includes('event: sync');) {
            const { value } = await reader.read()
            text += Buffer.from(value)
            controller.enqueue(value)
          }
        },
        cancel: () => reader.cancel(),
      }), { headers: response.headers })
    },
  })
  const other = open(t, server.url, id)
  await untilSaved(peer, other)
  other.text.insert(0, 'abc')
  await until('it arrived all the same', () => peer.text.toString() === 'abc', { seen: show(peer) })
})

test('fifty writers end with one text', { timeout: 60_000 }, async t => {
  const server = await startServer(t)
  const id = newDocumentId()
  const peers = Array.from({ length: 50 }, () => open(t, server.url, id))
  await until('all are connected', () => peers.every(({ provider }) => provider.synced), { within: 20_000 })
  await Promise.all(peers.map(async ({ text }, i) => {
    for (let n = 0; n < 20; n++) {
      text.insert(Math.floor(Math.random() * (text.length + 1)), String.fromCharCode(97 + i % 26))
      await new Promise(resolve => setTimeout(resolve, Math.random() * 20))
    }
  }))
  await until('all have all', () => peers.every(({ text }) => text.length === 1000), { within: 40_000, seen: show(...peers.slice(0, 3)) })
  await untilEqual(...peers)
})

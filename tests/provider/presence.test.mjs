import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Presence } from '../../public/lib/presence.js'
import { Y, awarenessProtocol, until } from '../browser/support.mjs'

const { Awareness, applyAwarenessUpdate, encodeAwarenessUpdate } = awarenessProtocol

/** @param {import('node:test').TestContext} t */
function begin (t, { grace = 60_000 } = {}) {
  const awareness = new Awareness(new Y.Doc())
  const sent = []
  const presence = new Presence(awareness, { interval: 0, grace, send: async update => { sent.push(update) }, tell: () => {} })
  t.after(() => {
    presence.destroy()
    awareness.destroy()
  })
  return { awareness, presence, sent }
}

/** Somebody else, and what others see of them. */
function somebody (t) {
  const awareness = new Awareness(new Y.Doc())
  t.after(() => awareness.destroy())
  awareness.setLocalState({ name: 'Bob' })
  return { awareness, id: awareness.clientID, says: () => encodeAwarenessUpdate(awareness, [awareness.clientID]) }
}

test('whoever is taken for gone says that they are here', async t => {
  const { awareness, presence, sent } = begin(t)
  awareness.setLocalState({ name: 'Ada' })
  presence.open()
  await until('it is sent', () => sent.length === 1)
  const others = somebody(t).awareness
  applyAwarenessUpdate(others, sent[0], 'server')
  const gone = encodeAwarenessUpdate(others, [awareness.clientID], new Map())
  applyAwarenessUpdate(others, gone, 'server')
  assert.equal(others.getStates().has(awareness.clientID), false)
  presence.apply(gone)
  await until('it is sent again', () => sent.length === 2)
  applyAwarenessUpdate(others, sent[1], 'server')
  assert.deepEqual(others.getStates().get(awareness.clientID), { name: 'Ada' })
})

test('somebody who returns with the same clock is seen again', t => {
  const { awareness, presence } = begin(t)
  const bob = somebody(t)
  presence.open()
  presence.apply(bob.says())
  presence.remove(bob.id)
  assert.equal(awareness.getStates().has(bob.id), false)
  presence.apply(bob.says())
  assert.equal(awareness.getStates().has(bob.id), true)
})

test('those who left while the connection was lost are forgotten, the others stay', async t => {
  const { awareness, presence } = begin(t, { grace: 50 })
  const [bob, eve] = [somebody(t), somebody(t)]
  presence.open()
  presence.apply(bob.says())
  presence.apply(eve.says())
  presence.lose()
  presence.open()
  presence.apply(bob.says()) // the server names those who are here
  await until('Eve is forgotten', () => !awareness.getStates().has(eve.id))
  assert.equal(awareness.getStates().has(bob.id), true)
})

test('a short break shows nobody leaving', t => {
  const { awareness, presence } = begin(t)
  const bob = somebody(t)
  presence.open()
  presence.apply(bob.says())
  const changes = []
  awareness.on('change', ({ removed }) => changes.push(...removed))
  presence.lose()
  presence.open()
  presence.apply(bob.says())
  assert.deepEqual(changes, [])
})

test('each connection says our state under a new clock', async t => {
  const { awareness, presence, sent } = begin(t)
  const clock = () => awareness.meta.get(awareness.clientID).clock
  const before = clock()
  presence.open()
  assert.ok(clock() > before)
  await until('it is sent', () => sent.length === 1)
  presence.lose()
  presence.open()
  await until('it is sent again', () => sent.length === 2)
})

test('what is said on leaving removes us, and our return wins over it', async t => {
  const { awareness, presence, sent } = begin(t)
  presence.open()
  await until('it is sent', () => sent.length === 1)
  const others = somebody(t).awareness
  applyAwarenessUpdate(others, sent[0], 'server')
  applyAwarenessUpdate(others, presence.close(), 'server')
  assert.equal(others.getStates().has(awareness.clientID), false)
  presence.open()
  await until('it is sent again', () => sent.length === 2)
  applyAwarenessUpdate(others, sent[1], 'server')
  assert.equal(others.getStates().has(awareness.clientID), true)
})

// examples/agent.py beside a person who types: it is seen, it answers, and neither of them loses a letter when the agent
// or the server is killed in the middle of an answer.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { launchBrowser, startServer } from './support.mjs'
import { newDocumentId, newPerson, openEditor, until, untilOneText } from './editor-page.mjs'

const script = fileURLToPath(new URL('../../examples/agent.py', import.meta.url))
const hasPython = spawnSync('python3', ['--version']).status === 0
const COLOUR = '#0b7a3e'
/** Words a second: slow enough to be killed in the middle, fast enough for a test. */
const RATE = 40

const numbers = (/** @type {number} */ last) => Array.from({ length: last }, (_, i) => i + 1).join(' ')
const exchange = (/** @type {number} */ last) => `@agent count to ${last}\n↳ Agent: ${numbers(last)}\n`

/**
 * Starts the agent, and kills it with the test.
 * @param {import('node:test').TestContext} t
 * @param {string} url
 * @param {string} id
 */
function startAgent (t, url, id) {
  const child = spawn('python3', [script, '--server', url, '--document', id, '--colour', COLOUR, '--rate', String(RATE)],
    { stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  for (const output of [child.stdout, child.stderr]) output.on('data', data => { said += data })
  const ended = new Promise(resolve => child.once('exit', resolve))
  const stopAtExit = () => child.kill('SIGKILL')
  process.once('exit', stopAtExit)
  const agent = {
    said: () => said,
    /** @param {NodeJS.Signals} signal */
    async kill (signal) {
      child.kill(signal)
      await ended
      process.removeListener('exit', stopAtExit)
      return child.exitCode
    }
  }
  t.after(() => agent.kill('SIGKILL'))
  return agent
}

test('an agent beside a person', { timeout: 180_000, skip: hasPython ? false : 'python3 is missing' }, async t => {
  const browser = await launchBrowser(t)

  /** Ada's window on an empty document, with an agent in it. @param {import('node:test').TestContext} t */
  const withAgent = async t => {
    const server = await startServer(t, { isDurable: true })
    const id = newDocumentId()
    const person = await newPerson(browser, 'Ada')
    t.after(() => person.close())
    const ada = await openEditor(person, server.url, id)
    const agent = startAgent(t, server.url, id)
    await isListed(ada)
    return { server, id, ada, agent }
  }

  /** @param {import('./editor-page.mjs').Editor} ada */
  const isListed = ada => until('the agent is among the people',
    async () => (await ada.state()).people.includes('Agentreading'), { seen: () => ada.state() })

  /** @param {import('./editor-page.mjs').Editor} ada */
  const isGone = ada => until('the agent is no longer among the people',
    async () => (await ada.state()).people.length === 1, { seen: () => ada.state() })

  /**
   * Waits until an answer has come so far, and is still under way.
   * @param {import('./editor-page.mjs').Editor} ada
   * @param {number} number
   */
  const answerIsAt = (ada, number) => until(`the answer has got to ${number}`,
    async () => new RegExp(` ${number} [\\d ]*▌`).test(await ada.text()), { seen: () => ada.state() })

  await t.test('it is listed, answers below the line while she types above, and goes', { timeout: 60_000 }, async t => {
    const { server, id, ada, agent } = await withAgent(t)
    const dot = ada.page.locator('.person', { hasText: 'Agent' }).locator('.person-dot')
    assert.equal(await dot.evaluate(element => getComputedStyle(element).borderTopColor), 'rgb(11, 122, 62)')

    await ada.type('Notes: \n@agent count to 150\nBelow.')
    await answerIsAt(ada, 5)
    await ada.select(7)
    const typed = 'every word of this goes above, while the agent answers'
    await ada.type(typed, { delay: 20 })
    assert.match(await ada.text(), /▌/, 'both wrote at the same time')

    const whole = `Notes: ${typed}\n${exchange(150)}Below.`
    assert.equal(await untilOneText(server, id, [ada], { length: whole.length, within: 30_000 }), whole)
    await until('the log names the agent', async () => (await ada.state()).log.some(line => line?.includes('Agent')), { seen: () => ada.state() })

    assert.equal(await agent.kill('SIGTERM'), 0, agent.said())
    await isGone(ada)
    assert.equal(agent.said(), '')
    assert.deepEqual(ada.complaints, [])
  })

  await t.test('killed in the middle of an answer and started again, it goes on with the next word', { timeout: 60_000 }, async t => {
    const { server, id, ada, agent } = await withAgent(t)
    await ada.type('@agent count to 120\n')
    await answerIsAt(ada, 20)
    await agent.kill('SIGKILL')
    await isGone(ada)
    assert.match(await ada.text(), /^@agent count to 120\n↳ Agent: [\d ]+▌\n$/)
    await ada.select(0)
    await ada.type('While it was away. ')

    const again = startAgent(t, server.url, id)
    // That line no longer begins with @agent: nobody is called there, and the answer stays as it is.
    await isListed(ada)
    await ada.press('Enter')
    const whole = `While it was away. \n${exchange(120)}`
    assert.equal(await untilOneText(server, id, [ada], { length: whole.length, within: 30_000 }), whole)
    assert.equal(again.said(), '')
  })

  await t.test('when the server is killed and comes back, the answer goes on and nothing is doubled', { timeout: 60_000 }, async t => {
    const { server, id, ada, agent } = await withAgent(t)
    await ada.type('@agent count to 120\n')
    for (const number of [15, 60]) {
      await answerIsAt(ada, number)
      await server.kill()
      await ada.type('meanwhile ')
      await server.start()
    }
    const whole = `${exchange(120)}meanwhile meanwhile `
    assert.equal(await untilOneText(server, id, [ada], { length: whole.length, within: 30_000 }), whole)
    await isListed(ada)
    assert.equal(agent.said(), '')
  })
})

/**
 * The tabs of one browser that show the same document: one leads, the others follow.
 *
 * A browser opens six HTTP/1.1 connections to a host and no more, so tabs that each hold an event stream block
 * each other, their posts included. Only the leader holds a stream, and passes on what it hears.
 *
 * The leader is whoever holds a Web Lock: the browser gives it to the next tab when the holder is closed or
 * crashes. A leader that hangs keeps its lock but answers no question, and is robbed of it. Where Web Locks are
 * missing (they need a secure context, and http://some-name-on-the-network is none) the tabs elect one by messages:
 * the one that has been there longest. For a moment there may be two leaders then. That costs a connection and
 * breaks nothing, since applying an update twice changes nothing.
 */

/** How long a newcomer listens for a leader before it claims to be one; and how long others may object. */
const LISTEN_MS = 150
const OBJECT_MS = 60

/** @typedef {'leader' | 'follower'} Role */

/**
 * @typedef {object} Envelope
 * @property {string} from
 * @property {boolean} leads the sender is the leader
 * @property {string} rank the sender's age; the lowest leads
 * @property {'who' | 'here' | 'claim' | 'bye' | 'body'} kind
 * @property {any} body
 */

export class CrossTab {
  #name
  #id
  #rank
  #takeoverTimeout
  #handlers
  /** @type {LockManager | undefined} */
  #locks
  /** @type {BroadcastChannel | null} */
  #channel = null
  /** @type {Role | null} */
  #role = null
  #isStopped = false
  #heardAt = 0
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #watch
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #claim
  /** Ends our wait for the lock, or lets go of it. */
  #queue = new AbortController()
  /** @type {(() => void) | null} */
  #release = null

  /** Whether tabs can hear each other here at all. */
  static get isPossible () {
    return typeof BroadcastChannel === 'function'
  }

  /**
   * @param {string} name the same for all tabs that belong together
   * @param {string} id of this tab
   * @param {object} settings
   * @param {number} settings.takeoverTimeout a leader silent for so many milliseconds is replaced
   * @param {(role: Role) => void} settings.onRole
   * @param {(body: any, fromLeader: boolean) => void} settings.onMessage
   * @param {() => void} settings.onNewcomer somebody has opened; only the leader is called
   * @param {LockManager | undefined} [settings.locks]
   */
  constructor (name, id, { takeoverTimeout, onRole, onMessage, onNewcomer, locks = globalThis.navigator?.locks }) {
    this.#name = name
    this.#id = id
    this.#rank = `${String(Date.now()).padStart(15, '0')} ${id}`
    this.#takeoverTimeout = takeoverTimeout
    this.#handlers = { onRole, onMessage, onNewcomer }
    this.#locks = locks
  }

  start () {
    this.#channel = new BroadcastChannel(this.#name)
    this.#channel.onmessage = ({ data }) => this.#hear(data)
    this.#heardAt = Date.now()
    if (this.#locks !== undefined) this.#join(this.#locks)
    else this.#listen()
    this.#watchLeader()
  }

  /** @param {any} body something that can be cloned */
  post (body) {
    this.#say('body', body)
  }

  /** @param {any} [body] a last word to the others */
  stop (body) {
    if (this.#isStopped) return
    this.#say('bye', body)
    this.#isStopped = true
    clearTimeout(this.#watch)
    clearTimeout(this.#claim)
    this.#queue.abort()
    this.#release?.()
    this.#channel?.close()
    this.#channel = null
  }

  /**
   * @param {Envelope['kind']} kind
   * @param {any} [body]
   */
  #say (kind, body) {
    /** @type {Envelope} */
    const envelope = { from: this.#id, leads: this.#role === 'leader', rank: this.#rank, kind, body }
    this.#channel?.postMessage(envelope)
  }

  /** @param {Envelope} envelope */
  #hear ({ leads, rank, kind, body }) {
    if (this.#isStopped) return
    if (leads) this.#heardAt = Date.now()
    switch (kind) {
      case 'who':
        if (this.#role === 'leader') {
          this.#say('here')
          this.#handlers.onNewcomer()
        }
        break
      case 'here':
      case 'claim':
        if (this.#locks === undefined) this.#compareWith(rank, kind)
        break
      case 'bye':
        if (body !== undefined) this.#handlers.onMessage(body, leads)
        if (leads && this.#locks === undefined) this.#claimSoon(Math.random() * OBJECT_MS)
        break
      case 'body':
        this.#handlers.onMessage(body, leads)
        break
    }
  }

  /** @param {Role} role */
  #become (role) {
    if (this.#isStopped || role === this.#role) return
    this.#role = role
    this.#heardAt = Date.now()
    if (role === 'leader') this.#say('here')
    this.#handlers.onRole(role)
    if (role === 'follower') this.#say('who')
  }

  /** Asks a leader that has gone quiet whether it is still there, and replaces it if it is not. */
  #watchLeader () {
    const interval = this.#takeoverTimeout / 4
    const planned = Date.now() + interval
    this.#watch = setTimeout(() => {
      // Late ourselves: the machine slept or we hung, and heard nobody for that reason.
      if (Date.now() - planned > this.#takeoverTimeout) this.#heardAt = Date.now()
      if (this.#role === 'follower') {
        const silence = Date.now() - this.#heardAt
        if (silence > this.#takeoverTimeout * (1 + 0.2 * Math.random())) this.#takeOver()
        else if (silence > this.#takeoverTimeout / 2) this.#say('who')
      }
      this.#watchLeader()
    }, interval)
  }

  #takeOver () {
    if (this.#locks === undefined) this.#claimSoon(0)
    else this.#rob(this.#locks)
  }

  // With Web Locks.

  /** @param {LockManager} locks */
  #join (locks) {
    locks.request(this.#name, { ifAvailable: true }, lock => lock === null ? undefined : this.#hold()).then(
      () => { if (this.#role !== 'leader') this.#follow(locks) },
      error => this.#onLockLost(error, locks))
  }

  /**
   * Waits in the queue for the lock.
   *
   * @param {LockManager} locks
   */
  #follow (locks) {
    if (this.#isStopped) return
    this.#become('follower')
    this.#queue = new AbortController()
    const { signal } = this.#queue
    locks.request(this.#name, { signal }, () => signal.aborted ? undefined : this.#hold()).catch(error => {
      // Unless we left the queue ourselves, to rob or to stop.
      if (!signal.aborted) this.#onLockLost(error, locks)
    })
  }

  /**
   * @param {unknown} error
   * @param {LockManager} locks
   */
  #onLockLost (error, locks) {
    if (this.#isStopped) return
    if (error instanceof DOMException && error.name === 'AbortError') {
      this.#follow(locks) // robbed
    } else {
      // Locks exist and are not for us: a page in a sandbox, say.
      this.#locks = undefined
      this.#listen()
    }
  }

  /** @param {LockManager} locks */
  #rob (locks) {
    this.#queue.abort()
    this.#heardAt = Date.now()
    locks.request(this.#name, { steal: true }, () => this.#hold()).catch(error => this.#onLockLost(error, locks))
  }

  /** Leads for as long as the promise is open. */
  #hold () {
    if (this.#isStopped) return undefined
    this.#become('leader')
    return new Promise(resolve => { this.#release = () => resolve(undefined) })
  }

  // With messages alone.

  #listen () {
    this.#become('follower')
    this.#claimSoon(LISTEN_MS * (1 + Math.random()))
  }

  /** @param {number} wait milliseconds */
  #claimSoon (wait) {
    const since = Date.now()
    clearTimeout(this.#claim)
    this.#claim = setTimeout(() => {
      if (this.#heardAt > since) return
      this.#say('claim')
      this.#claim = setTimeout(() => {
        if (this.#heardAt <= since) this.#become('leader')
      }, OBJECT_MS)
    }, wait)
  }

  /**
   * Somebody leads, or would like to.
   *
   * @param {string} rank
   * @param {'here' | 'claim'} kind
   */
  #compareWith (rank, kind) {
    const isElder = this.#rank < rank
    if (this.#role === 'leader') {
      if (isElder || kind === 'claim') this.#say('here')
      else this.#become('follower')
    } else if (kind === 'here' || !isElder) {
      clearTimeout(this.#claim)
      // The claim may come to nothing, if its tab closes: the watch looks after that.
    } else {
      // A younger tab claims what is ours by age.
      this.#claimSoon(0)
    }
  }
}

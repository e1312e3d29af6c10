/**
 * The server's HTTP interface for one document: addresses, headers, tokens, timeouts and errors.
 *
 * Knows nothing of Yjs documents or of when to try again; that is the provider's business.
 */

import { decodeBase64, encodeBase64 } from './base64.js'

/** Longest state vector, as base64, that goes into an address. Proxies refuse addresses beyond 8 KiB or less. */
export const ADDRESS_VECTOR_CHARACTERS_MAX = 1000

/**
 * Longest update that goes out while the page is left. All `keepalive` bodies together may have 64 KiB; base64
 * makes 64 of 48, and the rest of the body needs some too.
 */
export const LEAVING_UPDATE_BYTES_MAX = 48 * 1024 - 512

/**
 * A request that got no answer, or one that says no.
 */
export class ApiError extends Error {
  /**
   * @param {number} status 0: no answer at all
   * @param {string} code the server's word for it, or `unreachable`, `timeout`, `unexpected_answer`
   * @param {string} detail
   * @param {object} [more]
   * @param {number} [more.retryAfter] milliseconds the server asked for
   * @param {Record<string, unknown>} [more.problem] the whole problem document
   * @param {unknown} [more.cause]
   */
  constructor (status, code, detail, { retryAfter = 0, problem = {}, cause } = {}) {
    super(detail, { cause })
    this.name = 'ApiError'
    this.status = status
    this.code = code
    this.retryAfter = retryAfter
    this.problem = problem
  }

  /**
   * @param {unknown} error
   * @returns {ApiError}
   */
  static from (error) {
    if (error instanceof ApiError) return error
    return new ApiError(0, 'failed', error instanceof Error ? error.message : String(error), { cause: error })
  }

  /** The same request can succeed later. */
  get isTemporary () {
    return this.status === 0 || this.status === 408 || this.status === 425 || this.status === 429 || this.status >= 500
  }
}

/**
 * @typedef {object} State
 * @property {string | null} epoch null: the document was never written
 * @property {number} seq
 * @property {Uint8Array} update
 * @property {Uint8Array} vector the server's state vector
 */

/**
 * @typedef {string | null | undefined | ((request: { refresh: boolean }) => string | null | undefined | Promise<string | null | undefined>)} Token
 */

/** An update that holds nothing, and the state vector of an empty document. */
const NOTHING = Uint8Array.of(0, 0)
const NO_VECTOR = Uint8Array.of(0)

export class DocumentApi {
  #base
  #params
  #headers
  #token
  #fetch
  #requestTimeout
  /** What `token` last answered; kept until the server refuses it. @type {string | null} */
  #bearer = null
  /** The next question to `token` is for a new one. */
  #refresh = false
  /** @type {Promise<void> | null} */
  #asking = null
  /** The token that the last event stream was opened with. @type {string | null} */
  #streamBearer = null

  /**
   * @param {object} settings
   * @param {string} settings.base the server's address, without a slash at the end
   * @param {string} settings.documentId
   * @param {Record<string, string>} settings.params
   * @param {Record<string, string>} settings.headers
   * @param {Token} settings.token
   * @param {typeof globalThis.fetch} settings.fetch
   * @param {number} settings.requestTimeout
   */
  constructor ({ base, documentId, params, headers, token, fetch, requestTimeout }) {
    this.#base = `${base}/docs/${encodeURIComponent(documentId)}`
    this.#params = params
    this.#headers = headers
    this.#token = token
    this.#fetch = fetch
    this.#requestTimeout = requestTimeout
    if (typeof token === 'string') this.#bearer = token
  }

  /**
   * Opens the event stream. The answer's body is the caller's, to read and to cancel.
   *
   * @param {object} query
   * @param {string} query.clientId
   * @param {string | null} query.since
   * @param {string} query.vector base64; left out when it is too long for an address
   * @param {AbortSignal} signal
   * @returns {Promise<ReadableStream<Uint8Array>>}
   */
  async events ({ clientId, since, vector }, signal) {
    /** @type {Record<string, string>} */
    const query = { client_id: clientId }
    if (since !== null) query.since = since
    if (vector.length <= ADDRESS_VECTOR_CHARACTERS_MAX) query.sv = vector
    const request = { query, signal, headers: { Accept: 'text/event-stream' } }
    const [response, bearer] = await this.#send('/events', request, async (response, bearer) => /** @type {const} */ ([response, bearer]))
    this.#streamBearer = bearer
    const type = response.headers.get('content-type') ?? 'no content type'
    if (!type.startsWith('text/event-stream') || response.body === null) {
      // A login page of some network in between, most likely.
      await response.body?.cancel()
      throw new ApiError(0, 'unexpected_answer', `expected an event stream, got ${type}`)
    }
    return response.body
  }

  /**
   * What the holder of `vector` lacks.
   *
   * @param {Uint8Array} vector
   * @param {AbortSignal} signal
   * @param {string | null} [unless] the holder is content if the document is still at this `<epoch>.<seq>`
   * @returns {Promise<State | null>} null: it still is
   */
  async state (vector, signal, unless = null) {
    const sv = encodeBase64(vector)
    /** @type {Record<string, string>} */
    const headers = unless === null ? {} : { 'If-None-Match': `"${unless}"` }
    try {
      return sv.length <= ADDRESS_VECTOR_CHARACTERS_MAX
        ? readState(await this.#send('/state', { query: { sv }, headers, signal }, readJson))
        : readState(await this.#send('/state', { json: { sv }, headers, signal }, readJson))
    } catch (error) {
      if (error instanceof ApiError && error.status === 304) return null
      // Not found: the document was never written, or the path is wrong. Only the server's own word means the former.
      if (error instanceof ApiError && error.status === 404 && error.code === 'not_found') {
        return { epoch: null, seq: 0, update: NOTHING, vector: NO_VECTOR }
      }
      throw error
    }
  }

  /**
   * @param {Uint8Array} update
   * @param {string} clientId
   * @param {string | null} epoch
   * @returns {Promise<{ epoch: string | null, seq: number, changed: boolean }>}
   */
  async postUpdate (update, clientId, epoch) {
    const request = { json: updateBody(update, clientId, epoch) }
    const { epoch: life, seq, changed } = await this.#send('/updates', request, readJson)
    if (typeof seq !== 'number') throw new ApiError(0, 'unexpected_answer', 'the answer to an update has no seq')
    return { epoch: typeof life === 'string' ? life : null, seq, changed: changed === true }
  }

  /**
   * @param {Uint8Array} update
   * @param {string} clientId
   * @param {AbortSignal} signal
   */
  async postAwareness (update, clientId, signal) {
    const request = { json: updateBody(update, clientId, null), signal }
    await this.#send('/awareness', request, async response => response.body?.cancel())
  }

  /**
   * Sends without waiting, in a way that outlives the page. Nobody hears the answer.
   *
   * The request is made before this returns, so the token is the one last used: a page that is being left
   * runs no promise callbacks.
   *
   * @param {'/updates' | '/awareness'} path
   * @param {Uint8Array} update
   * @param {string} clientId
   * @param {string | null} epoch
   */
  sendLeaving (path, update, clientId, epoch) {
    try {
      this.#fetch(this.#address(path, {}), {
        method: 'POST',
        keepalive: update.length <= LEAVING_UPDATE_BYTES_MAX,
        headers: this.#requestHeaders({ 'Content-Type': 'application/json' }),
        body: JSON.stringify(updateBody(update, clientId, epoch)),
      }).then(response => response.body?.cancel()).catch(() => {})
    } catch {
      // Over the browser's limit for such requests, or no longer allowed: there is nobody left to tell.
    }
  }

  /** A new connection: whoever gives the tokens may have a better one by now. */
  forgetToken () {
    if (typeof this.#token === 'function') this.#bearer = null
  }

  /**
   * The server has ended the event stream because its token is good no more.
   *
   * @returns {Promise<boolean>} whether there is another one. With the same again the stream would open, in the moments
   *   that the server allows for clocks that differ, and end again, without end
   */
  async renewToken () {
    if (typeof this.#token !== 'function') return false
    const refused = this.#streamBearer
    this.#expireToken(refused)
    await this.#askForToken()
    return this.#bearer !== refused
  }

  /**
   * The next request asks for a new token, unless another request of ours has got one meanwhile.
   *
   * @param {string | null} refused
   */
  #expireToken (refused) {
    if (this.#bearer !== refused) return
    this.#bearer = null
    this.#refresh = true
  }

  /**
   * @template T
   * @param {string} path
   * @param {object} request
   * @param {Record<string, string>} [request.query]
   * @param {Record<string, unknown>} [request.json] makes it a POST
   * @param {Record<string, string>} [request.headers]
   * @param {AbortSignal} [request.signal]
   * @param {(response: Response, bearer: string | null) => Promise<T>} read what is wanted of a 2xx answer; has to be
   *   done in time as well
   * @returns {Promise<T>}
   */
  async #send (path, { query = {}, json, headers = {}, signal }, read) {
    const isPost = json !== undefined
    /** @type {string | null} */
    let bearer = null
    const attempt = async () => {
      await this.#askForToken()
      bearer = this.#bearer
      /** @type {RequestInit} */
      const init = {
        method: isPost ? 'POST' : 'GET',
        cache: 'no-store',
        headers: this.#requestHeaders({ ...headers, ...(isPost ? { 'Content-Type': 'application/json' } : {}) }),
        body: isPost ? JSON.stringify(json) : undefined,
      }
      return this.#inTime(signal, async signal => {
        const response = await this.#fetch(this.#address(path, query), { ...init, signal })
        return response.ok ? read(response, bearer) : readProblem(response)
      })
    }
    let answer = await attempt()
    if (answer instanceof ApiError && answer.status === 401 && typeof this.#token === 'function') {
      this.#expireToken(bearer)
      answer = await attempt()
    }
    if (answer instanceof ApiError) throw answer
    return answer
  }

  /**
   * @template T
   * @param {AbortSignal | undefined} signal
   * @param {(signal: AbortSignal) => Promise<T>} work
   * @returns {Promise<T>}
   */
  async #inTime (signal, work) {
    const ends = new AbortController()
    const abort = () => ends.abort(signal?.reason)
    signal?.addEventListener('abort', abort)
    if (signal?.aborted) abort()
    let isLate = false
    const timer = setTimeout(() => {
      isLate = true
      ends.abort()
    }, this.#requestTimeout)
    try {
      return await work(ends.signal)
    } catch (cause) {
      if (signal?.aborted || cause instanceof ApiError) throw cause
      if (isLate) throw new ApiError(0, 'timeout', `no answer within ${this.#requestTimeout} ms`, { cause })
      throw new ApiError(0, 'unreachable', 'the server could not be reached', { cause })
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
    }
  }

  async #askForToken () {
    const ask = this.#token
    if (typeof ask !== 'function') return
    while (this.#bearer === null) {
      const refresh = this.#refresh
      this.#asking ??= Promise.resolve({ refresh }).then(ask).finally(() => { this.#asking = null }).then(
        token => {
          this.#bearer = token ?? ''
          this.#refresh = false
        },
        cause => { throw new ApiError(0, 'no_token', 'the token function failed', { cause }) })
      await this.#asking
    }
  }

  /**
   * @param {string} path
   * @param {Record<string, string>} query
   */
  #address (path, query) {
    const search = new URLSearchParams({ ...this.#params, ...query }).toString()
    return this.#base + path + (search === '' ? '' : `?${search}`)
  }

  /** @param {Record<string, string>} headers */
  #requestHeaders (headers) {
    return { ...this.#headers, ...headers, ...(this.#bearer ? { Authorization: `Bearer ${this.#bearer}` } : {}) }
  }
}

/**
 * @param {Uint8Array} update
 * @param {string} clientId
 * @param {string | null} epoch
 */
function updateBody (update, clientId, epoch) {
  return { update: encodeBase64(update), client_id: clientId, ...(epoch === null ? {} : { epoch }) }
}

/**
 * @param {Response} response
 * @returns {Promise<Record<string, unknown>>}
 */
async function readJson (response) {
  const json = await response.json()
  if (typeof json !== 'object' || json === null) throw new ApiError(0, 'unexpected_answer', 'expected a JSON object')
  return json
}

/**
 * Reads the fields that a state answer and a `sync` event share.
 *
 * @param {Record<string, unknown>} json
 * @returns {State}
 */
export function readState ({ epoch, seq, update, state_vector: vector }) {
  if (typeof seq !== 'number' || typeof update !== 'string' || typeof vector !== 'string') {
    throw new ApiError(0, 'unexpected_answer', 'a state needs seq, update and state_vector')
  }
  return { epoch: typeof epoch === 'string' ? epoch : null, seq, update: decodeBase64(update), vector: decodeBase64(vector) }
}

/**
 * @param {Response} response
 * @returns {Promise<ApiError>}
 */
async function readProblem (response) {
  /** @type {Record<string, unknown>} */
  let problem = {}
  try {
    const read = await response.json()
    if (typeof read === 'object' && read !== null) problem = read
  } catch {
    // A proxy's own page: the status has to do.
  }
  const code = typeof problem.code === 'string' ? problem.code : `status_${response.status}`
  const detail = typeof problem.detail === 'string' ? problem.detail : `the server answered ${response.status}`
  return new ApiError(response.status, code, detail, { problem, retryAfter: readRetryAfter(response.headers.get('retry-after')) })
}

/**
 * @param {string | null} value seconds or a date
 * @param {number} [now]
 * @returns {number} milliseconds
 */
export function readRetryAfter (value, now = Date.now()) {
  if (value === null || value.trim() === '') return 0
  const seconds = Number(value)
  const ms = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(value) - now
  return ms > 0 ? ms : 0
}

/**
 * How many event streams a browser holds to one host, over all of its tabs and documents.
 *
 * Web Locks serve as the counter. Where they are missing, or where the connection carries many requests at once
 * (HTTP/2 and later), nothing is counted.
 */

/** Of the six connections that a browser opens, two are left for posts and pages. */
const STREAMS_MAX = 4

/**
 * Takes a slot, and keeps it until the signal fires.
 *
 * @param {string} base the server's address
 * @param {AbortSignal} signal
 * @returns {Promise<boolean>} false: all are taken
 */
export async function takeSlot (base, signal) {
  const locks = globalThis.navigator?.locks
  if (locks === undefined || isMultiplexed(base)) return true
  for (let slot = 1; slot <= STREAMS_MAX; slot++) {
    if (signal.aborted) return false
    if (await tryLock(locks, `promptgrimoire stream ${slot}`, signal)) return true
  }
  return false
}

/**
 * @param {LockManager} locks
 * @param {string} name
 * @param {AbortSignal} signal
 * @returns {Promise<boolean>}
 */
function tryLock (locks, name, signal) {
  return new Promise(resolve => {
    locks.request(name, { ifAvailable: true }, lock => {
      resolve(lock !== null)
      if (lock === null || signal.aborted) return undefined
      return new Promise(release => signal.addEventListener('abort', () => release(undefined)))
    }).catch(() => resolve(false))
  })
}

/**
 * The page came from this server over HTTP/2 or later: so do its requests, all over one connection.
 *
 * @param {string} base
 */
function isMultiplexed (base) {
  if (new URL(base).origin !== globalThis.location?.origin) return false
  const [page] = globalThis.performance?.getEntriesByType?.('navigation') ?? []
  const protocol = /** @type {PerformanceNavigationTiming | undefined} */ (page)?.nextHopProtocol ?? ''
  return /^h[23]/.test(protocol)
}

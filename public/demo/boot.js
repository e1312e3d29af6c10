// @ts-check
/**
 * Starts the page; where that fails, says in the page what is missing and what to do, in place of a blank form.
 *
 * Imports nothing by itself: a module whose import fails never runs, and could explain nothing.
 */

try {
  const { start } = await import('./editor.js')
  start()
} catch (error) {
  console.error(error)
  const missing = await missingModules()
  if (missing.length > 0) explainMissing(missing)
  else explain('This page could not start', `${error instanceof Error ? error.message : error}. Load the page again; if that does not help, the server and its pages may be of different versions.`)
}
document.body.classList.add('started')

/** The addresses in the page's import map that hold no module. */
async function missingModules () {
  /** @type {Record<string, string>} */
  const { imports } = JSON.parse(document.querySelector('script[type="importmap"]')?.textContent ?? '{"imports":{}}')
  const answers = await Promise.all(Object.values(imports).map(async address => {
    const answer = await fetch(address, { cache: 'no-store' }).catch(() => null)
    await answer?.body?.cancel()
    return { address, isModule: answer?.ok === true && /javascript/.test(answer.headers.get('content-type') ?? '') }
  }))
  return answers.filter(answer => !answer.isModule).map(answer => answer.address)
}

/** @param {string[]} missing */
function explainMissing (missing) {
  const notice = explain('A part of this page is not installed',
    'The editor needs Yjs, which is not kept with the source but fetched once. In the directory of the source, run:')
  const command = document.createElement('pre')
  command.tabIndex = 0
  command.append(Object.assign(document.createElement('code'), { textContent: 'npm --prefix public ci' }))
  notice.append(command)
  paragraph(notice, 'Then load this page again. A release build carries its pages inside: build it again first.')
  paragraph(notice, `Not there: ${missing.join(', ')}`).className = 'quiet'
}

/**
 * @param {string} title
 * @param {string} text
 */
function explain (title, text) {
  const notice = document.createElement('div')
  notice.className = 'notice'
  notice.append(Object.assign(document.createElement('h2'), { textContent: title }))
  paragraph(notice, text)
  document.getElementById('notice')?.replaceChildren(notice)
  // What does not work must not look as if it did.
  document.getElementById('desk')?.replaceChildren()
  document.querySelector('.states')?.remove()
  return notice
}

/**
 * @param {HTMLElement} home
 * @param {string} text
 */
function paragraph (home, text) {
  const element = Object.assign(document.createElement('p'), { textContent: text })
  home.append(element)
  return element
}

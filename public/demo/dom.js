// @ts-check
/**
 * The few lines of DOM that every part of the page needs.
 */

/**
 * The element with this id, which the page has for certain.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function byId (id) {
  const element = document.getElementById(id)
  if (element === null) throw new Error(`the page has no element #${id}`)
  return /** @type {T} */ (element)
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {{ class?: string, text?: string }} [options]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function create (tag, { class: className, text } = {}, ...children) {
  const element = document.createElement(tag)
  if (className !== undefined) element.className = className
  if (text !== undefined) element.textContent = text
  element.append(...children)
  return element
}

/**
 * Copies, also where the page is not served over https (no `navigator.clipboard` there).
 * @param {string} text
 */
export async function copy (text) {
  if (navigator.clipboard !== undefined) return navigator.clipboard.writeText(text)
  const area = create('textarea', { class: 'visually-hidden' })
  area.value = text
  document.body.append(area)
  area.select()
  const done = document.execCommand('copy')
  area.remove()
  if (!done) throw new Error('the browser did not let us copy')
}

/**
 * A button that copies and says so.
 * @param {HTMLButtonElement} button
 * @param {() => string} text
 */
export function copyButton (button, text) {
  const label = button.textContent
  let timer = 0
  button.addEventListener('click', async () => {
    try {
      await copy(text())
      button.textContent = 'Copied'
    } catch {
      button.textContent = 'Could not copy'
    }
    clearTimeout(timer)
    timer = window.setTimeout(() => { button.textContent = label }, 2000)
  })
}

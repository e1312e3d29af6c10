// @ts-check
/**
 * Colours of people. Pure.
 *
 * A person's colour is one value, known to everybody; what is painted is made from it, for each colour scheme, so that
 * a name is readable on it (WCAG AA: 4.5 to 1), whoever chose it.
 */

export const PALETTE = ['#0b57d0', '#a04a00', '#7b3f98', '#00715f', '#b0124f', '#5b6b00', '#00708f', '#6d4c41']

const READABLE = 4.5
/** What a name is written in: white on the colours of the light scheme, this on those of the dark one. */
const DARK_INK = /** @type {const} */ ([16, 18, 23])
const WHITE = /** @type {const} */ ([255, 255, 255])

/** @typedef {readonly [red: number, green: number, blue: number]} Rgb each 0 to 255 */

/**
 * The least used colour; of several, the first in the palette.
 * @param {Iterable<string>} used by the others
 * @param {string[]} [palette]
 */
export function leastUsed (used, palette = PALETTE) {
  const count = new Map(palette.map(colour => [colour, 0]))
  for (const colour of used) if (count.has(colour)) count.set(colour, (count.get(colour) ?? 0) + 1)
  const least = Math.min(...count.values())
  return palette.find(colour => count.get(colour) === least) ?? palette[0]
}

/**
 * The two shades that a colour is painted in. What is no colour at all is grey.
 * @param {unknown} colour `#rrggbb`
 * @returns {{ light: string, dark: string }}
 */
export function shades (colour) {
  const rgb = parse(colour)
  return { light: css(mixedUntilReadable(rgb, WHITE, [0, 0, 0])), dark: css(mixedUntilReadable(rgb, DARK_INK, WHITE)) }
}

/**
 * @param {Rgb} rgb
 * @param {Rgb} ink that has to be readable on it
 * @param {Rgb} towards
 */
function mixedUntilReadable (rgb, ink, towards) {
  for (let share = 0; share < 1; share += 0.05) {
    const mixed = mix(rgb, towards, share)
    if (contrast(mixed, ink) >= READABLE) return mixed
  }
  return towards
}

/**
 * As WCAG 2 defines it: 1 to 21.
 * @param {Rgb} a
 * @param {Rgb} b
 */
export function contrast (a, b) {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y)
  return (high + 0.05) / (low + 0.05)
}

/** @param {Rgb} rgb */
function luminance (rgb) {
  const [red, green, blue] = rgb.map(value => {
    const part = value / 255
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
  })
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue
}

/**
 * @param {unknown} colour
 * @returns {Rgb}
 */
export function parse (colour) {
  if (typeof colour !== 'string' || !/^#[0-9a-f]{6}$/i.test(colour)) return [96, 103, 112]
  const value = Number.parseInt(colour.slice(1), 16)
  return [value >> 16, (value >> 8) & 255, value & 255]
}

/**
 * @param {Rgb} a
 * @param {Rgb} b
 * @param {number} share of `b`
 * @returns {Rgb}
 */
const mix = (a, b, share) => {
  const part = (/** @type {0 | 1 | 2} */ i) => Math.round(a[i] + (b[i] - a[i]) * share)
  return [part(0), part(1), part(2)]
}
/** @param {Rgb} rgb */
const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`

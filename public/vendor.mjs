// Copies the third-party code that the browser needs into public/vendor/, as a few ES modules.
//
// Our own modules are served as they are written. They name their dependencies by bare specifier, and the page's
// import map says where those are. An import map has to stand in the page itself, before the first module:
//
//   <script type="importmap">{"imports":{
//     "yjs":"/vendor/yjs.js",
//     "y-protocols/awareness":"/vendor/y-protocols-awareness.js",
//     "lib0/observable":"/vendor/lib0-observable.js"
//   }}</script>
//
// These names are stable: a specifier's file is the specifier with "/" and "@" turned into "-". What the entries
// share lies in chunk-*.js beside them, so that each library exists once: two copies of Yjs do not work together.
// The same map is written to vendor/importmap.json, for tests and tools.

import { mkdir, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

/** Every bare specifier that a module under public/ imports. */
const specifiers = ['yjs', 'y-protocols/awareness', 'lib0/observable']

const root = fileURLToPath(new URL('.', import.meta.url))
const outdir = fileURLToPath(new URL('vendor/', import.meta.url))
/** @param {string} specifier */
const fileName = specifier => specifier.replace(/^@/, '').replace(/[/@]/g, '-')

await rm(outdir, { recursive: true, force: true })
await mkdir(outdir, { recursive: true })
await build({
  absWorkingDir: root,
  entryPoints: specifiers.map(specifier => ({ in: specifier, out: fileName(specifier) })),
  outdir,
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'browser',
  target: 'es2022',
  minify: true,
  legalComments: 'inline',
  logLevel: 'warning',
})
const imports = Object.fromEntries(specifiers.map(specifier => [specifier, `/vendor/${fileName(specifier)}.js`]))
await writeFile(new URL('importmap.json', new URL('vendor/', import.meta.url)), JSON.stringify({ imports }, null, 2) + '\n')

// What the scenarios of every Node client share: registering, running and reporting, waiting with an end, and test data.
import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { promisify, isDeepStrictEqual, inspect } from 'node:util'

export const URL = process.env.AMQP_URL
export const URL_V6 = process.env.AMQP_URL_V6 ?? ''
export const MESSAGES = Number(process.env.INTEROP_MESSAGES || 50000)
export const FRAME_MAX = 131072
export const WAIT_MS = 10_000
const SCENARIO_LIMIT_MS = 90_000

// The library lives in $INTEROP_WORK, not beside the scenarios.
export const library = createRequire(`${process.env.INTEROP_WORK}/`)

class Skip extends Error {}
class Mismatch extends Error {}

const scenarios = new Map()
let number = 0

export const scenario = (name, run) => scenarios.set(name, run)
export const skipped = (name, reason) => scenarios.set(name, () => skip(reason))
export const name = (suffix = 'q') => `${process.env.INTEROP_PREFIX}${suffix}-${++number}`

export function skip(reason) {
  throw new Skip(reason)
}

export function fail(text) {
  throw new Mismatch(text)
}

export function check(condition, text) {
  if (!condition) fail(text)
}

export function equal(actual, expected, what = 'value') {
  if (!isDeepStrictEqual(actual, expected)) fail(`${what}: expected ${short(expected)}, got ${short(actual)}`)
}

export function contains(text, part, what = 'text') {
  if (!String(text).includes(part)) fail(`${what}: expected ${JSON.stringify(part)} in ${JSON.stringify(String(text))}`)
}

/** Calls `probe` until it returns something true, and returns that. */
export async function eventually(probe, what, ms = WAIT_MS) {
  const deadline = Date.now() + ms
  for (;;) {
    const result = await probe()
    if (result) return result
    if (Date.now() > deadline) fail(`waited ${ms / 1000} s for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** The promise, or a failure after `ms`. */
export function within(promise, what, ms = WAIT_MS) {
  let timer
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Mismatch(`waited ${ms / 1000} s for ${what}`)), ms)
  })
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer))
}

/** The error that `action` ends with. */
export async function errorOf(action) {
  try {
    await within(action(), 'an error')
  } catch (error) {
    if (error instanceof Mismatch) throw error
    return error
  }
  return fail('expected an error, got none')
}

export function needBrokerControl() {
  if (!process.env.BROKER_CONTROL) skip('no broker control: this broker is not ours to kill')
}

export const killAndRestartBroker = () => promisify(execFile)(process.env.BROKER_CONTROL, ['kill-restart'], { timeout: 100_000 })

export function fibonacci(n) {
  let [a, b] = [0n, 1n]
  for (let i = 0; i < n; i++) [a, b] = [b, a + b]
  return a
}

/** Bytes that no shift or swap of blocks leaves the same. */
export function bodyOf(size) {
  const body = Buffer.alloc(size)
  for (let i = 0; i + 4 <= size; i += 4) body.writeUInt32BE((i / 4 + 1) * 2654435761 % 2 ** 32, i)
  return body
}

export const bodySizes = [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 8 * 1024 * 1024]

export const TOPIC_KEYS = ['quick.orange.rabbit', 'lazy.orange.elephant', 'quick.orange.fox', 'lazy.brown.fox', 'lazy', 'quick.brown.fox', 'orange', '',
  'quick.orange.new.rabbit']
// Binding keys of one queue, and the routing keys out of TOPIC_KEYS that they match.
export const TOPIC_MATCHES = [
  [['*.orange.*'], ['quick.orange.rabbit', 'lazy.orange.elephant', 'quick.orange.fox']],
  [['*.*.rabbit', 'lazy.#'], ['quick.orange.rabbit', 'lazy.orange.elephant', 'lazy.brown.fox', 'lazy']],
  [['#'], TOPIC_KEYS],
  [['*'], ['lazy', 'orange']],
]

export const HEADER_MESSAGES = [
  ['both', { format: 'pdf', pages: 3, more: 1 }],
  ['one', { format: 'pdf', pages: 4 }],
  ['none', { format: 'zip' }],
  ['string', { pages: '3' }],
  ['empty', {}],
]

function short(value) {
  const text = inspect(value, { depth: 6, breakLength: Infinity })
  return text.length <= 200 ? text : `${text.slice(0, 200)}… (${text.length} characters)`
}

/** Runs the registered scenarios, recovery_after_kill last, and prints what the runner reads. */
export async function main() {
  // A library that throws into the void fails the scenario that runs at that time.
  let strike = () => {}
  for (const event of ['uncaughtException', 'unhandledRejection']) process.on(event, (error) => strike(error))
  const only = (process.env.INTEROP_ONLY ?? '').split(',').filter(Boolean)
  const names = [...scenarios.keys()].sort((a, b) => (a === 'recovery_after_kill') - (b === 'recovery_after_kill'))
  for (const scenarioName of names) {
    if (only.length && !only.includes(scenarioName)) continue
    const started = Date.now()
    let line
    try {
      const astray = new Promise((_, reject) => { strike = reject })
      astray.catch(() => {})
      await within(Promise.race([scenarios.get(scenarioName)(), astray]), 'the scenario to end', SCENARIO_LIMIT_MS)
      line = `PASS ${scenarioName}`
    } catch (error) {
      const kind = error instanceof Skip ? 'SKIP' : 'FAIL'
      const reason = error instanceof Skip || error instanceof Mismatch ? error.message : `${error?.name}: ${error?.message ?? error}`
      if (kind === 'FAIL') console.error(error)
      line = `${kind} ${scenarioName}: ${reason.replaceAll(/\s+/g, ' ')}`
    }
    console.log(line)
    console.error(`${scenarioName}: ${(Date.now() - started) / 1000} s`)
  }
  console.log('DONE')
  // Sockets of scenarios that failed must not keep the process alive.
  process.exit(0)
}

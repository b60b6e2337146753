// Runs scenarios through one installed JavaScript client and tells, as lines of JSON, what came of each.
//
// What a scenario holds are stand-ins for the client's own objects and classes, which note every call, so that in the end it
// can be told which public methods nobody called. This file knows nothing of what is checked.
import fs from 'node:fs'
import path from 'node:path'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { classesOf } from './declared.mjs'
import { METHODS } from './cannot.mjs'
import * as check from './check.mjs'

const here = path.dirname(fileURLToPath(import.meta.url))
const PATIENCE = 90_000
const SCENARIOS = []

/** Registers a scenario of an area; its name is the function's. */
function scenario(area, run, { packages = ['e2b', 'e2b-oldest'], patience = PATIENCE } = {}) {
  SCENARIOS.push({ area, run, packages, patience })
}

class Run {
  constructor(values) {
    this.package = values.package
    this.label = values.label
    const load = createRequire(path.join(process.env.CONFORMANCE_MODULES, 'x.js'))
    this.isProgram = this.package === '@e2b/cli'
    this.client = this.isProgram ? {} : load(this.package)
    this.classes = this.isProgram ? new Map() : this.declared(this.package)
    this.known = new Map([...(this.isProgram || this.package.startsWith('e2b') ? [] : this.declared('e2b')), ...this.classes])
    this.called = new Set()
    this.ran = false
  }

  declared(name) {
    const file = path.join(process.env.CONFORMANCE_MODULES, name, 'dist/index.d.ts')
    return new Map([...classesOf(fs.readFileSync(file, 'utf8'))].filter(([each]) => !/Error$|Config$|^LogEntry|Message$/.test(each)))
  }

  tell(area, name, status, reason = '', seconds = 0) {
    this.ran ||= status !== 'skipped'
    const told = { client: this.label, area, name, status, reason, seconds: Math.round(seconds * 100) / 100 }
    process.stdout.write(JSON.stringify(told) + '\n')
  }

  /** The class and those that it extends, as far as the package declares them; the nearest first. */
  lineage(cls) {
    const found = []
    for (let each = cls; each && each.name; each = Object.getPrototypeOf(each)) if (this.known.has(each.name)) found.push(each.name)
    return found
  }

  note(cls, name) {
    for (const each of this.lineage(cls)) this.called.add(`${each}.${name}`)
  }

  isKnown(value) {
    if (typeof value === 'function') return /^class\b/.test(Function.prototype.toString.call(value)) && this.lineage(value).length > 0
    return Boolean(value && typeof value === 'object' && this.lineage(value.constructor).length)
  }

  stand(value) {
    if (value instanceof Promise) return value.then((each) => this.stand(each))
    if (Array.isArray(value)) return value.map((each) => this.stand(each))
    if (!this.isKnown(value) || value instanceof Error) return value
    const isClass = typeof value === 'function'
    return new Proxy(isClass ? value : Object.create(null), {
      get: (_, name) => (name === REAL ? value : this.member(value, isClass ? value : value.constructor, name)),
      construct: (_, args) => this.stand(new value(...real(args))),
      has: (_, name) => name in value,
    })
  }

  member(value, cls, name) {
    const found = value[name]
    if (typeof found === 'function' && !this.isKnown(found)) {
      return (...args) => {
        this.note(cls, name)
        return this.stand(found.apply(value, real(args)))
      }
    }
    if (typeof name === 'string') this.note(cls, name)
    return this.stand(found)
  }

  /** `Template` is a function with the class's methods on it. */
  template() {
    const template = this.client.Template
    return new Proxy(template, {
      get: (_, name) => this.member(template, this.client.TemplateBase, name),
      apply: (_, self, args) => this.stand(template(...args)),
    })
  }

  async one({ area, run, patience }) {
    const start = performance.now()
    const kit = new Kit(this)
    let status = 'passed', reason = '', timer
    try {
      const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`still at it after ${patience / 1000} s`)), patience)))
      await Promise.race([run(kit), late])
    } catch (error) {
      const lack = lacked(area, error)
      status = error instanceof check.Skip || lack ? 'skipped' : 'failed'
      reason = lack ?? (status === 'skipped' ? error.message : describe(error))
    }
    clearTimeout(timer)
    await kit.clean()
    this.tell(area, run.name, status, reason, (performance.now() - start) / 1000)
  }

  everyMethod() {
    if (!this.ran) return this.tell('methods', 'every_method', 'skipped', 'no scenario of this client could run')
    const offered = [...this.classes].flatMap(([cls, { members }]) => [...members].map((name) => `${cls}.${name}`))
    const missing = offered.filter((name) => !this.called.has(name))
    const unexcused = missing.filter((name) => !(name in METHODS))
    const [status, why] = LACKS.length ? ['skipped', `without ${LACKS.join(', ')}, `] : ['failed', '']
    this.tell('methods', 'every_method', unexcused.length ? status : 'passed', unexcused.length ? `${why}never called: ${unexcused.join(', ')}` : '')
    for (const name of missing) if (name in METHODS) this.tell('methods', name, 'skipped', METHODS[name])
  }
}

// Areas of which the target may say that it does not have them (501); of any other, and without this, that is a failure. And
// `cold-pauses`, which it cannot say of itself.
const LACKS = (process.env.CONFORMANCE_LACKS ?? '').split(' ').filter(Boolean)

const REAL = Symbol('what a stand-in stands for')

/** The client's own object, also deep inside what is passed. */
function real(value) {
  if (Array.isArray(value)) return value.map(real)
  if (value && (typeof value === 'object' || typeof value === 'function') && value[REAL]) return value[REAL]
  if (value && Object.getPrototypeOf(value) === Object.prototype) return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, real(each)]))
  return value
}

/** What a scenario works with: the client's classes, a sandbox of its own, and checks. */
class Kit {
  constructor(run) {
    Object.assign(this, check)
    this.run = run
    this.package = run.package
    this.client = run.client
    this.mark = Math.random().toString(36).slice(2, 12)
    this.undone = []
    for (const name of ['Sandbox', 'Volume', 'Secret']) this[name] = run.client[name] && run.stand(run.client[name])
    if (run.client.Template) this.Template = run.template()
  }

  /** A sandbox that goes with the scenario. */
  async sandbox(template, options = {}) {
    const all = { timeoutMs: 120_000, metadata: { conformance: this.mark }, ...options }
    return this.later(await (template ? this.Sandbox.create(template, all) : this.Sandbox.create(all)))
  }

  later(sandbox) {
    this.undo(() => sandbox.kill())
    return sandbox
  }

  undo(work) {
    this.undone.push(work)
  }

  async clean() {
    for (const work of this.undone.reverse()) await Promise.resolve().then(work).catch(() => {}) // what is gone already
  }

  /** Skips for that reason where the target lacks the thing. */
  needs(thing, reason) {
    if (LACKS.includes(thing)) throw new check.Skip(reason)
  }

  /** Asks a port of a sandbox from outside, as a program would. */
  async portRequest(sandbox, port, at = '/', options = {}) {
    const base = process.env.E2B_SANDBOX_URL
    const routed = base ? { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port) } : {}
    const answer = await fetch((base ?? `https://${sandbox.getHost(port)}`) + at, { ...options, headers: { ...options.headers, ...routed } })
    return { status: answer.status, headers: answer.headers, text: await answer.text() }
  }

  /** The error class of that name; older clients know only the more general. */
  error(name) {
    const older = { SandboxNotFoundError: 'NotFoundError', FileNotFoundError: 'NotFoundError' }
    return this.client[name] ?? this.client[older[name]]
  }

  /** The promise must be rejected with an error of that name. */
  async rejects(name, promise, saying) {
    const wanted = typeof name === 'string' ? this.error(name) : name
    let result
    try {
      result = await promise
    } catch (error) {
      if (!(error instanceof wanted)) throw new check.Failure(`wanted ${wanted.name}, got ${error?.name}: ${error?.message}`)
      if (saying) this.contains(error.message, saying, `the text of ${error.name}`)
      return error
    }
    throw new check.Failure(`wanted ${wanted.name}, got the result ${check.short(result)}`)
  }
}

/** What the target says that it lacks, where it may. */
function lacked(area, error) {
  const found = LACKS.includes(area) && String(error?.message ?? error).match(/501: (.*?)('$|', |$)/m)
  return found ? `the server says: ${found[1]}` : undefined
}

/** The error and the line of the scenario that it came to. */
function describe(error) {
  const line = String(error?.stack ?? '').split('\n').find((each) => each.includes('/scenarios/'))
  const where = line ? ` (${line.replace(/^.*\/scenarios\/|\)?$/g, '')})` : ''
  const name = error instanceof check.Failure ? '' : `${error?.name ?? 'Error'}: `
  return `${name}${String(error?.message ?? error).slice(0, 600)}${where}`
}

const matches = (pattern, text) => new RegExp(`^${pattern.replace(/[.+^${}()|[\]\\]/g, '\\$&').replace(/\*/g, '.*').replace(/\?/g, '.')}$`).test(text)

async function main() {
  const text = { type: 'string' }
  const { values } = parseArgs({ options: { package: text, label: text, only: { ...text, default: '*' }, jobs: { ...text, default: '4' } } })
  const { only, jobs } = values
  const run = new Run(values)
  for (const file of fs.readdirSync(path.join(here, 'scenarios')).sort()) (await import(path.join(here, 'scenarios', file))).register(scenario)
  const chosen = SCENARIOS.filter((each) => each.packages.includes(run.package) && (matches(only, each.run.name) || matches(only, each.area)))
  const queue = [...chosen]
  await Promise.all(Array.from({ length: Number(jobs) }, async () => {
    for (let each = queue.shift(); each; each = queue.shift()) await run.one(each)
  }))
  if (only === '*' && !run.isProgram) run.everyMethod()
  // Streams that never end do not hold it.
  process.stdout.write('', () => process.exit(0))
}

// What a client leaves unhandled after a scenario has ended belongs to none.
process.on('unhandledRejection', () => {})
await main()

// Checks of scenarios, and the two ways in which a scenario ends before its end.
import { isDeepStrictEqual, inspect } from 'node:util'

/** What is tried is not there; the text says why. */
export class Skip extends Error {}
/** Something is not as it must be. */
export class Failure extends Error {}

export const short = (value) => {
  const text = inspect(value, { depth: 4, breakLength: Infinity })
  return text.length <= 300 ? text : `${text.slice(0, 300)}… (${text.length} characters)`
}
export function skip(reason) {
  throw new Skip(reason)
}
export function check(holds, what) {
  if (!holds) throw new Failure(what)
}
export function equal(got, wanted, what = 'the answer') {
  if (!isDeepStrictEqual(got, wanted)) throw new Failure(`${what}: wanted ${short(wanted)}, got ${short(got)}`)
}
export function contains(whole, part, what = 'the answer') {
  if (!whole.includes(part)) throw new Failure(`${what}: wanted something with ${short(part)}, got ${short(whole)}`)
}
export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))
/** Asks again and again until it is so. */
export async function eventually(ask, what, seconds = 20) {
  for (const end = Date.now() + seconds * 1000; ; await sleep(100)) {
    const result = await ask()
    if (result) return result
    if (Date.now() > end) throw new Failure(`not within ${seconds} s: ${what}`)
  }
}

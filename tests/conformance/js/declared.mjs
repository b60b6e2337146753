// Reads from a package's declarations which methods its classes offer to the public. It knows no package.

const CLASS = /^(?:export )?declare (?:abstract )?class (\w+)(?:<.*?>)?(?: extends (\w+))?/
const MEMBER = /^ {2,4}(private |protected |public )?(static )?(?:abstract )?(get |set |async )?(\w+)(?:<[^(]*>)?\(/

/** Name of each class, with the names of its own public methods and accessors; what is marked as internal is left out. */
export function classesOf(text) {
  const found = new Map()
  let name, depth = 0, hidden = false, comment = false
  for (const line of text.split('\n')) {
    const start = name ? null : line.match(CLASS)
    if (start) {
      name = start[1]
      found.set(name, { parent: start[2], members: new Set() })
    } else if (name && depth === 1 && !comment) {
      const member = line.match(MEMBER)
      if (member && !hidden && !/private|protected/.test(member[1]) && member[4] !== 'constructor') {
        found.get(name).members.add(member[4])
      }
    }
    if (!name) continue
    if (/^\s*\/\*/.test(line)) comment = true
    if (comment) {
      hidden ||= /@internal|@hidden/.test(line)
      comment = !line.includes('*/')
      continue
    }
    if (line.trim()) hidden = false
    depth += count(line, '{') - count(line, '}')
    if (depth === 0) name = undefined
  }
  return found
}

const count = (line, sign) => line.split(sign).length - 1

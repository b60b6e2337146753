// Methods of the clients that no scenario calls to their end, and why. Nothing else excuses a method that was never called.
const VOLUMES = "volumes of a tenant's own are not served: a template's volumes belong to the user that a sandbox is made for"
const SECRETS = "secrets are put into requests by a proxy that opens TLS in the sandbox's name, and there is none"

const all = (cls, names, why) => Object.fromEntries(names.map((name) => [`${cls}.${name}`, why]))

export const METHODS = {
  ...all('Volume', ['connect', 'getInfo', 'list', 'destroy', 'makeDir', 'exists', 'updateMetadata', 'readFile', 'writeFile', 'remove'], VOLUMES),
  ...all('Secret', ['update', 'getInfo', 'list', 'exists', 'destroy'], SECRETS),
  ...all('SecretPaginator', ['nextItems'], SECRETS),
}

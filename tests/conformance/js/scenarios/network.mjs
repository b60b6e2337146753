// What reaches a sandbox, and its rules.
const SERVER = `
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(self.headers).lower().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
`

async function serving(t, options) {
  const sandbox = await t.sandbox(undefined, options)
  await sandbox.files.write('serve.py', SERVER)
  await sandbox.commands.run('python3 serve.py', { background: true, timeoutMs: 0 })
  await t.eventually(async () => (await sandbox.commands.run('ss -Htln sport = :8080')).stdout !== '', 'the server listens')
  return sandbox
}

async function portsAreReached(t) {
  const sandbox = await serving(t, { network: { maskRequestHost: 'masked.example.com:${PORT}' } })
  const { status, text } = await t.portRequest(sandbox, 8080)
  t.equal(status, 200, 'the status')
  t.contains(text, 'host: masked.example.com:8080', 'maskRequestHost')
  const closed = await t.portRequest(sandbox, 3210)
  t.equal(closed.status, 502, 'a closed port')
  t.contains(closed.text, 'port is not open', 'a closed port')
}

async function privatePortsWantAToken(t) {
  const sandbox = await serving(t, { secure: true, network: { allowPublicTraffic: false } })
  t.check(sandbox.trafficAccessToken, 'a trafficAccessToken')
  t.equal((await t.portRequest(sandbox, 8080)).status, 403, 'without it')
  t.equal((await t.portRequest(sandbox, 8080, '/', { headers: { 'e2b-traffic-access-token': sandbox.trafficAccessToken } })).status, 200, 'with it')
}

async function rulesAreReplaced(t) {
  const sandbox = await t.sandbox(undefined, { network: { denyOut: ['8.8.8.8'] } })
  await sandbox.updateNetwork({ allowOut: ['1.1.1.1'], denyOut: ['0.0.0.0/0'] })
  const { network } = await sandbox.getInfo()
  if (network) t.equal([network.allowOut, network.denyOut], [['1.1.1.1'], ['0.0.0.0/0']], 'network')
  await t.Sandbox.updateNetwork(sandbox.sandboxId, { denyOut: ['9.9.9.9'] })
  await t.rejects('SandboxError', sandbox.updateNetwork({ denyOut: ['not an address'] }))
}

async function cutOff(t) {
  const sandbox = await t.sandbox(undefined, { allowInternetAccess: false })
  await t.rejects('CommandExitError', sandbox.commands.run('curl -sS --connect-timeout 3 --max-time 5 http://1.1.1.1/'))
}

export function register(scenario) {
  for (const run of [portsAreReached, privatePortsWantAToken, rulesAreReplaced, cutOff]) scenario('network', run)
}

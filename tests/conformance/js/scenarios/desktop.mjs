// The desktop.
const options = { packages: ['@e2b/desktop'], patience: 200_000 }
// Of a cluster, whose images come from registries alone.
const NO_IMAGE = 'the cluster allows no image of it: servers on one machine make it of packages, and whoever has a registry can push it there'

async function desktop(t, more = {}) {
  try {
    return await t.sandbox(process.env.CONFORMANCE_DESKTOP_TEMPLATE, { timeoutMs: 280_000, ...more })
  } catch (error) {
    if (/does not exist/.test(error.message)) t.skip(`the server has no such template: ${error.message}`)
    if (/is not one of this tenant's/.test(error.message)) t.skip(NO_IMAGE)
    throw error
  }
}

async function screenAndMouse(t) {
  const screen = await desktop(t, { resolution: [1280, 720] })
  t.equal(await screen.getScreenSize(), { width: 1280, height: 720 }, 'getScreenSize')
  t.equal([...(await screen.screenshot()).slice(1, 4)], [80, 78, 71], 'a screenshot')
  await screen.moveMouse(300, 200)
  t.equal(await screen.getCursorPosition(), { x: 300, y: 200 }, 'getCursorPosition')
  for (const click of ['leftClick', 'doubleClick', 'rightClick', 'middleClick']) await screen[click](50, 60)
  t.equal(await screen.getCursorPosition(), { x: 50, y: 60 }, 'after clicks')
  await screen.scroll('down', 1)
  await screen.mousePress('left')
  await screen.mouseRelease('left')
  await screen.drag([100, 100], [250, 260])
  t.equal(await screen.getCursorPosition(), { x: 250, y: 260 }, 'after a drag')
  await screen.wait(20)
  t.equal(await screen.waitAndVerify('true', (result) => result.exitCode === 0), true, 'waitAndVerify')
}

async function keysAndWindows(t) {
  const screen = await desktop(t)
  await screen.commands.run("xfce4-terminal --disable-server -T conf-typed --dynamic-title-mode=none -x sh -c 'read line; echo \"$line\" > /tmp/typed'", { background: true, timeoutMs: 0 })
  const [window] = await t.eventually(async () => {
    const found = await screen.getApplicationWindows('xfce4-terminal').catch(() => [])
    return found.length && found
  }, 'the window is there', 30)
  t.contains(await screen.getWindowTitle(window), 'conf-typed', 'getWindowTitle')
  await screen.commands.run(`xdotool windowactivate --sync ${window} || xdotool windowfocus ${window}`)
  t.check(await screen.getCurrentWindowId(), 'getCurrentWindowId')
  await screen.write('typed text')
  await screen.press('enter')
  await t.eventually(() => screen.files.exists('/tmp/typed'), 'the program read a line')
  await screen.press(['ctrl', 'l'])
  await screen.files.write('page.txt', 'hello')
  await screen.open('/home/user/page.txt')
  const applications = (await screen.commands.run('ls /usr/share/applications')).stdout.split('\n')
  await screen.launch(applications.find((each) => /terminal|xterm/i.test(each)).replace('.desktop', ''))
}

async function streaming(t) {
  const screen = await desktop(t)
  await screen.stream.start({ requireAuth: true })
  const authKey = screen.stream.getAuthKey()
  t.contains(screen.stream.getUrl({ authKey }), authKey, 'getUrl')
  const { status, text } = await t.portRequest(screen, 6080, '/vnc.html')
  t.equal(status, 200, 'the page')
  t.contains(text.toLowerCase(), 'novnc', 'the page')
  await screen.stream.stop()
}

export function register(scenario) {
  for (const run of [screenAndMouse, keysAndWindows, streaming]) scenario('desktop', run, options)
}

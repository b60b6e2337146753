"""The desktop."""
import struct

from harness import scenario

PACKAGE = "e2b_desktop"

# Of a cluster, whose images come from registries alone.
NO_IMAGE = ("the cluster allows no image of it: servers on one machine make it of packages, and whoever has a registry can push it "
            "there")


def tried(function):
    return scenario("desktop", package=PACKAGE, patience=200)(function)


async def desktop(t, **options):
    """A desktop; skips where the server has no such template."""
    import os

    options.setdefault("timeout", 280)
    try:
        return t.later(await t.Sandbox.create(os.environ.get("CONFORMANCE_DESKTOP_TEMPLATE"), **options))
    except t.exception("SandboxException") as error:
        if "does not exist" in str(error):
            t.skip(f"the server has no such template: {error}")
        if "is not one of this tenant's" in str(error):
            t.skip(NO_IMAGE)
        raise


def size_of(png):
    """Width and height, as a PNG tells them."""
    return struct.unpack(">II", bytes(png[16:24]))


@tried
async def the_screen_is_seen(t):
    screen = await desktop(t, resolution=(1280, 720))
    t.equal(tuple(await screen.get_screen_size()), (1280, 720), "get_screen_size")
    shot = bytes(await screen.screenshot())
    t.equal((shot[:8], size_of(shot)), (b"\x89PNG\r\n\x1a\n", (1280, 720)), "a screenshot")
    got = b""
    async for piece in t.each(await screen.screenshot(format="stream")):
        got += piece
    t.equal(got[:8], b"\x89PNG\r\n\x1a\n", "a screenshot as a stream")


@tried
async def a_desktop_unless_asked(t):
    screen = await desktop(t)
    t.equal(tuple(await screen.get_screen_size()), (1024, 768), "get_screen_size")
    t.equal(tuple(await screen.get_cursor_position()), (512, 384), "get_cursor_position")
    before = bytes(await screen.screenshot())

    async def changed():
        return bytes(await screen.screenshot()) != before

    await screen.right_click()
    await t.eventually(changed, "a click with the right button shows something", 20)


@tried
async def the_mouse_moves_and_clicks(t):
    screen = await desktop(t)
    await screen.move_mouse(300, 200)
    t.equal(tuple(await screen.get_cursor_position()), (300, 200), "get_cursor_position")
    for click in (screen.left_click, screen.right_click, screen.double_click, screen.middle_click):
        await click(120, 130)
        t.equal(tuple(await screen.get_cursor_position()), (120, 130), "where it clicked")
    await screen.left_click()
    await screen.scroll("down", 2)
    await screen.scroll("up", 2)
    await screen.mouse_press("left")
    await screen.mouse_release("left")
    await screen.drag((100, 100), (250, 260))
    t.equal(tuple(await screen.get_cursor_position()), (250, 260), "after a drag")
    await screen.wait(50)


@tried
async def keys_reach_a_program(t):
    screen = await desktop(t)
    await screen.commands.run("command -v xfce4-terminal")
    await screen.commands.run("xfce4-terminal --disable-server -T conf-typed --dynamic-title-mode=none -x sh -c 'read line; echo \"$line\" > /tmp/typed'", background=True, timeout=0)

    async def windows():
        try:
            return await screen.get_application_windows("xfce4-terminal")
        except Exception:  # none yet
            return None

    found = await t.eventually(windows, "the window is there", 30)
    t.contains(await screen.get_window_title(found[0]), "conf-typed", "its title")
    await screen.commands.run(f"xdotool windowactivate --sync {found[0]} || xdotool windowfocus {found[0]}")
    t.check(await screen.get_current_window_id(), "get_current_window_id")
    await screen.write("typed text")
    await screen.press("enter")
    await t.eventually(lambda: screen.files.exists("/tmp/typed"), "the program read a line", 15)
    t.equal(await screen.files.read("/tmp/typed"), "typed text\n", "the line")
    await screen.press(["ctrl", "l"])


@tried
async def programs_are_started(t):
    screen = await desktop(t)
    await screen.files.write("page.txt", "hello")
    await screen.open("/home/user/page.txt")
    applications = (await screen.commands.run("ls /usr/share/applications")).stdout.split()
    terminal = next((each.removesuffix(".desktop") for each in applications if "terminal" in each or "xterm" in each.lower()), None)
    t.check(terminal, f"a terminal among {applications}")
    await screen.launch(terminal)


@tried
async def the_screen_is_streamed(t):
    screen = await desktop(t)
    await screen.stream.start(require_auth=True)
    key = await screen.stream.get_auth_key()
    url = await screen.stream.get_url(auth_key=key)
    t.contains(url, f"password={key}", "the URL")
    t.contains(await screen.stream.get_url(view_only=True), "view_only=true", "a URL to look only")
    status, _, text = t.port_request(screen, 6080, "/vnc.html")
    t.equal(status, 200, "the page")
    t.contains(text.lower(), "novnc", "the page")
    await t.raises(Exception, screen.stream.start())
    await screen.stream.stop()


@tried
async def a_desktop_with_settings(t):
    screen = await desktop(t, resolution=(800, 600), dpi=96, display=":3")
    t.equal(tuple(await screen.get_screen_size()), (800, 600), "get_screen_size")
    t.equal((await screen.commands.run("echo $DISPLAY")).stdout, ":3\n", "DISPLAY")

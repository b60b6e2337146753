#!/usr/bin/python3
"""Opens a desktop in a real browser, as its user does: browser.py URL SCREENSHOT. Passes when noVNC says that it is connected and
its canvas shows a picture that moves with the pointer. Chromium is led by its remote debugging protocol over two pipes."""
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

PATIENCE = 60
# How many colours the middle of the picture has, and a number that another picture would not have.
PICTURE = """(() => {
    const canvas = document.querySelector('#noVNC_container canvas');
    if (!document.documentElement.classList.contains('noVNC_connected') || !canvas || !canvas.width) return null;
    const pixels = new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return {width: canvas.width, height: canvas.height, colours: new Set(pixels).size,
        sum: pixels.reduce((sum, pixel, at) => (sum * 31 + pixel + at) >>> 0, 0)};
})()"""


class Browser:
    def __init__(self, profile):
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        trusted = os.environ["ATOLL_CLUSTER_SPKI"]
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                   "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1200,900", "--remote-debugging-pipe",
                   f"--user-data-dir={profile}", f"--ignore-certificate-errors-spki-list={trusted}",
                   f"--host-resolver-rules=MAP * {os.environ['ATOLL_CLUSTER_TRAEFIK']}", "about:blank"]
        # It reads orders from descriptor 3 and answers on 4.
        shell = f"exec {theirs_in}<&{theirs_in} 3<&{theirs_in} 4>&{theirs_out}; exec \"$@\""
        self.process = subprocess.Popen(["bash", "-c", shell, "chromium", *command], pass_fds=(theirs_in, theirs_out),
                                        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.close(theirs_in)
        os.close(theirs_out)
        self.orders, self.answers, self.count, self.session = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb"), 0, None

    def heard(self):
        text = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser is gone: " + self.process.stderr.read().decode()[-2000:]
            text += byte
        return json.loads(text)

    def call(self, method, **params):
        self.count += 1
        order = {"id": self.count, "method": method, "params": params}
        if self.session:
            order["sessionId"] = self.session
        self.orders.write(json.dumps(order).encode() + b"\0")
        while (answer := self.heard()).get("id") != self.count:
            pass
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def open(self, url):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        went = self.call("Page.navigate", url=url)
        assert "errorText" not in went, went

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, what, wanted):
        end = time.monotonic() + PATIENCE
        while not wanted(value := self.value(PICTURE)):
            if time.monotonic() > end:
                raise SystemExit(f"{what}: {value}; the page: " + str(self.value("document.body.innerText"))[:1000])
            time.sleep(0.2)
        return value

    def shoot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


def main(url, screenshot):
    profile = tempfile.mkdtemp()
    browser = Browser(profile)
    try:
        browser.open(url)
        try:
            before = browser.until("the desktop shows no picture", lambda it: it and it["colours"] >= 3)
        finally:
            browser.shoot(screenshot)
        # The eyes look at the pointer, also when it is this browser's.
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=100, y=100)
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=900, y=700)
        browser.until("nothing moves", lambda it: it and it["sum"] != before["sum"])
        browser.shoot(screenshot)
        address = browser.value("location.href")
        assert "atoll_token" not in address, address
        print(address, before)
    finally:
        browser.process.kill()
        browser.process.wait()
        shutil.rmtree(profile, ignore_errors=True)


main(*sys.argv[1:])

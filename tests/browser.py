"""A headless Chromium that a test looks at pages with, if there is one: no library is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
_SECONDS = 60
# Puts the pipes where the browser looks for them, and becomes the browser.
_START = """
import os, sys
from fcntl import F_DUPFD, fcntl
high = [fcntl(int(word), F_DUPFD, 10) for word in sys.argv[1:3]]
for number, pipe in zip((3, 4), high):
    os.dup2(pipe, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "PageDown": 34, "Home": 36}
KEYS |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """One page in a browser of its own, spoken to in Chromium's protocol through two pipes."""

    def __init__(self):
        theirs, self._to = os.pipe()
        self._from, back = os.pipe()
        self._folder = tempfile.mkdtemp(prefix="scsiameseclu-browser-")
        words = [PROGRAM, *FLAGS, f"--user-data-dir={self._folder}", "about:blank"]
        start = [sys.executable, "-S", "-c", _START, str(theirs), str(back), *words]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(start, pass_fds=(theirs, back), **quiet)
        for end in (theirs, back):
            os.close(end)
        self._rest, self._number, self._session = b"", 0, None
        self.events = []
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(20)
        for end in (self._to, self._from):
            os.close(end)
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method, **params):
        """Call a method of the protocol and return what it returns."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, (method, found["error"])
                return found["result"]

    def _next(self):
        end = time.monotonic() + _SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(end - time.monotonic(), 0))
            assert ready, "the browser says nothing"
            read = os.read(self._from, 1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(line)
        if "method" in found:
            self.events.append(found)
        return found

    def open(self, path, width=1600, height=900, **features):
        """Open a page in a window of some size; ``scheme="dark"`` or ``media="print"``."""
        self.call("Page.navigate", url="about:blank")
        self.resize(width, height)
        schemes = [{"name": "prefers-color-scheme", "value": features.get("scheme", "light")}]
        self.call("Emulation.setEmulatedMedia", media=features.get("media", ""), features=schemes)
        if "script" in features:
            self.call("Emulation.setScriptExecutionDisabled", value=not features["script"])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._next()
        self.call("Runtime.evaluate", expression="1")

    def resize(self, width, height=900):
        """Give the window a size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, expression):
        """Return the value of an expression, or of what it promises."""
        options = {"returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def complaints(self):
        """Return what was written to the console, of all kinds, and errors of scripts."""
        self.evaluate("new Promise(requestAnimationFrame)")
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event["params"] for event in self.events if event["method"] in kinds]

    def loaded(self):
        """Return the addresses of all that was asked for."""
        events = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [event["request"]["url"] for event in events]

    def press(self, key, *, shift=False):
        """Press a key."""
        printable = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = {"windowsVirtualKeyCode": KEYS.get(key, 0), "modifiers": 8 * shift}
        for kind in ("keyDown" if printable else "rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **printable, **code)

    def mouse(self, kind, x, y, **more):
        """Move the mouse, press or let go a button, or turn the wheel."""
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def picture(self, path, *, whole=True):
        """Write what is seen of the page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path):
        """Write the page as it is printed."""
        found = self.call(
            "Page.printToPDF", printBackground=False, paperWidth=8.27, paperHeight=11.69
        )
        path.write_bytes(base64.b64decode(found["data"]))

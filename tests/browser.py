"""A browser without a window, driven through the DevTools protocol over two pipes."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-pipe",
)


def find_browser():
    """The path of a browser that speaks the protocol, or ``None``."""
    given = os.environ.get("AVALANCHE_DGM_BROWSER")
    return next((p for n in (given, *_NAMES) if n and (p := shutil.which(n))), None)


class Browser:
    """One page in one browser.

    Attributes:
        problems: What went wrong in the page: exceptions, errors on the console, blocked content.
        requests: Addresses that the page asked for.
    """

    def __init__(self, path, folder):
        self.problems, self.requests = [], []
        self._number, self._rest, self._loaded = 0, b"", False
        # What the browser reads is descriptor 3 of its process, what it writes is descriptor 4.
        read_here, write_there = os.pipe()
        read_there, write_here = os.pipe()

        def place():
            # First out of the way: one of them may be 3 or 4 already.
            low, high = os.dup(read_there), os.dup(write_there)
            while low < 5 or high < 5:
                low, high = os.dup(low), os.dup(high)
            os.dup2(low, 3, inheritable=True)
            os.dup2(high, 4, inheritable=True)

        self._process = subprocess.Popen(
            [path, *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=place,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_there)
        os.close(write_there)
        self._read, self._write = read_here, write_here
        self._session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """Calls a method of the protocol and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(60)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self, seconds):
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            piece = os.read(self._read, 1 << 16)
            if not piece:
                raise ConnectionError("the browser has ended")
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event, values):
        if event == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(values["exceptionDetails"])
        elif event == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.problems.append(values["args"])
        elif event == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.problems.append(values["entry"])
        elif event == "Page.loadEventFired":
            self._loaded = True

    def open(self, path):
        """Loads a file and waits until it is there."""
        self._loaded = False
        self.send("Page.navigate", url=Path(path).resolve().as_uri())
        while not self._loaded:
            self._next(60)

    def evaluate(self, expression):
        """The value of a JavaScript expression; what it promises is waited for."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def size(self, width, height, *, phone=False):
        """Sets the size of the window, in CSS pixels."""
        scale = 2 if phone else 1
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )

    def scheme(self, name):
        """Asks for "light" or "dark" colours."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.send("Emulation.setEmulatedMedia", media="screen", features=features)

    def script(self, enabled):
        """Switches JavaScript of pages that are opened from now on."""
        self.send("Emulation.setScriptExecutionDisabled", value=not enabled)

    def picture(self, path, *, whole=False):
        """Writes what is seen, or the whole page, as a PNG file."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def close(self):
        """Ends the browser."""
        with contextlib.suppress(Exception):
            self._session = None
            self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._read)
        os.close(self._write)

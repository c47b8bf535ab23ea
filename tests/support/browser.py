"""A real browser without a window, driven through the DevTools protocol over a pipe: nothing to install but Chromium.

Messages are JSON, each ended by a zero byte; the browser reads them from its descriptor 3 and writes them to its 4.
Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Self

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TIMEOUT = 30.0  # seconds for any answer; a loaded machine is slow to start a browser
FREE_DESCRIPTORS = 10  # ours lie from here on, out of the way of the browser's 3 and 4
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), " ": (32, " ")}  # virtual key code and text


class Browser:
    """One page; use it as a context manager, which ends the browser whatever happens.

    Attributes:
        problems: Errors and warnings of the console, exceptions, requests to anything but files and data, and
            boxes that pop up.
    """

    def __init__(self) -> None:
        assert BINARY is not None, "no Chromium here"
        self.problems: list[str] = []
        self._session: str | None = None
        self._last = 0
        self._unread = b""
        self._loaded = False
        self._profile = tempfile.mkdtemp(prefix="browser-")
        theirs_in, self._to = _pipe()
        self._from, theirs_out = _pipe()
        actions = [(os.POSIX_SPAWN_DUP2, theirs_in, 3), (os.POSIX_SPAWN_DUP2, theirs_out, 4)]
        actions += [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in (0, 1, 2)]
        command = [BINARY, *OPTIONS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = os.posix_spawn(BINARY, command, os.environ, file_actions=actions, setpgroup=0)
        os.close(theirs_in)
        os.close(theirs_out)

    def __enter__(self) -> Self:
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the browser and removes its profile."""
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, path: Path) -> None:
        """Opens a file and waits until it is loaded."""
        self._loaded = False
        answer = self.call("Page.navigate", url=path.resolve().as_uri())
        assert "errorText" not in answer, answer["errorText"]
        deadline = time.monotonic() + TIMEOUT
        while not self._loaded:
            self._note(self._read(deadline))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def viewport(self, width: int, height: int = 800, *, mobile: bool = False) -> None:
        """Sets the window's size in CSS pixels; a mobile one behaves like a phone's."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def media(self, **features: str) -> None:
        """Sets media features, such as `prefers_color_scheme="dark"`; those not named go back to normal."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=named)

    def click(self, selector: str) -> None:
        """Clicks into the middle of the first element that a CSS selector finds."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{found}.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}})")
        box = self.evaluate(f"{found}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Presses a key: Enter, Escape, Tab or a space."""
        code, text = KEYS[key]
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, *, full_page: bool = False) -> None:
        """Writes what is seen to a PNG file, or the whole page, which should not be longer than 16,000 pixels."""
        options: dict[str, Any] = {}
        if full_page:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **options)["data"]))

    def call(self, method: str, **parameters: Any) -> Any:
        """Calls a method of the protocol and waits for its answer."""
        number = self._send(method, parameters)
        deadline = time.monotonic() + TIMEOUT
        while (answer := self._read(deadline)).get("id") != number:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        """Sends a message; returns its number, which the answer will bear."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._last

    def _read(self, deadline: float) -> Any:
        """The next message."""
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser gave no answer in {TIMEOUT} seconds")
            part = os.read(self._from, 1 << 20)
            assert part, "the browser ended"
            self._unread += part
        message, self._unread = self._unread.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: Any) -> None:
        """Notes what an event says of the page."""
        kind, told = event.get("method"), event.get("params", {})
        if kind == "Page.loadEventFired":
            self._loaded = True
        elif (
            kind in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening")
            or (kind == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"))
            or (kind == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")))
        ):
            self.problems.append(f"{kind}: {json.dumps(told)[:500]}")
        if kind == "Page.javascriptDialogOpening":  # the page waits for an answer
            self._send("Page.handleJavaScriptDialog", {"accept": False})


def _pipe() -> tuple[int, int]:
    """The reading and the writing end of a pipe."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, FREE_DESCRIPTORS))
        os.close(end)
    return ends[0], ends[1]

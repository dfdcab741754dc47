"""Headless Chromium through its DevTools pipe: no network, no driver, no further package."""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "no Chromium here; Debian's package is called chromium"
_SECONDS = 60
# The middles of marks of a kind, in the window; and what a chart shows at the mouse.
_PLACES = """[...document.querySelectorAll("%s path[aria-roledescription=%s]")].map((mark) => {
  const box = mark.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})"""
_TOOLTIP = "document.querySelector('#vg-tooltip-element.visible')?.innerText ?? ''"


class Page:
    """The one page of a browser.

    Attributes:
      complaints: What the console, the policy and uncaught exceptions said since the page was opened.
    """

    def __init__(self, read_end: int, write_end: int):
        self._read_end, self._write_end = read_end, write_end
        self._numbers, self._buffer, self._events = itertools.count(1), b"", []
        self._session = ""
        (target,) = [one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self.complaints: list[str] = []

    def open(
        self, address: str, *, width: int = 1280, height: int = 800, dark: bool = False, offline: bool = True,
        scripts: bool = True, media: str = "",
    ) -> None:  # fmt: skip
        """Loads an address; `media` is e.g. `print`."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme], media=media)
        self._call("Emulation.setScriptExecutionDisabled", value=not scripts)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        network = {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self._call("Network.emulateNetworkConditions", **network)
        self.complaints.clear()
        self._call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Returns the JSON value of a JavaScript expression; a promise is waited for."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + _SECONDS
        while not self.evaluate(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(condition)
            time.sleep(0.05)

    def point_at(self, x: float, y: float) -> None:
        """Moves the mouse to a place of the window."""
        for step in (1.0, 0.0):
            self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x + step, y=y)

    def shown_at(self, chart: str, role: str) -> list[str]:
        """Returns what is shown when the mouse is at each mark of a kind (point, tick) within a chart's selector."""
        texts = []
        for x, y in self.evaluate(_PLACES % (chart, role)):
            self.point_at(0, 0)
            self.wait_for(f"{_TOOLTIP} === ''")
            self.point_at(x, y)
            self.wait_for(f"{_TOOLTIP} !== ''")
            texts.append(self.evaluate(_TOOLTIP))
        return texts

    def picture(self, path: pathlib.Path, *, whole: bool = False) -> None:
        """Writes a PNG of the window, or of the whole page."""
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        method, content = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(content["exceptionDetails"].get("exception", content["exceptionDetails"])))
        elif method == "Log.entryAdded":
            self.complaints.append(content["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([one.get("value", one.get("description")) for one in content["args"]]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read_end], [], [], _SECONDS)[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._read_end, 1 << 20)
            if not part:
                raise RuntimeError("the browser ended")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


@contextlib.contextmanager
def browse() -> Iterator[Page]:
    """Starts a browser of its own and ends it; `PROGRAM` must be there."""
    to_browser, from_browser = os.pipe(), os.pipe()

    def place_pipes() -> None:  # the browser reads from descriptor 3 and writes to 4
        given = os.dup2(to_browser[0], 30), os.dup2(from_browser[1], 31)
        os.dup2(given[0], 3)
        os.dup2(given[1], 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
             "--no-first-run", f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=place_pipes, close_fds=False,
        )  # fmt: skip
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Page(from_browser[0], to_browser[1])
        finally:
            process.terminate()
            process.wait(timeout=_SECONDS)
            os.close(to_browser[1])
            os.close(from_browser[0])

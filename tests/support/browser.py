"""Chromium, controlled by its DevTools protocol over pipes, without a driver or port."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

#: Seconds for the browser to answer.
TIMEOUT = 30.0

_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--force-color-profile=srgb", "--font-render-hinting=none", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """A browser with one page; records its requests and console errors."""

    def __init__(self) -> None:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        self._process = subprocess.Popen(
            # The browser takes what is asked of it from descriptor 3, and answers on 4.
            ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "-",
             "chromium", *_OPTIONS, f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._number = 0
        self._session = ""
        self._events: list[dict[str, Any]] = []
        #: Requested URLs, and console errors.
        self.requests: list[str] = []
        self.complaints: list[str] = []
        targets = self._ask("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(TIMEOUT)
        os.close(self._read)
        os.close(self._write)
        shutil.rmtree(self._profile, ignore_errors=True)

    # What a test does

    def set_viewport(
        self, *, width: int, height: int = 900, dark: bool = False, scale: float = 1
    ) -> None:
        """Set the window size and colour scheme."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])

    def scripts(self, on: bool) -> None:
        """Allow or forbid scripts."""
        self._ask("Emulation.setScriptExecutionDisabled", value=not on)

    def header(self, name: str, value: str) -> None:
        """Send this header with every request."""
        self._ask("Network.setExtraHTTPHeaders", headers={name: value})

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self._events.clear()
        found = self._ask("Page.navigate", url=url)
        assert "errorText" not in found, found
        self._wait("Page.loadEventFired")

    def follow(self, script: str) -> None:
        """Do something that opens another page, such as a click, and wait for it."""
        self._events.clear()
        self.run(script)
        self._wait("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """Evaluate an expression on the page, even if scripts are forbidden."""
        answer = self._ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """The visible text of an element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def picture(self, path: Path, *, height: int | None = None) -> None:
        """A PNG of the page, beyond the window too; of its first pixels where a height is given."""
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "scale": 1, "width": size["width"],
                "height": min(height or size["height"], size["height"])}  # fmt: skip
        answer = self._ask(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    # The protocol

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return dict(answer["result"])

    def _wait(self, event: str) -> None:
        while not any(each["method"] == event for each in self._events):
            self._receive()

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            received = os.read(self._read, 1 << 16)
            assert received, "the browser has ended"
            self._buffer += received
        data, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(data)
        if "method" in message:
            self._handle_event(message)
        return message

    def _handle_event(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        params = event["params"]
        match event["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(str(params["entry"]))

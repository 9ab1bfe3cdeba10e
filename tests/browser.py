"""Chromium without a window, steered through its DevTools protocol over a pair of pipes.

https://chromedevtools.github.io/devtools-protocol/ says what methods there are.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None) or ""
_SECONDS = 60.0  # that anything may take


class Page:
    """A page of a browser."""

    def __init__(self, write: int, read: int):
        self._write, self._read = write, read
        self._received, self._number, self._session = b"", 0, {}
        self.console: list[str] = []  # errors of the page
        self.workers: list[str] = []  # sessions of its workers
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self(f"{domain}.enable")
        self("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True)

    def __call__(self, method: str, worker: str = "", **params: Any) -> dict[str, Any]:
        """Send a command, to the page or one of its workers; return its result."""
        self._number += 1
        session = {"sessionId": worker} if worker else self._session
        message = {"id": self._number, "method": method, "params": params, **session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "the browser ended"
            self._received += chunk
        message, self._received = self._received.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        attached = event.get("method") == "Target.attachedToTarget"
        if attached and params["targetInfo"]["type"] == "worker":
            self.workers.append(params["sessionId"])
        if event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.console.append(details.get("exception", details).get("description", str(details)))
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self.console.append(f"{entry['text']} {entry.get('url', '')}")

    def open(self, url: str) -> None:
        self("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str, gesture: bool = False, worker: str = "") -> Any:
        """Evaluate JavaScript, in the page or one of its workers; a promise is awaited."""
        result = self(
            "Runtime.evaluate",
            worker,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=gesture,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.evaluate(f"Promise.resolve({condition}).then(Boolean)"):
            assert time.monotonic() < end, (condition, self.console, self.text("body"))
            time.sleep(0.02)

    def wait_for_file(self, path: Path) -> None:
        """Wait until a download has its final name."""
        end = time.monotonic() + _SECONDS
        while not path.is_file():
            assert time.monotonic() < end, path
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """Return the text of an element that is shown; empty where there is none."""
        return self.evaluate(f"document.querySelector({selector!r})?.innerText ?? ''")

    def click(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({selector!r}).click()", gesture=True)

    def press(self, selector: str) -> None:
        """Press Enter, which must reach an element that has the focus."""
        assert self.evaluate(f"document.activeElement.matches({selector!r})"), self.text(":focus")
        for kind in ("keyDown", "keyUp"):
            self(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                text="\r",
                windowsVirtualKeyCode=13,
            )

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path, width: int = 1000, height: int = 900, dark: bool = False):
        """Write a picture of the page at some width, in CSS pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 500 else 1,
            mobile=width < 500,
        )
        self.evaluate("new Promise((done) => setTimeout(done, 200))")
        picture = self("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))


@contextmanager
def browser(profile: Path, *options: str) -> Iterator[Page]:
    """Start Chromium.

    Args:
        profile: Empty folder for what it writes.
        *options: Of its command line.
    """
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()
    process = subprocess.Popen(
        [  # the browser reads commands from file descriptor 3 and writes answers to 4
            *("bash", "-c", f'exec 3<&{command_read} 4>&{answer_write}; exec "$@"', "bash"),
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}", *options),
        ],
        pass_fds=(command_read, answer_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(command_read)
    os.close(answer_write)
    try:
        yield Page(command_write, answer_read)
    finally:
        os.close(command_write)
        process.terminate()
        process.wait(_SECONDS)
        os.close(answer_read)

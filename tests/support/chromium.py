"""A headless Chromium, spoken to in the DevTools protocol over a pipe, which needs no package."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """The browser named by HIVE_CHROMIUM, or the first on the PATH."""
    return os.environ.get("HIVE_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a browser of its own, which ends with the `with` block."""

    def __init__(self, binary: str, profile: Path) -> None:
        in_read, self._to_browser = os.pipe()
        self._from_browser, out_write = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        # the protocol reads from descriptor 3 and writes to 4; sh knows no descriptors above 9
        start = f'exec "$0" "$@" --remote-debugging-pipe 3<&{in_read} 4>&{out_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", start, binary, f"--user-data-dir={profile}", *flags],
            pass_fds=(in_read, out_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(in_read)
        os.close(out_write)
        self._buffer, self._number, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._to_browser)
        self._process.kill()
        self._process.wait()
        os.close(self._from_browser)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url: str, width: int = 1200, dark: bool = False) -> None:
        """Loads a page to its end."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.events.clear()
        self.send("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self._receive()

    def value(self, script: str) -> Any:
        """What a JavaScript expression evaluates to on the page."""
        return self.send("Runtime.evaluate", expression=script, returnByValue=True)["result"]["value"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._from_browser, 1 << 16)
            assert data, "the browser has ended"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(line)
        if "id" not in message:
            self.events.append(message)
        return message

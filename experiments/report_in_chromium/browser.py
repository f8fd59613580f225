"""Open a report in headless Chromium: requests, console messages, width, screenshots.

Usage: `python browser.py REPORT.html FOLDER [HEIGHT]`; prints one JSON object, writes light.png and
dark.png. The page is opened from disk with scripts off, then on, and asked for by nothing else.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WIDTH = 1180
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page of a headless Chromium, driven by the DevTools protocol over two pipes."""

    def __init__(self, profile: str) -> None:
        binary = shutil.which("chromium") or shutil.which("google-chrome")
        if binary is None:
            raise SystemExit("no chromium and no google-chrome on the PATH")
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        command = [binary, *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"]
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.requests, self.answers = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self.events: list[dict[str, Any]] = []
        self.number = 0
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come first are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.requests.write(json.dumps(message).encode() + b"\0")
        self.requests.flush()
        while (answer := self._next()).get("id") != self.number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def wait_for(self, event: str) -> None:
        """Read events until this one has come."""
        while not any(one.get("method") == event for one in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        found = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("Chromium has ended")
            found += byte
        return json.loads(found)


def look(page: Path, folder: Path, height: int) -> dict[str, Any]:
    """What the browser did with the page, and two screenshots of its first `height` pixels."""
    address = page.resolve().as_uri()
    found: dict[str, Any] = {"page": page.name, "bytes": page.stat().st_size}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        for domain in ("Page", "Network", "Log", "Runtime"):
            browser.call(f"{domain}.enable")
        for scripts in ("off", "on"):
            browser.events.clear()
            browser.call("Emulation.setScriptExecutionDisabled", value=scripts == "off")
            browser.call("Page.navigate", url=address)
            browser.wait_for("Page.loadEventFired")
            asked = [
                e["params"] for e in browser.events if e["method"] == "Network.requestWillBeSent"
            ]  # noqa: E501
            found[f"requests besides the page, scripts {scripts}"] = [
                one["request"]["url"] for one in asked if one["request"]["url"] != address
            ]
            told = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
            found[f"console messages, scripts {scripts}"] = [
                one["params"] for one in browser.events if one["method"] in told
            ]
        for scheme in ("light", "dark"):
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.call("Emulation.setEmulatedMedia", features=media)
            size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
            browser.call("Emulation.setDeviceMetricsOverride", **size)
            shot = browser.call("Page.captureScreenshot", format="png")["data"]
            (folder / f"{scheme}.png").write_bytes(base64.b64decode(shot))
        for width in (WIDTH, 390):
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
            browser.call("Emulation.setDeviceMetricsOverride", **size)
            metrics = browser.call("Page.getLayoutMetrics")["cssContentSize"]
            found[f"size at {width} pixels"] = [metrics["width"], metrics["height"]]
        browser.session = None
        browser.call("Browser.close")
        browser.process.wait(timeout=20)
    return found


if __name__ == "__main__":
    height = int(sys.argv[3]) if len(sys.argv) > 3 else 2000
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    print(json.dumps(look(Path(sys.argv[1]), target, height), indent=2))

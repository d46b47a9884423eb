"""A real browser, without a window, that tests look through."""

from __future__ import annotations

import atexit
import base64
import functools
import json
import os
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any
from unittest import SkipTest
from urllib.parse import urlsplit

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.processes import PATIENCE

PROJECT = Path(__file__).resolve().parents[2]

ARTIFACTS = Path(os.environ.get("PROXYRELAY_ARTIFACTS", PROJECT / "_artifacts"))
"""Where screenshots are kept."""

ARGUMENTS = (
    "--headless=new",
    # A sandbox cannot be had by root, nor in most containers.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

REMEMBER_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""

IMPACTS = {"serious", "critical"}
"""What axe-core calls a barrier."""


class Browser:
    """Debian's Chromium, driven by its driver.

    Raises:
        SkipTest: It is not installed.
    """

    def __init__(self) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            raise SkipTest("no browser: install Debian's chromium and chromium-driver")
        options = ChromeOptions()
        options.binary_location = chromium
        for argument in ARGUMENTS:
            options.add_argument(argument)
        options.set_capability(
            "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
        )
        self.driver = Chrome(options=options, service=Service(driver))
        self.driver.set_page_load_timeout(PATIENCE)
        self.driver.set_script_timeout(PATIENCE)
        self._command(
            "Page.addScriptToEvaluateOnNewDocument", source=REMEMBER_VIOLATIONS
        )

    def _command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def clear(self) -> None:
        """Leave the page, and forget what was seen."""
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.show()

    def show(self, width: int = 1440, dark: bool = False) -> None:
        """Be a screen of some pixels, or a phone, whose owner may want it dark."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._command("Emulation.setEmulatedMedia", features=features)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something holds; `TimeoutException` after `PATIENCE`."""
        waiting = WebDriverWait(
            self.driver,
            PATIENCE,
            poll_frequency=0.05,
            ignored_exceptions=[StaleElementReferenceException],
        )
        waiting.until(lambda _: condition(), what)

    def text(self, selector: str) -> str:
        """The text of the first element that a selector finds, seen or not."""
        return str(
            self.run(
                "return document.querySelector(arguments[0]).textContent", selector
            )
        )

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that a selector finds."""
        script = """
            const found = document.querySelectorAll(arguments[0]);
            return [...found].map((node) => node.textContent);
        """
        return list(map(str, self.run(script, selector)))

    def complaints(self) -> list[str]:
        """What the console has and the content policy forbade, since the last look."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        return [*console, *self.run("return window.violations.splice(0)")]

    def hosts(self) -> set[str]:
        """Whom the browser has asked since the last look, as host and port."""
        entries = self.driver.get_log("performance")
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        urls = [
            urlsplit(message["params"]["request"]["url"])
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        schemes = {"http", "https", "ws", "wss"}
        return {url.netloc for url in urls if url.scheme in schemes}

    def barriers(self) -> list[str]:
        """What axe-core finds that keeps people out."""
        axe = resources.files("axe_core_python").joinpath("axe.min.js")
        self.run(axe.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script("axe.run().then(arguments[0])")
        return [
            f"{violation['id']}: {node['html']}"
            for violation in found["violations"]
            if violation["impact"] in IMPACTS
            for node in violation["nodes"]
        ]

    def keep(self, name: str) -> None:
        """Keep a picture of the whole page."""
        size = self._command("Page.getLayoutMetrics")["cssContentSize"]
        picture = self._command(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip={**size, "scale": 1},
        )
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        (ARTIFACTS / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))


@functools.cache
def shared() -> Browser:
    """The browser of this process, which ends with it."""
    browser = Browser()
    atexit.register(browser.driver.quit)
    return browser

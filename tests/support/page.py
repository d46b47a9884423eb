"""The live page of a real relay in a real browser, for tests."""

from __future__ import annotations

import hashlib

from websockets.sync.client import ClientConnection, connect

from tests.support import browser
from tests.support.processes import PATIENCE, ProcessTestCase, RelayProcess
from tests.support.recording import registration

LISTENS = r"the private listener is (http://\S+)"

PHONE = 360
"""Pixels of a narrow screen's width."""

FIGURE = """
for (const row of document.querySelectorAll("#figures > div"))
  if (row.querySelector("dt").textContent === arguments[0])
    return row.querySelector(".value").textContent;
return "";
"""
"""Gives the value of a figure."""

PLOT = """
for (const plot of document.querySelectorAll(".plot"))
  if (plot.querySelector("h3").textContent === arguments[0]) {
    const drawing = plot.querySelector("[role=img]");
    const picture = drawing.querySelector("canvas").toDataURL();
    return [drawing.getAttribute("aria-label"), picture];
  }
"""
"""Gives what a plot says, and its picture."""


class PageCase(ProcessTestCase):
    """A browser, and ways to wait for what it shows."""

    def setUp(self) -> None:
        super().setUp()
        self.browser = browser.shared()
        self.browser.clear()

    def watched(self, settings: str = "") -> RelayProcess:
        """Start a relay, and open its page."""
        path = self.folder / "relay.toml"
        path.write_text(
            f'[admin]\nlisten = "127.0.0.1:0"\n{settings}', encoding="utf-8"
        )
        relay = self.relay("--config", path)
        self.address = relay.wait_for(LISTENS)[1]
        self.browser.driver.get(f"{self.address}/")
        return relay

    def client(
        self, relay: RelayProcess, uuid: str, name: str = "a"
    ) -> ClientConnection:
        """Register a client."""
        client = connect(relay.url, open_timeout=PATIENCE, close_timeout=PATIENCE)
        self.addCleanup(client.close)
        client.send(registration(uuid, name).decode())
        self.assertIn('"success": true', client.recv(PATIENCE))
        return client

    def until_figure(self, name: str, value: str) -> None:
        """Wait for one of the figures at the top."""
        self.browser.until(
            lambda: self.browser.run(FIGURE, name) == value, f"{name} is {value}"
        )

    def until_rows(self, *names: str) -> None:
        self.browser.until(lambda: self.names() == list(names), f"rows: {names}")

    def until_sample(self, clients: int) -> None:
        self.browser.until(
            lambda: f"now {clients}" in self.plot("Connected clients")[0],
            f"a sample with {clients} clients",
        )

    def until_text(self, selector: str, text: str) -> None:
        self.browser.until(lambda: self.browser.text(selector) == text, text)

    def until_state(self, word: str) -> None:
        self.until_text("#state", word)

    def until_refreshed(self) -> None:
        """Wait for the next answer."""
        before = self.browser.text("#asof")
        self.browser.until(lambda: self.browser.text("#asof") != before, "an answer")

    def plot(self, title: str) -> tuple[str, str]:
        """What a plot says in words, and the sum of its picture."""
        words, picture = self.browser.run(PLOT, title)
        return str(words), hashlib.sha256(str(picture).encode()).hexdigest()

    def kinds(self) -> list[str]:
        return self.browser.texts("#events .tag")

    def names(self) -> list[str]:
        return self.browser.texts("#rows th")

    def press(self, *keys: str) -> None:
        self.browser.driver.switch_to.active_element.send_keys(*keys)

    def assert_quiet(self) -> None:
        """Nothing was forbidden or went wrong, and nobody else was asked."""
        self.assertEqual(self.browser.complaints(), [])
        self.assertEqual(self.browser.hosts(), {self.address.removeprefix("http://")})

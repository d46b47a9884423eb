"""What the live page explains, and its views of clients and pairs, on both screens."""

from __future__ import annotations

import json
import re
import signal
from socket import gethostname
from typing import Any

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from websockets.sync.client import ClientConnection

from tests.support.candidates import candidate, description
from tests.support.kept import KeptRelay
from tests.support.page import LISTENS, PHONE, PageCase
from tests.support.processes import PATIENCE
from tests.support.recording import A, B, answer, offer

MARKUP = "<img src=x onerror='window.harmed = true'>"

DASH = "\u2013"

LAN = description(candidate("192.168.1.7"))

CARD = """
for (const card of document.querySelectorAll("#figures > div"))
  if (card.querySelector("dt").textContent === arguments[0]) return card;
"""
"""Gives the card of a figure."""

OVERFLOWS = """
return Array.from(document.querySelectorAll(arguments[0]))
  .some((node) => node.scrollWidth > node.clientWidth);
"""
"""Tells whether an element has to be scrolled sideways."""

KEPT = """
const { Figures } = await import("/page/figures.js");
const status = await (await fetch("/status")).json();
const survival = { works: true, kept: 3, unkept: 0, capacity: 9, resumed: 2, lost: 1 };
status.survival = { ...survival, ...arguments[0] };
new Figures().update(status);
const card = [...document.querySelectorAll("#figures > div")]
  .find((card) => card.querySelector("dt").textContent === "Kept connections");
return [card.querySelector("dd").textContent, card.className];
"""
"""Gives text and classes of a figure, as if the relay kept connections."""

RATES = """
const { Rates } = await import("/page/rates.js");
return arguments[0].map((samples) => {
  const rates = new Rates();
  return samples.map(([time, n]) => {
    rates.add(time, { n });
    return rates.of("n");
  });
});
"""
"""Gives the rates after each sample of a time and a total."""

BANNER = """
window.scrollTo(0, document.body.scrollHeight);
return [scrollY, document.querySelector("#notices p").getBoundingClientRect().top];
"""
"""Scrolls to the end, and gives how far, and where the banner is."""

TICKS = """
const { ticksTo } = await import("/page/plots.js");
return arguments[0].map(ticksTo);
"""

CROWD = """
const { ClientTable } = await import("/page/table.js");
const some = { name: "a", user: "b", address: "c", since: 0, last_offer: null, sent: 0,
  received: 0, unanswered: 0, marks: [] };
const clients = Array.from({ length: 5000 }, (_, i) => ({ ...some, uuid: `${i}` }));
new ClientTable().update(clients, 0, "");
return [document.querySelectorAll("#rows tr").length,
  document.querySelector("#shown").textContent];
"""
"""Gives the number of rows, and what is said of it, with many clients."""

SCREENS = (("", 1200, False), ("-phone-dark", PHONE, True))


class ViewCase(PageCase):
    """Steps of the tests below."""

    def exchange(self, one: ClientConnection, other: ClientConnection) -> None:
        """Have the client A make an offer, and the client B answer it."""
        one.send(offer(A, B, LAN).decode())
        other.recv(PATIENCE)
        other.send(answer(B, A, sdp=LAN).decode())
        one.recv(PATIENCE)

    def pair(self, name: str = "Ada's laptop") -> None:
        """Have two clients that do not connect."""
        relay = self.watched()
        one, other = self.client(relay, A, name), self.client(relay, B, "cluster")
        for _ in range(3):
            self.exchange(one, other)
        self.until_rows(name, "cluster")

    def card(self, name: str) -> Any:
        return self.browser.run(CARD, name)

    def text(self, element: Any) -> str:
        return str(self.browser.run("return arguments[0].textContent", element))

    def focused(self) -> Any:
        return self.browser.run("return document.activeElement.id")

    def check_screens(self, name: str) -> None:
        """The page is accessible and fits, wide and narrow, light and dark."""
        for suffix, width, dark in SCREENS:
            self.browser.show(width, dark)
            self.until_refreshed()
            self.browser.keep(f"page-{name}{suffix}")
            self.assertEqual(self.browser.barriers(), [], name)
            wide = self.browser.run("return document.documentElement.scrollWidth")
            self.assertLessEqual(wide, width, name)
        self.browser.show()


class FigureTests(ViewCase):
    """Figures, plots and what explains them."""

    def test_head_and_title_have_name_and_address(self) -> None:
        relay = self.watched()
        self.until_text("#relay", gethostname())
        self.assertEqual(self.browser.text("#place"), relay.url)
        place = relay.url.removeprefix("ws://")
        title = f"0 clients, ready {DASH} {gethostname()} ({place})"
        self.assertEqual(self.browser.driver.title, title)

    def test_figure_by_keyboard_explains_its_parts(self) -> None:
        relay = self.watched()
        self.client(relay, A).send(offer(A, A).decode())
        self.until_figure("Not passed on", "1")
        card = self.card("Not passed on")
        card.find_element(By.CSS_SELECTOR, "summary").send_keys(Keys.ENTER)
        part = card.find_element(By.CSS_SELECTOR, ".parts li")
        self.assertIn("The client made an offer to itself.", part.text)
        self.until_refreshed()
        self.assertTrue(part.is_displayed())
        self.assertRegex(part.text, r"self 1 [0-9.]+/(s|min) ")
        self.assertRegex(card.find_element(By.CSS_SELECTOR, ".rate").text, "/(s|min)$")
        for details in self.browser.driver.find_elements(By.CSS_SELECTOR, "details"):
            self.browser.run("arguments[0].open = true", details)
        self.check_screens("explained")
        self.assert_quiet()

    def test_figure_with_trouble_has_sign_and_colour(self) -> None:
        self.pair()
        self.until_figure("Unconnected pairs", "1")
        card = self.card("Unconnected pairs")
        self.assertIn("warn", card.get_attribute("class"))
        sign = "return getComputedStyle(arguments[0], '::before').content"
        name = card.find_element(By.CSS_SELECTOR, "dt")
        self.assertIn("⚠", self.browser.run(sign, name))
        self.assertEqual(self.browser.text("#figures-warn"), "1 to look at")
        pill = self.browser.driver.find_element(By.ID, "figures-bad")
        self.assertFalse(pill.is_displayed())

    def test_figure_of_kept_connections_shows_trouble(self) -> None:
        self.watched()
        self.until_state("Ready")
        for survival, text, kind in (
            ({}, "3 of 0  2 back after the last start, 1 lost", "card "),
            ({"unkept": 1, "lost": 0}, "no room for more; 2 back", "card warn"),
            ({"works": False}, "none  the supervisor has gone", "card bad"),
        ):
            found, classes = self.browser.run(KEPT, survival)
            self.assertIn(text, found)
            self.assertEqual(classes, kind)

    def test_figure_of_kept_connections_after_a_crash_counts_them(self) -> None:
        config = self.folder / "relay.toml"
        config.write_text(
            f"[admin]\nlisten = '127.0.0.1:{self.reserve()}'\n"
            "[survive]\nenabled = true\n",
            encoding="utf-8",
        )
        relay = KeptRelay(
            ["--config", config, "--host", "127.0.0.1", "--port", "0"], self.folder
        )
        self.addCleanup(relay.end)
        self.address = relay.wait_for(LISTENS)[1]
        self.browser.driver.get(f"{self.address}/")
        self.client(relay, A)
        self.until_figure("Kept connections", "1 of 1")
        relay.send_relay(signal.SIGKILL)
        self.browser.until(
            lambda: self.browser.run(
                "return document.querySelector('#figures').textContent"
            ).count("1 back after the last start"),
            "a connection that is back",
        )
        self.until_figure("Kept connections", "1 of 1")
        self.until_state("Ready")

    def test_rates_before_a_minute_are_unknown(self) -> None:
        self.watched()
        minute = [[1000 + 15 * i, 9000 + 150 * i] for i in range(5)]
        found = self.browser.run(
            RATES,
            [
                [[6, 3], [21, 30], [36, 60], [51, 60], [66, 60], [81, 60]],
                minute,
                [*minute, [9000, 99000], [9015, 99000]],
            ],
        )
        young = [0.05, 0.5, 1, 1, 0.95, 0.5]
        for rate, expected in zip(found[0], young, strict=True):
            self.assertAlmostEqual(rate, expected)
        self.assertEqual(found[1], [None] * 4 + [10])
        self.assertEqual(found[2], [None] * 4 + [10] + [None] * 2)

    def test_banner_of_a_relay_that_is_gone_stays_in_sight(self) -> None:
        relay = self.watched()
        self.until_state("Ready")
        relay.stop()
        self.until_state("No answer")
        for _, width, dark in SCREENS:
            self.browser.show(width, dark)
            scrolled, top = self.browser.run(BANNER)
            self.assertGreater(scrolled, 100)
            self.assertGreaterEqual(top, 0)
            self.assertLess(top, 100)
        self.browser.show()

    def test_plots_have_ticks_up_to_the_data(self) -> None:
        self.watched()
        self.until_state("Ready")
        found = self.browser.run(TICKS, [4, 5, 24, 101, 0.003, 0.0205, 999])
        for ticks, expected in zip(
            found,
            (
                *([0, 2, 4], [0, 2, 4, 6], [0, 10, 20, 30], [0, 100, 200]),
                *([0, 0.001, 0.002, 0.003], [0, 0.01, 0.02, 0.03], [0, 500, 1000]),
            ),
            strict=True,
        ):
            self.assertEqual([round(tick, 9) for tick in ticks], expected)

    def test_page_asks_for_news_only(self) -> None:
        self.watched()
        for _ in range(3):
            self.until_refreshed()
        entries = self.browser.driver.get_log("performance")
        asked = re.findall(
            r'"url":"[^"]+/history\?since=([0-9.]+)"',
            json.dumps(
                [json.loads(entry["message"]) for entry in entries],
                separators=(",", ":"),
            ),
        )
        self.assertGreater(len(asked), 2)
        self.assertNotEqual(asked[-1], "0")


class ClientTests(ViewCase):
    """Lists of clients, pairs and events, and the view of one client."""

    def test_events_link_names_of_clients(self) -> None:
        relay = self.watched()
        client = self.client(relay, A, MARKUP)
        client.send(offer(A, A).decode())
        client.send("no message")
        self.browser.until(lambda: len(self.kinds()) == 4, "four events")
        self.assertEqual(
            sorted(self.kinds()), ["left", "refused", "registered", "returned"]
        )
        (text,) = self.browser.texts("#events li:has(a + a) .words")
        link = f"{MARKUP} {A[:8]}…"
        self.assertEqual(text, f"offer of {link} to {link}: self")
        links = self.browser.run(
            "return [...document.querySelectorAll('#events a')].map((a) => a.hash)"
        )
        self.assertEqual(set(links), {f"#client={A}"})
        self.assertIsNone(self.browser.run("return window.harmed ?? null"))
        choice = Select(self.browser.driver.find_element(By.ID, "kind"))
        for value, kinds in (
            ("messages", ["returned"]),
            ("attention", ["refused"]),
            ("clients", ["left", "registered"]),
        ):
            choice.select_by_value(value)
            self.assertEqual(self.kinds(), kinds)
        self.assert_quiet()

    def test_client_by_keyboard_opens_and_closes(self) -> None:
        self.pair()
        link = self.browser.driver.find_element(By.CSS_SELECTOR, "#rows a")
        link.send_keys(Keys.ENTER)
        self.until_text("#client-title", "Ada's laptop")
        self.assertEqual(self.focused(), "client-title")
        self.assertFalse(
            self.browser.driver.find_element(By.ID, "figures").is_displayed()
        )
        self.browser.until(lambda: self.browser.texts("#client-pairs li"), "a peer")
        (peer,) = self.browser.texts("#client-pairs li")
        self.assertIn("Likely cause (private): both sides offer private", peer)
        self.browser.until(
            lambda: "host (private IPv4)" in self.browser.text("#client-facts"),
            "its candidates",
        )
        self.assertNotIn("192.168.1.7", self.browser.text("body"))
        self.assertIn("registered", self.browser.texts("#client-events .tag"))
        self.assertIn("private", self.browser.text("#client-marks"))
        self.assertTrue(self.browser.driver.title.startswith(f"Ada's laptop {DASH}"))
        self.check_screens("client")
        self.press(Keys.SHIFT, Keys.TAB)
        self.browser.driver.back()
        self.browser.until(link.is_displayed, "the overview")
        self.assertEqual(self.browser.driver.switch_to.active_element, link)
        self.assert_quiet()

    def test_client_by_address_is_shown_until_it_leaves(self) -> None:
        relay = self.watched()
        client = self.client(relay, A, MARKUP)
        self.browser.driver.get("about:blank")
        self.browser.driver.get(f"{self.address}/#client={A}")
        self.until_text("#client-title", MARKUP)
        gone = self.browser.driver.find_element(By.ID, "client-gone")
        self.assertFalse(gone.is_displayed())
        client.close()
        self.browser.until(gone.is_displayed, "that it has gone")
        self.assertEqual(self.browser.text("#client-title"), MARKUP)
        self.browser.until(
            lambda: "left" in self.browser.texts("#client-events .tag"), "its end"
        )
        self.browser.driver.get(f"{self.address}/#client={B}")
        self.until_text("#client-quiet", "The relay keeps no events of it.")
        self.assertEqual(self.browser.text("#client-title"), B)
        code = self.browser.driver.find_element(By.ID, "client-uuid")
        self.assertFalse(code.is_displayed())
        self.browser.driver.get(f"{self.address}/#client=<b>")
        shown = self.browser.driver.find_element(By.ID, "overview").is_displayed
        self.browser.until(shown, "the overview")
        self.assertIsNone(self.browser.run("return window.harmed ?? null"))

    def test_pairs_are_listed_with_causes(self) -> None:
        self.pair(MARKUP)
        self.browser.until(lambda: self.browser.texts("#pairs li"), "a pair")
        (pair,) = self.browser.texts("#pairs li")
        self.assertIn(f"{MARKUP} {A[:8]}…", pair)
        self.assertIn("(is STUN blocked?)", pair)
        self.assertIn("3 answered offers in ", pair)
        self.assertIn("docs/guides/no-connection.rst", self.browser.text("#pairs-help"))
        kinds = self.browser.run(
            "return document.querySelector('#clients-help').textContent"
        )
        self.assertIn("srflxThe address that a STUN server has seen.", kinds)
        self.until_refreshed()
        self.check_screens("pairs")
        self.assertIn("unconnected", self.kinds())
        self.assertIsNone(self.browser.run("return window.harmed ?? null"))
        self.assert_quiet()

    def test_table_on_a_phone_is_a_list(self) -> None:
        relay = self.watched()
        for uuid, name in ((A, "a" * 100), (B, "b")):
            self.client(relay, uuid, name)
        self.until_rows("a" * 100, "b")
        self.browser.show(PHONE)
        self.assertFalse(self.browser.run(OVERFLOWS, ".table"))
        row = self.browser.driver.find_element(By.CSS_SELECTOR, "#rows tr")
        label = "return getComputedStyle(arguments[0], '::before').content"
        cell = row.find_element(By.CSS_SELECTOR, "[data-label=Unanswered]")
        self.assertIn(
            "Unanswered",
            self.browser.run(
                label.replace(".content", ".content + arguments[0].dataset.label"), cell
            ),
        )
        order = Select(self.browser.driver.find_element(By.ID, "order"))
        order.select_by_value("since")
        self.assertEqual(self.names(), ["b", "a" * 100])
        order.select_by_value("-since")
        self.assertEqual(self.names(), ["a" * 100, "b"])
        self.assertEqual(self.browser.barriers(), [])

    def test_table_with_many_clients_is_bounded(self) -> None:
        self.watched()
        self.until_state("Ready")
        found = self.browser.run(CROWD)
        self.assertEqual(found, [200, "200 of 5,000 shown"])

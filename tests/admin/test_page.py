"""The live page, in a real browser in front of a real relay."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TypeVar

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from twisted.trial.unittest import SynchronousTestCase

import proxyrelay
from proxyrelay.admin.recent_events import KEPT_EVENTS
from proxyrelay.errors import Refusal
from proxyrelay.switchboard.candidates import Cause
from proxyrelay.switchboard.events import BounceReason, Event
from proxyrelay.switchboard.offers import DropReason
from tests.support.engine import Engine
from tests.support.page import PHONE, PageCase
from tests.support.processes import PATIENCE
from tests.support.recording import A, B, answer, offer

T = TypeVar("T")

PAGE = Path(proxyrelay.__file__).parent / "admin" / "page"

MARKUP = "<img src=x onerror='window.harmed = true'>"

REVERSED = "fdp.\u202eexe\n"


GONE = "return document.body.classList.contains('gone')"
"""Tells whether the page is dimmed."""


class Markup(HTMLParser):
    """What elements load or lead to, and whatever a strict content policy forbids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        if tag == "style":
            self.inline.append(tag)
        for name, value in attrs:
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")
            if name in {"src", "href"} and value is not None:
                self.loaded.append(value)

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)
        self._in_script = False


def leaves(base: type[T]) -> Iterator[type[T]]:
    """All classes below one."""
    for kind in base.__subclasses__():
        yield kind
        yield from leaves(kind)


class FileTests(SynchronousTestCase):
    """The files of the page. Nothing here needs a browser."""

    def setUp(self) -> None:
        self.markup = Markup((PAGE / "index.html").read_text(encoding="utf-8"))
        self.modules = {
            path.name: path.read_text(encoding="utf-8")
            for path in PAGE.glob("*.js")
            if not path.name.startswith("uPlot")
        }

    def test_files_have_nothing_inline(self) -> None:
        self.assertEqual(self.markup.inline, [])

    def test_markup_with_inline_code_is_found(self) -> None:
        for text in ("<p style=''>", "<p onclick=''>", "<script>a</script>", "<style>"):
            self.assertNotEqual(Markup(text).inline, [], text)

    def test_files_load_only_each_other(self) -> None:
        paths = [
            url.removeprefix("page/")
            for url in self.markup.loaded
            if url.startswith("page/")
        ]
        others = {url for url in self.markup.loaded if not url.startswith("page/")}
        self.assertEqual(
            {url for url in others if not url.startswith("data:")},
            {"#clients", "status"},
        )
        for text in self.modules.values():
            paths += re.findall(r'from "\./(.+)"', text)
        self.assertEqual(
            {path for path in paths if path.endswith((".js", ".css"))},
            {path.name for path in PAGE.iterdir() if path.suffix in {".js", ".css"}},
        )

    def test_files_make_no_markup_of_texts(self) -> None:
        ways = "(inner|outer|insertAdjacent)HTML|document.write|(eval|Function)[(]"
        self.assertGreater(len(self.modules), 5)
        for name, text in self.modules.items():
            self.assertIsNone(re.search(ways, text), name)

    def words(self, table: str) -> set[str]:
        """What a table of explanations explains."""
        found = re.search(
            rf"const {table} = {{(.*?)\n}};", self.modules["explain.js"], re.DOTALL
        )
        assert found is not None
        return set(re.findall(r'^  "?([\w ]+?)"?:', found[1], re.MULTILINE))

    def test_files_explain_all_words(self) -> None:
        reasons = {why.value for why in BounceReason}
        reasons |= {why.name.lower() for why in DropReason}
        self.assertEqual(self.words("REASONS"), reasons)
        codes = {str(kind.code) for kind in leaves(Refusal)}
        self.assertLessEqual(codes, self.words("CODES"))
        self.assertEqual(self.words("CAUSES"), {why.name.lower() for why in Cause})
        kinds = {kind.event for kind in leaves(Event) if kind.page}
        kinds |= {"disconnected", "reload", "drain", "certificate"}
        self.assertEqual(self.words("KINDS"), kinds)
        names = set(re.findall(r'name: "(.+?)"', self.modules["figures.js"]))
        names |= set(re.findall(r'const name = "(.+?)"', self.modules["figures.js"]))
        self.assertEqual(self.words("FIGURES"), names)

    def test_library_has_the_published_sums(self) -> None:
        told = (PAGE / "README.rst").read_text(encoding="utf-8")
        sums = re.findall(r"^ +([0-9a-f]{64})  (\S+)$", told, re.MULTILINE)
        self.assertEqual(
            {name for _, name in sums}, {p.name for p in PAGE.glob("uPlot*")}
        )
        for expected, name in sums:
            found = hashlib.sha256((PAGE / name).read_bytes()).hexdigest()
            self.assertEqual(found, expected, name)
        version = re.search(r"Version (\S+),", told)
        assert version is not None
        library = (PAGE / "uPlot.iife.min.js").read_text(encoding="utf-8")
        self.assertIn(f"(v{version[1]})", library)


class PageTests(PageCase):
    """What an operator sees."""

    def test_page_with_clients_shows_figures_and_plots(self) -> None:
        relay = self.watched()
        self.until_state("Ready")
        self.until_figure("Clients", "0")
        self.until_sample(0)
        _, empty = self.plot("Connected clients")
        one, two = self.client(relay, A), self.client(relay, B)
        one.send(offer(A, B).decode())
        two.recv(PATIENCE)
        two.send(answer(B, A).decode())
        one.recv(PATIENCE)
        for name, value in (("Clients", "2"), ("Offers", "1"), ("Answers", "1")):
            self.until_figure(name, value)
        self.until_sample(2)
        self.assertNotEqual(self.plot("Connected clients")[1], empty)
        self.browser.until(
            lambda: "nothing" not in self.plot("Offer to answer")[0],
            "the time of an answer",
        )
        self.browser.until(lambda: len(self.names()) == 2, "two rows")
        one.close()
        self.until_figure("Clients", "1")
        self.browser.until(lambda: len(self.names()) == 1, "one row")
        self.assert_quiet()

    def test_page_with_names_of_clients_shows_text(self) -> None:
        relay = self.watched()
        self.client(relay, A, MARKUP)
        self.client(relay, B, REVERSED)
        self.until_rows(MARKUP, r"fdp.\u{202e}exe\u{a}")
        self.assertEqual(self.browser.run("return document.images.length"), 0)
        self.assertIsNone(self.browser.run("return window.harmed ?? null"))
        self.assert_quiet()

    def test_page_after_event_lists_it(self) -> None:
        relay = self.watched()
        self.until_state("Ready")
        client = self.client(relay, A)
        client.send(f"no message {MARKUP}")
        self.browser.until(lambda: "refused" in self.kinds(), "a refusal")
        self.assertEqual(self.kinds(), ["left", "refused", "registered"])
        (refused,) = self.browser.texts("#events li:has(.warn) .words")
        self.assertIn("4000", refused)
        self.until_figure("Refused", "1")
        self.assert_quiet()

    def test_events_of_one_kind_push_out_no_others(self) -> None:
        self.watched()
        self.until_state("Ready")
        kinds = self.browser.run(
            "const { Events } = await import('/page/events.js');"
            "const events = new Events();"
            "const time = Date.now() / 1000;"
            "let last = 0;"
            "const add = (kind, count) => events.add({"
            "  events: Array.from({ length: count }, () => ({"
            "    kind, time, text: '', number: (last += 1), names: {} })),"
            "  last });"
            "for (const part of [['reload', 2], ['rejected', 300], ['drain', 1]])"
            "  add(...part);"
            "return Array.from(document.querySelectorAll('#events .tag'),"
            "  (tag) => tag.textContent);"
        )
        many = ["rejected"] * KEPT_EVENTS
        self.assertEqual(kinds, ["drain", *many, "reload", "reload"])

    def test_page_in_a_cluster_shows_its_nodes(self) -> None:
        engine = Engine()
        self.addCleanup(engine.stop)
        cluster = f"[cluster]\nengine = 'unix:{engine.socket}'\nlease = 6\nnode = "
        config = self.folder / "other.toml"
        config.write_text(f"{cluster}'n2'\n", encoding="utf-8")
        other = self.relay("--config", config)
        other.wait_for("the link to the engine is ready")
        self.client(other, A)
        self.watched(f"{cluster}'n1'\n")
        self.until_state("Ready")
        self.until_text("#replies", "2 of 2 nodes reply; clients: 1")
        states = self.browser.texts("#nodes .tag")
        self.assertEqual(states, ["ready", "ready"])
        self.browser.show(1440)
        self.browser.keep("page-cluster")
        self.assertEqual(self.browser.barriers(), [])
        other.send(signal.SIGSTOP)
        self.addCleanup(other.send, signal.SIGCONT)
        self.browser.until(
            lambda: self.browser.texts("#nodes .tag") == ["ready", "silent"],
            "a silent node",
        )
        engine.kill()
        self.until_state("Degraded")
        self.assertIn("engine cannot be reached", self.browser.text("#notices"))
        self.browser.show(PHONE, dark=True)
        self.until_refreshed()
        self.browser.keep("page-cluster-phone")
        wide = self.browser.run("return document.documentElement.scrollWidth")
        self.assertLessEqual(wide, PHONE)
        self.assertEqual(self.browser.barriers(), [])
        self.assert_quiet()

    def test_page_on_each_screen_fits_and_is_accessible(self) -> None:
        relay = self.watched()
        self.client(relay, A, "an endpoint with a rather long name, as there are some")
        self.client(relay, B).send("no message")
        self.browser.until(lambda: self.names() and self.plot("Handshake"), "a row")
        self.browser.until(lambda: self.browser.texts("#events li"), "an event")
        grounds = set()
        for name, width, dark in (
            ("page-light", 1440, False),
            ("page-dark", 1440, True),
            ("page-phone", PHONE, False),
            ("page-phone-dark", PHONE, True),
        ):
            self.browser.show(width, dark)
            self.until_refreshed()
            self.browser.keep(name)
            wide = self.browser.run("return document.documentElement.scrollWidth")
            self.assertLessEqual(wide, width, name)
            self.assertEqual(self.browser.barriers(), [], name)
            ground = self.browser.run(
                "return getComputedStyle(document.body).backgroundColor"
            )
            grounds.add((dark, ground, self.plot("Connected clients")[0] != ""))
        self.assertEqual(len(grounds), 2)
        self.assert_quiet()

    def test_plots_in_the_dark_change_colours(self) -> None:
        self.watched()
        self.until_sample(0)
        self.browser.driver.find_element(By.ID, "pause").click()
        self.until_state("Paused")
        _, light = self.plot("Connected clients")
        self.browser.show(dark=True)
        self.browser.until(
            lambda: self.plot("Connected clients")[1] != light, "other colours"
        )

    def test_table_by_keyboard_is_sorted_and_keeps_focus(self) -> None:
        relay = self.watched()
        for uuid, name in ((A, "b"), (B, "a")):
            self.client(relay, uuid, name)
        self.until_rows("a", "b")
        heading = "document.querySelector('#clients th [data-column=name]')"
        for _ in range(40):
            if self.browser.run(f"return document.activeElement === {heading}"):
                break
            self.press(Keys.TAB)
        self.press(Keys.ENTER)
        self.assertEqual(self.names(), ["b", "a"])
        order = f"return {heading}.closest('th').getAttribute('aria-sort')"
        self.assertEqual(self.browser.run(order), "descending")
        self.until_refreshed()
        self.assertTrue(
            self.browser.run(f"return document.activeElement === {heading}")
        )
        self.assertEqual(self.names(), ["b", "a"])
        self.press(Keys.TAB, Keys.TAB)
        self.press(Keys.SPACE)
        self.assertIsNone(self.browser.run(order))
        self.assertEqual(self.names(), ["b", "a"])  # by UUID

    def test_table_with_search_shows_matches(self) -> None:
        relay = self.watched()
        for uuid, name in ((A, "Ada's laptop"), (B, "cluster")):
            self.client(relay, uuid, name)
        self.until_rows("Ada's laptop", "cluster")
        field = self.browser.driver.find_element(By.ID, "wanted")
        for wanted, found in (
            ("LAPTOP ada", ["Ada's laptop"]),
            (B[:8], ["cluster"]),
            ("nobody", []),
        ):
            field.clear()
            field.send_keys(wanted)
            self.assertEqual(self.names(), found)
        self.assertEqual(self.browser.text("#shown"), "0 of 2 shown, 0 match")
        self.until_text("#found", "0 found")

    def test_page_with_token_asks_for_it(self) -> None:
        token = self.folder / "token"
        token.write_text("open-sesame-open-sesame", encoding="utf-8")
        token.chmod(0o600)
        self.watched(f'token_file = "{token}"\n')
        self.until_state("Token wanted")
        for wrong, why in (
            ("thyme", "The relay knows no such token."),
            ("s\u00e9same", "A token has no such characters."),
        ):
            self.press(wrong, Keys.ENTER)
            self.until_text("#login-why", why)
        self.assertEqual(self.browser.barriers(), [])
        self.press("open-sesame-open-sesame", Keys.ENTER)
        self.until_figure("Clients", "0")
        self.browser.driver.refresh()
        self.until_figure("Clients", "0")

    def test_page_over_a_restart_tells_of_it(self) -> None:
        relay = self.watched()
        self.until_figure("Clients", "0")
        relay.stop()
        self.until_state("No answer")
        said = r"No answer from the relay since \d\d:\d\d\. It may be restarting\."
        self.assertRegex(self.browser.text("#notices"), said)
        self.assertTrue(self.browser.run(GONE))
        self.browser.show(PHONE, dark=True)
        self.assertEqual(self.browser.barriers(), [])
        self.browser.keep("page-gone-phone-dark")
        self.browser.show()
        self.assertEqual(self.browser.barriers(), [])
        self.browser.keep("page-gone")
        port = self.address.rpartition(":")[2]
        path = self.folder / "relay.toml"
        path.write_text(f'[admin]\nlisten = "127.0.0.1:{port}"\n', encoding="utf-8")
        again = self.relay("--config", path)
        self.client(again, A)
        self.until_state("Ready")
        self.until_figure("Clients", "1")
        self.assertEqual(self.browser.text("#notices"), "")
        self.assertFalse(self.browser.run(GONE))

    def test_page_after_pause_goes_on(self) -> None:
        self.watched()
        self.until_state("Ready")
        button = self.browser.driver.find_element(By.ID, "pause")
        button.send_keys(Keys.SPACE)
        self.until_state("Paused")
        self.assertEqual(button.text, "Go on")
        self.assertTrue(self.browser.driver.title.startswith("Paused \u2013 "))
        button.send_keys(Keys.SPACE)
        self.until_state("Ready")
        self.assertEqual(button.text, "Pause")
        self.assertTrue(self.browser.driver.title.startswith("0 clients, ready "))

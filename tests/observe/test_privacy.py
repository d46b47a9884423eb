"""Pseudonyms of users and addresses, and the file with their key."""

from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Logging
from proxyrelay.errors import ConfigError
from proxyrelay.net import addresses
from proxyrelay.observe import privacy
from proxyrelay.observe.privacy import Pseudonyms
from proxyrelay.switchboard.user import ANONYMOUS

KEY = b"k" * 32


class PseudonymsTests(SynchronousTestCase):
    """Pseudonyms under a key."""

    names = Pseudonyms(KEY)

    def test_pseudonyms_without_a_key_show_everything(self) -> None:
        self.assertEqual(Pseudonyms().user("a"), "a")
        self.assertEqual(Pseudonyms().address("192.0.2.1:80"), "192.0.2.1:80")

    def test_pseudonyms_are_the_start_of_a_keyed_hash(self) -> None:
        for kind, text, shown in (
            ("user", "me", self.names.user("me")),
            ("user", "192.0.2.1", self.names.user("192.0.2.1")),
            ("address", "192.0.2.1", self.names.address("192.0.2.1:80")),
            ("address", "192.0.2.1", self.names.address("[::ffff:192.0.2.1]:5")),
        ):
            whole = hmac.new(KEY, f"{kind} {text}".encode(), hashlib.sha256)
            self.assertEqual(shown, whole.hexdigest()[:16])

    def test_pseudonyms_anonymous_and_local_stay(self) -> None:
        self.assertEqual(self.names.user(ANONYMOUS.sub), ANONYMOUS.sub)
        self.assertEqual(self.names.address("local"), "local")

    def test_pseudonyms_host_is_the_same_at_every_port(self) -> None:
        for host, other in (("192.0.2.1", "192.0.2.11"), ("2001:db8::1", "2001:db8::")):
            kind = IPv6Address if ":" in host else IPv4Address
            shown = {
                self.names.address(addresses.text(kind("TCP", host, port)))
                for port in (0, 1, 65535)
            }
            self.assertEqual(len(shown), 1)
            text = addresses.text(kind("TCP", other, 1))
            self.assertNotIn(self.names.address(text), shown)

    @given(st.text(st.characters(exclude_categories=())))
    def test_pseudonyms_any_text_are_sixteen_digits(self, text: str) -> None:
        for shown in (self.names.user(f"!{text}"), self.names.address(f"!{text}")):
            self.assertRegex(shown, r"\A[0-9a-f]{16}\Z")


class KeyTests(SynchronousTestCase):
    """The key and its file."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "key"

    def user(self, path: Path | None = None) -> str:
        """Pseudonym of a user at a relay that is started anew."""
        settings = Logging(privacy=True, privacy_key_file=path)
        return privacy.pseudonyms(settings).user("me")

    def assert_refused(self, words: str) -> None:
        error = self.assertRaises(ConfigError, self.user, self.path)
        (problem,) = error.problems
        self.assertEqual(problem.key, "logging.privacy_key_file")
        self.assertIn(words, problem.message)
        self.assertIsNotNone(privacy.problem(self.path))

    def test_key_privacy_is_off_hides_nothing(self) -> None:
        for settings in (Logging(), Logging(privacy_key_file=self.path)):
            self.assertEqual(privacy.pseudonyms(settings).user("me"), "me")
        self.assertFalse(self.path.exists())

    def test_key_without_a_file_differs_at_each_start(self) -> None:
        self.assertNotEqual(self.user(), self.user())

    def test_key_file_is_missing_is_made_once(self) -> None:
        self.assertIsNone(privacy.problem(self.path))
        self.assertFalse(self.path.exists())
        self.assertEqual(self.user(self.path), self.user(self.path))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertIsNone(privacy.problem(self.path))
        self.assertNotEqual(self.user(self.path), self.user(self.folder / "other"))

    def test_key_white_space_around_it_is_ignored(self) -> None:
        self.path.write_bytes(KEY + b"\n")
        self.assertEqual(self.user(self.path), Pseudonyms(KEY).user("me"))

    def test_key_short_or_long_is_refused_and_kept(self) -> None:
        for text in (b"", b"\n", b"k" * 31 + b"\n", b"k" * 1001):
            self.path.write_bytes(text)
            self.assert_refused("holds no key")
            self.assertEqual(self.path.read_bytes(), text)

    def test_key_file_is_a_folder_is_refused(self) -> None:
        self.path.mkdir()
        self.assert_refused("is no regular file")

    def test_key_folder_is_missing_is_refused(self) -> None:
        self.path = self.folder / "a" / "key"
        self.assert_refused("No such file")
        problem = privacy.problem(self.path) or ""
        self.assertIn(f"{self.folder / 'a'} is no folder", problem)

    def test_key_folder_is_a_file_is_refused(self) -> None:
        self.path.write_text("")
        self.path = self.path / "key"
        self.assert_refused("Not a directory")

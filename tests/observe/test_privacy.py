"""The key of the pseudonyms, and the file that holds it."""

from __future__ import annotations

import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Logging
from proxyrelay.errors import ConfigError
from proxyrelay.observe import privacy
from proxyrelay.observe.pseudonyms import Clear, Pseudonyms


class PrivacyTests(SynchronousTestCase):
    """Where the key comes from."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "key"

    def user(self, path: Path | None = None) -> str:
        """What a user is shown as, by a relay that is started anew."""
        settings = Logging(privacy=True, privacy_key_file=path)
        return privacy.pseudonyms(settings).user("me")

    def refused(self) -> str:
        """Why the file is no key; both who looks and who starts say so."""
        settings = Logging(privacy=True, privacy_key_file=self.path)
        with self.assertRaises(ConfigError) as caught:
            privacy.pseudonyms(settings)
        (problem,) = caught.exception.problems
        self.assertEqual(problem.key, "logging.privacy_key_file")
        self.assertIsNotNone(privacy.problem(self.path))
        return str(problem.message)

    def test_hides_nothing_by_default(self) -> None:
        for settings in (Logging(), Logging(privacy_key_file=self.path)):
            self.assertIs(type(privacy.pseudonyms(settings)), Clear)
        self.assertFalse(self.path.exists())

    def test_without_a_file_every_start_has_a_key_of_its_own(self) -> None:
        self.assertNotEqual(self.user(), self.user())

    def test_makes_a_file_and_keeps_to_it(self) -> None:
        self.assertIsNone(privacy.problem(self.path))
        self.assertFalse(self.path.exists())
        self.assertEqual(self.user(self.path), self.user(self.path))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertIsNone(privacy.problem(self.path))
        other = self.user(self.folder / "other")
        self.assertNotEqual(self.user(self.path), other)

    def test_takes_a_key_less_white_space(self) -> None:
        self.path.write_bytes(b"k" * 32 + b"\n")
        self.assertEqual(self.user(self.path), Pseudonyms(b"k" * 32).user("me"))

    def test_refuses_what_can_be_guessed_or_is_no_key(self) -> None:
        for text in (b"", b"\n", b"k" * 31 + b"\n", b"k" * 1001):
            self.path.write_bytes(text)
            self.assertIn("holds no key", self.refused())
            self.assertEqual(self.path.read_bytes(), text)

    def test_refuses_what_is_no_file(self) -> None:
        self.path.mkdir()
        self.assertIn("is no regular file", self.refused())

    def test_a_folder_that_is_not_there(self) -> None:
        self.path = self.folder / "a" / "key"
        self.assertIn("No such file", self.refused())
        self.assertIn(
            f"{self.folder / 'a'} is no folder", privacy.problem(self.path) or ""
        )

    def test_a_file_in_a_file(self) -> None:
        self.path.write_text("")
        self.path = self.path / "key"
        self.assertIn("Not a directory", self.refused())

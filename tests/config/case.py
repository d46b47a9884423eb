"""A folder with a relay.toml to load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Config, Loaded, load
from proxyrelay.errors import Problem


class ConfigTestCase(SynchronousTestCase):
    """Has a folder of its own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "relay.toml"

    def load(
        self, text: str | bytes, overrides: Mapping[str, str | None] | None = None
    ) -> Loaded:
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(self.path, overrides)

    def sound(self, text: str) -> Config:
        """The settings of a document without a problem."""
        loaded = self.load(text)
        self.assertEqual((loaded.problems, loaded.warnings), ([], []), text)
        return loaded.config

    def only(self, text: str | bytes) -> Problem:
        """The only problem of a document."""
        loaded = self.load(text)
        self.assertEqual(len(loaded.problems), 1, (text, loaded.problems))
        return loaded.problems[0]

    def found(self, text: str) -> list[tuple[str, int | None]]:
        """Keys and lines of all problems of a document."""
        return [(problem.key, problem.line) for problem in self.load(text).problems]

    def assert_problem(
        self, text: str, key: str, line: int | None, words: str = ""
    ) -> None:
        """A document has just one problem."""
        problem = self.only(text)
        self.assertEqual((problem.key, problem.line), (key, line), text)
        self.assertIn(words, problem.message, text)

    def assert_warning(self, text: str, key: str, line: int, words: str) -> None:
        """A document has nothing but a warning."""
        loaded = self.load(text)
        self.assertEqual(loaded.problems, [])
        (warning,) = loaded.warnings
        self.assertEqual((warning.key, warning.line), (key, line), text)
        self.assertIn(words, warning.message, text)

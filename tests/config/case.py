"""A folder with a relay.toml to load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

    def findings(self, text: str | bytes) -> Any:
        """Problems and warnings of a document."""
        return self.load(text)

    def sound(self, text: str) -> Config:
        """The settings of a document without a problem."""
        loaded = self.load(text)
        self.assertEqual((loaded.problems, loaded.warnings), ([], []), text)
        return loaded.config

    def only(self, text: str | bytes) -> Problem:
        """The only problem of a document."""
        problems: list[Problem] = self.findings(text).problems
        self.assertEqual(len(problems), 1, (text, problems))
        return problems[0]

    def found(self, text: str) -> list[tuple[str, int | None]]:
        """Keys and lines of all problems of a document."""
        return [(problem.key, problem.line) for problem in self.load(text).problems]

    def assert_problem(
        self, text: str, key: str, line: int | None, words: str = ""
    ) -> Problem:
        """A document has just one problem."""
        problem = self.only(text)
        self.assertEqual((problem.key, problem.line), (key, line), text)
        self.assertEqual(problem.file, str(self.path))
        self.assertIn(words, problem.message, text)
        return problem

    def assert_warning(self, text: str, key: str, line: int | None, words: str) -> None:
        """A document has nothing but a warning."""
        found = self.findings(text)
        self.assertEqual(found.problems, [])
        (warning,) = found.warnings
        self.assertEqual((warning.key, warning.line), (key, line), text)
        self.assertIn(words, warning.message, text)

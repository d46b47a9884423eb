"""A folder with a relay.toml to load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Loaded, load
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
        data = text if isinstance(text, bytes) else text.encode()
        self.path.write_bytes(data)
        return load(self.path, overrides)

    def only(self, text: str | bytes) -> Problem:
        """The only problem of a document."""
        loaded = self.load(text)
        self.assertEqual(len(loaded.problems), 1, (text, loaded.problems))
        return loaded.problems[0]

    def found(self, text: str) -> list[tuple[str, int | None]]:
        """Keys and lines of all problems of a document."""
        return [(problem.key, problem.line) for problem in self.load(text).problems]

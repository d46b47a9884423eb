"""From relay.toml and the command line to one frozen `Config`. Pure.

All problems of a file are found in one go, each with its key, its line and the expected
value.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import tomlkit
from msgspec import Struct
from tomlkit.exceptions import TOMLKitError

from proxyrelay.config.locate import line_of, line_of_repetition
from proxyrelay.config.model import Config
from proxyrelay.config.rules import convert, problems, quoted, warnings
from proxyrelay.config.spelling import ALIASES, unknown
from proxyrelay.errors import Problem
from proxyrelay.net.files import read_small

OVERRIDES: Mapping[str, tuple[str, ...]] = {
    "--host": ("host",),
    "--port": ("port",),
    "--log-dir": ("logging", "log_dir"),
    "--log-level": ("logging", "default_level"),
    "--admin-listen": ("admin", "listen"),
    "--node": ("cluster", "node"),
    "--survive": ("survive", "enabled"),
}
"""Options of the command line, and the settings that they override."""

MAX_FILE_BYTES = 1_000_000
"""Longest configuration file. A longer one is another file by mistake."""

MAX_LOCATED_PROBLEMS = 20
"""Problems of a file that get a line and a suggestion: both cost time."""

_UNQUOTED = re.compile(r"""\s*[\w.-]+\s*=\s*[^\s"'\[{#]""")
"""A line with a value that is neither quoted nor a list nor a table."""

_REPETITION = re.compile("already exists|existing table")
"""A part of what tomlkit says of a key that is there twice. Often it has no type."""

_ADMIN_LISTEN = re.compile(
    r"^[ \t]*\[[ \t]*admin[ \t]*\].*\n(?:(?![ \t]*\[).*\n)*?[ \t]*(?P<line>listen\b.*)",
    re.MULTILINE,
)


@dataclass
class Loaded:
    """A file and a command line after reading.

    Attributes:
        config: The settings; the default stands in for each wrong value.
        problems: Why they cannot be served.
        warnings: Settings that can be served, but should be changed.
        text: Text of the file; empty without a file.
        file: Its name, or None.
        options: Options that override settings, by the setting's dotted name.
        aliases: Deprecated spellings in the file, by the setting's path.
    """

    config: Config = field(default_factory=Config)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    text: str = field(default="", repr=False)
    file: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    aliases: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def sound(self, *keys: str) -> bool:
        """Tell whether no problem names one of these settings or its option."""
        spelt = {*keys, *(self.options.get(key) for key in keys)}
        return not any(problem.key in spelt for problem in self.problems)

    def located(self, problem: Problem) -> Problem:
        """Add the line of the setting, or the option that overrides it."""
        return self.at(tuple(problem.key.split(".")), problem.message)

    def at(self, path: tuple[str, ...], message: str) -> Problem:
        """Build a problem of a setting as `located` does."""
        option = self.options.get(".".join(path))
        if option is not None:
            return Problem(option, message)
        path = self.aliases.get(path, path)
        is_located = len(self.problems) < MAX_LOCATED_PROBLEMS
        line = line_of(self.text, path) if is_located else None
        return Problem(".".join(path), message, line, self.file)


def load(
    path: Path | None, overrides: Mapping[str, str | bool | None] | None = None
) -> Loaded:
    """Read the settings, and find all problems: it does not raise.

    The file must be a regular one of up to `MAX_FILE_BYTES`: a reload and the next
    start read it again, which a pipe does not allow.

    Args:
        path: The TOML file, or None for the defaults. Relative paths in it start
            from its folder.
        overrides: Values of the command line by the name of the option
            (``--log-dir``), None for an absent option; True for a switch. They win
            over the file.
    """
    given: dict[str, Any] = {
        option: value
        for option, value in (overrides or {}).items()
        if value is not None
    }
    if str(given.get("--port", "")).isdecimal():
        given["--port"] = int(given["--port"][:9])
    loaded = Loaded(file=None if path is None else str(path))
    if path is None:
        _Reader(loaded, Path(), given).read({})
        return loaded
    try:
        text = _read(path)
        table = tomlkit.parse(text).unwrap()
    except OSError as error:
        wrong, line = f"cannot be read: {error.strerror}", None
    except UnicodeDecodeError:
        wrong, line = "is not UTF-8 text", None
    except TOMLKitError as error:
        wrong, line = _syntax_problem(error, text)
    else:
        loaded.text = text
        _Reader(loaded, path.parent.absolute(), given).read(table)
        return loaded
    loaded.problems.append(Problem("", wrong, line, loaded.file))
    return loaded


def admin_listen(path: Path) -> str | None:
    """Read ``admin.listen``, unchecked, from a file that may be broken TOML.

    A health check must not take a mistake in a file for one of the relay: the relay
    still serves with what it read before, and a restart would close all clients.

    Raises:
        OSError: The file cannot be read, or is too long.
    """
    text = _read(path, "replace")
    line = _ADMIN_LISTEN.search(text)
    # A mistake elsewhere spoils the document, but not this line by itself.
    for part in (text, f"[admin]\n{line['line']}" if line else ""):
        with suppress(TOMLKitError):
            admin = tomlkit.parse(part).unwrap().get("admin")
            listen = admin.get("listen") if isinstance(admin, dict) else None
            return listen if isinstance(listen, str) else None
    return None


def _read(path: Path, errors: str = "strict") -> str:
    data = read_small(path, MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(0, f"it has over {MAX_FILE_BYTES:,} bytes")
    return io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", errors).read()


def _syntax_problem(error: TOMLKitError, text: str) -> tuple[str, int | None]:
    line = getattr(error, "line", None) or line_of_repetition(text)
    words = re.sub(r" at line \d+ col (\d+)$", r" (column \1)", str(error))
    words = words.replace("'\\x00'", "the end of the file").replace(" (column 0)", "")
    if (
        not _REPETITION.search(words)
        and line is not None
        and _UNQUOTED.match("".join(text.splitlines()[line - 1 : line]))
    ):
        words += '; a text needs quotes: "..."'
    return f"is not valid TOML: {words}", line


class _Reader:
    """Reads one table into a `Loaded`.

    Args:
        folder: Base of relative paths in the file.
        given: Values of the command line by the name of the option.
    """

    def __init__(self, loaded: Loaded, folder: Path, given: dict[str, Any]) -> None:
        self._loaded = loaded
        self._folder = folder
        self._given = given
        loaded.options = {
            ".".join(OVERRIDES[option]): option
            for option in OVERRIDES
            if option in given
        }

    def read(self, table: dict[str, Any]) -> None:
        loaded = self._loaded
        loaded.config = config = self._struct(Config, table, ())
        for found in problems(config):
            self._refuse(*found)
        for found in warnings(config):
            loaded.warnings.append(loaded.at(*found))
        if config.keyfile is not None and "certfile" not in table:
            self._refuse(("keyfile",), "needs a certfile beside it")
        loaded.problems.sort(key=lambda problem: problem.line or 0)

    def _refuse(self, path: tuple[str, ...], message: str) -> None:
        self._loaded.problems.append(self._loaded.at(path, message))

    def _struct(self, kind: Any, table: dict[str, Any], path: tuple[str, ...]) -> Any:
        table = self._without_aliases(table, path)
        hints = get_type_hints(kind, include_extras=True)
        values: dict[str, Any] = {}
        for name, hint in hints.items():
            here = (*path, name)
            if isinstance(hint, type) and issubclass(hint, Struct):
                inner = table.get(name, {})
                if not isinstance(inner, dict):
                    self._refuse(here, f"expected a table, [{'.'.join(here)}]")
                    inner = {}
                values[name] = self._struct(hint, inner, here)
                continue
            option = self._loaded.options.get(".".join(here))
            if option is None and name not in table:
                continue
            raw = table[name] if option is None else self._given[option]
            folder = self._folder if option is None else Path.cwd()
            try:
                values[name] = convert(here, hint, raw, folder)
            except ValueError as error:
                advice = quoted(hint, raw) if option is None else ""
                self._refuse(here, f"{error}{advice}")
        for name in filter(lambda name: name not in hints, table):
            if len(self._loaded.problems) >= MAX_LOCATED_PROBLEMS:
                self._refuse((*path, name), "unknown setting")
                continue
            for found in unknown((*path, name), table[name]):
                self._refuse(*found)
        return kind(**values)

    def _without_aliases(
        self, table: dict[str, Any], path: tuple[str, ...]
    ) -> dict[str, Any]:
        table = dict(table)
        for alias, name in ALIASES.items():
            if alias[:-1] != path or alias[-1] not in table:
                continue
            value = table.pop(alias[-1])
            if name in table:
                self._refuse(alias, f"is another spelling of {name}: keep only that")
                continue
            table[name] = value
            self._loaded.aliases[(*path, name)] = alias
            advice = f"is a deprecated spelling: write {name}"
            self._loaded.warnings.append(self._loaded.at(alias, advice))
        return table

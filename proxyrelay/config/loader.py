"""From relay.toml and the command line to one frozen `Config`.

All problems of a file are found in one go, each with its key, its line and the expected
value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

import tomlkit
from msgspec import Struct
from tomlkit.exceptions import KeyAlreadyPresent, TOMLKitError

from proxyrelay.config.consistency import problems, warnings
from proxyrelay.config.locate import line_of, line_of_repetition
from proxyrelay.config.model import Config
from proxyrelay.config.spelling import ALIASES, unknown
from proxyrelay.config.values import convert
from proxyrelay.errors import Problem

OVERRIDES: Mapping[str, tuple[str, ...]] = {
    "--host": ("host",),
    "--port": ("port",),
    "--log-dir": ("logging", "log_dir"),
    "--log-level": ("logging", "default_level"),
}
"""Options of the command line, and the settings that they override."""

_UNQUOTED = re.compile(r"""\s*[\w.-]+\s*=\s*[^\s"'\[{#]""")
"""A line with a value that is neither quoted nor a list nor a table."""

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
    """

    config: Config
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    text: str = field(default="", repr=False)
    file: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    def sound(self, *keys: str) -> bool:
        """Tell whether no problem names one of these settings or its option."""
        spelt = {*keys, *(self.options.get(key, key) for key in keys)}
        return not any(problem.key in spelt for problem in self.problems)

    def located(self, problem: Problem) -> Problem:
        """Add the line of the setting, or the option that overrides it."""
        if problem.key in self.options:
            return replace(problem, key=self.options[problem.key])
        if self.file is None:
            return problem
        line = line_of(self.text, tuple(problem.key.split(".")))
        return replace(problem, line=line, file=self.file)


def load(
    path: Path | None, overrides: Mapping[str, str | None] | None = None
) -> Loaded:
    """Read the settings.

    Args:
        path: The TOML file, or None for the defaults. Relative paths in it start
            from its folder.
        overrides: Values of the command line by the name of the option
            (``--log-dir``), None for an absent option. They win over the file.

    Returns:
        The settings, with all problems found: it does not raise.
    """
    options: dict[str, Any] = {
        option: value
        for option, value in (overrides or {}).items()
        if value is not None
    }
    if options.get("--port", "").isdecimal():
        options["--port"] = int(options["--port"][:9])
    if path is None:
        return _Reader("", Path(), None, options).read({})
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = tomlkit.parse(text).unwrap()
    except OSError as error:
        problem = Problem("", f"cannot be read: {error.strerror}", file=str(path))
    except UnicodeDecodeError:
        problem = Problem("", "is not UTF-8 text", file=str(path))
    except TOMLKitError as error:
        problem = _syntax_problem(error, text, str(path))
    else:
        return _Reader(text, path.parent, str(path), options).read(table)
    return Loaded(Config(), [problem])


def admin_listen(path: Path) -> str | None:
    """Read ``admin.listen`` from a file, whatever else is wrong with it.

    A health check must not take a mistake in a file for one of the relay: the relay
    still serves with what it read before, and a restart would close all clients.

    Args:
        path: The file; it may be broken TOML.

    Returns:
        The text, unchecked; None if there is none.

    Raises:
        OSError: The file cannot be read.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    line = _ADMIN_LISTEN.search(text)
    # A mistake elsewhere spoils the document, but not this line by itself.
    for part in (text, f"[admin]\n{line['line']}" if line else ""):
        with suppress(TOMLKitError):
            admin = tomlkit.parse(part).unwrap().get("admin")
            listen = admin.get("listen") if isinstance(admin, dict) else None
            return listen if isinstance(listen, str) else None
    return None


def _syntax_problem(error: TOMLKitError, text: str, file: str) -> Problem:
    line = getattr(error, "line", None) or line_of_repetition(text)
    words = re.sub(r" at line \d+ col (\d+)$", r" (column \1)", str(error))
    words = words.replace("'\\x00'", "the end of the file")
    words = words.replace(" (column 0)", "")
    if (
        not isinstance(error, KeyAlreadyPresent)
        and line is not None
        and _UNQUOTED.match("".join(text.splitlines()[line - 1 : line]))
    ):
        words += '; a text needs quotes: "..."'
    return Problem("", f"is not valid TOML: {words}", line, file)


class _Reader:
    """Reads one table into a `Loaded`, and collects problems.

    Args:
        text: Text of the file.
        folder: Base of relative paths in it.
        file: Its name; None without a file.
        overrides: Values of the command line by the name of the option.
    """

    def __init__(
        self, text: str, folder: Path, file: str | None, overrides: dict[str, Any]
    ) -> None:
        self._text = text
        self._folder = folder.absolute()
        self._file = file
        self._overrides = overrides
        self._options = {
            path: option for option, path in OVERRIDES.items() if option in overrides
        }
        self._spelt: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    def read(self, table: dict[str, Any]) -> Loaded:
        config: Config = self._struct(Config, table, ())
        self._refuse_all(problems(config))
        self._warnings += [self._at(*found) for found in warnings(config)]
        if config.keyfile is not None and "certfile" not in table:
            self._refuse(("keyfile",), "needs a certfile beside it")
        self._problems.sort(key=lambda problem: problem.line or 0)
        options = {".".join(path): option for path, option in self._options.items()}
        return Loaded(
            config, self._problems, self._warnings, self._text, self._file, options
        )

    def _struct(self, kind: Any, table: dict[str, Any], path: tuple[str, ...]) -> Any:
        table = self._without_aliases(table, path)
        hints = get_type_hints(kind, include_extras=True)
        values: dict[str, Any] = {}
        for name, hint in hints.items():
            here = (*path, name)
            option = self._options.get(here)
            if option is not None:
                self._value(values, hint, self._overrides[option], here, option)
            elif isinstance(hint, type) and issubclass(hint, Struct):
                inner = table.get(name, {})
                if not isinstance(inner, dict):
                    self._refuse(here, f"expected a table, [{'.'.join(here)}]")
                    inner = {}
                values[name] = self._struct(hint, inner, here)
            elif name in table:
                self._value(values, hint, table[name], here, None)
        for name in table:
            if name not in hints:
                self._refuse_all(unknown((*path, name), table[name]))
        return kind(**values)

    def _without_aliases(
        self, table: dict[str, Any], path: tuple[str, ...]
    ) -> dict[str, Any]:
        spelt = dict(table)
        for alias, name in ALIASES.items():
            if alias[:-1] != path or alias[-1] not in table:
                continue
            value = spelt.pop(alias[-1])
            if name in table:
                self._refuse(alias, f"is another spelling of {name}: keep only that")
            else:
                spelt[name] = value
                self._spelt[(*path, name)] = alias
                self._warnings.append(
                    self._at(alias, f"is a deprecated spelling: write {name}")
                )
        return spelt

    def _value(
        self,
        values: dict[str, Any],
        hint: Any,
        raw: Any,
        path: tuple[str, ...],
        option: str | None,
    ) -> None:
        folder = Path.cwd() if option else self._folder
        try:
            values[path[-1]] = convert(path, hint, raw, folder)
        except ValueError as error:
            if option:
                self._problems.append(Problem(option, str(error)))
            else:
                self._refuse(path, str(error))

    def _refuse(self, path: tuple[str, ...], message: str) -> None:
        self._problems.append(self._at(path, message))

    def _refuse_all(self, found: Iterable[tuple[tuple[str, ...], str]]) -> None:
        for path, message in found:
            self._refuse(path, message)

    def _at(self, path: tuple[str, ...], message: str) -> Problem:
        path = self._spelt.get(path, path)
        return Problem(".".join(path), message, line_of(self._text, path), self._file)

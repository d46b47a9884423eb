"""The rules of the house, read from the source."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import proxyrelay

ROOT = Path(proxyrelay.__file__).parent

OBSERVER = "proxyrelay.observe.log_observer"

LOGGERS = {"log", "_log"}

LOGGING_METHODS = {"debug", "info", "warn", "error", "critical", "failure", "emit"}

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("net",),
    ("config",),
    ("switchboard",),
    ("auth", "observe", "cluster", "client"),
    ("websocket",),
    ("survive",),
    ("admin",),
    ("service",),
    ("cli",),
)
"""Folders, from the ground up. A folder imports only from lower floors."""

PURE = (
    *("errors", "config", "switchboard"),
    *("net.files", "net.ip", "net.proxies", "net.rate", "net.timing"),
    *("auth.cache", "auth.circuit_breaker"),
    *("auth.policy", "auth.stats"),
    "client.url",
    *("cluster.bus", "cluster.claims", "cluster.codec", "cluster.node"),
    *("cluster.engine_clock", "cluster.link_settings"),
    *("cluster.queries", "cluster.seal"),
    "observe.counters",
    *("observe.records", "websocket.admission", "websocket.handshake"),
    *("admin.history", "admin.report"),
    *("websocket.connection", "websocket.continuity", "websocket.state"),
    "survive.memory",
)
"""Folders and modules without a network, a clock or a log. They may read files."""

FRAMEWORKS = ("twisted", "autobahn", "txaio", "zope", "OpenSSL")

OUTSIDE = {
    *("asyncio", "http.client", "http.server", "select", "selectors", "signal"),
    *("socket", "ssl", "subprocess", "threading", "time", "urllib.request"),
}
"""Modules of Python with a network, a clock, processes or threads."""

CLOCK_METHODS = {"now", "today", "utcnow"}
"""Methods of `datetime` that read the clock."""


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = (ROOT.name, *path.relative_to(ROOT).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """All that a module imports, wherever it does, as dotted names.

    ``from a import b`` gives ``a`` and ``a.b``, since ``b`` may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "a relative import"
            elif node.module is not None:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls_of_loggers(tree: ast.AST) -> Iterator[ast.Call]:
    """All calls of a logger."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_logger(node.func):
            yield node


def variable_formats(tree: ast.AST) -> list[int]:
    """Lines of calls of a logger whose format string is not a constant."""
    calls = calls_of_loggers(tree)
    return sorted(call.lineno for call in calls if not _is_constant(_format(call)))


def _is_logger(called: ast.expr) -> bool:
    """Whether it is a method of a logger, called directly or picked by a name."""
    if isinstance(called, ast.Attribute) and called.attr in LOGGING_METHODS:
        called = called.value
    name = called.attr if isinstance(called, ast.Attribute) else None
    name = called.id if isinstance(called, ast.Name) else name
    return name in LOGGERS


def _format(call: ast.Call) -> ast.expr | None:
    # emit() has the level in front.
    place = int(isinstance(call.func, ast.Attribute) and call.func.attr == "emit")
    if len(call.args) > place:
        return call.args[place]
    return next((k.value for k in call.keywords if k.arg in {"format", None}), None)


def _is_constant(format_: ast.expr | None) -> bool:
    return format_ is None or (
        isinstance(format_, ast.Constant) and isinstance(format_.value, str)
    )


def borrowed_methods(tree: ast.AST) -> list[int]:
    """Lines where a logger's method is put away, to be called with who knows what.

    It may be handed on together with its constant format string.
    """
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    called |= {
        id(method)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for method, format_ in pairwise(node.args)
        if _is_constant(format_)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in LOGGING_METHODS
        and _is_logger(node)
        and id(node) not in called
    ]


def loaded_by(module: str) -> set[str]:
    """The modules that a fresh interpreter has after one import."""
    script = f"import sys, {module}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return set(done.stdout.split())


class LoggingRuleTests(SynchronousTestCase):
    """Format strings are constant: a text from outside is never one."""

    def test_checker_finds_variable_formats(self) -> None:
        for snippet in (
            "log.info('{name}', name=name)",
            "self.log.warn('a' 'b', a=1)",
            "self._log.failure('{what}', failure, what=what)",
            "log.emit(level, '{a}', a=a)",
            "log.info(format='{a}', a=a)",
            "other.info(f'{name}')",
            "log.info()",
        ):
            self.assertEqual(variable_formats(ast.parse(snippet)), [], snippet)
        for snippet in (
            "log.info(f'{name}')",
            "log.debug('{}'.format(name))",
            "log.warn('%s' % name)",
            "self.log.error(name)",
            "self._log.critical('a' + name)",
            "log.failure(f'{name}', failure)",
            "self.log(f'{name}')",
            "peer._log.info(text)",
            "log.emit(level, name)",
            "log.info(format=name)",
            "log.info(**event)",
            "log.info(*event)",
        ):
            tree = ast.parse(f"def method(self):\n    {snippet}\n")
            self.assertEqual(variable_formats(tree), [2], snippet)

    def test_checker_finds_borrowed_methods(self) -> None:
        tree = ast.parse(
            "say = log.info\nsay(name)\nlog.info('a')\ncall(log.info, 'a')\n"
            "call(log.info, name)\ncall('a', log.info)\n"
        )
        self.assertEqual(borrowed_methods(tree), [1, 5, 6])

    def test_formats_of_all_modules_are_constant(self) -> None:
        count = 0
        for name, tree in modules().items():
            self.assertEqual(borrowed_methods(tree), [], name)
            if name != OBSERVER:
                self.assertEqual(variable_formats(tree), [], name)
            count += len(list(calls_of_loggers(tree)))
        self.assertGreater(count, 10)

    def test_log_observer_writes_formats_of_the_table_alone(self) -> None:
        tree = modules()[OBSERVER]
        (line,) = variable_formats(tree)
        (call,) = (call for call in calls_of_loggers(tree) if call.lineno == line)
        self.assertEqual(ast.unparse(_format(call) or call), "event.format")

    def test_formats_of_the_table_are_constant(self) -> None:
        count = 0
        for node in ast.walk(modules()["proxyrelay.switchboard.events"]):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                left = ast.unparse(node).partition(" = ")[0].partition(":")[0]
                if left in {"format", "page"}:
                    count += 1
                    self.assertTrue(_is_constant(node.value), node.lineno)
        self.assertGreater(count, 20)


def impurities(tree: ast.AST) -> list[str]:
    """All that no pure module may have: imports, readings of a clock, log calls."""
    found = [
        other
        for other in imported(tree)
        if other in OUTSIDE or other.partition(".")[0] in FRAMEWORKS
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found += {node.func.attr} & CLOCK_METHODS
    return found + [ast.unparse(call.func) for call in calls_of_loggers(tree)]


def is_marked_pure(tree: ast.Module) -> bool:
    """Whether the first paragraph of a module's docstring says that it is pure."""
    first = (ast.get_docstring(tree) or "").partition("\n\n")[0]
    return re.search(r"\bPure[.:]", first) is not None


def is_pure(name: str) -> bool:
    """Whether a module belongs to `PURE`."""
    inner = name.removeprefix("proxyrelay.")
    return any(inner == pure or inner.startswith(f"{pure}.") for pure in PURE)


class PureRoomTests(SynchronousTestCase):
    """The rules of the switchboard know neither Twisted nor Autobahn."""

    def test_pure_modules_import_only_each_other_and_no_framework(self) -> None:
        found = modules()
        for name in filter(is_pure, found):
            self.assertEqual(impurities(found[name]), [], name)
            for other in imported(found[name]):
                is_empty = other in found and len(found[other].body) == 1
                if other in found and other != "proxyrelay" and not is_empty:
                    self.assertTrue(is_pure(other), (name, other))

    def test_checker_finds_network_clock_and_log(self) -> None:
        for source in (
            *("import time", "from socket import socket", "from OpenSSL import SSL"),
            *("datetime.now(UTC)", "date.today()", "log.info('a')"),
            *("import http.client", "from urllib import request"),
        ):
            self.assertNotEqual(impurities(ast.parse(source)), [], source)
        for source in ("from http import HTTPStatus", "path.read_text()", "now()"):
            self.assertEqual(impurities(ast.parse(source)), [], source)

    def test_pure_modules_and_no_others_are_marked_in_their_docstring(self) -> None:
        for name, tree in modules().items():
            self.assertEqual(is_marked_pure(tree), is_pure(name), name)

    def test_pure_names_are_those_of_modules(self) -> None:
        self.assertLessEqual({f"proxyrelay.{name}" for name in PURE}, set(modules()))

    def test_pure_modules_load_no_framework(self) -> None:
        for name in ("config", "switchboard.relay", "websocket.handshake"):
            loaded = loaded_by(f"proxyrelay.{name}")
            self.assertEqual(loaded & set(FRAMEWORKS), set(), name)
        self.assertIn("twisted", loaded_by("proxyrelay.net.timers"))

    def test_relay_alone_loads_nothing_of_the_cluster(self) -> None:
        for name in ("service.app", "cli.main", "admin.listener"):
            loaded = {
                other
                for other in loaded_by(f"proxyrelay.{name}")
                if other.startswith(("proxyrelay.cluster", "hiredis"))
            }
            self.assertEqual(loaded, set(), name)

    def test_switchboard_loads_no_higher_floor(self) -> None:
        loaded = loaded_by("proxyrelay.switchboard.relay")
        folders = {
            name.split(".")[1]
            for name in loaded
            if name.count(".") > 0 and name.startswith("proxyrelay.")
        }
        self.assertEqual(folders, {"errors", "net", "config", "switchboard"})


class FloorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.heights = {
            folder: height for height, floor in enumerate(FLOORS) for folder in floor
        }

    def folder(self, name: str) -> str:
        """The folder of a module; empty for the package itself, and for others."""
        package, _, inner = name.partition(".")
        return inner.partition(".")[0] if package == ROOT.name else ""

    def upward(self, found: dict[str, ast.Module]) -> list[tuple[str, str]]:
        """Imports of another folder that stands no lower than the importing one."""
        return [
            (name, other)
            for name, tree in found.items()
            for other in sorted(set(imported(tree)))
            if self.folder(other) in self.heights
            and self.folder(other) != self.folder(name)
            and self.heights[self.folder(other)] >= self.heights[self.folder(name)]
        ]

    def test_folders_are_those_that_contributing_lists(self) -> None:
        there = {self.folder(name) for name in modules()}
        self.assertLessEqual(there - {""}, set(self.heights))
        floors = [[name for name in floor if name in there] for floor in FLOORS]
        text = (ROOT.parent / "CONTRIBUTING.rst").read_text(encoding="utf-8")
        text = text.partition(".. folders-begin")[2].partition(".. folders-end")[0]
        rows = re.findall(r"^``(\w+)`` .*?(pure|)$", text, re.MULTILINE)
        self.assertEqual(
            rows,
            [
                (name, "pure" if name in PURE else "")
                for floor in floors
                for name in floor
            ],
        )
        drawing = text.partition(".. code-block:: text")[2].partition("A *pure*")[0]
        drawn = [re.findall(r"\w+", line) for line in drawing.splitlines()]
        self.assertEqual([line for line in drawn if line], floors[::-1])

    def test_folders_import_from_below_and_by_full_names(self) -> None:
        self.assertEqual(self.upward(modules()), [])
        for name, tree in modules().items():
            self.assertNotIn("a relative import", set(imported(tree)), name)

    def test_modules_of_a_folder_import_in_no_circle(self) -> None:
        found = modules()
        left = {
            name: {other for other in imported(tree) if other in found}
            for name, tree in found.items()
        }
        while free := [name for name, others in left.items() if not others]:
            for name in free:
                del left[name]
            for others in left.values():
                others.difference_update(free)
        self.assertEqual(left, {})

    def test_checker_finds_imports_from_above(self) -> None:
        for source in (
            "from proxyrelay import service",
            "from proxyrelay.service.app import Options",
            "import proxyrelay.service.app",
            "def later():\n    from proxyrelay.service.app import Options",
        ):
            tree = ast.parse(source)
            self.assertNotEqual(
                self.upward({"proxyrelay.switchboard.registry": tree}), [], source
            )
        tree = ast.parse("import proxyrelay.net.certificates")
        self.assertEqual(self.upward({"proxyrelay.service.app": tree}), [])


class ReactorTests(SynchronousTestCase):
    """The reactor is handed down; one module takes it from Twisted, two run it."""

    def importers(
        self, found: dict[str, ast.Module], what: str = "twisted.internet.reactor"
    ) -> set[str]:
        return {name for name, tree in found.items() if what in set(imported(tree))}

    def test_reactor_is_imported_by_the_composition_root_alone(self) -> None:
        self.assertEqual(self.importers(modules()), {"proxyrelay.service.app"})
        loaded = loaded_by("proxyrelay.service.app")
        self.assertNotIn("twisted.internet.reactor", loaded)

    def test_reactor_is_run_by_react_in_two_commands_alone(self) -> None:
        users = self.importers(modules(), "twisted.internet.task.react")
        self.assertEqual(users, {"proxyrelay.cli.globus", "proxyrelay.cli.probe"})

    def test_checker_finds_each_spelling_of_the_reactor(self) -> None:
        for source in (
            "from twisted.internet import reactor",
            "from twisted.internet import defer, reactor as _reactor",
            "import twisted.internet.reactor",
            "from twisted.internet.reactor import callLater",
            "def later():\n    from twisted.internet import reactor",
        ):
            self.assertEqual(self.importers({"a": ast.parse(source)}), {"a"}, source)

"""The rules of the house, read from the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import proxyrelay

ROOT = Path(proxyrelay.__file__).parent

LOGGERS = {"log", "_log"}

LOGGING_METHODS = {"debug", "info", "warn", "error", "critical", "failure", "emit"}

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("net",),
    ("config",),
    ("switchboard",),
    ("auth", "observe", "cluster"),
    ("websocket",),
    ("admin",),
    ("service",),
    ("cli",),
)
"""Folders, from the ground up. A folder imports only from lower floors."""

PURE = (
    *("errors", "config", "switchboard"),
    *("net.proxies", "net.rate", "net.timing"),
    *("auth.cache", "auth.circuit_breaker", "auth.globus_error"),
    *("auth.invalid_tokens", "auth.policy"),
    *("auth.stats", "observe.counters", "observe.pseudonyms"),
    *("observe.records", "websocket.admission", "websocket.handshake"),
    *("admin.history", "admin.report"),
    *("service.changes", "websocket.state"),
)
"""Folders and modules without a network, a clock or a log."""

FRAMEWORKS = ("twisted", "autobahn", "txaio", "zope")


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


def variable_formats(tree: ast.AST) -> list[int]:
    """Lines of calls of a logger whose format string is not a constant."""
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and _is_logger(node.func)
        and not _is_constant(_format(node))
    )


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

    GOOD = (
        "log.info('{name}', name=name)",
        "self.log.warn('a' 'b', a=1)",
        "self._log.failure('{what}', failure, what=what)",
        "log.emit(level, '{a}', a=a)",
        "log.info(format='{a}', a=a)",
        "other.info(f'{name}')",
        "log.info()",
    )

    BAD = (
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
    )

    def test_the_checker_passes_what_is_good(self) -> None:
        for snippet in self.GOOD:
            self.assertEqual(variable_formats(ast.parse(snippet)), [], snippet)

    def test_the_checker_finds_what_is_bad(self) -> None:
        for snippet in self.BAD:
            tree = ast.parse(f"def method(self):\n    {snippet}\n")
            self.assertEqual(variable_formats(tree), [2], snippet)

    def test_the_checker_finds_borrowed_methods(self) -> None:
        tree = ast.parse(
            "say = log.info\nsay(name)\nlog.info('a')\ncall(log.info, 'a')\n"
            "call(log.info, name)\ncall('a', log.info)\n"
        )
        self.assertEqual(borrowed_methods(tree), [1, 5, 6])

    def test_format_strings_are_constant(self) -> None:
        for name, tree in modules().items():
            if name != "proxyrelay.observe.log_observer":
                self.assertEqual(variable_formats(tree), [], name)

    def test_the_log_observer_writes_formats_of_the_table_alone(self) -> None:
        tree = modules()["proxyrelay.observe.log_observer"]
        (line,) = variable_formats(tree)
        (call,) = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and node.lineno == line
            and _is_logger(node.func)
        )
        self.assertEqual(ast.unparse(_format(call) or call), "event.format")

    def test_formats_of_the_table_are_constant(self) -> None:
        count = 0
        for node in ast.walk(modules()["proxyrelay.switchboard.events"]):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                (target,) = (
                    node.targets if isinstance(node, ast.Assign) else (node.target,)
                )
                if ast.unparse(target) in {"format", "page"}:
                    count += 1
                    self.assertTrue(_is_constant(node.value), node.lineno)
        self.assertGreater(count, 20)

    def test_no_module_borrows_methods(self) -> None:
        for name, tree in modules().items():
            self.assertEqual(borrowed_methods(tree), [], name)

    def test_there_are_lines_to_check(self) -> None:
        count = sum(
            isinstance(node, ast.Call) and _is_logger(node.func)
            for tree in modules().values()
            for node in ast.walk(tree)
        )
        self.assertGreater(count, 10)


def is_pure(name: str) -> bool:
    """Whether a module belongs to `PURE`."""
    inner = name.removeprefix("proxyrelay.")
    return any(inner == pure or inner.startswith(f"{pure}.") for pure in PURE)


class PureRoomTests(SynchronousTestCase):
    """The rules of the switchboard know neither Twisted nor Autobahn."""

    def test_pure_modules_import_no_framework(self) -> None:
        for name, tree in modules().items():
            for other in imported(tree) if is_pure(name) else ():
                self.assertNotIn(other.partition(".")[0], FRAMEWORKS, name)

    def test_pure_modules_import_only_each_other(self) -> None:
        found = modules()
        for name, tree in found.items():
            for other in imported(tree) if is_pure(name) else ():
                if other in found and other != "proxyrelay":
                    self.assertTrue(is_pure(other), (name, other))

    def test_pure_names_are_those_of_modules(self) -> None:
        for name in PURE:
            self.assertIn(f"proxyrelay.{name}", modules())

    def test_pure_modules_load_no_framework(self) -> None:
        for name in ("config", "switchboard.relay", "websocket.handshake"):
            loaded = loaded_by(f"proxyrelay.{name}")
            self.assertEqual(loaded & set(FRAMEWORKS), set(), name)
        self.assertIn("twisted", loaded_by("proxyrelay.net.timers"))

    def test_the_rules_load_no_higher_floor(self) -> None:
        loaded = loaded_by("proxyrelay.switchboard.relay")
        folders = {
            name.split(".")[1]
            for name in loaded
            if name.count(".") > 0 and name.startswith("proxyrelay.")
        }
        self.assertEqual(folders, {"errors", "net", "config", "switchboard"})


class FloorTests(SynchronousTestCase):
    """Imports point one way."""

    def setUp(self) -> None:
        self.heights = {
            folder: height for height, floor in enumerate(FLOORS) for folder in floor
        }

    def folder(self, name: str) -> str:
        """The folder of a module; empty for the package itself."""
        return name.partition(".")[2].partition(".")[0]

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

    def test_every_folder_has_a_floor(self) -> None:
        folders = {self.folder(name) for name in modules()} - {""}
        self.assertLessEqual(folders, set(self.heights))

    def test_contributing_lists_the_same_folders(self) -> None:
        there = {self.folder(name) for name in modules()}
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

    def test_folders_import_from_below(self) -> None:
        self.assertEqual(self.upward(modules()), [])

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

    def test_modules_import_by_full_names(self) -> None:
        for name, tree in modules().items():
            self.assertNotIn("a relative import", set(imported(tree)), name)

    def test_the_checker_finds_what_points_up(self) -> None:
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
        self.assertEqual(
            self.upward(
                {
                    "proxyrelay.service.app": ast.parse(
                        "import proxyrelay.net.certificates"
                    )
                }
            ),
            [],
        )


class ReactorTests(SynchronousTestCase):
    """The reactor is handed down; one module takes it from Twisted."""

    def importers(self, found: dict[str, ast.Module]) -> set[str]:
        return {
            name
            for name, tree in found.items()
            if "twisted.internet.reactor" in set(imported(tree))
        }

    def test_only_the_composition_root_imports_it(self) -> None:
        self.assertEqual(self.importers(modules()), {"proxyrelay.service.app"})

    def test_the_checker_finds_each_spelling(self) -> None:
        for source in (
            "from twisted.internet import reactor",
            "from twisted.internet import defer, reactor as _reactor",
            "import twisted.internet.reactor",
            "from twisted.internet.reactor import callLater",
            "def later():\n    from twisted.internet import reactor",
        ):
            self.assertEqual(self.importers({"a": ast.parse(source)}), {"a"}, source)

    def test_loading_the_service_installs_none(self) -> None:
        self.assertNotIn(
            "twisted.internet.reactor", loaded_by("proxyrelay.service.app")
        )

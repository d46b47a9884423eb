"""The parts of the reference that are read from the code.

A page says ``.. generated:: settings`` (or another name in `PARTS`) on a line of its
own, and gets reStructuredText in its place before Sphinx parses it. So a setting, a
close code or an option that is new is documented by its docstring, and cannot be
forgotten here.

Nothing here imports Sphinx: the tests read the same text.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast, get_args

import msgspec
from msgspec import inspect as types

import proxyrelay
import proxyrelay.client as client_module
from docs._ext import events
from proxyrelay import config
from proxyrelay.admin.metrics import METRICS
from proxyrelay.admin.prometheus import PREFIX
from proxyrelay.cli import main as cli
from proxyrelay.errors import Refusal, RelayClientError
from proxyrelay.service.options import Options
from proxyrelay.service.reload import FIXED
from proxyrelay.switchboard import messages

DOCS = Path(__file__).parent.parent

CODE = Path(proxyrelay.__file__).parent

_MARKER = re.compile(r"^\.\. generated:: (?P<part>\S+)[ \t]*$", re.MULTILINE)

_SINGLE = re.compile(r"(?<![`:])`([^`<>]+)`(?!`)")

_LITERAL = re.compile(r"``([a-z_.]+)``")

_ABOUT = "peer {}"
"""What the text of each error about a peer has in it."""

_ATTRIBUTE = re.compile(r"    (?P<name>\w+): (?P<words>.*)")


# -- docstrings


def described(kind: type) -> tuple[str, dict[str, str]]:
    """Take a docstring in Google's style apart.

    Args:
        kind: A class.

    Returns:
        What stands before the attributes, and each attribute in its words.
    """
    text = inspect.cleandoc(kind.__doc__ or "")
    before, _, after = text.partition("\nAttributes:\n")
    attributes: dict[str, str] = {}
    name = ""
    for line in after.splitlines():
        begun = _ATTRIBUTE.fullmatch(line)
        if begun is not None:
            name = begun["name"]
            attributes[name] = begun["words"]
        elif name and line.strip():
            attributes[name] += f" {line.strip()}"
    return before.strip(), attributes


def _plain(text: str) -> str:
    """A docstring's words as Sphinx is to see them.

    A name in single quotes is that of a constant, for which its value is written, or of
    something else in the code.
    """

    def spelt(found: re.Match[str]) -> str:
        value = getattr(config, found[1], None)
        is_number = isinstance(value, int | float)
        return f"{value:g}" if is_number else f"``{found[1]}``"

    return _SINGLE.sub(spelt, text)


# -- settings


def settings() -> list[str]:
    """Every setting, table by table."""
    return list(_table(config.Config, ()))


def _table(kind: type[msgspec.Struct], path: tuple[str, ...]) -> Iterator[str]:
    introduction, words = described(kind)
    info = cast(types.StructType, types.type_info(kind))
    title = f"[{'.'.join(path)}]" if path else "At the top of the file"
    yield from (*_heading(title, "-"), "")
    if path:
        # "``[limits]``: how many clients there may be."
        introduction = introduction.partition(": ")[2]
        yield from (_plain(introduction[:1].upper() + introduction[1:]), "")
    for entry in info.fields:
        if not isinstance(entry.type, types.StructType):
            yield from _setting((*path, entry.name), entry, words[entry.name])
    for entry in info.fields:
        if isinstance(entry.type, types.StructType):
            yield from _table(entry.type.cls, (*path, entry.name))


def _setting(path: tuple[str, ...], entry: types.Field, words: str) -> Iterator[str]:
    yield f".. confval:: {'.'.join(path)}"
    yield f"   :type: {kind_in_words(entry.type)}"
    yield f"   :default: {_default(entry.default)}"
    yield ""
    yield f"   {_with_links(_plain(words), path)}"
    yield ""
    for note in _notes(path):
        yield f"   {note}"
        yield ""


def _notes(path: tuple[str, ...]) -> Iterator[str]:
    """What the code knows of a setting beside its type and docstring."""
    for option, overridden in config.OVERRIDES.items():
        if overridden == path:
            yield f"The option ``{option}`` wins over it."
    for alias, name in config.ALIASES.items():
        if (*alias[:-1], name) == path:
            yield f"``{alias[-1]}`` is a deprecated spelling of it."
    if ".".join(path) in FIXED:
        yield "It is not reloaded: a change waits for a relay that is started anew."


def kind_in_words(kind: types.Type) -> str:
    """What may be written for a setting, with its range."""
    if isinstance(kind, types.UnionType):
        return " or ".join(
            kind_in_words(part)
            for part in kind.types
            if not isinstance(part, types.NoneType)
        )
    if isinstance(kind, types.LiteralType):
        return ", ".join(f'``"{value}"``' for value in kind.values)
    if isinstance(kind, types.VarTupleType | types.ListType | types.SetType):
        return f"list of {kind_in_words(kind.item_type)}s"
    if isinstance(kind, types.CustomType):
        return "path" if issubclass(kind.cls, Path) else "text"
    names: Mapping[type, str] = {
        types.IntType: "whole number",
        types.FloatType: "number",
        types.StrType: "text",
        types.BoolType: "true or false",
    }
    plain = type(kind).__name__.removesuffix("Type").lower()
    return names.get(type(kind), plain) + _range(kind)


def _range(kind: types.Type) -> str:
    least, most = getattr(kind, "ge", None), getattr(kind, "le", None)
    if least is not None and most is not None:
        return f", {least:,} to {most:,}"
    if least is not None:
        return f", at least {least:,}"
    return "" if most is None else f", at most {most:,}"


def _default(value: object) -> str:
    if value is None or value is msgspec.NODEFAULT:
        return "none"
    return f"``{json.dumps(value)}``"


def _with_links(text: str, here: tuple[str, ...]) -> str:
    """Let the names of other settings lead to them."""
    known = set(config.settings())

    def linked(found: re.Match[str]) -> str:
        name = tuple(found[1].split("."))
        for path in ((*here[:-1], *name), name):
            if path in known and path != here:
                return f":confval:`{'.'.join(path)}`"
        return found[0]

    return _LITERAL.sub(linked, text)


# -- close codes


def close_codes() -> list[str]:
    """The codes that the relay itself decides on, with all their reasons."""
    found: dict[int, list[type[Refusal]]] = {}
    for kind in Refusal.__subclasses__():
        found.setdefault(kind.code, []).append(kind)
    message_debt = reasons()
    lines: list[str] = []
    for code in sorted(found):
        lines += [f"``{code}``"]
        for kind in found[code]:
            lines += [f"   {_plain(described(kind)[0])}", ""]
            lines += [f"   * ``{reason}``" for reason in message_debt[kind.__name__]]
            lines += [""]
    return lines


def reasons() -> dict[str, list[str]]:
    """What clients are told, by the refusal's name; ``…`` stands for what varies."""
    kinds = {kind.__name__: kind for kind in Refusal.__subclasses__()}
    found: dict[str, dict[str, None]] = {name: {} for name in kinds}
    for name, kind in kinds.items():
        if kind.text:
            found[name][kind.prefix + kind.text] = None
    for path in sorted(CODE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = _constants(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name in kinds and not kinds[name].text:
                text = _text(node.args[0], constants)
                found[name][kinds[name].prefix + text] = None
    return {name: list(texts) for name, texts in found.items()}


def _constants(tree: ast.Module) -> dict[str, str]:
    """The texts that a module gives names to."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }


def _text(node: ast.expr, constants: Mapping[str, str]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, constants) for part in node.values)
    return "…"


# -- the client for Twisted programs


def client() -> list[str]:
    """The client's class and its methods, and the errors."""
    kind = client_module.RelayClient
    lines = [*_heading(kind.__name__, "="), "", "::", "", f"    {kind.__name__}("]
    lines += [f"        {each}," for each in _parameters(kind)]
    lines += ["    )", "", *_sections(inspect.getdoc(kind) or ""), ""]
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        is_method = inspect.isfunction(member)
        parts = _parameters(member)[1:] if is_method else []
        title = f"``{name}({', '.join(parts)})``" if is_method else f"``{name}``"
        body = _sections(inspect.getdoc(member) or "")
        lines += [title, *(f"   {line}".rstrip() for line in body), ""]
    lines += [*_heading("Errors", "="), ""]
    for error in _tree(RelayClientError):
        words, attributes = described(error)
        (base,) = error.__bases__
        lines += [f"``{error.__name__}`` (a ``{base.__name__}``)"]
        lines += [f"   {line}".rstrip() for line in _plain(words).splitlines()]
        for name, text in attributes.items():
            lines += ["", f"   * ``{name}``: {_plain(text)}"]
        lines += [""]
    return lines


def _tree(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _tree(inner)


def _parameters(called: Callable[..., object]) -> list[str]:
    """Parameters with their defaults, without types; ``*`` before those by name."""
    found: list[str] = []
    for each in inspect.signature(called).parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        default = getattr(each.default, "__name__", repr(each.default))
        found.append(
            each.name if each.default is each.empty else f"{each.name}={default}"
        )
    return found


def _sections(text: str) -> Iterator[str]:
    """A docstring in Google's style, with its sections as lists."""
    for line in _plain(text).splitlines():
        if line in {"Args:", "Raises:", "Attributes:"}:
            yield {"Args:": "Arguments:"}.get(line, line)
            yield ""
        elif found := re.fullmatch(r"    (\w+): (.*)", line):
            yield f"* ``{found[1]}``: {found[2]}"
        else:
            yield line.replace("      ", "", 1) if line.startswith("        ") else line


# -- messages


def client_messages() -> list[str]:
    """What clients may send, message by message."""
    lines: list[str] = []
    for kind in get_args(messages.ClientMessage):
        words: dict[str, str] = {}
        for ancestor in reversed(kind.__mro__):
            words |= described(ancestor)[1]
        lines += [f"``{kind.__struct_config__.tag}``"]
        lines += [f"   {_plain(described(kind)[0])}", ""]
        for entry in msgspec.structs.fields(kind):
            lines += [f"   ``{entry.name}``"]
            lines += [f"      {_plain(words[entry.name])}", ""]
    return lines


def errors() -> list[str]:
    """Why messages come back to their senders."""
    return [f"* ``{text.replace('{}', '…')}``" for text in _texts() if _ABOUT in text]


def _texts() -> Iterator[str]:
    """The texts that modules of the package give names to."""
    for path in sorted(CODE.rglob("*.py")):
        yield from _constants(ast.parse(path.read_text(encoding="utf-8"))).values()


# -- metrics


def metrics() -> list[str]:
    """What Prometheus is told."""
    lines: list[str] = []
    for metric in METRICS:
        lines += [f"``{PREFIX}{metric.name}`` ({metric.kind})", f"   {metric.about}"]
        if metric.values:
            values = ", ".join(f"``{value}``" for value in metric.values)
            lines += ["", f"   ``{metric.labels[0]}``: {values}"]
        elif metric.labels:
            names = ", ".join(f"``{label}``" for label in metric.labels)
            lines += ["", f"   Labels: {names}"]
        lines += [""]
    return lines


# -- commands


def command() -> list[str]:
    """The ``proxyrelay`` command with all its commands."""
    return list(_parser(cli._parser()))


def _parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    own: list[argparse.Action] = []
    commands: list[argparse.ArgumentParser] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands += dict.fromkeys(action.choices.values())
        else:
            own.append(action)
    yield from (*_heading(parser.prog, "-"), "")
    yield from (f".. program:: {parser.prog}", "")
    yield from (_sentence(parser.description or ""), "")
    if parser.epilog:
        _, _, example = parser.epilog.partition("\n")
        yield from ("::", "", f"    {example.strip()}", "")
    for option in own:
        yield from _option(
            option.option_strings,
            None if option.nargs == 0 else option.metavar or option.dest.upper(),
            (option.help or "") % {**vars(option), "prog": parser.prog},
        )
    for inner in commands:
        yield from _parser(inner)


def server() -> list[str]:
    """The options of ``twistd proxyrelay``."""
    options: Any = Options
    lines = [".. program:: twistd proxyrelay", ""]
    for long, short, _, words, *_ in options.optParameters:
        spelt = [f"-{short}"] if short else []
        lines += _option([*spelt, f"--{long}"], long.upper(), words)
    for long, short, words in getattr(options, "optFlags", ()):
        spelt = [f"-{short}"] if short else []
        lines += _option([*spelt, f"--{long}"], None, words)
    for name, method in vars(options).items():
        if name.startswith("opt_"):
            long = name.removeprefix("opt_").replace("_", "-")
            lines += _option([f"--{long}"], None, method.__doc__ or "")
    return lines


def _option(
    spellings: Sequence[str], value: object, words: str
) -> tuple[str, str, str, str]:
    shown = "" if value is None else f" {value}"
    # An argument has no spelling.
    names = ", ".join(f"{spelling}{shown}" for spelling in spellings) or shown.strip()
    return (f".. option:: {names}", "", f"   {_sentence(words)}", "")


def _sentence(words: str) -> str:
    words = words.strip().replace("*", r"\*")
    return f"{words[:1].upper()}{words[1:].removesuffix('.')}."


# -- what was measured


def comparison() -> list[str]:
    """The figures of the comparison that was run last."""
    document = _measured("comparison.json")
    rows = [("", "unit", "proxyrelay", "proxystore-relay", "ratio", "switchboard")]
    for entry in document["rows"]:
        ratio = ""
        if entry["ratio"] is not None:
            low, high = entry["ratio_min"], entry["ratio_max"]
            ratio = f"{entry['ratio']:.2g}"
            if low < high:
                ratio += f" ({low:.2g} to {high:.2g})"
        ours, theirs, ceiling = (
            _number(median(entry[name])) if entry[name] else ""
            for name in ("ours", "theirs", "ceiling")
        )
        rows.append((entry["title"], entry["unit"], ours, theirs, ratio, ceiling))
    versions = document["packages"]
    named = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    about = f"Python {document['python']}, {named}; {document['cpus']} cores."
    return [*_grid(rows), "", about]


def profile() -> list[str]:
    """Where the time went when it was looked at last."""
    situations = _measured("profile.json")["situations"]
    rows = [("", *(situation["title"] for situation in situations))]
    for name in situations[0]["shares"]:
        cells = []
        for situation in situations:
            share = situation["shares"][name]
            spent = share * situation["microseconds"]
            cells.append(f"{_number(spent)} ({share:.0%})" if share else "")
        rows.append((name, *cells))
    totals = (_number(situation["microseconds"]) for situation in situations)
    return _grid([*rows, ("all", *totals)])


def floor() -> list[str]:
    """What the kernel alone took for a message then."""
    found = _measured("profile.json")["floor"]
    return _grid([("", "us CPU"), *((name, _number(found[name])) for name in found)])


def _measured(name: str) -> Any:
    return json.loads((DOCS / "explanation" / name).read_text(encoding="utf-8"))


def _grid(rows: Iterable[Sequence[str]]) -> list[str]:
    """A table, with its first row for a head."""
    lines = [".. list-table::", "   :header-rows: 1", "   :align: left", ""]
    for row in rows:
        for number, cell in enumerate(row):
            lines.append(f"   {'  -' if number else '* -'} {cell}".rstrip())
    return lines


def _number(value: float) -> str:
    if value >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.3g}"


# -- pages

PARTS: Mapping[str, Callable[[], list[str]]] = {
    "settings": settings,
    "close-codes": close_codes,
    "client": client,
    "client-messages": client_messages,
    "errors": errors,
    "metrics": metrics,
    "command": command,
    "server": server,
    "log-events": events.log_events,
    "audit-events": events.audit_events,
    "common-fields": events.common_fields,
    "event-fields": events.event_fields,
    "comparison": comparison,
    "profile": profile,
    "floor": floor,
}
"""What pages may ask for."""


def filled(text: str) -> str:
    """A page with everything that is read from the code.

    Args:
        text: The page as it stands in its file.

    Raises:
        KeyError: It asks for something that is not in `PARTS`.
    """
    return _MARKER.sub(lambda found: "\n".join(PARTS[found["part"]]()), text)


def _heading(title: str, line: str) -> tuple[str, str]:
    return title, line * len(title)


def _fill(_app: object, _page: str, source: list[str]) -> None:
    source[0] = filled(source[0])


def _outdated(app: Any, *_: object) -> Iterable[str]:
    """Pages that change with the code, whatever became of their files."""
    return [
        page
        for page in app.env.found_docs
        if _MARKER.search(Path(app.env.doc2path(page)).read_text(encoding="utf-8"))
    ]


def setup(app: Any) -> dict[str, bool]:
    """Join Sphinx."""
    app.connect("source-read", _fill)
    app.connect("env-get-outdated", _outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

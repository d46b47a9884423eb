"""``proxyrelay completion``: what a shell completes behind ``proxyrelay``."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from proxyrelay.cli import terminal

SHELLS = ("bash", "zsh", "fish")

LACKS = (
    "completion needs the packages of proxyrelay[cli]: pip install 'proxyrelay[cli]'"
)


def completion(arguments: Namespace) -> int:
    """Print the completion of commands and options for a shell.

    The shell reads the script from a file; see the reference of the command line. The
    script is that of this version: print it again after an upgrade.

    Example:
        proxyrelay completion bash > proxyrelay.bash
    """
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ImportError:
        # Standard output is the script.
        terminal.show([f"problem: {LACKS}"], sys.stderr)
        return 1
    parser: argparse.ArgumentParser = arguments.parser
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif "--log-dir" in action.option_strings:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All options and arguments, also those of the commands.

    A command is described by its help: its description is too long for a line.
    """
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for listed in action._choices_actions:
                inner = action.choices[listed.dest]
                inner.description = listed.help
                yield from _actions(inner)

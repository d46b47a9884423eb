"""The unit tests on each CPython that the metadata names and this machine has.

``python -m tests.matrix`` makes an environment of its own for each, below ``.matrix``,
by the rules of the Makefile. The exit status is 1 if a test fails on any of them, and 0
otherwise: what is not found is said, and is no failure.
"""

from __future__ import annotations

import argparse
import configparser
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.specifiers import SpecifierSet

from conformance.suite import candidates

ROOT = Path(__file__).parents[1]

ENGINE = ("bus", "link", "member", "scripts", "sentinel", "trial")

REAL = (
    ROOT / "tests/integration",
    *(ROOT / "tests/admin" / f"test_{name}.py" for name in ("page", "page_views")),
    *(ROOT / "tests/cli/test_keep.py", ROOT / "tests/survive/test_crash.py"),
    *(ROOT / "tests/cluster" / f"test_{name}.py" for name in ENGINE),
)
"""Tests that start real processes: a relay, a browser, an engine, a parent."""

LIMIT = 300.0
"""Seconds for the installation, and then for the tests, on one interpreter."""

LANGUAGE = "Programming Language :: Python :: 3."

_ASKED = """
import ensurepip, platform, sys, sysconfig, venv
if not sysconfig.get_config_var("Py_GIL_DISABLED"):
    print(platform.python_implementation(), platform.python_version())
"""


class Metadata(NamedTuple):
    """Versions of Python that setup.cfg names, as in ``3.11``, the oldest first."""

    versions: list[str]
    requires: SpecifierSet


def metadata(text: str) -> Metadata:
    """Read the text of setup.cfg."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read_string(text)
    lines = setup["metadata"]["classifiers"].splitlines()
    minors = [
        line.removeprefix(LANGUAGE) for line in lines if line.startswith(LANGUAGE)
    ]
    return Metadata(
        [f"3.{minor}" for minor in sorted(map(int, minors))],
        SpecifierSet(setup["options"]["python_requires"]),
    )


def found(promised: Metadata, environ: Mapping[str, str]) -> dict[str, Path]:
    """The interpreter of each version that is there, the oldest first."""
    interpreters = {}
    for version in promised.versions:
        for path in candidates(environ, version):
            release = _release(path)
            if release.startswith(f"{version}.") and release in promised.requires:
                interpreters[version] = path
                break
    return interpreters


def _release(path: Path) -> str:
    """The release of a CPython that can make environments; "" of anything else."""
    try:
        said = subprocess.run(
            [path, "-c", _ASKED], check=True, capture_output=True, text=True, timeout=30
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    name, _, release = said.strip().partition(" ")
    return release if name == "CPython" else ""


def ends(versions: Sequence[str], default: str) -> list[str]:
    """The oldest and the newest version, beside the default one."""
    others = [version for version in versions if version != default]
    return [others[0], *others[1:][-1:]] if others else []


def unit_tests() -> Iterator[str]:
    """Names of the modules of tests that start no real process."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if not any(path.is_relative_to(real) for real in REAL):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


def run(version: str, python: Path, jobs: int) -> str:
    """Run the unit tests on one interpreter; returns "passed", or what went wrong."""
    folder = f".matrix/{version}"
    install = ["make", f"VENV={folder}", f"PYTHON={python}", f"{folder}/test"]
    trial = [f"{folder}/bin/python", "-m", "twisted.trial", "--reporter=text"]
    trial += [f"--temp-directory=_trial_temp.{version}", "--random=0", f"--jobs={jobs}"]
    steps = {"not installed": install, "FAILED": [*trial, *unit_tests()]}
    words = ""
    try:
        for words, command in steps.items():  # noqa: B007 - of the failed step
            subprocess.run(command, cwd=ROOT, check=True, timeout=LIMIT)
    except subprocess.TimeoutExpired as error:
        print(error)
    except subprocess.CalledProcessError:
        pass
    else:
        words = "passed"
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="processes of the tests")
    parser.add_argument(
        "--ends",
        action="store_true",
        help="only the oldest and the newest beside the one that runs this",
    )
    options = parser.parse_args(arguments)
    promised = metadata((ROOT / "setup.cfg").read_text(encoding="utf-8"))
    interpreters = found(promised, os.environ)
    chosen = list(interpreters)
    if options.ends:
        chosen = ends(chosen, "{}.{}".format(*sys.version_info))
    outcomes = {}
    for version in promised.versions:
        if version in chosen:
            python = interpreters[version]
            print(f"Python {version}: {python}", flush=True)
            outcomes[version] = run(version, python, options.jobs)
        else:
            outcomes[version] = "left out" if version in interpreters else "not found"
    for version, outcome in outcomes.items():
        print(f"Python {version}: {outcome}")
    return int(any(outcomes[version] != "passed" for version in chosen))


if __name__ == "__main__":
    raise SystemExit(main())

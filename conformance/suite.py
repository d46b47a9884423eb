"""The suite itself: an environment of CPython 2.7, the only Python that runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

SUITE = "autobahntestsuite==25.10.1"
"""Asks itself for the old Twisted and Autobahn that it needs."""

VIRTUALENV = "virtualenv<20.22"
"""Later ones make no environments of Python 2.7."""

PATIENCE = 600.0
"""Seconds after which a step of the installation fails."""

_NUMBERS = re.compile(r"\d+").findall

_WHAT = "import platform as p; print(p.python_implementation() + p.python_version())"


class SuiteError(Exception):
    """The suite cannot be installed or run; the text says why."""


def find_python(candidates: Iterable[str | Path]) -> Path | None:
    """Find the first CPython 2.7.

    Args:
        candidates: Paths of what may be one, or may not exist.
    """
    return next((Path(path) for path in candidates if _is_cpython27(path)), None)


def candidates(environ: Mapping[str, str], version: str = "2.7") -> Iterator[Path]:
    """Where a CPython may be, the newest release of pyenv first.

    pyenv's own commands fail for versions that are installed and not switched on, so
    its versions are looked through.

    Args:
        environ: The process's environment.
        version: As in ``3.11``.
    """
    for name in (f"python{version}", f"python{version[0]}"):
        found = shutil.which(name, path=environ.get("PATH", os.defpath))
        if found is not None:
            yield Path(found)
    root = environ.get("PYENV_ROOT")
    pyenv = Path(root) if root else Path(environ.get("HOME", "/")) / ".pyenv"
    versions = pyenv.glob(f"versions/{version}*/bin/python{version}")
    yield from sorted(
        versions,
        key=lambda path: list(map(int, _NUMBERS(path.parts[-3]))),
        reverse=True,
    )


def _is_cpython27(path: str | Path) -> bool:
    try:
        said = subprocess.run(  # noqa: S603 - a candidate, asked for its version
            [path, "-c", _WHAT],
            check=True,
            capture_output=True,
            env=environment(),
            text=True,
            timeout=30,
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return said.startswith("CPython2.7.")


def environment() -> dict[str, str]:
    """The environment for a Python 2.7: not that of the Python that runs this."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def install(python: Path, folder: Path) -> Path:
    """Install the suite, unless that is done already.

    Args:
        python: A CPython 2.7.
        folder: Where; what is there is replaced.

    Returns:
        The command ``wstest``.

    Raises:
        SuiteError: A step failed.
    """
    wstest, mark = folder / "suite" / "bin" / "wstest", folder / "installed"
    wanted = f"{SUITE} {python}"
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return wstest
    shutil.rmtree(folder, ignore_errors=True)
    maker = folder / "virtualenv"
    _step(sys.executable, "-m", "pip", "install", "--target", maker, VIRTUALENV)
    _step(
        *(sys.executable, "-m", "virtualenv", "--app-data", folder / "app-data"),
        *("--python", python, folder / "suite"),
        PYTHONPATH=str(maker),
    )
    _step(folder / "suite" / "bin" / "python", "-m", "pip", "install", SUITE)
    mark.write_text(wanted, encoding="utf-8")
    return wstest


def _step(*command: str | Path, **variables: str) -> None:
    try:
        subprocess.run(  # noqa: S603 - nothing here comes from outside
            command,
            check=True,
            env=environment() | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.CalledProcessError as error:
        raise SuiteError(f"{error}\n{error.stdout}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise SuiteError(str(error)) from None

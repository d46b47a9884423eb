"""The tests that proxystore has for its relay and for peering, against this relay.

``python -m conformance.proxystore_tests FOLDER`` fetches the source distribution of the
proxystore that is installed, and pytest, into the folder. Each test gets a relay in a
process of its own, with the default settings (``relay_fixture.py``). The exit status is
that of pytest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]

PACKAGES = ("pytest>=9", "pytest-asyncio>=1.3", "pytest-timeout>=2.4", "redis>=5")
"""What the tests import that is not installed for other reasons."""

MODULES = ("tests/p2p", "tests/endpoint")
"""Where tests of proxystore use a relay."""


def fetch(folder: Path) -> Path:
    """Get proxystore's sources.

    Args:
        folder: Where to; what is there is replaced.

    Returns:
        The folder of the sources.
    """
    shutil.rmtree(folder, ignore_errors=True)
    wanted = f"proxystore=={version('proxystore')}"
    options = ["--no-deps", "--no-binary=proxystore", "--dest", str(folder)]
    _pip("download", *options, wanted)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder)
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def _pip(*arguments: str) -> None:
    subprocess.run(  # noqa: S603 - nothing here comes from outside
        [sys.executable, "-m", "pip", "--quiet", *arguments], check=True
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance.proxystore_tests", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="for what is fetched")
    parser.add_argument("--sources", type=Path, help="of proxystore, not to be fetched")
    options, more = parser.parse_known_args(arguments)
    folder = options.folder.absolute()
    packages = folder / "packages"
    if not packages.exists():
        _pip("install", "--target", str(packages), *PACKAGES)
    sources = options.sources or fetch(folder / "sources")
    search = os.pathsep.join([str(packages), str(ROOT)])
    return subprocess.run(  # noqa: S603 - nothing here comes from outside
        [
            *(sys.executable, "-m", "pytest", "-p", "conformance.relay_fixture"),
            *("-rxXfE", *MODULES, *more),
        ],
        cwd=sources,
        env=os.environ | {"PYTHONPATH": search},
        check=False,
    ).returncode


if __name__ == "__main__":
    raise SystemExit(main())

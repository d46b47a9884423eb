"""The wheel, in an environment that has nothing else. Needs a package index."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from proxystore.p2p.relay.client import RelayClient

from proxyrelay import __version__
from tests.support.processes import ProcessTestCase, RelayProcess, environment

PROJECT = Path(__file__).resolve().parents[2]

PIP = (sys.executable, "-m", "pip", "--quiet")

INSTALLING = 300.0
"""Seconds after which building or installing fails."""


class WheelTests(ProcessTestCase):
    def setUp(self) -> None:
        super().setUp()
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = Path(place.name)

    def run_command(self, *command: str | Path) -> str:
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=INSTALLING,
            # Modules of the tests' own environment must not be found.
            env=environment(PYTHONPATH=""),
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def build(self) -> Path:
        copy = self.folder / "project"
        left_out = shutil.ignore_patterns("__pycache__", "dropin.cache")
        for name in ("proxyrelay", "twisted"):
            shutil.copytree(PROJECT / name, copy / name, ignore=left_out)
        for name in ("setup.cfg", "pyproject.toml", "README.rst", "LICENSE"):
            shutil.copy(PROJECT / name, copy)
        self.run_command(*PIP, "wheel", "--no-deps", "--wheel-dir", "dist", copy)
        (wheel,) = (self.folder / "dist").iterdir()
        return wheel

    def test_wheel_serves_where_nothing_else_is_installed(self) -> None:
        wheel = self.build()
        with zipfile.ZipFile(wheel) as packed:
            names = set(packed.namelist())
        page = "proxyrelay/admin/page"
        files = {f"{page}/{path.name}" for path in (PROJECT / page).iterdir()}
        self.assertEqual(files - names, set())
        home = self.folder / "environment"
        venv.create(home)
        scripts = home / "bin"
        python = scripts / "python"
        self.run_command(*PIP, "--python", python, "install", "--no-compile", wheel)

        # Neither proxystore nor what only it needs.
        found = self.run_command(
            *(python, "-c"),
            "from importlib.util import find_spec\n"
            "print(*filter(find_spec, ['proxyrelay', 'click', 'proxystore']))",
        )
        self.assertEqual(found.split(), ["proxyrelay"])
        version = self.run_command(scripts / "proxyrelay", "--version")
        self.assertEqual(version.strip(), __version__)
        checked = self.run_command(
            *(scripts / "proxyrelay", "check", "--host", "127.0.0.1", "--port", "0")
        )
        self.assertIn("would serve ws on 127.0.0.1, port (any)", checked)

        relay = RelayProcess(
            ["--host", "127.0.0.1", "--port", "0"],
            self.folder,
            twistd=scripts / "twistd",
            env=environment(PYTHONPATH=""),
        )
        self.addCleanup(relay.end)

        async def scenario() -> None:
            async with RelayClient(relay.url) as client:
                relay.wait_for(f" registered {client.uuid} ")

        self.play(scenario())
        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.errors, [])

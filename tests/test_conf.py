"""The examples in conf/ say what the code does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from proxyrelay.config import AuthArguments, Config, load, settings

CONF = Path(__file__).parent.parent / "conf"


class ExampleTests(SynchronousTestCase):
    """relay.toml and its relatives."""

    def test_relay_toml_holds_the_defaults(self) -> None:
        loaded = load(CONF / "relay.toml")
        self.assertEqual(loaded.problems + loaded.warnings, [])
        self.assertEqual(loaded.config, Config())

    def test_relay_toml_names_every_setting(self) -> None:
        text = (CONF / "relay.toml").read_text()
        for path in settings():
            if path[:2] == ("auth", "kwargs"):
                continue  # these stand in relay-globus.toml
            name = re.escape(path[-1])
            pattern = rf"^(# )?{name} = |^\[{re.escape('.'.join(path))}\]"
            self.assertTrue(re.search(pattern, text, re.MULTILINE), path)

    def test_relay_globus_toml_names_every_argument_with_its_default(self) -> None:
        text = (CONF / "relay-globus.toml").read_text()
        loaded = load(CONF / "relay-globus.toml")
        self.assertEqual(loaded.problems + loaded.warnings, [])
        for name in AuthArguments.__struct_fields__:
            self.assertTrue(re.search(rf"^(# )?{name} = ", text, re.MULTILINE), name)
        shown = re.sub(r"^# (\w+ = (?!\"\"|.*<))", r"\1", text, flags=re.MULTILINE)
        document = Path(self.mktemp())
        document.write_text(shown)
        self.assertEqual(load(document).config, loaded.config)

    def test_relay_tls_toml_is_taken(self) -> None:
        loaded = load(CONF / "relay-tls.toml")
        self.assertEqual(loaded.problems + loaded.warnings, [])
        self.assertEqual(loaded.config.scheme, "wss")


class UnitTests(SynchronousTestCase):
    """The units for systemd."""

    def test_systemd_takes_the_unit(self) -> None:
        """It exits with 0 even on unknown keys, so any word is a complaint."""
        analyze = shutil.which("systemd-analyze")
        if analyze is None:
            raise SkipTest("no systemd-analyze on this machine")
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        for kind in ("service", "socket"):
            text = (CONF / f"proxyrelay.{kind}").read_text()
            text = re.sub("/opt/proxyrelay/bin/[a-z]+", "/bin/true", text)
            text = text.replace("proxyrelay@1.service", "proxyrelay.service")
            text = text.replace("# Sockets=", "Sockets=")
            (folder / f"proxyrelay.{kind}").write_text(text)
        done = subprocess.run(
            [analyze, "verify", "--man=no", *folder.iterdir()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        lines = done.stderr.splitlines()
        complaints = [line for line in lines if "proxyrelay." in line]
        self.assertEqual((done.returncode, complaints), (0, []))

"""The command line of twistd proxyrelay."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay import __version__
from proxyrelay.config import Admin, Config, Logging
from proxyrelay.config.cluster import Cluster
from proxyrelay.service.options import Options
from tests.service.case import parsed

NAMES = ("config", "host", "port", "log-dir", "log-level", "admin-listen", "node")


class OptionsTests(SynchronousTestCase):
    """The command line of ``twistd proxyrelay``."""

    def test_options_absent_mean_defaults(self) -> None:
        options = parsed()
        self.assertEqual(dict(options), {**dict.fromkeys(NAMES), "survive": 0})
        self.assertEqual(options.load().config, Config())

    def test_options_config_names_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text("port = 4711\n")
        for arguments in (["-c", str(path)], [f"--config={path}"]):
            loaded = parsed(*arguments).load()
            self.assertEqual((loaded.config, loaded.problems), (Config(port=4711), []))
            self.assertEqual(loaded.file, str(path.absolute()))

    def test_options_override_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text("port = 4711\nhost = 'a'\n")
        loaded = parsed(
            *("-c", str(path), "--host=b", "--port=1", "--log-dir=/c"),
            *("--log-level=warn", "--admin-listen=unix:/a", "--node=one"),
        ).load()
        expected = Config(
            host="b",
            port=1,
            logging=Logging(Path("/c"), "WARNING"),
            admin=Admin(listen="unix:/a"),
            cluster=Cluster(node="one"),
        )
        self.assertEqual((loaded.config, loaded.problems), (expected, []))

    def test_options_wrong_are_refused_with_hint(self) -> None:
        for argument, wrong in (
            ("--bogus", "option --bogus not recognized"),
            ("--port", "option --port requires argument"),
            ("relay.toml", "unexpected argument 'relay.toml'"),
        ):
            with self.assertRaises(SystemExit) as caught:
                parsed(argument)
            expected = f"proxyrelay: {wrong}; see 'twistd proxyrelay --help'"
            self.assertEqual(str(caught.exception), expected)

    def test_options_version_is_printed(self) -> None:
        output = StringIO()
        self.patch(sys, "stdout", output)
        with self.assertRaises(SystemExit) as caught:
            parsed("--version")
        self.assertEqual(caught.exception.code, 0)
        self.assertEqual(output.getvalue(), f"proxyrelay {__version__}\n")

    def test_options_usage_explains_each(self) -> None:
        usage = str(Options())
        for word in (*(f"--{name}=" for name in NAMES), "-c, ", "proxyrelay check"):
            self.assertIn(word, usage)

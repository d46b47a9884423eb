"""The command line of twistd proxyrelay."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay import __version__
from proxyrelay.config import Config, Logging
from proxyrelay.service.options import Options
from tests.service.case import parsed


class OptionsTests(SynchronousTestCase):
    """The command line of ``twistd proxyrelay``."""

    def refused(self, *arguments: str) -> str:
        with self.assertRaises(SystemExit) as caught:
            parsed(*arguments)
        return str(caught.exception)

    def test_says_nothing_by_default(self) -> None:
        options = parsed()
        self.assertEqual(
            dict(options),
            dict.fromkeys(["config", "host", "port", "log-dir", "log-level"]),
        )
        self.assertEqual(options.load().config, Config())

    def test_reads_a_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text("port = 4711\n")
        for arguments in (["-c", str(path)], [f"--config={path}"]):
            loaded = parsed(*arguments).load()
            self.assertEqual((loaded.config, loaded.problems), (Config(port=4711), []))
            self.assertEqual(loaded.file, str(path.absolute()))

    def test_overrides_the_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text("port = 4711\nhost = 'a'\n")
        loaded = parsed(
            "-c", str(path), "--host=b", "--port=1", "--log-dir=/c", "--log-level=warn"
        ).load()
        self.assertEqual(loaded.problems, [])
        self.assertEqual(
            loaded.config,
            Config(host="b", port=1, logging=Logging(Path("/c"), "WARNING")),
        )

    def test_refuses_what_it_does_not_know(self) -> None:
        self.assertEqual(
            self.refused("--bogus"),
            "proxyrelay: option --bogus not recognized; see 'twistd proxyrelay --help'",
        )

    def test_refuses_an_option_without_its_value(self) -> None:
        self.assertIn("--port", self.refused("--port"))

    def test_refuses_arguments(self) -> None:
        text = self.refused("relay.toml")
        self.assertTrue(text.startswith("proxyrelay: "), text)
        self.assertIn("--help", text)

    def test_tells_its_version(self) -> None:
        output = StringIO()
        self.patch(sys, "stdout", output)
        with self.assertRaises(SystemExit) as caught:
            parsed("--version")
        self.assertEqual(caught.exception.code, 0)
        self.assertEqual(output.getvalue(), f"proxyrelay {__version__}\n")

    def test_explains_each_option(self) -> None:
        usage = str(Options())
        for word in (
            "-c, --config=",
            "--host=",
            "--port=",
            "--log-dir=",
            "--log-level=",
        ):
            self.assertIn(word, usage)
        self.assertIn("proxyrelay check", usage)

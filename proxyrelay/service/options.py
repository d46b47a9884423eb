"""The command line of ``twistd proxyrelay``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from proxyrelay import __version__, config


class Options(UsageOptions):
    """The command line of ``twistd proxyrelay``."""

    synopsis = "[options]"

    longdesc = (
        "Serves a relay through which ProxyStore endpoints find each other. "
        "Without a configuration file it serves ws on port 8700 of all "
        "interfaces. The other options override the file. "
        "'proxyrelay check --config FILE' tells what a file would serve."
    )

    optParameters = [  # noqa: RUF012 - Twisted reads it from the class
        ["config", "c", None, "Configuration file (TOML)."],
        ["host", None, None, "Address or name of the interface to listen on."],
        ["port", None, None, "TCP port to listen on; 0 takes a free one."],
        ["log-dir", None, None, "Folder for rotated log files."],
        [
            "log-level",
            None,
            None,
            "Least severe level to log: DEBUG, INFO, WARNING, ERROR or CRITICAL.",
        ],
        ["admin-listen", None, None, "Where the private listener listens."],
        ["node", None, None, "Name of this relay in its cluster."],
    ]

    optFlags = [  # noqa: N815, RUF012 - Twisted's, as above
        ["survive", None, "Keep connections for the next process."],
    ]

    def opt_version(self) -> None:
        """Display the version and exit."""
        print(f"proxyrelay {__version__}")
        sys.exit(0)

    def parseArgs(self, *arguments: str) -> None:
        """Refuse arguments without an option."""
        if arguments:
            raise UsageError(f"unexpected argument {arguments[0]!r}")

    def postOptions(self) -> None:
        """Make the path of the file absolute: twistd may change the folder later."""
        if self["config"]:
            self["config"] = str(Path(self["config"]).absolute())

    def parseOptions(self, options: Any = None) -> None:
        """Read the command line.

        Raises:
            SystemExit: It is wrong; the text says why.
        """
        try:
            super().parseOptions(options)
        except UsageError as error:
            raise SystemExit(
                f"proxyrelay: {error}; see 'twistd proxyrelay --help'"
            ) from None

    def load(self) -> config.Loaded:
        """Read the file, overridden by the other options."""
        path = self["config"]
        return config.load(
            None if path is None else Path(path),
            {
                option: self[option.removeprefix("--")] or None
                for option in config.OVERRIDES
            }
            | {"--survive": True if self["survive"] else None},
        )

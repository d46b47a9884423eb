"""The console script. It imports next to nothing, so that it is there early."""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C, as in a shell."""


def run() -> int:
    """Run the command line of the process; return the exit status.

    Most of its start are imports: Ctrl-C ends them as quietly as a command.
    """
    try:
        from proxyrelay.cli.main import main  # noqa: PLC0415 - see above

        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED

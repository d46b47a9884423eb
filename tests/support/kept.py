"""A relay whose parent holds its sockets."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.support.processes import SCRIPTS, SERVES, Process, RelayProcess


class KeptRelay(RelayProcess):
    """``proxyrelay keep``, which runs a relay that listens at ``url``.

    Args:
        options: For the relay.
        folder: Where it runs.
        scripts: Where the programs are.

    Raises:
        AssertionError: It does not come to serve.
    """

    def __init__(
        self, options: Sequence[str | Path], folder: Path, scripts: Path = SCRIPTS
    ) -> None:
        command = [scripts / "proxyrelay", "keep", "--", *options]
        Process.__init__(self, command, folder)
        try:
            self.url = self.wait_for(SERVES)[1]
        except BaseException:
            self.end()
            raise
        self.port = int(self.url.rpartition(":")[2])

    def children(self) -> list[int]:
        """The process of the relay; none while it is away."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        with contextlib.suppress(OSError):
            return [*map(int, path.read_text().split())]
        return []

    def send_relay(self, number: int) -> None:
        """Send the relay a signal."""
        for child in self.children():
            os.kill(child, number)

    def descriptors(self) -> int:
        """How many files the parent has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def end(self) -> None:
        """End both: without its parent, the relay serves its clients on."""
        if not self.has_ended:
            self.send(signal.SIGSTOP)
        for child in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        super().end()

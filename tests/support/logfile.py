"""Log files that tests can close."""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.python.logfile import LogFile

from proxyrelay.observe.logs import SharedLogFile


class KeptLogFile(SharedLogFile):
    """A log file that a test can close."""

    made: ClassVar[list[LogFile]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made.append(self)

    @classmethod
    def close_all(cls) -> None:
        """Close every file that was opened."""
        while cls.made:
            cls.made.pop().close()

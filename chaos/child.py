"""A process with clients."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from types import TracebackType
from typing import Any

ENDS = 90.0
"""Seconds in which clients that are told to leave have left."""


class Child:
    """A process with clients; it ends with the block.

    Args:
        main: What it does.
        arguments: For that, before the pipe.
    """

    def __init__(self, main: Callable[..., None], *arguments: object) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, self._theirs = spawning.Pipe()
        self._child = spawning.Process(
            target=main, args=(*arguments, self._theirs), daemon=True
        )

    def __enter__(self) -> Child:
        self._child.start()
        # So that its end is noticed.
        self._theirs.close()
        return self

    def hear(self, seconds: float) -> Any:
        """What it says next.

        Raises:
            SystemExit: It says nothing.
        """
        try:
            if self._pipe.poll(seconds):
                return self._pipe.recv()
        except (EOFError, OSError):
            pass
        raise SystemExit("chaos: the clients do not get to the end of their program")

    def tell(self, order: str, argument: Any = None, seconds: float = ENDS) -> Any:
        """Give an order, and wait until it is followed; gives the reply."""
        with contextlib.suppress(OSError):
            self._pipe.send((order, argument))
        return self.hear(seconds)

    def leave(self) -> Any:
        """Have its clients leave; gives what they have to say."""
        with contextlib.suppress(OSError):
            self._pipe.send(("leave", None))
        return self.hear(ENDS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._child.join(ENDS)
        self._child.kill()
        self._child.join(ENDS)
        self._pipe.close()

"""A line between a relay and its engine that can be cut, held and slowed down."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

CHUNK = 65536
"""Bytes that are moved at once, at most."""

BACKLOG = 1024
"""Chunks that are under way in one direction, at most."""

STARTS = 10.0
"""Seconds in which a line listens, or has ended."""

ENDED = b""
"""Stands for the end of a connection."""


class FaultLine:
    """Connections from a unix socket to that of an engine, in an event loop.

    Args:
        path: Where it listens.
        engine: Where to it leads.

    Attributes:
        delay: Seconds that each chunk takes, each way. Chunks follow each other without
            a further wait.
        is_cut: Whether connections end at once.
        passes: Cleared while nothing gets through, as in a black hole.
    """

    def __init__(self, path: Path, engine: Path) -> None:
        self.path = path
        self.delay = 0.0
        self.is_cut = False
        self.passes = asyncio.Event()
        self.passes.set()
        self._engine = engine
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._accept, self.path)

    async def stop(self) -> None:
        """End all connections, and listen no more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def cut(self) -> None:
        """End all connections, and those that come."""
        self.is_cut = True
        for writer in self._open:
            writer.transport.abort()

    def heal(self) -> None:
        """Let everything through again, without delay."""
        self.is_cut, self.delay = False, 0.0
        self.passes.set()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._serving.add(task)
        try:
            await self._connect(reader, writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.is_cut:
            return
        there, back = await asyncio.open_unix_connection(self._engine)
        ends = {writer, back}
        self._open |= ends
        ways = [
            asyncio.create_task(self._move(reader, back)),
            asyncio.create_task(self._move(there, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when="FIRST_COMPLETED")
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            back.transport.abort()
            self._open -= ends

    async def _move(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Move bytes in one direction until one side ends."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(BACKLOG)
        taking = asyncio.create_task(self._take(reader, queue))
        loop = asyncio.get_running_loop()
        try:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self.passes.wait()
                if data == ENDED or (taking.done() and taking.result()):
                    return
                writer.write(data)
                await writer.drain()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _take(
        self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> bool:
        """Read to the end; whether what is still under way is void."""
        loop, data = asyncio.get_running_loop(), b"."
        while data != ENDED:
            try:
                data = await reader.read(CHUNK)
            except OSError:
                data = ENDED
            if data == ENDED and not self.passes.is_set():
                # What its sender takes back is never sent again.
                return True
            await queue.put((loop.time() + self.delay, data))
        return False


class FaultLines:
    """A thread with an event loop for some fault lines. They end with the block.

    Args:
        folder: Where they listen.
        engine: Where to they lead.
        count: How many.
    """

    def __init__(self, folder: Path, engine: Path, count: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.lines = [
            FaultLine(folder / f"line-{number}.sock", engine) for number in range(count)
        ]

    def __enter__(self) -> FaultLines:
        self._thread.start()
        for line in self.lines:
            asyncio.run_coroutine_threadsafe(line.start(), self._loop).result(STARTS)
        return self

    def __exit__(self, *_: object) -> None:
        for line in self.lines:
            ending = asyncio.run_coroutine_threadsafe(line.stop(), self._loop)
            with contextlib.suppress(TimeoutError):
                ending.result(STARTS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STARTS)
        self._loop.close()

    def do(self, act: Callable[[FaultLine], object], *numbers: int) -> None:
        """Do something to some lines, or to all of them.

        Args:
            act: Is called with each line.
            numbers: Which ones; none for all.
        """
        chosen = [self.lines[number] for number in numbers] or self.lines

        async def act_on_all() -> None:
            for line in chosen:
                act(line)

        asyncio.run_coroutine_threadsafe(act_on_all(), self._loop).result(STARTS)

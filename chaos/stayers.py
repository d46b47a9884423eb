"""Pairs of clients that stay on one connection each, whatever becomes of the relay.

They do as stock clients: a client makes one offer at a time and waits 30 s for its end,
pings every 20 s and waits as long for the pong, answers pings, and does not come again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple
from uuid import UUID

from benchmarks import frames
from chaos.honest import AT_ONCE, GIVES_UP, SHOWN, TRY_AGAIN, text_of, uuid_of
from chaos.line import LATE, NO_CODE, Closed, Line, Place, PlainLine
from chaos.travellers import PING, WINDOW, Ask, Ended, Inbox

COMPLETE, SILENCE = "complete", "no end"
"""What comes of an exchange, beside the words of an error."""

ATTEMPTS = 3
"""A new client that comes just before the relay ends is asked to come again."""

STRANGERS = 1 << 64
"""Numbers of UUIDs of clients that come to see whether the relay serves."""


class Exchange(NamedTuple):
    """An offer, and what came of it; times in seconds of the monotonic clock.

    Attributes:
        pair: The number of the pair.
        began: When it was made.
        ended: When it had its end.
        end: `COMPLETE`, `SILENCE`, or the words of an error.
    """

    pair: int
    began: float
    ended: float
    end: str


class Entry(NamedTuple):
    """A new client.

    Attributes:
        place: The number of its place.
        began: When it began to come, in seconds of the monotonic clock.
        seconds: How long it took; None if it was turned away.
        why: What turned it away.
    """

    place: int
    began: float
    seconds: float | None
    why: str = ""


@dataclass
class Record:
    """What became of all clients.

    Attributes:
        exchanges: All that have ended.
        closed: Connections that were ended.
        breaches: What ends a stock client.
        unanswered: When pings were sent that have no pong: a stock client leaves then.
        entries: New clients.
        others: Other failures.
        pongs: Pings that were answered.
        probes: Pings of the relay.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    unanswered: list[float] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    pongs: int = 0
    probes: int = 0

    def note(self, failures: list[str], words: str) -> None:
        """Keep a failure, if there are not too many."""
        if len(failures) < SHOWN:
            failures.append(f"{time.monotonic():.2f}: {words}")


class Stayer:
    """A client.

    Args:
        crowd: All of them.
        pair: The number of its pair.
        side: Which one of the two it is.

    Attributes:
        ended: Done when it has ended.
    """

    def __init__(self, crowd: Stayers, pair: int, side: int) -> None:
        self.ended: asyncio.Future[None] = crowd.loop.create_future()
        self._crowd = crowd
        self._record = crowd.record
        self._pair = pair
        self._uuid, self._partner = uuid_of(pair, side), uuid_of(pair, 1 - side)
        self._inbox = Inbox(self._uuid, self._partner)
        self._line: Line | None = None
        self._pong: asyncio.Future[None] = crowd.loop.create_future()
        self._beat = b""
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self) -> None:
        """Register, and stay."""
        place = self._crowd.place_of(self._pair)
        self._line = await self._crowd.entered(place, self._uuid)
        self._tasks = [
            asyncio.create_task(self._read(self._line)),
            asyncio.create_task(self._ping(self._line)),
        ]

    async def leave(self) -> None:
        """Say goodbye, unless it has ended; end its tasks."""
        for task in self._tasks:
            task.cancel()
        for found in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(found, Exception):
                raise found
        line = self._line
        if line is None:
            return
        if not self.ended.done():
            with contextlib.suppress(OSError, *LATE):
                await asyncio.wait_for(line.goodbye(), GIVES_UP)
        line.end()

    async def exchange(self, number: int) -> None:
        """Make the partner an offer, and wait for the end of it."""
        line, began = self._line, time.monotonic()
        end: asyncio.Future[str] = self._crowd.loop.create_future()
        self._inbox.asked = Ask(number, began, end)
        text = text_of("offer", self._uuid, self._partner, number)
        with contextlib.suppress(OSError):
            if line is not None:
                await line.send(frames.masked(frames.TEXT, text))
        waited: set[Any] = {end, self.ended}
        await asyncio.wait(waited, timeout=WINDOW, return_when="FIRST_COMPLETED")
        if self.ended.done():
            return
        if not end.done():
            end.set_result(SILENCE)
        how = end.result().replace(self._uuid, "...").replace(self._partner, "...")
        done = Exchange(self._pair, began, time.monotonic(), how or COMPLETE)
        self._record.exchanges.append(done)

    async def _read(self, line: Line) -> None:
        """Act on what comes, until the connection ends, or a stock client would."""
        record = self._record
        try:
            while True:
                opcode, payload = await line.frame()
                if opcode == frames.PING:
                    record.probes += 1
                    await line.send(frames.masked(frames.PONG, payload))
                elif opcode == frames.PONG:
                    if payload == self._beat and not self._pong.done():
                        self._pong.set_result(None)
                elif opcode == frames.TEXT:
                    await self._take(line, payload)
                elif opcode == frames.CLOSE:
                    code = int.from_bytes(payload[:2], "big") or NO_CODE
                    raise Closed(code, payload[2:].decode(errors="replace"))
                else:
                    raise Ended(f"a frame of opcode {opcode}")
        except (Closed, OSError) as error:
            record.note(record.closed, f"{self._uuid}: {error}")
        except (Ended, ValueError, KeyError) as error:
            record.note(record.breaches, f"{self._uuid} gets {error}")
        self.ended.set_result(None)

    async def _take(self, line: Line, text: bytes) -> None:
        number = self._inbox.take(text, time.monotonic())
        if number is not None:
            answer = text_of("answer", self._uuid, self._partner, number)
            await line.send(frames.masked(frames.TEXT, answer))

    async def _ping(self, line: Line) -> None:
        crowd = self._crowd
        await asyncio.sleep(crowd.chance.uniform(0, PING))
        for number in itertools.count():
            self._beat, self._pong = b"%d" % number, crowd.loop.create_future()
            sent = time.monotonic()
            with contextlib.suppress(OSError):
                await line.send(frames.masked(frames.PING, self._beat))
            waited = {self._pong, self.ended}
            await asyncio.wait(waited, timeout=PING, return_when="FIRST_COMPLETED")
            if self.ended.done():
                return
            if self._pong.done():
                self._record.pongs += 1
                await asyncio.sleep(max(0.0, sent + PING - time.monotonic()))
            else:
                self._record.unanswered.append(sent)


class Stayers:
    """All pairs, by turns at one place and at the next.

    Args:
        places: Where they connect, and whether with TLS.
        pairs: How many pairs.
        pause: Seconds between two exchanges of a pair, on average.
        seed: Of what is left to chance.
    """

    def __init__(
        self,
        places: Sequence[tuple[Place, bool]],
        pairs: int,
        pause: float,
        seed: int,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.record = Record()
        self.chance = random.Random(seed)  # noqa: S311
        self._places = places
        self._trust = places[0][0].trust()
        self._door = asyncio.Semaphore(AT_ONCE)
        self._pause = pause
        self._over: asyncio.Future[None] = self.loop.create_future()
        self._pairs = [
            (Stayer(self, number, 0), Stayer(self, number, 1))
            for number in range(pairs)
        ]
        self._talks: list[asyncio.Task[None]] = []
        self._visits: list[asyncio.Task[None]] = []
        self._strangers = itertools.count(STRANGERS)

    def place_of(self, pair: int) -> int:
        """The place where a pair connects."""
        return pair % len(self._places)

    async def entered(self, number: int, uuid: str) -> Line:
        """Register at a place.

        Raises:
            Closed: The relay does not want it.
            OSError: There is no connection, or it ends.
            TimeoutError: It takes too long.
        """
        place, is_secure = self._places[number]
        kind = Line if is_secure else PlainLine

        async def enter() -> Line:
            line = await kind.open(place, self._trust)
            try:
                await line.enter(None, uuid)
            except BaseException:
                line.end(reset=True)
                raise
            return line

        async with self._door:
            return await asyncio.wait_for(enter(), GIVES_UP)

    async def begin(self) -> None:
        """Let all come, and then exchange."""
        await asyncio.gather(*(one.come() for pair in self._pairs for one in pair))
        self._talks = [asyncio.create_task(self._talk(pair)) for pair in self._pairs]

    async def _talk(self, pair: tuple[Stayer, Stayer]) -> None:
        pause = self.chance.uniform(0, self._pause)
        ended = {self._over, *(client.ended for client in pair)}
        for turn in itertools.count():
            await asyncio.wait(ended, timeout=pause, return_when="FIRST_COMPLETED")
            if any(future.done() for future in ended):
                return
            await pair[turn % 2].exchange(turn)
            pause = self.chance.uniform(0.5, 1.5) * self._pause

    def visit(self) -> None:
        """Have a new client come to each place, and leave when it is registered."""
        for number in range(len(self._places)):
            self._visits.append(asyncio.create_task(self._visit(number)))

    async def _visit(self, number: int) -> None:
        began = time.monotonic()
        why, line = "", None
        uuid = str(UUID(int=next(self._strangers)))
        for _ in range(ATTEMPTS):
            try:
                line = await self.entered(number, uuid)
                break
            except Closed as closed:
                why = str(closed)
                if closed.code != TRY_AGAIN:
                    break
            except (TimeoutError, OSError) as error:
                why = f"{type(error).__name__} {error}"
                break
        took = time.monotonic() - began
        entry = Entry(number, began, took if line else None, "" if line else why)
        self.record.entries.append(entry)
        if line is not None:
            with contextlib.suppress(OSError, *LATE):
                await asyncio.wait_for(line.goodbye(), GIVES_UP)
            line.end()

    async def end(self) -> None:
        """Let all exchanges end, and all clients leave."""
        self._over.set_result(None)
        tasks = [*self._talks, *self._visits]
        if tasks:
            done, late = await asyncio.wait(tasks, timeout=WINDOW + 3 * GIVES_UP)
            for task in late:
                self.record.note(self.record.others, "there is no end to a task")
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            for task in done:
                task.result()
        leaves = [client.leave() for pair in self._pairs for client in pair]
        await asyncio.gather(*leaves)


async def stay(
    places: Sequence[tuple[Place, bool]],
    pairs: int,
    pause: float,
    seed: int,
    pipe: Connection,
) -> Record:
    """Let all come, and follow orders until they are to leave; what became of them."""
    crowd = Stayers(places, pairs, pause, seed)
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()

    def receive() -> None:
        try:
            orders.put_nowait(pipe.recv())
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            orders.put_nowait(None)

    loop.add_reader(pipe.fileno(), receive)
    try:
        while (order := await orders.get()) is not None and order[0] != "leave":
            if order[0] == "begin":
                await crowd.begin()
            elif order[0] == "visit":
                crowd.visit()
            pipe.send(None)
    finally:
        loop.remove_reader(pipe.fileno())
    await crowd.end()
    return crowd.record


def main(
    places: Sequence[tuple[Place, bool]],
    pairs: int,
    pause: float,
    seed: int,
    pipe: Connection,
) -> None:
    """The process of the pairs. Follows orders, and sends its record in the end."""
    pipe.send(asyncio.run(stay(places, pairs, pause, seed, pipe)))

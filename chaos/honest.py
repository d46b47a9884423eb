"""Pairs of clients that do what real ones do, and say what the relay does to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

from benchmarks import frames
from chaos.line import LATE, Closed, Line, Place
from tests.support.globus_service import token
from tests.support.recording import offer

EXCHANGE = 20.0
"""Seconds in which an exchange must be complete, from when both clients are there."""

RETURN = 30.0
"""Seconds in which a client must be back, whatever Globus did meanwhile."""

COMING = 90.0
"""Seconds in which all pairs must have completed an exchange at first."""

GIVES_UP = 10.0
"""Seconds after which a client gives up opening a connection, as real ones do."""

LONGEST_PAUSE = 8.0
"""Seconds between two attempts, at most; the first time it is 1."""

AT_ONCE = 64
"""Clients that connect at a time, so that they do not wait for this very process."""

AGAIN = 0.5
"""Seconds until an offer that came back is made once more."""

STAY = (5.0, 25.0)
"""Seconds for which those stay that leave and come back: the least and the most."""

AWAY = (0.1, 3.0)
"""The same, for which they are away."""

NEW_TOKEN = 0.2
"""Share of those who come back with a new token."""

USERS = 50

TRY_AGAIN = 1013
"""The close code with which the relay may turn an honest client away."""

SHOWN = 20
"""How many failures are kept."""

SESSION = "v=0\r\n" * 250
"""About as long as a real description."""

LOST = "lost"
"""What becomes of an offer whose client has left."""

STALE = "answered as before"
"""What becomes of one that meets the answer to an earlier one."""

FAREWELLS = ("goodbye", "reset", "replacement")
"""How clients leave that come back: the last connects anew before the relay knows."""


@dataclass
class Tally:
    """What became of the pairs; times in seconds.

    Attributes:
        exchanges: That were completed.
        slowest: Of these.
        late: That took over a second.
        entries: How often a client was registered.
        longest_way: From the first attempt to being registered.
        leaves: How they left, and how often.
        retries: Why they had to come again, and how often.
        returned: Why offers came back, or were made again, and how often.
        failures: What must not be.
    """

    exchanges: int = 0
    slowest: float = 0.0
    late: int = 0
    entries: int = 0
    longest_way: float = 0.0
    leaves: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def fail(self, words: str) -> None:
        """Note that something is not as it must be."""
        if len(self.failures) < SHOWN:
            self.failures.append(words)


def uuid_of(pair: int, side: int) -> str:
    """Whom a client of a pair registers as.

    Args:
        pair: The number of the pair.
        side: 0 or 1.
    """
    return str(UUID(int=(pair << 1) + side + 1))


def user_of(pair: int) -> str:
    """To whom both clients of a pair belong."""
    return f"user-{pair % USERS}"


def stays(pair: int) -> bool:
    """Whether both clients of a pair stay from the beginning to the end."""
    return pair % 2 == 0


def backoff() -> Iterator[float]:
    """Seconds from each attempt to the next one."""
    pause = 1.0
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


def text_of(kind: str, source: str, target: str, number: int) -> bytes:
    """The message of an exchange: an offer, or an answer."""
    return offer(source, target, f"{number} {SESSION}", description_type=kind)


def number_of(message: dict[str, str]) -> int:
    """The number of the exchange that a message is of."""
    return int(json.loads(message["description"])["sdp"].split(maxsplit=1)[0])


class Crowd:
    """All pairs.

    Args:
        place: The relay.
        seed: Of what is left to chance.

    Attributes:
        tally: What became of them.
        chance: Says when they leave, and how.
        trust: Their TLS.
        door: Lets a few in at a time.
        over: Done when no exchange is to be begun any more.
        gone: Done when all are to leave.
    """

    def __init__(self, place: Place, seed: int) -> None:
        loop = asyncio.get_running_loop()
        self.place = place
        self.tally = Tally()
        self.chance = random.Random(seed)  # noqa: S311
        self.trust = place.trust()
        self.door = asyncio.Semaphore(AT_ONCE)
        self.over: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()


class Client:
    """One that connects, comes back when it is sent away, and answers offers.

    Args:
        crowd: That it belongs to.
        pair: The number of its pair.
        side: Which one of the two it is.

    Attributes:
        uuid: Whom it registers as.
        partner: The UUID of the other.
        here: Set while it is registered.
        since: Since when, or when it was the last time.
    """

    def __init__(self, crowd: Crowd, pair: int, side: int) -> None:
        self.uuid = uuid_of(pair, side)
        self.partner = uuid_of(pair, 1 - side)
        self.here = asyncio.Event()
        self.since = 0.0
        self._crowd = crowd
        self._tally = crowd.tally
        self._user = user_of(pair)
        self._stays = stays(pair)
        self._bearer = token(self._user)
        self._line: Line | None = None
        self._old: Line | None = None
        self._asked: asyncio.Future[str] | None = None
        self._number = -1

    # -- coming and going

    async def live(self) -> None:
        """Come, stay, leave and come back, until all are to leave."""
        try:
            while (line := await self._come()) is not None:
                await self._be_here(line)
        finally:
            self._drop_old()

    async def _be_here(self, line: Line) -> None:
        crowd = self._crowd
        stay = None if self._stays else crowd.chance.uniform(*STAY)
        reading = asyncio.create_task(self._read(line))
        await asyncio.wait(
            {reading, crowd.gone}, timeout=stay, return_when="FIRST_COMPLETED"
        )
        await self._leave(line, reading)
        await asyncio.wait({crowd.gone}, timeout=crowd.chance.uniform(*AWAY))

    async def _come(self) -> Line | None:
        """Connect until it works, or until all are to leave."""
        crowd, began = self._crowd, time.monotonic()
        for pause in backoff():
            if crowd.gone.done():
                break
            line = await self._attempt()
            if isinstance(line, Line):
                self._arrive(line, began)
                return line
            self._tally.retries[line] += 1
            await asyncio.wait({crowd.gone}, timeout=pause)
        return None

    def _arrive(self, line: Line, began: float) -> None:
        self._line = line
        self.since = time.monotonic()
        took = self.since - began
        self._tally.entries += 1
        self._tally.longest_way = max(self._tally.longest_way, took)
        if took > RETURN:
            self._tally.fail(f"{self.uuid} needs {took:.0f} s to be registered")
        self._drop_old()
        self.here.set()

    async def _attempt(self) -> Line | str:
        """Try once to be registered; gives what is in the way, if anything is."""
        async with self._crowd.door:
            opening = Line.open(self._crowd.place, self._crowd.trust)
            try:
                line = await asyncio.wait_for(opening, GIVES_UP)
            except OSError as error:  # a TimeoutError, too
                return f"no connection: {type(error).__name__}"
            why = await self._enter(line)
        if why:
            line.end(reset=True)
        return why or line

    async def _enter(self, line: Line) -> str:
        try:
            await asyncio.wait_for(line.enter(self._bearer, self.uuid), GIVES_UP)
        except Closed as closed:
            if closed.code != TRY_AGAIN:
                self._tally.fail(f"{self.uuid} is turned away: {closed}")
            return str(closed)
        except LATE:
            return f"given up after {GIVES_UP:g} s"
        except OSError as error:
            self._tally.fail(f"{self.uuid} is dropped on its way in: {error}")
            return "dropped"
        return ""

    async def _leave(self, line: Line, reading: asyncio.Task[None]) -> None:
        chance = self._crowd.chance
        self.here.clear()
        self._resolve(LOST)
        if reading.done():
            self._tally.fail(f"{self.uuid}: {reading.exception()}")
            line.end(reset=True)
            return
        reading.cancel()
        await asyncio.wait({reading})
        # In the end there is no replacement.
        how = chance.choice(FAREWELLS[: 2 if self._crowd.gone.done() else 3])
        self._tally.leaves[how] += 1
        if how == "replacement":
            self._old = line
        elif how == "goodbye":
            with contextlib.suppress(OSError, *LATE):
                await asyncio.wait_for(line.goodbye(), GIVES_UP)
        if how != "replacement":
            line.end(reset=how == "reset")
        if chance.random() < NEW_TOKEN:
            self._bearer = token(self._user)

    def _drop_old(self) -> None:
        if self._old is not None:
            self._old.end()
            self._old = None

    # -- offers and answers

    def ask(self, number: int) -> asyncio.Future[str]:
        """Make the partner an offer.

        Args:
            number: Of the exchange.

        Returns:
            Done when it is answered, with nothing; or else with why it is not.
        """
        self._number = number
        self._asked = asyncio.get_running_loop().create_future()
        return self._asked

    async def say(self, kind: str, number: int) -> None:
        """Send the partner a message. If there is no connection, it is lost."""
        if self._line is None:
            return
        text = text_of(kind, self.uuid, self.partner, number)
        with contextlib.suppress(OSError):
            await self._line.send(frames.masked(frames.TEXT, text))

    async def _read(self, line: Line) -> None:
        """Take messages.

        Raises:
            Closed: The relay closes, which it must not do.
            OSError: It ends the connection, which it must not do, either.
        """
        while True:
            text = await line.text()
            message = json.loads(text)
            if message.get("error") is not None:
                self._returned(message)
                continue
            kind, number = message["description_type"], number_of(message)
            if text != text_of(kind, self.partner, self.uuid, number):
                self._tally.fail(f"{self.uuid} gets what nobody has sent")
            elif kind == "offer":
                await self.say("answer", number)
            elif self._asked is None or self._asked.done() or number > self._number:
                self._tally.fail(
                    f"{self.uuid} gets an answer that it does not wait for"
                )
            else:
                self._resolve("" if number == self._number else STALE)

    def _returned(self, message: dict[str, str]) -> None:
        if message["description_type"] == "offer":
            self._resolve(message["error"])
        else:
            # The partner was gone before the answer; it will ask again.
            self._tally.returned["answer to a client that left"] += 1

    def _resolve(self, why: str) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(why)


class Pair:
    """Two clients that make each other offers, in turn.

    Args:
        crowd: That it belongs to.
        number: Its number.
        pause: Seconds between two exchanges, on average.
    """

    def __init__(self, crowd: Crowd, number: int, pause: float) -> None:
        self.clients = Client(crowd, number, 0), Client(crowd, number, 1)
        self._crowd = crowd
        self._tally = crowd.tally
        self._pause = pause
        self.spoken = asyncio.Event()

    async def talk(self) -> None:
        """Exchange offers and answers until it is over."""
        number = 0
        while not self._crowd.over.done():
            source, target = self.clients[:: -1 if number % 2 else 1]
            await self._exchange(source, target, number)
            self.spoken.set()
            number += 1
            pause = self._crowd.chance.uniform(0.5, 1.5) * self._pause
            await asyncio.wait({self._crowd.over}, timeout=pause)

    async def _exchange(self, source: Client, target: Client, number: int) -> None:
        began = time.monotonic()
        while True:
            while not (source.here.is_set() and target.here.is_set()):
                await source.here.wait()
                await target.here.wait()
            asked = source.ask(number)
            sent = time.monotonic()
            await source.say("offer", number)
            why = await self._outcome(asked, source, target, began)
            if why is None:
                self._tally.fail(
                    f"exchange {number} of {source.uuid} is not complete after "
                    f"{EXCHANGE:g} s"
                )
                return
            if not why:
                break
            self._tally.returned[why.replace(target.uuid, "...")] += 1
            if (
                why not in {LOST, STALE}
                and target.here.is_set()
                and (target.since < sent)
            ):
                self._tally.fail(f"an offer to {target.uuid}, who is there: {why}")
            await asyncio.sleep(AGAIN)
        took = time.monotonic() - max(began, source.since, target.since)
        self._tally.exchanges += 1
        self._tally.slowest = max(self._tally.slowest, took)
        self._tally.late += took > 1

    @staticmethod
    async def _outcome(
        asked: asyncio.Future[str], source: Client, target: Client, began: float
    ) -> str | None:
        """What becomes of an offer; None if nothing does in time."""
        while not asked.done():
            end = max(began, source.since, target.since) + EXCHANGE
            left = end - time.monotonic()
            if left <= 0:
                return None
            await asyncio.wait({asked}, timeout=left)
        return asked.result()


async def crowd(
    place: Place,
    pairs: int,
    pause: float,
    seed: int,
    limit: float,
    pipe: Connection,
) -> Tally:
    """Let all come, say so through the pipe, and let them talk until that has news.

    Returns:
        What became of them.
    """
    everybody = Crowd(place, seed)
    all_pairs = [Pair(everybody, number, pause) for number in range(pairs)]
    lives = [client.live() for pair in all_pairs for client in pair.clients]
    living = [asyncio.create_task(life) for life in lives]
    talking = [asyncio.create_task(pair.talk()) for pair in all_pairs]
    spoken = [asyncio.create_task(pair.spoken.wait()) for pair in all_pairs]
    await _end(everybody, "beginning", spoken, COMING)
    pipe.send(None)
    await asyncio.to_thread(pipe.poll, limit)
    everybody.over.set_result(None)
    await _end(everybody, "exchange", talking, RETURN + EXCHANGE)
    everybody.gone.set_result(None)
    await _end(everybody, "client", living, RETURN)
    return everybody.tally


async def _end(
    everybody: Crowd, what: str, tasks: list[asyncio.Task[Any]], seconds: float
) -> None:
    """Wait for the end of all tasks; a defect of this program is raised."""
    done, late = await asyncio.wait(tasks, timeout=seconds)
    for task in done:
        task.result()
    for task in late:
        everybody.tally.fail(f"there is no end to a {what}")
        task.cancel()


def main(
    place: Place,
    pairs: int,
    pause: float,
    seed: int,
    limit: float,
    pipe: Connection,
) -> None:
    """The process of the pairs. Sends None when all have spoken, and then its tally.

    Args:
        place: The relay.
        pairs: How many.
        pause: Seconds between two exchanges of a pair, on average.
        seed: Of what is left to chance.
        limit: Seconds for which they talk at most.
        pipe: Where to the tally goes; any news from there, or its end, has them leave.
    """
    pipe.send(asyncio.run(crowd(place, pairs, pause, seed, limit, pipe)))

"""Pairs of clients on several relays. Each ends at what ends a stock one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

from benchmarks import frames
from chaos.honest import (
    AT_ONCE,
    FAREWELLS,
    GIVES_UP,
    LOST,
    NEW_TOKEN,
    SHOWN,
    TRY_AGAIN,
    backoff,
    number_of,
    text_of,
    user_of,
    uuid_of,
)
from chaos.line import LATE, Closed, Line, Place
from proxyrelay.switchboard.delivery import CROSSED
from tests.support.globus_service import token

END = 25.0
"""Seconds in which each offer comes to one end."""

WINDOW = 30.0
"""Seconds for which a stock client waits for the end of an offer."""

PROMPT = 2.0
"""Seconds in which an exchange between clients of one relay is complete."""

PING = 20.0
"""Seconds from one ping of a client to the next. It waits as long for a pong."""

ACQUAINTED = 11.0
"""Seconds after an answer in which two stock clients make each other no offers."""

PAUSE = 3.0
"""Seconds between two exchanges of a pair, on average."""

STAY = (5.0, 25.0)
"""Seconds for which those stay that move: the least and the most."""

RETURN = 30.0
"""Seconds in which a client must be back."""

REPLACED = 10.0
"""Seconds in which the relay closes a connection that was replaced, in calm."""

SUPERSEDED = 4004
"""The close code for that."""

NO_END = "no end"
"""What comes of an offer of which nothing comes."""

CALM = ""
"""Name of the time without a fault."""

SPAN = ("local", "across")
"""Where the two clients of an exchange are: at one relay, or at two."""


@dataclass
class Score:
    """What became of the exchanges of some kind.

    Attributes:
        made: How many.
        complete: Of these, how many were.
        prompt: Of these, how many took less than `PROMPT`.
        slowest: Seconds that one took that was complete, at most.
        others: Why the others were not, and how often.
    """

    made: int = 0
    complete: int = 0
    prompt: int = 0
    slowest: float = 0.0
    others: Counter[str] = field(default_factory=Counter)

    def add(self, took: float, why: str) -> None:
        """Count an exchange; there is no reason if it was complete."""
        self.made += 1
        if why:
            self.others[why] += 1
            return
        self.complete += 1
        self.prompt += took <= PROMPT
        self.slowest = max(self.slowest, took)


@dataclass
class Journal:
    """What became of all clients.

    Attributes:
        scores: Of exchanges, by the fault under way, and by `SPAN`.
        breaches: What ended a client, as it would a stock one.
        closed: Connections of healthy clients that a relay has ended.
        endless: Offers without an end in time.
        others: Other failures.
        entries: Registrations.
        crossings: Exchanges in which both made an offer.
        offers: How many were made.
        leaves: How clients left, and how often.
        retries: Why they had to come again, and how often.
    """

    scores: dict[tuple[str, str], Score] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    endless: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    entries: int = 0
    crossings: int = 0
    offers: int = 0
    leaves: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)

    def note(self, failures: list[str], words: str) -> None:
        """Keep a failure, if there are not too many."""
        if len(failures) < SHOWN:
            failures.append(words)


class Ended(Exception):
    """A stock client would end."""


@dataclass
class Ask:
    """An offer of a client, until its end.

    Attributes:
        number: Of the exchange.
        since: When it was made.
        end: Done with nothing if it is answered, or else with the reason.
    """

    number: int
    since: float
    end: asyncio.Future[str]


class Inbox:
    """What a client has got from its relay, as a stock client judges it. Pure.

    Args:
        uuid: The client.
        partner: The other one.

    Attributes:
        asked: Its open offer.
    """

    def __init__(self, uuid: str, partner: str) -> None:
        self.asked: Ask | None = None
        self._uuid = uuid
        self._partner = partner
        self._seen: set[int] = set()
        self._answers = 0

    def take(self, text: bytes, now: float, *, is_current: bool = True) -> int | None:
        """Act on a message; gives the number of the offer to answer, if it is one.

        Args:
            text: The message.
            now: Time in seconds.
            is_current: Whether it came on the connection that was registered last.

        Raises:
            Ended: A stock client ends at this.
        """
        message = json.loads(text)
        kind = message["description_type"]
        if message.get("error") is not None:
            # It need not have the text that comes back.
            if kind == "answer":
                self._take_back()
            elif is_current:
                self._resolve(None, now, message["error"])
            return None
        number = number_of(message)
        if text != text_of(kind, self._partner, self._uuid, number):
            raise Ended("a message that nobody has sent")
        if kind == "offer":
            return self._take_offer(number, now, is_current)
        if is_current:
            self._resolve(number, now, "")
        return None

    def _take_offer(self, number: int, now: float, is_current: bool) -> int:
        if number in self._seen:
            raise Ended(f"offer {number} for the second time")
        self._seen.add(number)
        self._answers += 1
        if is_current and self.asked is not None and not self.asked.end.done():
            own, age = self.asked.number, now - self.asked.since
            raise Ended(f"offer {number}, which crosses its own {own} of {age:.2f} s")
        return number

    def _take_back(self) -> None:
        self._answers -= 1
        if self._answers < 0:
            raise Ended("an answer for the second time, returned")

    def _resolve(self, number: int | None, now: float, why: str) -> None:
        what = f"an error ({why})" if number is None else f"an answer to {number}"
        asked = self.asked
        if asked is None or asked.end.done() or number not in {None, asked.number}:
            last = "none" if asked is None else f"{asked.number}, {asked.end}"
            raise Ended(f"{what}, unasked; the last offer: {last}")
        if now - asked.since > WINDOW:
            raise Ended(f"{what} after {now - asked.since:.0f} s")
        asked.end.set_result(why)

    def lose(self) -> None:
        """Give up the open offer."""
        if self.asked is not None and not self.asked.end.done():
            self.asked.end.set_result(LOST)


class Travellers:
    """All pairs.

    Args:
        places: The relays.
        pairs: How many pairs.
        seed: Of what is left to chance.
        scale: Of the time that clients stay.

    Attributes:
        journal: What became of them.
        fault: Name of the fault under way, or `CALM`.
        down: Relays that do not answer.
        falls: How often each relay has been down.
        moving: Set while clients may move.
        over: Done when no exchange is to be begun any more.
        gone: Done when all are to leave.
    """

    def __init__(
        self, places: Sequence[Place], pairs: int, seed: int, scale: float
    ) -> None:
        loop = asyncio.get_running_loop()
        self.places = list(places)
        self.journal = Journal()
        self.fault = CALM
        self.down: set[int] = set()
        self.falls = Counter[int]()
        self.scale = scale
        self.chance = random.Random(seed)  # noqa: S311
        self.trust = places[0].trust()
        self.door = asyncio.Semaphore(AT_ONCE)
        self.moving = asyncio.Event()
        self.moving.set()
        self.over: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.pairs = [Pair(self, number) for number in range(pairs)]
        self.clients = [client for pair in self.pairs for client in pair.clients]
        self._lives: list[asyncio.Task[None]] = []
        self._talks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Let all come and talk."""
        self._lives = [asyncio.create_task(c.live()) for c in self.clients]
        self._talks = [asyncio.create_task(pair.talk()) for pair in self.pairs]

    async def end(self) -> None:
        """Let all exchanges end, and all clients leave."""
        self.over.set_result(None)
        for pair in self.pairs:
            pair.nudge.set()
        await self._finish("exchange", self._talks, END + WINDOW)
        self.gone.set_result(None)
        await self._finish("client", self._lives, RETURN)

    async def _finish(
        self, what: str, tasks: list[asyncio.Task[None]], seconds: float
    ) -> None:
        """Wait for the end of all tasks; a defect of this program is raised."""
        if not tasks:
            return
        done, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            self.journal.note(self.journal.others, f"there is no end to a {what}")
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()

    def any_place(self, *, but: int = -1) -> int:
        """A relay that is up, if there is one, and another one than a given one."""
        up = [n for n in range(len(self.places)) if n not in self.down]
        others = [number for number in up if number != but]
        return self.chance.choice(others or up or [but])


class Client:
    """One that comes, answers offers, and comes again if its connection ends.

    Args:
        crowd: That it belongs to.
        pair: Its pair.
        side: Which one of the two it is.

    Attributes:
        uuid: Whom it registers as.
        node: The relay that it is, or was, at.
        here: Set while it is registered.
        entry: How often it has been.
        leaving: Done when it is to leave and to come again.
    """

    def __init__(self, crowd: Travellers, pair: Pair, side: int) -> None:
        self.uuid = uuid_of(pair.number, side)
        self.here = asyncio.Event()
        self.entry = 0
        self.node = -1
        self.since = 0.0
        self.leaving = asyncio.Event()
        self.inbox = Inbox(self.uuid, uuid_of(pair.number, 1 - side))
        self._partner = uuid_of(pair.number, 1 - side)
        self._crowd = crowd
        self._pair = pair
        self._journal = crowd.journal
        self._bearer = token(user_of(pair.number))
        self._line: Line | None = None
        self._old: asyncio.Task[None] | None = None

    # -- coming and going

    async def live(self) -> None:
        """Come, stay and move, until all are to leave, or a stock client would end."""
        try:
            while (line := await self._come()) is not None:
                await self._be_here(line)
        except Ended as ended:
            since = time.monotonic() - self.since
            words = f"{self.uuid}, {since:.1f} s at node {self.node}, gets {ended}"
            self._journal.note(self._journal.breaches, words)
        finally:
            self.here.clear()
            self.inbox.lose()
            if self._line is not None:
                self._line.end(reset=True)
            if self._old is not None:
                self._old.cancel()
                await asyncio.gather(self._old, return_exceptions=True)

    async def _come(self) -> Line | None:
        crowd, began = self._crowd, time.monotonic()
        for pause in backoff():
            if crowd.gone.done():
                break
            node = self._pair.place_of(self)
            found = await self._attempt(node)
            if isinstance(found, Line):
                self._arrive(found, node, began)
                return found
            self._journal.retries[found] += 1
            await asyncio.wait({crowd.gone}, timeout=pause)
        return None

    def _arrive(self, line: Line, node: int, began: float) -> None:
        self.inbox.lose()
        self._line, self.node = line, node
        self.since = time.monotonic()
        self.entry += 1
        self._journal.entries += 1
        if self.since - began > RETURN:
            words = f"{self.uuid} is back after {self.since - began:.0f} s"
            self._journal.note(self._journal.others, words)
        self.here.set()

    async def _attempt(self, node: int) -> Line | str:
        """Try once to be registered; gives what is in the way, if anything is."""
        crowd, falls = self._crowd, self._crowd.falls[node]
        place = crowd.places[node]
        async with crowd.door:
            opening = Line.open(place, crowd.trust)
            try:
                line = await asyncio.wait_for(opening, GIVES_UP)
            except (TimeoutError, OSError) as error:
                return f"no connection: {type(error).__name__}"
            why = ""
            try:
                await asyncio.wait_for(line.enter(self._bearer, self.uuid), GIVES_UP)
            except Closed as closed:
                why = str(closed)
                if closed.code != TRY_AGAIN:
                    line.end(reset=True)
                    raise Ended(f"turned away: {closed}") from None
            except LATE:
                why = f"given up after {GIVES_UP:g} s"
            except OSError as error:
                why = "dropped"
                if crowd.falls[node] == falls and node not in crowd.down:
                    line.end(reset=True)
                    raise Ended(f"dropped on its way in: {error}") from None
        if why:
            line.end(reset=True)
        return why or line

    async def _be_here(self, line: Line) -> None:
        crowd, node, falls = self._crowd, self.node, self._crowd.falls[self.node]
        reading = asyncio.create_task(self._read(line))
        pinging = asyncio.create_task(self._ping(line))
        leaving = asyncio.create_task(self.leaving.wait())
        waited = {reading, pinging, leaving, crowd.gone}
        is_kept = False
        try:
            await self._stay(waited)
            self.leaving.clear()
            if not reading.done() and not pinging.done():
                is_kept = await self._leave(line, reading)
        finally:
            tasks = {leaving, pinging} | (set() if is_kept else {reading})
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if is_kept:
            return
        self._depart()
        line.end(reset=True)
        if not reading.cancelled() and reading.done():
            self._lost(reading, node, falls)
        elif not pinging.cancelled():
            self._silent(node, falls)

    async def _stay(self, waited: set[Any]) -> None:
        """Wait until something happens, or it is time to move."""
        crowd, stay = self._crowd, None
        if self._pair.moves:
            stay = crowd.chance.uniform(*STAY) * crowd.scale
        await asyncio.wait(waited, timeout=stay, return_when="FIRST_COMPLETED")
        if not any(task.done() for task in waited):
            moving = asyncio.create_task(crowd.moving.wait())
            await asyncio.wait({*waited, moving}, return_when="FIRST_COMPLETED")
            moving.cancel()

    def _lost(self, reading: asyncio.Task[None], node: int, falls: int) -> None:
        """Its relay has ended the connection, or a stock client would."""
        error = reading.exception()
        if isinstance(error, Ended):
            raise error
        is_killed = self._crowd.falls[node] != falls and isinstance(error, OSError)
        if not is_killed:
            words = f"{self.uuid} is closed by node {node}: {error}"
            self._journal.note(self._journal.closed, words)
        self._journal.retries["killed" if is_killed else "closed"] += 1
        self._pair.move(self)

    def _silent(self, node: int, falls: int) -> None:
        """Its relay has not answered a ping."""
        if self._crowd.falls[node] == falls and node not in self._crowd.down:
            words = f"{self.uuid} gets no pong of node {node}"
            self._journal.note(self._journal.others, words)
        self._journal.retries["no pong"] += 1
        self._pair.move(self)

    def _depart(self) -> None:
        self.here.clear()
        self.inbox.lose()
        self._line = None

    async def _leave(self, line: Line, reading: asyncio.Task[None]) -> bool:
        """Leave; whether the connection is kept until there is another one."""
        crowd, chance = self._crowd, self._crowd.chance
        # In the end there is no replacement, nor is there at a relay that is down.
        is_plain = crowd.gone.done() or self.node in crowd.down
        how = chance.choice(FAREWELLS[: 2 if is_plain else 3])
        self._journal.leaves[how] += 1
        if self._pair.moves:
            self._pair.move(self)
        if chance.random() < NEW_TOKEN:
            self._bearer = token(user_of(self._pair.number))
        self.here.clear()
        self._line = None
        if how == "replacement":
            self._watch_old(line, reading)
            return True
        self.inbox.lose()
        reading.cancel()
        await asyncio.wait({reading})
        if how == "goodbye" and reading.cancelled():
            with contextlib.suppress(OSError, *LATE):
                await asyncio.wait_for(line.goodbye(), GIVES_UP)
            line.end()
        line.end(reset=True)
        if not crowd.gone.done():
            await asyncio.wait({crowd.gone}, timeout=chance.uniform(0.1, 2))
        return False

    def _watch_old(self, line: Line, reading: asyncio.Task[None]) -> None:
        """Read on at a connection that is being replaced, until the relay closes it."""

        async def watch() -> None:
            try:
                await asyncio.wait({reading}, timeout=4 * REPLACED)
                if not reading.done():
                    self._journal.retries["old connection left open"] += 1
                    return
                error = reading.exception()
                if isinstance(error, Ended):
                    words = f"{self.uuid} gets {error}, on its old connection"
                    self._journal.note(self._journal.breaches, words)
                elif isinstance(error, Closed) and error.code != SUPERSEDED:
                    words = f"{self.uuid}: its old connection is closed: {error}"
                    self._journal.note(self._journal.closed, words)
            finally:
                reading.cancel()
                await asyncio.wait({reading})
                line.end()

        before, self._old = self._old, asyncio.create_task(watch())
        if before is not None:
            before.cancel()

    # -- offers and answers

    def ask(self, number: int) -> Ask:
        """Make the partner an offer."""
        loop = asyncio.get_running_loop()
        asked = Ask(number, time.monotonic(), loop.create_future())
        self.inbox.asked = asked
        self._journal.offers += 1
        return asked

    async def say(self, kind: str, number: int, line: Line | None = None) -> None:
        """Send the partner a message. If there is no connection, it is lost."""
        line = line or self._line
        if line is not None:
            text = text_of(kind, self.uuid, self._partner, number)
            with contextlib.suppress(OSError):
                await line.send(frames.masked(frames.TEXT, text))

    async def _read(self, line: Line) -> None:
        """Take messages until the relay ends the connection, or a stock client ends."""
        while True:
            text = await line.text()
            now, is_current = time.monotonic(), self._line is line
            number = self.inbox.take(text, now, is_current=is_current)
            if number is not None:
                await self.say("answer", number, line)

    async def _ping(self, line: Line) -> None:
        """Ping, until there is no answer in time."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._crowd.chance.uniform(0, PING))
        while True:
            sent = loop.time()
            with contextlib.suppress(OSError):
                await line.send(frames.masked(frames.PING, b"beat"))
            await asyncio.sleep(PING)
            if line.heard < sent:
                return


class Pair:
    """Two clients that make each other offers.

    A third of the pairs are at one relay, a third at two, and a third moves. Half of
    each make their offers at the same time. They do so less often than the others: so
    a quarter of all offers are crossed.

    Args:
        crowd: That it belongs to.
        number: Its number.

    Attributes:
        moves: Whether its clients move from relay to relay.
        probed: Set after the first exchange since it was cleared.
        failed: Why that was not complete.
        nudge: Set for the next exchange to begin at once.
        since: When the exchange under way began, in seconds; None if there is none.
    """

    def __init__(self, crowd: Travellers, number: int) -> None:
        self.number = number
        self.is_local = number % 3 == 0
        self.moves = number % 3 == 2  # noqa: PLR2004
        self.crosses = number // 3 % 2 == 0
        self.probed = asyncio.Event()
        self.probed.set()
        self.nudge = asyncio.Event()
        self.since: float | None = None
        self.failed = ""
        self._crowd = crowd
        count = len(crowd.places)
        first = number // 3 % count
        second = first if self.is_local else (first + 1) % count
        self._homes = [first, second]
        self.clients = Client(crowd, self, 0), Client(crowd, self, 1)
        self._answered = -ACQUAINTED
        self._number = 0

    def place_of(self, client: Client) -> int:
        """The relay where a client goes."""
        side = self.clients.index(client)
        if self._homes[side] in self._crowd.down:
            self._choose(side)
        return self._homes[side]

    def move(self, client: Client) -> None:
        """Choose another relay for a client, if the pair has not done so."""
        side = self.clients.index(client)
        if client.node == self._homes[side]:
            self._choose(side)

    def _choose(self, side: int) -> None:
        self._homes[side] = self._crowd.any_place(but=self._homes[side])
        if self.is_local:
            self._homes[1 - side] = self._homes[side]

    async def talk(self) -> None:
        """Exchange offers and answers until it is over, or a client has ended."""
        crowd = self._crowd
        while not crowd.over.done():
            await self._meet()
            if crowd.over.done():
                return
            sources = self._sources()
            if sources:
                self.since = time.monotonic()
                await self._exchange(sources)
                self.since = None
            if self._is_probe:
                continue
            self.nudge.clear()
            pause = crowd.chance.uniform(0.5, 1.5) * PAUSE
            with contextlib.suppress(*LATE):
                await asyncio.wait_for(self.nudge.wait(), pause)

    async def _meet(self) -> None:
        """Wait until both are there, or until it is over."""
        one, other = self.clients
        while not (one.here.is_set() and other.here.is_set()):
            for client in self.clients:
                waited: set[Any] = {self._crowd.over}
                waited.add(coming := asyncio.create_task(client.here.wait()))
                await asyncio.wait(waited, return_when="FIRST_COMPLETED")
                coming.cancel()
            if self._crowd.over.done():
                return

    def _sources(self) -> list[Client]:
        """Who makes an offer now: one, both, or nobody."""
        if not self.crosses or not self.probed.is_set():
            return [self.clients[self._number % 2]]
        # Two that have just been connected do not make each other offers.
        arrived = max(client.since for client in self.clients)
        known = time.monotonic() - self._answered < ACQUAINTED
        return [] if known and arrived < self._answered else list(self.clients)

    async def _exchange(self, sources: list[Client]) -> None:
        crowd, clients = self._crowd, self.clients
        self._number += 1
        crowd.journal.crossings += len(sources) > 1
        number, began, is_probe = self._number, time.monotonic(), self._is_probe
        fault, falls = crowd.fault, crowd.falls.copy()
        entries = [client.entry for client in clients]
        span = SPAN[clients[0].node != clients[1].node]
        asked = [client.ask(number) for client in sources]
        for client in sources:
            await client.say("offer", number)
        ends = [
            await self._end(client, ask, falls)
            for client, ask in zip(sources, asked, strict=True)
        ]
        took = time.monotonic() - began
        if "" in ends:
            self._answered = time.monotonic()
        why = self._judged(ends)
        is_whole = (
            entries == [client.entry for client in clients]
            and LOST not in ends
            and all(client.here.is_set() for client in clients)
            and crowd.falls == falls
            and not crowd.down & {client.node for client in clients}
        )
        if is_whole and (fault != CALM or crowd.fault == CALM):
            score = crowd.journal.scores.setdefault((fault, span), Score())
            score.add(took, why)
        if is_probe and (is_whole or not why):
            self.failed = f"{span}: {why}" if why else ""
            self.probed.set()

    @property
    def _is_probe(self) -> bool:
        return not self.probed.is_set()

    def _judged(self, ends: list[str]) -> str:
        """Why an exchange is not complete; nothing if it is.

        Of two offers that cross, one is answered, and the other comes back.
        """
        crossed = {CROSSED.format(client.uuid) for client in self.clients}
        others = [end for end in ends if end and end not in crossed]
        why = "" if "" in ends else ends[0]
        if others:
            why = others[0]
        for client in self.clients:
            why = why.replace(client.uuid, "...")
        return why

    async def _end(self, client: Client, asked: Ask, falls: Counter[int]) -> str:
        crowd, node = self._crowd, client.node
        left = asked.since + END - time.monotonic()
        await asyncio.wait({asked.end}, timeout=max(0.0, left))
        if asked.end.done():
            return asked.end.result()
        if crowd.falls[node] == falls[node] and node not in crowd.down:
            words = f"offer {asked.number} of {client.uuid} at node {node}"
            crowd.journal.note(crowd.journal.endless, words)
        # A stock client cannot reach its peer any more, and is started anew.
        client.leaving.set()
        await asyncio.wait({asked.end}, timeout=WINDOW - END + GIVES_UP)
        return asked.end.result() if asked.end.done() else NO_END


class Guide:
    """Does what the parent process says.

    Args:
        crowd: All pairs.
        pipe: From the parent. It is told when each order has been followed.
    """

    def __init__(self, crowd: Travellers, pipe: Connection) -> None:
        self._crowd = crowd
        self._pipe = pipe

    async def follow(self) -> None:
        """Follow orders until the last one, or until the parent has ended."""
        loop = asyncio.get_running_loop()
        orders: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()

        def receive() -> None:
            try:
                orders.put_nowait(self._pipe.recv())
            except (EOFError, OSError):
                loop.remove_reader(self._pipe.fileno())
                orders.put_nowait(None)

        loop.add_reader(self._pipe.fileno(), receive)
        try:
            while (order := await orders.get()) is not None:
                name, argument = order
                if name == "leave":
                    return
                reply = getattr(self, f"_{name}")(argument)
                if asyncio.iscoroutine(reply):
                    reply = await reply
                self._pipe.send(reply)
        finally:
            loop.remove_reader(self._pipe.fileno())

    def _begin(self, _: None) -> None:
        self._crowd.begin()

    def _fault(self, name: str) -> None:
        self._crowd.fault = name

    def _down(self, node: int) -> None:
        self._crowd.down.add(node)
        self._crowd.falls[node] += 1

    def _up(self, node: int) -> None:
        self._crowd.down.discard(node)
        self._crowd.falls[node] += 1

    def _vacate(self, node: int) -> None:
        """Have the clients of a node leave it, and come again."""
        for client in self._crowd.clients:
            if client.node == node and client.here.is_set():
                client.leaving.set()

    def _where(self, _: None) -> dict[str, tuple[int, int]]:
        """Where each client is, and how often it has come."""
        return {
            client.uuid: (client.node, client.entry)
            for client in self._crowd.clients
            if client.here.is_set()
        }

    async def _probe(self, seconds: float) -> list[str]:
        """Let each pair do an exchange, while nobody moves; gives what fails.

        An offer that a relay or the engine has lost comes back after 20 s. Its pair is
        left out, if that is later than the end of the probe.
        """
        crowd, began = self._crowd, time.monotonic()
        crowd.moving.clear()
        for pair in crowd.pairs:
            pair.probed.clear()
            pair.failed = "no exchange"
            pair.nudge.set()
        waiting = [asyncio.create_task(pair.probed.wait()) for pair in crowd.pairs]
        await asyncio.wait(waiting, timeout=seconds)
        for task in waiting:
            task.cancel()
        failed = [
            f"pair {pair.number}: {pair.failed}"
            for pair in crowd.pairs
            if pair.failed and (pair.since is None or pair.since > began)
        ]
        for pair in crowd.pairs:
            pair.probed.set()
        crowd.moving.set()
        return failed

    async def _fill(self, node: int) -> None:
        """Let all clients come to a node at the same time once, as other ones."""
        crowd, count = self._crowd, len(self._crowd.clients)
        bearer = token("warm-up")

        async def come(number: int) -> Line:
            async with crowd.door:
                line = await Line.open(crowd.places[node], crowd.trust)
                await line.enter(bearer, str(UUID(int=(1 << 64) + number)))
                return line

        lines = await asyncio.gather(*map(come, range(count)))
        for line in lines:
            line.end(reset=True)


async def travel(
    places: Sequence[Place], pairs: int, seed: int, scale: float, pipe: Connection
) -> Journal:
    """Let all come, and follow orders until they are to leave; what became of them."""
    crowd = Travellers(places, pairs, seed, scale)
    await Guide(crowd, pipe).follow()
    await crowd.end()
    return crowd.journal


def main(
    places: Sequence[Place], pairs: int, seed: int, scale: float, pipe: Connection
) -> None:
    """The process of the pairs. Follows orders, and sends its journal in the end."""
    pipe.send(asyncio.run(travel(places, pairs, seed, scale, pipe)))

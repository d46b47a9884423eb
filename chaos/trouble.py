"""Clients that make trouble, each in a way of its own, again and again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import NamedTuple
from uuid import UUID

from benchmarks import frames
from chaos.honest import stays, uuid_of
from chaos.line import LATE, NORMAL, Closed, Line, Place
from tests.support.globus_service import token
from tests.support.recording import answer, offer

PATIENCE = 40.0
"""Seconds in which the relay must be rid of whoever is to be got rid of."""

DRIP = 0.3
"""Seconds from one byte to the next of those who are slow."""

FLOOD = 4.0
"""Seconds that a flood lasts."""

BATCH = 50
"""Messages that a flood has in one write."""

NARROW = 4096
"""Bytes that are kept for whoever does not read."""

CROWD = 30
"""Connections that one address opens at a time, which are more than it may have."""

GIVERS = 64
"""Connections of one address that make offers and then take another UUID."""

TAKERS = 110
"""Clients of that address to which each of them makes one, and which answer none."""

FILLED = 10
"""Rounds of offers after which a table of 65,536 is full. They follow at once."""

ROUND = 1.5
"""Seconds from one later round to the next. The relay forgets an offer after 20."""

ATTACK = 25.0
"""Seconds that this lasts."""

TOKENS = 20
"""Tokens that the troublemakers share, while they are at it."""

PROXY = "127.0.0.200"
"""Address of a proxy that the relay trusts, so that the limits of one address apply to
those whom it speaks for: this machine's own are exempt from these."""

ATTACKER = "203.0.113.64"
"""Address from which the relay without authentication is attacked."""

CLAIMED = tuple(f"203.0.113.{number}" for number in range(1, 6))
"""Addresses that it speaks for."""

SHOWN = 20
"""How many failures are kept."""


@dataclass
class Mischief:
    """What troublemakers did.

    Attributes:
        ends: How often each kind of trouble ended, and how.
        failures: What must not be.
    """

    ends: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def fail(self, words: str) -> None:
        """Note that something is not as it must be."""
        if len(self.failures) < SHOWN:
            self.failures.append(words)


class Scene:
    """Where one piece of trouble is made, once.

    Args:
        place: The relay.
        source: The own address.
        trust: The TLS.
        chance: Says what is left to it.
        bearers: Tokens.
        victims: UUIDs of clients of others, who are there all the time.

    Attributes:
        window: Bytes of what a connection has for what it has not read; 0 as usual.
    """

    window = 0

    def __init__(
        self,
        place: Place,
        source: str,
        trust: ssl.SSLContext,
        chance: random.Random,
        bearers: Sequence[str],
        victims: Sequence[str],
    ) -> None:
        self.place = place
        self._trust = trust
        self.chance = chance
        self.victims = victims
        self._source = source
        self._bearers = bearers
        self._lines: list[Line] = []

    def bearer(self) -> str:
        """A token that is somebody's."""
        return self.chance.choice(self._bearers)

    def uuid(self) -> str:
        """A new UUID."""
        return str(UUID(int=self.chance.getrandbits(128)))

    def noise(self, least: int, most: int) -> bytes:
        """So many bytes of anything."""
        return self.chance.randbytes(self.chance.randint(least, most))

    async def connect(self, source: str = "") -> Line:
        """A TCP connection."""
        line = await Line.open(
            self.place, self._trust, source or self._source, self.window
        )
        self._lines.append(line)
        return line

    async def secure(self, source: str = "") -> Line:
        """The same with TLS."""
        line = await self.connect(source)
        await line.shake()
        return line

    async def upgraded(self, bearer: str | None = None) -> Line:
        """The same with an open WebSocket."""
        line = await self.secure()
        await line.send(self.place.upgrade(bearer or self.bearer()))
        await line.opened()
        return line

    async def registered(self, uuid: str = "") -> Line:
        """The same, registered."""
        line = await self.upgraded()
        await line.register(uuid or self.uuid())
        return line

    async def announced(self, address: str) -> Line:
        """One with an open WebSocket, from an address that a proxy speaks for."""
        line = await self.secure(PROXY)
        request = self.place.upgrade(self.bearer())[:-2]
        await line.send(request + f"X-Forwarded-For: {address}\r\n\r\n".encode())
        await line.opened()
        return line

    async def some(self) -> Line:
        """One that is anywhere between connected and registered."""
        make: Callable[[], Awaitable[Line]] = self.chance.choice(
            (self.connect, self.secure, self.upgraded, self.registered)
        )
        return await make()

    def clear(self) -> None:
        """End what is left."""
        for line in self._lines:
            line.end(reset=True)


def text(payload: bytes) -> bytes:
    """A frame with a message."""
    return frames.masked(frames.TEXT, payload)


# -- who stalls


async def silence(scene: Scene) -> str:
    """Connect, and say nothing."""
    return await (await scene.connect()).drained()


async def half_hello(scene: Scene) -> str:
    """Stop in the middle of the TLS handshake."""
    line = await scene.connect()
    hello = line.hello()
    await line.push(hello[: scene.chance.randint(1, len(hello) - 1)])
    return await line.drained()


async def no_request(scene: Scene) -> str:
    """Say nothing after the TLS handshake."""
    return await (await scene.secure()).drained()


async def half_request(scene: Scene) -> str:
    """Stop in the middle of the request."""
    line = await scene.secure()
    request = scene.place.upgrade(scene.bearer())
    await line.send(request[: scene.chance.randint(1, len(request) - 1)])
    return await line.drained()


async def no_registration(scene: Scene) -> str:
    """Do not register."""
    return await (await scene.upgraded()).outcome()


async def half_frame(scene: Scene) -> str:
    """Stop in the middle of a message, and be deaf to pings for that."""
    line = await scene.registered()
    whole = text(offer(scene.uuid(), scene.uuid(), sdp="x" * 4000))
    await line.send(whole[: scene.chance.randint(1, len(whole) - 1)])
    return await line.drained()


async def deafness(scene: Scene) -> str:
    """Answer no ping."""
    return await (await scene.registered()).drained()


async def no_farewell(scene: Scene) -> str:
    """Do not answer the close frame."""
    line = await scene.registered()
    await line.send(text(b"no message"))
    return await line.drained()


# -- who is slow


async def slow_hello(scene: Scene) -> str:
    """Do the TLS handshake byte by byte."""
    line = await scene.connect()
    with contextlib.suppress(OSError):
        await line.shake(DRIP)
    return await line.drained()


async def slow_request(scene: Scene) -> str:
    """Send the request byte by byte, each in a record of TLS."""
    line = await scene.secure()
    with contextlib.suppress(OSError):
        await line.send(scene.place.upgrade(scene.bearer()), DRIP)
    return await line.drained()


# -- who floods


async def _flood(line: Line, batch: bytes, reads: bool) -> str:
    """Send again and again for a while, and then leave."""
    end = time.monotonic() + FLOOD
    reading = asyncio.create_task(line.outcome()) if reads else None
    try:
        while time.monotonic() < end and not (reading and reading.done()):
            # The relay may read no more.
            await asyncio.wait_for(line.send(batch), max(0.1, end - time.monotonic()))
            await asyncio.sleep(0.01)
    except LATE:
        pass
    finally:
        if reading is not None and not reading.done():
            reading.cancel()
            await asyncio.wait({reading})
    return "left" if reading is None or reading.cancelled() else reading.result()


async def pings(scene: Scene) -> str:
    """Ping, and read the pongs."""
    frame = frames.masked(frames.PING, b"x" * 100)
    return await _flood(await scene.registered(), frame * BATCH, reads=True)


async def unread_pings(scene: Scene) -> str:
    """Ping, and do not read the pongs, for which there is little room."""
    scene.window = NARROW
    frame = frames.masked(frames.PING, b"x" * 120)
    return await _flood(await scene.registered(), frame * BATCH, reads=False)


async def offers_to_nobody(scene: Scene) -> str:
    """Make offers to whoever is not there."""
    uuid = scene.uuid()
    line = await scene.registered(uuid)
    made = [text(offer(uuid, scene.uuid(), sdp="x" * 1000)) for _ in range(20)]
    return await _flood(line, b"".join(made), reads=True)


async def offers_to_others(scene: Scene) -> str:
    """Make offers to clients of another user, and answer what they have not asked."""
    uuid = scene.uuid()
    line = await scene.registered(uuid)
    victims = scene.chance.choices(scene.victims, k=10)
    made = [text(make(uuid, v)) for v in victims for make in (offer, answer)]
    return await _flood(line, b"".join(made), reads=True)


async def registrations(scene: Scene) -> str:
    """Register again and again, as the same and as others."""
    uuids = [scene.uuid() for _ in range(5)]
    line = await scene.registered(uuids[0])
    made = [text(frames.registration(uuid)) for uuid in uuids * 4]
    return await _flood(line, b"".join(made), reads=True)


async def one_address(scene: Scene) -> str:
    """Come as a crowd from one address, of which some register."""
    claimed = scene.chance.choice(CLAIMED)

    async def come(number: int) -> str:
        line = await scene.announced(claimed)
        if number % 2:
            await line.register(scene.uuid())
        with contextlib.suppress(*LATE):
            return await asyncio.wait_for(line.outcome(), FLOOD)
        return "left"

    ends = await asyncio.gather(*map(come, range(CROWD)), return_exceptions=True)
    kinds = Counter(
        str(end.code)
        if isinstance(end, Closed)
        else ("dropped" if isinstance(end, OSError) else str(end))
        for end in ends
    )
    return ", ".join(sorted(kinds))


async def ledger(scene: Scene) -> str:
    """Make offers to many, leave them to the relay, and take another UUID."""
    takers = [scene.uuid() for _ in range(TAKERS)]

    async def come(uuid: str) -> tuple[Line, asyncio.Task[str]]:
        line = await scene.announced(ATTACKER)
        await line.register(uuid)
        return line, asyncio.create_task(line.outcome())

    async def give(line: Line) -> None:
        uuid = scene.uuid()
        made = [offer(uuid, taker) for taker in takers]
        texts = [frames.registration(uuid), *made]
        await line.send(b"".join(map(text, texts)))

    crowd = [await come(uuid) for uuid in takers]
    givers = [await come(scene.uuid()) for _ in range(GIVERS)]
    try:
        end, done = time.monotonic() + ATTACK, 0
        while time.monotonic() < end:
            began = time.monotonic()
            await asyncio.gather(*(give(line) for line, _ in givers))
            done += 1
            if done > FILLED:
                await asyncio.sleep(max(0.0, began + ROUND - time.monotonic()))
    finally:
        for _, reading in [*crowd, *givers]:
            reading.cancel()
        ends = [reading for _, reading in [*crowd, *givers]]
        await asyncio.gather(*ends, return_exceptions=True)
    return "left"


# -- who half-closes


async def half_close(scene: Scene) -> str:
    """Send nothing any more, wherever it stands, and read on."""
    line = await scene.some()
    line.half_close()
    return await line.drained()


async def half_close_in_a_message(scene: Scene) -> str:
    """The same in the middle of a message."""
    line = await scene.registered()
    await line.send(text(b"x" * 3000)[:1000])
    line.half_close()
    return await line.drained()


async def tls_farewell(scene: Scene) -> str:
    """End TLS, but not TCP."""
    make: Callable[[], Awaitable[Line]] = scene.chance.choice(
        (scene.secure, scene.upgraded, scene.registered)
    )
    line = await make()
    await line.push(line.say_farewell())
    return await line.drained()


# -- who sends garbage


async def no_tls(scene: Scene) -> str:
    """Send anything but TLS."""
    line = await scene.connect()
    plain = scene.place.upgrade(scene.bearer())
    hello = bytearray(line.hello())
    for _ in range(5):
        hello[scene.chance.randrange(len(hello))] ^= 1 << scene.chance.randrange(8)
    sent = scene.chance.choice((scene.noise(1, 2000), plain, bytes(hello)))
    await line.push(sent)
    return await line.drained()


async def broken_records(scene: Scene) -> str:
    """Send anything but TLS in the middle of TLS."""
    make: Callable[[], Awaitable[Line]] = scene.chance.choice(
        (scene.secure, scene.upgraded, scene.registered)
    )
    line = await make()
    await line.push(b"\x17\x03\x03\x01\x00" + scene.noise(256, 256))
    return await line.drained()


def _requests(scene: Scene) -> Sequence[bytes]:
    good = scene.place.upgrade(scene.bearer())
    return (
        scene.noise(100, 5000) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST" + good[3:],
        good.replace(b"Version: 13", b"Version: 12"),
        good.replace(b"Upgrade: websocket", b"Upgrade: nothing"),
        good.replace(b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: \x00"),
        good.replace(b"Host: ", b"Host: \xff\xfe"),
        good.replace(b"GET /", b"GET /\x00"),
        good[:-2] + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        good[:-2] + b"X: x\r\n" * 2000 + b"\r\n",
        good[:-2] + b"Content-Length: 10\r\n\r\n0123456789",
        good + scene.noise(10, 1000),
        good[:-2] + b"Origin: \x01\r\n\r\n",
    )


async def requests(scene: Scene) -> str:
    """Send what is no request of a WebSocket."""
    line = await scene.secure()
    await line.send(scene.chance.choice(_requests(scene)))
    try:
        await line.opened()
    except Closed as closed:
        await line.ended()
        return f"HTTP {closed.code}"
    return await line.outcome()


def _frames(scene: Scene) -> Sequence[bytes]:
    masked = frames.masked
    long = (1 << 62).to_bytes(8, "big")
    return (
        scene.noise(50, 5000),
        b"\x81\x05hello",
        masked(3, b"reserved"),
        masked(11, b"reserved"),
        bytes((masked(1, b"reserved")[0] | 0x40,)) + masked(1, b"reserved")[1:],
        masked(frames.PING, b"x" * 126),
        masked(frames.TEXT, b"\xff\xfe\xfd"),
        masked(0, b"continued"),
        b"\x01" + masked(1, b"begun")[1:] + masked(1, b"begun"),
        b"\x01" + masked(1, b"")[1:] + (b"\x00" + masked(0, b"")[1:]) * 2000,
        b"\x81\xff" + long + frames.KEY,
        b"\x81\xfe\x00\x01" + frames.KEY + b"x",
        masked(frames.CLOSE, b"\x00"),
        masked(frames.CLOSE, b"\x03\xed"),
        masked(frames.CLOSE, NORMAL.to_bytes(2, "big") + b"\xff"),
        masked(2, b"binary"),
    )


async def broken_frames(scene: Scene) -> str:
    """Send frames that break the protocol."""
    make = scene.chance.choice((scene.upgraded, scene.registered))
    line = await make()
    await line.send(scene.chance.choice(_frames(scene)))
    # Not all of it is known to be wrong before there is more.
    await asyncio.sleep(scene.chance.uniform(0, 1))
    with contextlib.suppress(OSError):
        await line.send(scene.noise(2000, 4000))
    return await line.outcome()


def _messages(scene: Scene) -> Sequence[bytes]:
    good = json.loads(offer(scene.uuid(), scene.uuid()))
    return (
        b"",
        b"null",
        b"{}",
        b"[" * 20_000,
        b'{"a":' * 20_000,
        json.dumps({**good, "more": 1}).encode(),
        json.dumps({**good, "source_uuid": 1}).encode(),
        json.dumps({**good, "peer_uuid": "x" * 1000}).encode(),
        json.dumps({**good, "message_type": "relay_response"}).encode(),
        json.dumps({**good, "description_type": "\ud800"}).encode(),
        json.dumps({**good, "description": "x" * 2_000_000}).encode(),
        json.dumps(good).encode().replace(b"v=0", b"\\ud800"),
        json.dumps(good).encode() + b"}",
        b'{"message_type": "relay_registration", "name": 1e999, "uuid": 0}',
    )


async def messages(scene: Scene) -> str:
    """Send messages that no client may send."""
    make = scene.chance.choice((scene.upgraded, scene.registered))
    line = await make()
    await line.send(text(scene.chance.choice(_messages(scene))))
    return await line.outcome()


async def tokens(scene: Scene) -> str:
    """Bring tokens that are nobody's, or not for this relay."""
    bearer = scene.chance.choice(
        (
            "nobody's",
            "two words",
            token("mallory", active=False),
            token("mallory", aud=["ebd5bbed-95e2-47cf-9c80-39e2064274bd"]),
            token("mallory", exp=1),
            token("mallory", sub="\r\n"),
            "x" * 7000,
        )
    )
    line = await scene.upgraded(bearer)
    return await line.outcome()


async def theft(scene: Scene) -> str:
    """Register as a client of another user, or speak in its name."""
    victim = scene.chance.choice(scene.victims)
    if scene.chance.random() < 0.5:  # noqa: PLR2004
        line = await scene.upgraded()
        try:
            await line.register(victim)
        except Closed as closed:
            return str(closed.code)
        return "stolen"
    line = await scene.registered()
    await line.send(text(offer(victim, scene.chance.choice(scene.victims))))
    await line.send(text(answer(victim, scene.chance.choice(scene.victims))))
    refused = [json.loads(await line.text()) for _ in range(2)]
    return "returned" if all(message["error"] for message in refused) else "stolen"


# -- who opens and leaves


async def open_and_leave(scene: Scene) -> str:
    """Leave again, wherever it stands, in any way."""
    line = await scene.some()
    await asyncio.sleep(scene.chance.choice((0, 0, 0.05)))
    line.end(reset=scene.chance.random() < 0.5)  # noqa: PLR2004
    return "left"


async def leave_in_between(scene: Scene) -> str:
    """Leave while the relay is busy with what was asked for."""
    bearer = token("mallory")
    line = await scene.secure()
    await line.send(scene.place.upgrade(bearer))
    await asyncio.sleep(scene.chance.uniform(0, 0.15))
    line.end(reset=scene.chance.random() < 0.5)  # noqa: PLR2004
    return "left"


async def heirs(scene: Scene) -> str:
    """Register the same UUID from many connections at once."""
    uuid = scene.uuid()
    ways = (scene.registered(uuid) for _ in range(5))
    await asyncio.gather(*ways, return_exceptions=True)
    return "left"


class Trouble(NamedTuple):
    """A kind of trouble.

    Attributes:
        group: What it belongs to, for people.
        make: Makes it once, and tells how it ended.
        many: How many make it at a time.
        pause: Seconds until they make it again, on average.
    """

    group: str
    make: Callable[[Scene], Awaitable[str]]
    many: int
    pause: float

    @property
    def name(self) -> str:
        """Its name."""
        return self.make.__name__.replace("_", " ")


LEDGER = "ledger"
"""The group of what is done to a relay without authentication."""

TROUBLES = (
    Trouble("stall", silence, 10, 0.5),
    Trouble("stall", half_hello, 5, 0.5),
    Trouble("stall", no_request, 5, 0.5),
    Trouble("stall", half_request, 5, 0.5),
    Trouble("stall", no_registration, 5, 0.5),
    Trouble("stall", half_frame, 5, 0.5),
    Trouble("stall", deafness, 5, 0.5),
    Trouble("stall", no_farewell, 3, 0.5),
    Trouble("slow TLS", slow_hello, 8, 0.5),
    Trouble("slow headers", slow_request, 8, 0.5),
    Trouble("flood", pings, 1, 2.0),
    Trouble("flood", unread_pings, 1, 2.0),
    Trouble("flood", offers_to_nobody, 1, 2.0),
    Trouble("flood", offers_to_others, 1, 2.0),
    Trouble("flood", registrations, 1, 2.0),
    Trouble("flood", one_address, 1, 3.0),
    Trouble("half-close", half_close, 3, 0.5),
    Trouble("half-close", half_close_in_a_message, 1, 0.5),
    Trouble("half-close", tls_farewell, 2, 0.5),
    Trouble("garbage", no_tls, 2, 0.5),
    Trouble("garbage", broken_records, 1, 0.5),
    Trouble("garbage", requests, 2, 0.5),
    Trouble("garbage", broken_frames, 3, 0.3),
    Trouble("garbage", messages, 3, 0.3),
    Trouble("garbage", tokens, 2, 0.5),
    Trouble("garbage", theft, 1, 0.5),
    Trouble("open and leave", open_and_leave, 4, 0.3),
    Trouble("open and leave", leave_in_between, 2, 0.5),
    Trouble("open and leave", heirs, 1, 2.0),
    Trouble(LEDGER, ledger, 1, 1.0),
)
"""All kinds, and how much there is of each."""


def source_of(kind: int) -> str:
    """The address from which a kind of trouble comes, by its number."""
    return f"127.0.0.{kind + 2}"


async def attempt(trouble: Trouble, scene: Scene, mischief: Mischief) -> str:
    """Make trouble once; how it ended."""
    making = asyncio.ensure_future(trouble.make(scene))
    try:
        await asyncio.wait({making}, timeout=PATIENCE)
        if not making.done():
            mischief.fail(f"{trouble.name}: not over after {PATIENCE:g} s")
            return "never"
        end = making.result()
    except Closed as closed:
        return str(closed.code)
    except OSError:
        return "dropped"
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        scene.clear()
    if end == "stolen":
        mischief.fail(f"{trouble.name}: the relay takes one client for another")
    return end


async def company(
    place: Place,
    unlocked: Place,
    groups: Collection[str],
    pairs: int,
    seed: int,
    limit: float,
    pipe: Connection,
) -> Mischief:
    """Make all kinds of trouble of some groups until the pipe has news."""
    mischief = Mischief()
    chance = random.Random(seed)  # noqa: S311
    trust = place.trust()
    bearers = [token("mallory") for _ in range(TOKENS)]
    victims = [uuid_of(n, side) for n in range(pairs) if stays(n) for side in (0, 1)]

    async def make(trouble: Trouble, source: str) -> None:
        ends = mischief.ends[trouble.name]
        while True:
            await asyncio.sleep(chance.uniform(0, 2 * trouble.pause))
            where = unlocked if trouble.group == LEDGER else place
            scene = Scene(where, source, trust, chance, bearers, victims)
            ends[await attempt(trouble, scene, mischief)] += 1

    makers = []
    for kind, trouble in enumerate(TROUBLES):
        if trouble.group not in groups:
            continue
        mischief.ends[trouble.name] = Counter()
        makers += [
            asyncio.create_task(make(trouble, source_of(kind)))
            for _ in range(trouble.many)
        ]
    await asyncio.to_thread(pipe.poll, limit)
    for maker in makers:
        maker.cancel()
    for outcome in await asyncio.gather(*makers, return_exceptions=True):
        if not isinstance(outcome, asyncio.CancelledError):
            mischief.fail(f"a defect of this program: {outcome!r}")
    return mischief


def main(
    place: Place,
    unlocked: Place,
    groups: Collection[str],
    pairs: int,
    seed: int,
    limit: float,
    pipe: Connection,
) -> None:
    """The process of the troublemakers. Sends what they did.

    Args:
        place: The relay.
        unlocked: A relay without authentication.
        groups: Of `TROUBLES`; others are left out.
        pairs: How many honest pairs there are.
        seed: Of what is left to chance.
        limit: Seconds after which it ends, come what may.
        pipe: Where to that goes; any news from there, or its end, has them leave.
    """
    made = company(place, unlocked, groups, pairs, seed, limit, pipe)
    pipe.send(asyncio.run(made))

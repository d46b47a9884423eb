"""A crowd with tokens that nobody knows yet, and two peers that talk meanwhile.

Globus takes its time for each token. How long until all of the crowd are registered,
and how long do messages take between two clients that were there before?

The crowd, the peers, the relay and the stand-in for Globus each are a process, all on
the loopback interface.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import resource
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from http import HTTPStatus
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from uuid import UUID

from tests.support.certificates import Authority
from tests.support.frames import CLOSE, PING, PONG, TEXT, frame
from tests.support.globus_service import CLIENT_ID, SECRET, GlobusService, token
from tests.support.processes import SCRIPTS, SERVES, Process, environment
from tests.support.recording import offer, registration

ROOT = Path(__file__).parents[1]

GOAL_SECONDS = 2.0
GOAL_MESSAGE = 0.050
"""What is to be reached: seconds until all are registered, and for any message."""

PACE = 0.005
"""Seconds between two messages of the peers."""

IDLE = 100
"""Messages before the crowd comes, to compare with."""

GRACE = 0.5
"""Seconds that the last message is waited for, when the crowd is through."""

AGAIN = 1.0
"""Seconds until somebody who was turned away comes back."""

LAST_SMALL, SIZE_16, SIZE_64 = 125, 126, 127
"""How frames spell their length (RFC 6455, section 5.2)."""


class Closed(Exception):
    """The relay has ended a connection."""


class Client:
    """As much of a client as is needed, and no more.

    Args:
        reader: What comes from the relay.
        writer: What goes to it.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int, request: bytes) -> Client:
        """Open a connection with a prepared request.

        Raises:
            Closed: It is not upgraded.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(maxsplit=2)[1])
            if status != HTTPStatus.SWITCHING_PROTOCOLS:
                raise Closed(f"HTTP {status}")
        except BaseException:
            writer.transport.abort()
            raise
        return cls(reader, writer)

    def send(self, prepared: bytes) -> None:
        """Send a prepared frame."""
        self._writer.write(prepared)

    async def receive(self) -> bytes:
        """The next text; pings are answered on the way.

        Raises:
            Closed: The relay closes.
        """
        while True:
            first, length = await self._reader.readexactly(2)
            if length == SIZE_16:
                (length,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif length == SIZE_64:
                (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
            payload = await self._reader.readexactly(length)
            opcode = first & 0x0F
            if opcode == CLOSE:
                raise Closed(payload[2:].decode())
            if opcode == PING:
                self.send(frame(PONG, payload))
            elif opcode == TEXT:
                return payload

    async def register(self, prepared: bytes) -> None:
        """Register with a prepared frame.

        Raises:
            Closed: The relay does not want it.
        """
        self.send(prepared)
        if b'"success": true' not in await self.receive():
            raise Closed("not registered")

    def end(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()


LOST = (Closed, OSError, asyncio.IncompleteReadError)
"""How connections end that were not to."""


def upgrade(port: int, bearer: str) -> bytes:
    """The request that opens a WebSocket."""
    lines = (
        "GET / HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"Authorization: Bearer {bearer}",
    )
    return "\r\n".join((*lines, "", "")).encode()


def joining(uuid: str) -> bytes:
    """The frame that registers."""
    return frame(TEXT, registration(uuid))


# -- the two peers


async def talk(port: int, ready: Connection, stop: Event, limit: float) -> list[float]:
    """Two clients of one user: offers one way, answers the other.

    Returns:
        Seconds that each message took while the crowd came.
    """
    uuids = [str(UUID(int=number)) for number in (1, 2)]
    peers = []
    for uuid in uuids:
        peer = await Client.connect(port, upgrade(port, token("peer")))
        await peer.register(joining(uuid))
        peers.append(peer)
    session = "v=0\r\n" * 200  # about as long as a real one
    frames = [
        frame(TEXT, offer(one, other, session, description_type=kind))
        for one, other, kind in ((*uuids, "offer"), (*uuids[::-1], "answer"))
    ]

    async def leg(number: int) -> float:
        began = time.perf_counter()
        peers[number % 2].send(frames[number % 2])
        received = await peers[1 - number % 2].receive()
        took = time.perf_counter() - began
        if b'"error": null' not in received:
            raise Closed("a message came back")
        await asyncio.sleep(PACE)
        return took

    for number in range(2):
        await leg(number)  # the first offer waits for one that crosses it
    ready.send([await leg(number) for number in range(IDLE)])
    busy: list[float] = []
    end = time.monotonic() + limit
    while not stop.is_set() and time.monotonic() < end:
        began = time.perf_counter()
        waiting = asyncio.create_task(leg(IDLE + len(busy)))
        while not waiting.done() and not stop.is_set() and time.monotonic() < end:
            await asyncio.wait({waiting}, timeout=GRACE)
        if not waiting.done():
            await asyncio.wait({waiting}, timeout=GRACE)
        try:
            busy.append(waiting.result())
        except (asyncio.InvalidStateError, *LOST):
            # It took at least this long, and never came.
            busy.append(time.perf_counter() - began)
            waiting.cancel()
            break
    for peer in peers:
        peer.end()
    return busy


def talker(port: int, pipe: Connection, stop: Event, limit: float) -> None:
    """The peers' process. Sends what was idle, and then what was busy."""
    busy: list[float] = []
    with contextlib.suppress(*LOST, TimeoutError, asyncio.TimeoutError):
        busy = asyncio.run(
            asyncio.wait_for(talk(port, pipe, stop, limit), limit + IDLE)
        )
    pipe.send(busy)


# -- the crowd


@dataclass
class Crowd:
    """How the crowd fared.

    Attributes:
        registered: How many were registered in the end.
        seconds: How long that took, the last one; the limit if not all were.
        turned_away: How often a connection ended before, and was tried again.
    """

    registered: int
    seconds: float
    turned_away: int


async def crowd(
    port: int, clients: int, limit: float, arrived: Callable[[], None]
) -> Crowd:
    """Everybody comes at once, each with a token of its own.

    They leave again when all have come and ``arrived`` has been called.
    """
    prepared = [
        (upgrade(port, token(f"user-{number}")), joining(str(UUID(int=number + 10))))
        for number in range(clients)
    ]
    registered: list[float] = []
    turned_away = 0
    all_in = asyncio.Event()

    async def come(request: bytes, registering: bytes) -> None:
        nonlocal turned_away
        while True:
            client = None
            try:
                client = await Client.connect(port, request)
                await client.register(registering)
                registered.append(time.perf_counter())
                if len(registered) == clients:
                    all_in.set()
                while True:
                    await client.receive()
            except LOST:
                turned_away += 1
            finally:
                if client is not None:
                    client.end()
            await asyncio.sleep(AGAIN)

    began = time.perf_counter()
    tasks = [asyncio.create_task(come(*frames)) for frames in prepared]
    complete = True
    try:
        await asyncio.wait_for(all_in.wait(), limit)
    except TimeoutError:
        complete = False
    seconds = max(registered) - began if complete else limit
    arrived()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Crowd(len(registered), seconds, turned_away)


# -- the relays


def this_relay(folder: Path, globus: GlobusService, root: Path) -> Iterator[int]:
    """Run this relay; gives its port once."""
    config = folder / "relay.toml"
    config.write_text(
        f'host = "127.0.0.1"\nport = 0\n[auth]\nmethod = "globus"\n[auth.kwargs]\n'
        f'client_id = "{CLIENT_ID}"\nclient_secret = "{SECRET}"\n'
        f'audience = "{CLIENT_ID}"\nservice_url = "{globus.url}"\n'
    )
    relay = Process(
        [
            *(SCRIPTS / "twistd", "-n", "--pidfile="),
            *(os.environ.get("TWISTD_OPTIONS", "").split()),
            *("proxyrelay", "--config", config),
        ],
        folder,
        env=environment(SSL_CERT_FILE=str(root)),
    )
    try:
        yield int(relay.wait_for(SERVES)[1].rpartition(":")[2])
        relay.stop()
    finally:
        relay.end()


def reference_relay(folder: Path, globus: GlobusService, root: Path) -> Iterator[int]:
    """Run proxystore-relay; gives its port once."""
    with socket.socket() as holder:
        # Bound without being listened on: nobody else gets the port.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        config = folder / "reference.toml"
        config.write_text(
            f'host = "127.0.0.1"\nport = {port}\n[auth]\nmethod = "globus"\n'
            f'[auth.kwargs]\nclient_id = "{CLIENT_ID}"\nclient_secret = "{SECRET}"\n'
            f'audience = "{CLIENT_ID}"\n'
        )
        relay = Process(
            [SCRIPTS / "proxystore-relay", "--config", config],
            folder,
            env=environment(
                GLOBUS_SDK_SERVICE_URL_AUTH=globus.url,
                GLOBUS_SDK_VERIFY_SSL=str(root),
                PYTHONUNBUFFERED="1",
            ),
        )
        try:
            relay.wait_for("Relay server listening on port")
            yield port
        finally:
            relay.end()


# -- what is measured


@dataclass
class Figures:
    """What was measured of one relay; times in seconds.

    Attributes:
        relay: Which one.
        registered: How many of the crowd were registered.
        seconds: Until the last one was.
        turned_away: Connections that ended before.
        messages: Between the peers, while the crowd came.
        idle_median: Of a message, before.
        idle_worst: Of a message, before.
        busy_median: Of a message, while the crowd came.
        busy_p99: The same, of the slowest one in a hundred.
        busy_worst: The same, of the slowest.
        questions: That Globus was asked.
        at_once: Of those under way at a time, at most.
    """

    relay: str
    registered: int
    seconds: float
    turned_away: int
    messages: int
    idle_median: float
    idle_worst: float
    busy_median: float
    busy_p99: float
    busy_worst: float
    questions: int
    at_once: int


def measure(
    name: str, port: int, globus: GlobusService, clients: int, limit: float
) -> Figures:
    """Let the crowd come to a running relay."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    stop = spawning.Event()
    peers = spawning.Process(
        target=talker, args=(port, theirs, stop, 2 * limit), daemon=True
    )
    peers.start()
    try:
        idle = _received(ours, limit)
        globus.tell(reset=True)
        came = asyncio.run(crowd(port, clients, limit, stop.set))
        busy = _received(ours, limit)
        counts = globus.tell()
    finally:
        peers.terminate()
        peers.join()
    ordered = sorted(busy) or [math.inf]
    return Figures(
        name,
        came.registered,
        came.seconds,
        came.turned_away,
        len(busy),
        statistics.median(idle),
        max(idle),
        statistics.median(ordered),
        ordered[int(0.99 * (len(ordered) - 1))],
        ordered[-1],
        counts["total"],
        counts["in_flight_max"],
    )


def _received(pipe: Connection, limit: float) -> list[float]:
    if not pipe.poll(limit):
        raise SystemExit("the peers do not get through")
    received: list[float] = pipe.recv()
    return received


COLUMNS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("relay", lambda f: f.relay),
    ("registered", lambda f: str(f.registered)),
    ("after s", lambda f: f"{f.seconds:.2f}"),
    ("turned away", lambda f: str(f.turned_away)),
    ("messages", lambda f: str(f.messages)),
    ("idle ms", lambda f: f"{1000 * f.idle_median:.1f}"),
    ("median ms", lambda f: f"{1000 * f.busy_median:.1f}"),
    ("99 % ms", lambda f: f"{1000 * f.busy_p99:.1f}"),
    ("worst ms", lambda f: f"{1000 * f.busy_worst:.1f}"),
    ("asked", lambda f: str(f.questions)),
    ("at once", lambda f: str(f.at_once)),
)


def table(measured: list[Figures]) -> str:
    """All figures, a line for each relay."""
    rows = [[title for title, _ in COLUMNS]]
    rows += [[show(figures) for _, show in COLUMNS] for figures in measured]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def ratios(this: Figures, reference: Figures) -> dict[str, float]:
    """How many times as long the reference takes."""
    return {
        "seconds": reference.seconds / this.seconds,
        "busy_median": reference.busy_median / this.busy_median,
        "busy_worst": reference.busy_worst / this.busy_worst,
    }


def main() -> int:
    """Measure, print a table, and say whether the goal is reached."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.introspection", description=__doc__
    )
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--latency", type=float, default=0.1, help="of Globus, in s")
    parser.add_argument("--limit", type=float, default=120, help="s for each relay")
    parser.add_argument("--no-reference", action="store_true")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()

    _allow_files(arguments.clients + 200)
    relays = {"proxyrelay": this_relay, "proxystore-relay": reference_relay}
    if arguments.no_reference:
        del relays["proxystore-relay"]
    measured = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority()
        globus = GlobusService(*authority.write(folder), ROOT)
        try:
            globus.tell(latency=arguments.latency)
            root = authority.write_root(folder)
            for relay, run in relays.items():
                with contextlib.contextmanager(run)(folder, globus, root) as port:
                    figures = measure(
                        relay, port, globus, arguments.clients, arguments.limit
                    )
                measured.append(figures)
        finally:
            globus.end()

    print(f"{arguments.clients} clients, {1000 * arguments.latency:g} ms for a token")
    print(table(measured))
    this = measured[0]
    report = {
        "clients": arguments.clients,
        "latency": arguments.latency,
        "relays": [asdict(figures) for figures in measured],
    }
    for reference in measured[1:]:
        compared = ratios(this, reference)
        report["ratios"] = compared
        words = ", ".join(f"{key} {value:.1f}" for key, value in compared.items())
        print(f"the reference takes so many times as long: {words}")
    reached = (
        this.registered == arguments.clients
        and this.seconds <= GOAL_SECONDS
        and this.busy_worst <= GOAL_MESSAGE
    )
    report["goal_reached"] = reached
    print(
        f"goal (all within {GOAL_SECONDS:g} s, no message over "
        f"{1000 * GOAL_MESSAGE:g} ms): {'reached' if reached else 'missed'}"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if reached else 1


def _allow_files(count: int) -> None:
    """Let this process and its children have enough sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, count)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())

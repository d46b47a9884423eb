"""Lives of a relay, each a process of its own, with real sockets.

The parent plays the clients and the supervisor. A life is a fork that drives its relay
by steps, and may be killed before any line of the relay's code.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import stat
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from twisted.internet.address import IPv4Address

import proxyrelay
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config, Offers, Timeouts
from proxyrelay.net.descriptor_store import DescriptorStore
from proxyrelay.service.ports import ClientPorts
from proxyrelay.survive.entries import name_of
from proxyrelay.survive.handed import Handed
from proxyrelay.survive.survival import Survival
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.relay import Relay
from proxyrelay.websocket.crossing import Crossing
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.protocol import RelayProtocol
from tests.support import frames
from tests.support.clock import EagerClock
from tests.support.recording import (
    RecordingObserver,
    answer,
    offer,
    registration,
)
from tests.support.served import upgrade
from tests.support.supervisor import Supervisor

ROOT = str(Path(proxyrelay.__file__).parent)

TRACED = tuple(
    f"{ROOT}/{part}"
    for part in (
        *("survive/", "switchboard/", "net/descriptor_store", "net/transport"),
        *("websocket/flow", "websocket/protocol", "websocket/revival"),
        "websocket/factory",
    )
)
"""The code before whose lines a life may end."""

PATIENCE = 5.0
"""Seconds after which something is stuck: a failure, not a pace."""

MAX_ROUNDS = 200
"""Turns of the relay for one step, at most."""

PING = b"probe"


class Step(NamedTuple):
    """What happens in a life.

    Attributes:
        what: A method of `Life`, without "do_".
        who: Number of a client.
        uuid: A UUID.
        other: Another UUID.
    """

    what: str
    who: int = 0
    uuid: str = ""
    other: str = ""


class Crash(NamedTuple):
    """The end of a life: during a step, before some line of the relay.

    Attributes:
        step: Number of the step; 0 is the resumption.
        line: Lines of `TRACED` before it, or the life ends after the step.
    """

    step: int
    line: int


class Reactor(EagerClock):
    """Has the sockets that are written to, and one that is read."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self.rightNow = now
        self.writers: list[Any] = []
        self.readers: list[Any] = []

    def addWriter(self, writer: Any) -> None:  # noqa: N802
        if writer not in self.writers:
            self.writers.append(writer)

    def removeWriter(self, writer: Any) -> None:  # noqa: N802
        if writer in self.writers:
            self.writers.remove(writer)

    def addReader(self, reader: Any) -> None:  # noqa: N802
        if reader not in self.readers:
            self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:  # noqa: N802
        if reader in self.readers:
            self.readers.remove(reader)


class Life:
    """One process of a relay, seen from the inside."""

    def __init__(self, world: World, now: float) -> None:
        self.world = world
        self.reactor = reactor = Reactor(now)
        timeouts = Timeouts(ping_interval=3600, ping_timeout=3600)  # no client answers
        config = Config(host="127.0.0.1", offers=world.offers, timeouts=timeouts)
        handed = Handed.sort({number: name for name, number in world.supervisor.pairs})
        self.store = DescriptorStore(world.supervisor.address, reactor)
        self.survival = Survival(config, handed, self.store, world.capacity)
        crossing = Crossing(reactor, world.offers.crossing or 1.0, self.pass_on)
        observer: Any = RecordingObserver()
        relay = Relay(observer, reactor.seconds, crossing, world.offers)
        self.factory = RelayFactory(
            *(relay, AnonymousAuthenticator(), observer, reactor, config),
            kind=RelayProtocol,
        )
        self.ports = ClientPorts(self.factory, (), False, None, reactor)
        self.survival.resume(self.factory, self.ports.revive)

    def pass_on(self, held: Offer) -> None:
        self.factory.relay.broker.pass_on(held)

    def run(self) -> None:
        """Let the relay do all that there is to do."""
        multiplexer = self.ports.multiplexer
        assert multiplexer is not None
        for _ in range(MAX_ROUNDS):
            poll = select.poll()
            poll.register(multiplexer.fileno(), select.POLLIN)
            ready = poll.poll(0)
            for writer in list(self.reactor.writers):
                writer.doWrite()
            if not ready:
                return
            self.factory.outbox.saw_messages = True  # it never naps
            multiplexer.doRead()
        raise AssertionError("it never comes to rest")

    def tell_supervisor(self) -> None:
        """Wait until the supervisor has acted upon all."""
        for _ in range(MAX_ROUNDS):
            if not self.store._queue:
                break
            select.select([], [self.store.fileno()], [], PATIENCE)
            self.store.doWrite()
        self.store._socket.settimeout(PATIENCE)
        assert self.store._barrier()
        self.store._socket.setblocking(False)

    # -- steps

    def say(self, who: int, data: bytes) -> None:
        """Let a client send something."""
        with suppress(OSError):
            self.world.clients[who].send(data)
            self.await_bytes(who)
        self.run()

    def await_bytes(self, who: int) -> None:
        """Wait until something of a client lies in its socket, if that is open."""
        for connection in self.factory.connections:
            transport = connection.transport
            if transport.client[1] == self.world.ports[who] and transport.connected:
                poll = select.poll()
                poll.register(transport.fileno(), select.POLLIN)
                assert poll.poll(PATIENCE * 1000)

    def do_connect(self, step: Step) -> None:
        connected, place = self.world.listener.accept()
        connected.setblocking(False)
        protocol = self.factory.buildProtocol(IPv4Address("TCP", *place))
        transport = self.ports._transport(
            *(connected, protocol, place, None, protocol.arrival, self.reactor)
        )
        protocol.makeConnection(transport)
        self.say(self.world.ports.index(place[1]), upgrade())

    def do_register(self, step: Step) -> None:
        text = registration(step.uuid, step.other or "a")
        self.say(step.who, frames.frame(frames.TEXT, text))

    def do_offer(self, step: Step) -> None:
        self.say(step.who, frames.frame(frames.TEXT, offer(step.uuid, step.other)))

    def do_answer(self, step: Step) -> None:
        self.say(step.who, frames.frame(frames.TEXT, answer(step.uuid, step.other)))

    def do_ping(self, step: Step) -> None:
        self.say(step.who, frames.frame(frames.PING, PING))

    def do_half(self, step: Step) -> None:
        """Begin a frame."""
        self.say(step.who, frames.frame(frames.PING, PING)[:3])

    def do_rest(self, step: Step) -> None:
        """End the frame."""
        self.say(step.who, frames.frame(frames.PING, PING)[3:])

    def do_leave(self, step: Step) -> None:
        self.say(step.who, frames.frame(frames.CLOSE, b"\x03\xe8"))

    def do_lose(self, step: Step) -> None:
        with suppress(OSError):
            self.world.clients[step.who].shutdown(socket.SHUT_RDWR)
        self.await_bytes(step.who)
        self.run()

    def do_refuse(self, step: Step) -> None:
        self.say(step.who, frames.frame(frames.BINARY, b"what?"))

    def do_pass(self, step: Step) -> None:
        """Time goes by."""
        for _ in range(4):
            self.reactor.advance(0.5)
            self.factory.relay.tick()
            self.run()

    def do_end(self, step: Step) -> None:
        """End in order; nothing happens after it."""
        self.factory.stop(0.5, self.survival.staying)
        self.survival.suspend(self.factory.relay)

    # -- what there is

    def state(self) -> dict[str, Any]:
        """All that can be seen."""
        keeper = self.survival._keeper
        assert keeper is not None
        place = self.world.ports.index
        registered = {
            uuid: place(int(peer.address.rpartition(":")[2]))
            for uuid, peer in self.factory.registry._peers.items()
        }
        # A connection that has ended meanwhile has no address.
        wrong = [
            peer.address
            for peer in self.factory.registry
            if peer.transport.client[1]  # type: ignore[attr-defined]
            not in {0, int(peer.address.rpartition(":")[2])}
        ]
        kept = {name_of(entry.key): entry.inode for _, entry in keeper.peers()}
        entries = keeper.memory.connections.entries()
        open_connections = {
            os.fstat(c.transport.fileno()).st_ino
            for c in self.factory.connections
            if c.transport.fileno() >= 0
        }
        return {
            "now": self.reactor.seconds(),
            "registered": registered,
            "wrong": wrong,
            "kept": kept,
            "kept_uuids": sorted(peer.record().uuid for peer, _ in keeper.peers()),
            "unkept": len(keeper.unkept),
            "entries": len(entries),
            "offers": len(self.factory.relay.undelivered.table),
            "offer_entries": len(keeper.memory.offers.entries()),
            "leaked": sorted(served_sockets(self.world) - open_connections),
        }


def is_served(one: socket.socket, world: World) -> bool:
    """Whether a socket is the relay's end of a connection."""
    if one.family != socket.AF_INET or one.getsockname()[1] in world.ports:
        return False
    return one.getpeername()[1] in world.ports


def served_sockets(world: World) -> set[int]:
    """Inodes of all open TCP sockets at the relay's end."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        number = int(name)
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as one:
                    if is_served(one, world):
                        found.add(os.fstat(number).st_ino)
    return found


class World:
    """The clients and the supervisor, who outlive all processes of the relay.

    Attributes:
        happened: What the lives have told: a step, and the state after it.
    """

    def __init__(self, clients: int, capacity: int, offers: Offers) -> None:
        self.capacity = capacity
        self.offers = offers
        self.supervisor = Supervisor()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=clients)
        self.clients = [
            socket.create_connection(self.listener.getsockname())
            for _ in range(clients)
        ]
        self.ports = [each.getsockname()[1] for each in self.clients]
        self._read = [b""] * clients
        self.now = 1000.0

    def close(self) -> None:
        for each in (*self.clients, self.listener):
            each.close()
        self.supervisor.close()

    def live(
        self, steps: Sequence[Step], crash: Crash | None
    ) -> tuple[list[dict[str, Any]], int]:
        """Let a process of the relay live.

        Returns:
            The state after each step that was finished, with the resumption as the
            first one; and how it ended.
        """
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # idle threads
            child = os.fork()
        if child == 0:
            os.close(reading)
            self._be(writing, steps, crash)
        os.close(writing)
        told = b""
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        poll.register(self.supervisor.fileno(), select.POLLIN)
        while True:
            if not (ready := poll.poll(PATIENCE * 1000)):
                os.kill(child, signal.SIGKILL)
            self.supervisor.read()
            if any(number == reading for number, _ in ready) or not ready:
                piece = os.read(reading, 65536)
                told += piece
                if not piece:
                    break
        os.close(reading)
        _, status = os.waitpid(child, 0)
        self.supervisor.read()
        states = [json.loads(line) for line in told.splitlines()]
        if states:
            self.now = max(self.now, states[-1].get("now", 0.0))
        return states, os.waitstatus_to_exitcode(status)

    def _be(self, writing: int, steps: Sequence[Step], crash: Crash | None) -> NoReturn:
        """Be a process of the relay."""
        try:
            gc.disable()
            life: Life

            def begin(_: Step) -> None:
                nonlocal life
                life = Life(self, self.now)

            for number, step in enumerate([Step("resume"), *steps]):
                act: Callable[[Step], None] = begin
                if number:
                    act = getattr(life, f"do_{step.what}")
                if crash is not None and crash.step == number:
                    kill_after(crash.line)
                    act(step)
                    os.kill(os.getpid(), signal.SIGKILL)
                act(step)
                life.tell_supervisor()
                if step.what == "end":
                    os._exit(os.EX_TEMPFAIL)
                os.write(writing, json.dumps(life.state()).encode() + b"\n")
            os._exit(0)
        except BaseException:
            error = json.dumps({"error": traceback.format_exc()})
            os.write(writing, error.encode() + b"\n")
            os._exit(1)

    # -- what the clients have got

    def wait_for(self, who: int, text: str, count: int) -> bool:
        """Wait until a client has got a text so often; False if its connection ends."""
        for _ in range(MAX_ROUNDS):
            got, over = self.received(who)
            if got[text] >= count or over:
                return got[text] >= count
            select.select([self.clients[who]], [], [], PATIENCE / MAX_ROUNDS)
        return False

    def received(self, who: int) -> tuple[Counter[str], bool]:
        """All texts and control frames that a client has got so far, and its end."""
        self.clients[who].setblocking(False)
        over = False
        with suppress(BlockingIOError):
            try:
                while piece := self.clients[who].recv(65536):
                    self._read[who] += piece
                over = True
            except ConnectionError:
                over = True
        _, _, data = self._read[who].partition(b"\r\n\r\n")
        return Counter(server_frames(data)), over


def server_frames(data: bytes) -> list[str]:
    """Frames of a server, each as a kind and a text."""
    found = []
    while len(data) >= 2:
        kind, length, start = data[0], data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        payload = data[start : start + length]
        data = data[start + length :]
        assert kind in {0x81, 0x88, 0x89, 0x8A}, (kind, payload)
        if kind == 0x81:
            said = json.loads(payload)
            if said["message_type"] == "relay_response":
                found.append("accepted")
            else:
                pair = f"{said['source_uuid']} {said['peer_uuid']}"
                word = said["description_type"]
                found.append(f"{'error ' if said['error'] else ''}{word} {pair}")
        elif kind == 0x88:
            found.append("close")
        elif kind == 0x8A:
            found.append(f"pong {payload.decode(errors='replace')}")
    return found


def kill_after(lines: int) -> None:
    """Kill this process before a line of `TRACED`."""
    left = lines

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if event == "call":
            return trace if frame.f_code.co_filename.startswith(TRACED) else None
        if event == "line":
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return trace

    sys.settrace(trace)

"""A relay asserts 100,000 registrations to an engine that has lost them.

Meanwhile another process asks the engine something every 5 ms.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

import redis
from twisted.internet import reactor as _reactor
from twisted.internet.task import LoopingCall

from proxyrelay.cluster.member import Member
from proxyrelay.config import Config
from proxyrelay.config.cluster import Cluster
from proxyrelay.net.clock import boottime
from proxyrelay.switchboard.peer import Registration
from proxyrelay.switchboard.relay import Relay
from tests.support.engine import Engine
from tests.support.recording import RecordingPeer

COUNT = 100_000

PACE = 0.005
"""Seconds between two questions of the witness."""

LONGEST = 60.0
"""Seconds after which it is given up."""

reactor: Any = _reactor


class Nobody:
    """Offers that wait; there are none."""

    def begin(self, *_: object) -> None:
        """Ignore it."""

    def yield_time(self, *_: object) -> None:
        """Ignore it."""


def _witness(socket: str, pipe: Connection) -> None:
    """Ask the engine until the pipe has news; send the longest wait in seconds."""
    longest = 0.0
    with redis.Redis(unix_socket_path=socket) as client:
        client.ping()
        pipe.send(None)
        while not pipe.poll(PACE):
            began = time.perf_counter()
            client.ping()
            longest = max(longest, time.perf_counter() - began)
    pipe.send(longest)


def _run(engine: Engine) -> float:
    """Assert all; gives the seconds, or those after which it was given up."""
    config = Config(cluster=Cluster(engine=f"unix:{engine.socket}", node="one"))
    relay = Relay(lambda _: None, reactor.seconds, Nobody(), config.offers)
    now = reactor.seconds()
    for number in range(COUNT):
        uuid = str(UUID(int=number + 1))
        peer = RecordingPeer()
        peer.registration = Registration(uuid, "a", False, now)
        relay.registry.add(uuid, peer)
    accepted = boottime()
    member = Member(config, relay, reactor, reactor, lambda _: accepted)
    began = time.perf_counter()

    def look() -> None:
        is_late = time.perf_counter() - began > LONGEST
        if is_late or member.claims.asserted >= COUNT:
            reactor.stop()

    reactor.callWhenRunning(member.start)
    reactor.callWhenRunning(LoopingCall(look).start, 0.01)
    reactor.run()
    return time.perf_counter() - began


def main() -> None:
    """Print JSON: seconds until all are asserted, and of the longest other call."""
    engine = Engine()
    try:
        spawning = multiprocessing.get_context("spawn")
        pipe, theirs = spawning.Pipe()
        arguments = (str(engine.socket), theirs)
        witness = spawning.Process(target=_witness, args=arguments, daemon=True)
        witness.start()
        pipe.recv()
        took = _run(engine)
        pipe.send(None)
        longest = pipe.recv()
        witness.join()
    finally:
        engine.stop()
    print(json.dumps([took, longest]))


if __name__ == "__main__":
    main()

"""A relay whose connections outlive it, with a supervisor, in one process."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config, Offers
from proxyrelay.net.descriptor_store import DescriptorStore
from proxyrelay.service.ports import ClientPorts
from proxyrelay.survive.handed import Handed
from proxyrelay.survive.keeper import Keeper
from proxyrelay.survive.memory import Memory
from proxyrelay.survive.survival import Survival
from proxyrelay.switchboard.relay import Relay
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.protocol import RelayProtocol
from tests.support.capture import Capture
from tests.support.frames import TEXT, frame
from tests.support.recording import (
    RecordingObserver,
    RecordingWaiting,
    registration,
)
from tests.support.served import upgrade
from tests.support.supervisor import Supervisor
from tests.survive.lives import Reactor

START = 1000.0
"""When the clock of a relay begins, in seconds."""


class Process:
    """What one process of a relay has."""

    def __init__(
        self, supervisor: Supervisor, capacity: int, offers: Offers, listening: int
    ) -> None:
        self.reactor = Reactor(START)
        supervisor.read()
        given = {os.dup(number): name for name, number in supervisor.pairs}
        self.handed = Handed.sort(given)
        self.store = DescriptorStore(supervisor.address, self.reactor)
        config = Config(host="127.0.0.1", port=listening, offers=offers)
        self.survival = Survival(config, self.handed, self.store, capacity)
        self.observed = RecordingObserver()
        self.waiting = RecordingWaiting()
        relay = Relay(self.observed, self.reactor.seconds, self.waiting, offers)
        self.relay = relay
        self.factory = RelayFactory(
            *(relay, AnonymousAuthenticator(), self.observed, self.reactor, config),
            kind=RelayProtocol,
        )
        self.ports = ClientPorts(self.factory, (), False, None, self.reactor)

    @property
    def keeper(self) -> Keeper:
        keeper = self.survival._keeper
        assert keeper is not None
        return keeper

    @property
    def memory(self) -> Memory:
        return self.survival._memory

    def resume(self) -> None:
        self.survival.resume(self.factory, self.ports.revive)

    def close(self) -> None:
        """End as by a crash."""
        for connection in list(self.factory.connections):
            transport = connection.transport
            transport.stopReading()
            transport.socket.close()
        self.factory.connections.clear()
        self.ports.stop()
        self.survival.close()
        self.handed.close()


class SurviveTestCase(SynchronousTestCase):
    """Starts processes of a relay, one after the other."""

    capacity = 100
    offers = Offers(crossing=0)
    listening = 0

    def setUp(self) -> None:
        self.captured = Capture(self)
        self.supervisor = Supervisor()
        self.addCleanup(self.supervisor.close)
        self.process: Process | None = None
        self.addCleanup(self.crash)

    def start(self, resume: bool = True) -> Process:
        """Start the next process, after a crash of the one before."""
        self.crash()
        self.process = Process(
            *(self.supervisor, self.capacity, self.offers, self.listening)
        )
        if resume:
            self.process.resume()
        self.supervisor.read()
        return self.process

    def crash(self) -> None:
        if self.process is not None:
            self.process.close()
            self.process = None
            self.supervisor.read()

    def end(self) -> None:
        """End in order."""
        assert self.process is not None
        self.process.survival.suspend(self.process.relay)
        self.crash()

    # -- clients

    def connect(self) -> tuple[RelayProtocol, socket.socket]:
        """A connection with a client at its other end."""
        process = self.process
        assert process is not None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            self.addCleanup(client.close)
            connected, place = listener.accept()
        connected.setblocking(False)
        protocol: Any = process.factory.buildProtocol(IPv4Address("TCP", *place))
        arguments = (connected, protocol, place, None, protocol.arrival)
        protocol.makeConnection(process.ports._transport(*arguments, process.reactor))
        protocol.dataReceived(upgrade())
        return protocol, client

    def registered(self, uuid: str, name: str = "a") -> RelayProtocol:
        protocol, _ = self.connect()
        self.register(protocol, uuid, name)
        return protocol

    def register(self, protocol: RelayProtocol, uuid: str, name: str = "a") -> None:
        protocol.dataReceived(frame(TEXT, registration(uuid, name)))
        self.supervisor.read()

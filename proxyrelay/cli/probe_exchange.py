"""The last steps of ``proxyrelay probe``: registrations, and offers with answers."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate, trustRootFromCertificates

from proxyrelay.cli.probe_report import ProbeFailure, Report, milliseconds
from proxyrelay.cli.probe_way import Target, Way
from proxyrelay.client import (
    Closed,
    NotRegistered,
    NotUpgraded,
    PeerConnection,
    RelayClientError,
    RelayConnection,
    connect,
    relay_endpoint,
)
from proxyrelay.switchboard.messages import RegistrationRequest

NAME = "proxyrelay-probe"
"""Name of the two clients."""

PEM_END = "-----END CERTIFICATE-----"

CLOSE_ADVICE = {
    1001: "The relay stops or restarts: probe it again.",
    1008: "The relay has a limit for what it was sent: look at its log.",
    1013: "The relay is full, drains, or cannot ask Globus Auth: look at its log, and "
    "at 'proxyrelay status'. Endpoints try again by themselves.",
    4000: "What answers is a relay for other messages: compare its version.",
    4002: "The token is expired, or is meant for another relay: 'proxyrelay globus "
    "check' at the relay says which. Endpoints end on this code.",
    4003: "max_message_bytes of the relay is too low: an offer has about 1.3 kB.",
    4004: "The operator has disconnected this client.",
}
"""Advice about close codes."""

UNAUTHORIZED_ADVICE = (
    "The relay wants a token: name a file with one as --token-file. Configure "
    "endpoints with --relay-auth."
)

REFUSED_ADVICE = (
    "The relay cannot use the token: the file must have the token alone, in one line. "
    "Endpoints end on this code."
)


async def exchange(
    reactor: Any, target: Target, way: Way, count: int, report: Report
) -> None:
    """Register two throw-away clients, and have one answer the offers of the other.

    Args:
        reactor: Connects.
        target: What is probed.
        way: How it is reached.
        count: Number of exchanges.
        report: Takes what is found.

    Raises:
        ProbeFailure: A step fails.
    """
    pair = _Pair(reactor, target, way)
    try:
        with report.step("registration") as parts:
            await pair.register()
            slowest = max(each.registration_seconds for each in pair.connections)
            steps = "TCP, TLS" if target.url.secure else "TCP"
            parts.append(f"two clients, with {steps} and upgrade")
            parts.append(f"the relay took {milliseconds(slowest)}")
        with report.step("exchange") as parts:
            for _ in range(count):
                report.exchanges.append(await pair.exchange())
            least, median, most = map(milliseconds, report.exchange_seconds)
            parts.append(f"offers with answers: {count}")
            parts.append(f"min {least}, median {median}, max {most}")
    except BaseException:
        pair.abort()
        raise
    await pair.close()


class _Pair:
    """Two clients, the second of which answers the offers of the first."""

    def __init__(self, reactor: Any, target: Target, way: Way) -> None:
        self._reactor = reactor
        self._target = target
        self._way = way
        self._uuids = [str(uuid4()), str(uuid4())]
        self._answer: Deferred[PeerConnection] | None = None
        self.connections: list[RelayConnection] = []

    async def register(self) -> None:
        for uuid, received in zip(
            self._uuids, (self._settle, self._offered), strict=True
        ):
            made = await _connect(
                *(self._reactor, self._target, self._way, uuid, received)
            )
            made.ended.addCallback(self._lost)
            self.connections.append(made)

    async def exchange(self) -> float:
        """Exchange an offer and its answer; return the seconds."""
        start = self._reactor.seconds()
        waiting = self._answer = Deferred()
        self._send(0, "offer")
        answer = await waiting
        if answer.error:
            raise ProbeFailure(
                f"the relay returns the offer: {answer.error}",
                "Look at the relay's log. In a cluster, look at 'proxyrelay status "
                "--all'.",
            )
        seconds: float = self._reactor.seconds() - start
        return seconds

    async def close(self) -> None:
        self._answer = None
        for each in self.connections:
            each.close()
        for each in self.connections:
            await each.ended

    def abort(self) -> None:
        self._answer = None
        for each in self.connections:
            each.abort()

    def _send(self, index: int, kind: Any) -> None:
        own, other = self._uuids[index], self._uuids[1 - index]
        try:
            self.connections[index].send(_message(own, other, kind))
        except NotRegistered as error:
            self._lost(error)

    def _offered(self, _: PeerConnection) -> None:
        self._send(1, "answer")

    def _settle(self, outcome: PeerConnection | ProbeFailure) -> None:
        waiting, self._answer = self._answer, None
        if waiting is None:
            return
        if isinstance(outcome, ProbeFailure):
            waiting.errback(outcome)
        else:
            waiting.callback(outcome)

    def _lost(self, why: RelayClientError) -> RelayClientError:
        self._settle(failure_of(why, self._target))
        return why


async def _connect(
    reactor: Any, target: Target, way: Way, uuid: str, received: Any
) -> RelayConnection:
    endpoint = relay_endpoint(
        reactor, target.url, _trust_root(target), way.proxy, way.address
    )
    try:
        return await connect(
            *(reactor, target.url, endpoint, RegistrationRequest(NAME, uuid)),
            *(received, lambda: target.authorization),
        )
    except RelayClientError as error:
        raise failure_of(error, target) from error


def failure_of(error: RelayClientError, target: Target | None = None) -> ProbeFailure:
    """What an error of the client means, and what to do."""
    if isinstance(error, Closed):
        advice = CLOSE_ADVICE.get(error.code or 0, "Look at the relay's log.")
        if error.code == 4001:  # noqa: PLR2004 - Unauthorized
            has_token = target is not None and target.authorization is not None
            advice = REFUSED_ADVICE if has_token else UNAUTHORIZED_ADVICE
        code = "" if error.code is None else f"{error.code} "
        return ProbeFailure(f"the relay closes with {code}{error.reason}", advice)
    if isinstance(error, NotUpgraded):
        return ProbeFailure(
            str(error), "Another WebSocket server answers: compare host and port."
        )
    return ProbeFailure(
        str(error),
        "The steps before have worked, so the relay or a proxy hangs or is full: look "
        "at its log.",
    )


def _trust_root(target: Target) -> Any:
    if target.ca_file is None or not target.url.secure:
        return None
    text = target.ca_file.read_text(encoding="ascii", errors="replace")
    blocks = [f"{part}{PEM_END}" for part in text.split(PEM_END)[:-1]]
    return trustRootFromCertificates(
        [Certificate.loadPEM(each.encode()) for each in blocks]
    )


def _message(source: str, peer: str, kind: Any) -> PeerConnection:
    """An offer or an answer that opens no connection."""
    description = {"sdp": "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"}
    return PeerConnection(
        source, NAME, peer, kind, json.dumps({**description, "type": kind})
    )

"""Questions of operators to all nodes, and the reports of the nodes. Pure.

A question goes into the inbox of each node that has a lease. A node without a report
in `REPLY_SECONDS` is silent. Names, users and addresses of clients leave their node in
sealed messages only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from proxyrelay import __version__
from proxyrelay.cluster import codec
from proxyrelay.cluster.bus import Bus
from proxyrelay.switchboard.peer import Peer, Registration
from proxyrelay.switchboard.relay import Relay, marks

REPLY_SECONDS = 2.0
"""Longest wait for the reports of other nodes."""

MAX_ROWS = 2000
"""Clients in one report. They take some 8 ms, and 500 kB of the engine at most."""

NODE, CLIENTS, DISCONNECT = "node", "clients", "disconnect"
"""Questions: for the node, for its clients too, and to disconnect one of them."""


class Facts(NamedTuple):
    """What a node tells of itself.

    Attributes:
        uptime: Seconds since the start.
        unsynced: Registrations that the engine may not know.
        is_ready: Whether new clients are served.
        is_draining: Whether it waits for its clients to leave.
    """

    uptime: float
    unsynced: int
    is_ready: bool
    is_draining: bool


@dataclass
class Answers:
    """What came of a question.

    Attributes:
        reports: Reports of the nodes, that of this node first.
        silent: Nodes with a lease that have not replied.
    """

    reports: list[codec.Report]
    silent: list[str]


Done = Callable[[Answers], None]


@dataclass(eq=False)
class _Question:
    """A question under way.

    Attributes:
        waits: Nodes that may still reply.
        silent: Nodes without a report.
        done: Who wants to know. Equal questions are asked once.
    """

    number: int
    what: str
    uuid: str
    asked: float
    silent: dict[str, None]
    waits: set[str] = field(default_factory=set)
    reports: list[codec.Report] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)


class Queries:
    """Asks other nodes, and reports to them.

    Args:
        name: Name of this node, with its incarnation.
        bus: The engine.
        relay: The rules of this relay.
        say: Sends an envelope to a node.
        clock: Time in seconds.
        facts: What this node tells of itself.
        shown_user: Spells a user as logs do.
        is_sealed: Whether messages are sealed.

    Attributes:
        seen: Nodes as the engine listed them last, with the texts of their leases. A
            node without a lease has an empty text.
    """

    def __init__(
        self,
        name: str,
        bus: Bus,
        relay: Relay,
        say: Callable[..., None],
        clock: Callable[[], float],
        facts: Callable[[], Facts],
        shown_user: Callable[[str], str],
        is_sealed: Callable[[], bool],
    ) -> None:
        self.seen: dict[str, bytes] = {}
        self._name = name
        self._bus = bus
        self._relay = relay
        self._say = say
        self._clock = clock
        self._facts = facts
        self._shown_user = shown_user
        self._is_sealed = is_sealed
        self._number = 0
        self._open: dict[int, _Question] = {}

    # -- asking

    def ask_nodes(self, done: Done) -> None:
        """Ask how all nodes are."""
        self._ask(NODE, "", done)

    def ask_clients(self, done: Done) -> None:
        """Ask for the clients of all nodes."""
        self._ask(CLIENTS, "", done)

    def disconnect(self, uuid: str, done: Done) -> None:
        """Have the other nodes disconnect a client."""
        self._ask(DISCONNECT, uuid, done)

    def note(self, nodes: Sequence[bytes]) -> None:
        """Take down the engine's list of nodes: names and texts in turn."""
        names = (name.decode("ascii", "replace") for name in nodes[::2])
        self.seen = dict(zip(names, nodes[1::2], strict=True))

    def tick(self) -> None:
        """End the questions whose time is over; to be called twice a second."""
        now = self._clock()
        for question in list(self._open.values()):
            if now - question.asked >= REPLY_SECONDS:
                self._finish(question)

    def _ask(self, what: str, uuid: str, done: Done) -> None:
        for question in self._open.values():
            if (question.what, question.uuid) == (what, uuid):
                question.done.append(done)
                return
        self._number += 1
        question = _Question(
            *(self._number, what, uuid, self._clock(), self._others()), done=[done]
        )
        self._open[question.number] = question
        self._bus.call(partial(self._listed, question), "nodes")

    def _others(self) -> dict[str, None]:
        """The other nodes that have a lease, as far as this one knows."""
        names = (name for name, lease in self.seen.items() if lease)
        return dict.fromkeys(name for name in names if name != self._name)

    def _listed(self, question: _Question, reply: Any) -> None:
        if question.number not in self._open:
            return
        if not isinstance(reply, Exception):
            self.note(reply)
            question.silent = self._others()
            question.waits = set(question.silent)
            for node in question.silent:
                envelope = partial(
                    codec.Query,
                    number=question.number,
                    time=self._bus.engine_time(),
                    what=question.what,
                    uuid=question.uuid,
                )
                self._say(node, envelope, partial(self._sent, question, node))
        self._finish_if_told(question)

    def _sent(self, question: _Question, node: str, reply: Any) -> None:
        if isinstance(reply, Exception) or not reply:
            question.waits.discard(node)
            self._finish_if_told(question)

    def _reported(self, report: codec.Report) -> None:
        question = self._open.get(report.number)
        if question is not None and report.node in question.waits:
            question.waits.discard(report.node)
            del question.silent[report.node]
            question.reports.append(report)
            self._finish_if_told(question)

    def _finish_if_told(self, question: _Question) -> None:
        if not question.waits and question.number in self._open:
            self._finish(question)

    def _finish(self, question: _Question) -> None:
        del self._open[question.number]
        own = codec.Report(
            *(0, self._name, question.number),
            **self._state(question.what, is_named=True),
        )
        others = sorted(question.reports, key=lambda report: report.node)
        answers = Answers([own, *others], sorted(question.silent))
        for done in question.done:
            done(answers)

    # -- reporting

    def received(self, message: codec.Query | codec.Report) -> None:
        """Act on a question or report of another node."""
        if isinstance(message, codec.Report):
            self._reported(message)
        elif message.what in {NODE, CLIENTS, DISCONNECT} and not self._is_late(message):
            is_done = message.what == DISCONNECT and self._disconnect(message)
            state = self._state(message.what, self._is_sealed())
            self._say(
                message.node,
                partial(codec.Report, number=message.number, is_done=is_done, **state),
            )

    def _is_late(self, query: codec.Query) -> bool:
        """Whether nobody waits any more: this node stood still."""
        return self._bus.engine_time() - query.time > REPLY_SECONDS * 1e6

    def _disconnect(self, query: codec.Query) -> bool:
        caller = f"node {ascii(query.node)[1:-1]}"
        return self._relay.disconnect(query.uuid, caller) is not None

    def _state(self, what: str, is_named: bool) -> dict[str, Any]:
        registry = self._relay.registry
        rows = []
        if what == CLIENTS:
            now = self._clock()
            rows = [
                self._row(peer, held, now, is_named)
                for peer in islice(registry, MAX_ROWS)
                if (held := peer.registration) is not None
            ]
        return {
            "version": __version__,
            "clients": len(registry),
            "rows": rows,
            **self._facts()._asdict(),
        }

    def _row(
        self, peer: Peer, held: Registration, now: float, is_named: bool
    ) -> codec.Row:
        offered = held.last_offer
        row = codec.Row(
            held.uuid,
            now - held.registered_at,
            None if offered is None else now - offered,
            *(held.sent, held.received, held.unanswered, marks(held)),
            candidates=held.candidates,
        )
        if is_named:
            row.name, row.address = held.name, peer.address
            row.user = self._shown_user(peer.user.sub)
        return row

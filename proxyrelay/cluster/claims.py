"""The UUIDs of a node: claimed, asserted again, given up. Pure.

A record of the engine may be wrong: it may have lost the last writes. So no client is
closed on the word of a record. The node that the record names is asked first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

from proxyrelay.cluster import codec
from proxyrelay.cluster.bus import Bus, NoReply, hashed_user, ignore
from proxyrelay.errors import Forbidden, Refusal, Superseded, TryAgainLater
from proxyrelay.switchboard.messages import RegistrationRequest
from proxyrelay.switchboard.peer import REPLACED, LeaveReason, Peer
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import ANONYMOUS

BATCH = 500
"""Registrations asserted at once. They keep the engine for some milliseconds."""

ASSERT_SECONDS = 120.0
"""Interval in which each registration is asserted, to repair lost records."""

SHARE_SECONDS = 5.0
"""Interval in which some of them are: a call for a few costs as much as for many."""

QUESTION_SECONDS = 2.0
"""Longest wait for a node that is asked for a connection."""

MAX_FAREWELLS = 65_536
"""Departures that are remembered while the engine cannot be reached."""

Ask = Callable[..., None]


class Stamps(Protocol):
    """When connections were accepted."""

    def __call__(self, peer: Peer) -> float:
        """Seconds of the machine's clock that runs on while it sleeps."""


@dataclass(eq=False)
class Claim:
    """A connection that asks for a UUID.

    Attributes:
        is_repeated: Whether the holder has said that it does not hold it.
        is_kicked: Whether a newer connection elsewhere has it already.
    """

    peer: Peer
    request: RegistrationRequest
    is_repeated: bool = False
    is_kicked: bool = False


@dataclass(eq=False)
class Inquiry:
    """A question to another node.

    Attributes:
        asked: Seconds of the relay's clock.
        decided: Called with the answer; with None if there is none in time.
    """

    asked: float
    decided: Callable[[bool | None], None]


class Claims:
    """The UUIDs of a node.

    Args:
        name: Name of this node, with its incarnation.
        bus: The engine.
        relay: The rules of this relay.
        issuer: The identity provider.
        stamps: When connections were accepted.
        clock: Time in seconds.
        limit: Most UUIDs of one user; 0 for any number.
        serve_alone: Whether clients are accepted while the engine cannot be reached.

    Attributes:
        unsynced: UUIDs of this node that the engine may not know.
        say: Sends an envelope to a node.
        stale: Registrations for which the engine named another node.
        asserted: Registrations asserted again.
    """

    def __init__(
        self,
        name: str,
        bus: Bus,
        relay: Relay,
        issuer: str,
        stamps: Stamps,
        clock: Callable[[], float],
        limit: int = 0,
        serve_alone: bool = True,
    ) -> None:
        self.say: Ask = ignore
        self.unsynced: OrderedDict[str, None] = OrderedDict()
        self.limit = limit
        self.serve_alone = serve_alone
        self.stale = 0
        self.asserted = 0
        self._name = name
        self._bus = bus
        self._relay = relay
        self._issuer = issuer
        self._stamps = stamps
        self._clock = clock
        self._pending: dict[str, Claim] = {}
        self._claiming: dict[Peer, str] = {}
        self._inquiries: OrderedDict[tuple[str, str, int], list[Inquiry]] = (
            OrderedDict()
        )
        self._farewells: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._in_batch = False
        self._due: list[str] = []
        self._last_share = clock()

    @property
    def _recent_ms(self) -> int:
        return round(self._relay.broker.settings.recent * 1000)

    # -- new connections

    def claim(self, peer: Peer, request: RegistrationRequest) -> None:
        """Ask the engine for a UUID, and have the peer wait.

        Raises:
            Superseded: A newer connection of this node asks for it, too.
            TryAgainLater: Another user asks for it, too.
        """
        other = self._pending.get(request.uuid)
        if other is not None and other.peer is not peer:
            if other.peer.user != peer.user:
                raise TryAgainLater("Another client asks for this UUID.")
            if other.peer.arrival > peer.arrival:
                raise Superseded
            self._withdraw(other.peer)
            self._relay.refuse(other.peer, Superseded())
        self._withdraw(peer)
        claim = self._pending[request.uuid] = Claim(peer, request)
        self._claiming[peer] = request.uuid
        if self._bus.ready:
            peer.await_claim(True)
            self._register(claim)
        else:
            self._accept_alone(claim)

    def _register(self, claim: Claim) -> None:
        peer = claim.peer
        # Without authentication all clients are one user.
        limit = 0 if peer.user == ANONYMOUS else self.limit
        self._bus.call(
            partial(self._decided, claim),
            *("register", claim.request.uuid, self._name, peer.arrival),
            hashed_user(self._issuer, peer.user.sub),
            self._bus.engine_time(self._stamps(peer)),
            *("new", limit, self._recent_ms),
        )

    def _is_pending(self, claim: Claim) -> bool:
        return self._pending.get(claim.request.uuid) is claim

    def _decided(self, claim: Claim, reply: Any) -> None:
        uuid, failed = claim.request.uuid, isinstance(reply, Exception)
        kind = b"" if failed else reply[0]
        # Without a reply the engine may have it all the same.
        may_be_known = kind == b"OK" or isinstance(reply, NoReply)
        if not self._is_pending(claim):
            claims_again = self._claiming.get(claim.peer) == uuid
            if may_be_known and not claims_again:
                self.disown(uuid, claim.peer.arrival)
        elif kind == b"OK" and claim.is_kicked:
            self._refuse(claim, Superseded())
        elif kind == b"OK":
            self._accept(claim, int(reply[1]), bool(reply[2]))
        elif kind in {b"STALE", b"FOREIGN"}:
            self.stale += 1
            text = f"The client UUID {uuid} is already registered to another user."
            is_foreign = kind == b"FOREIGN"
            self._ask(
                *(reply[1].decode(), uuid, int(reply[2])),
                partial(
                    self._confirmed,
                    claim,
                    Forbidden(text) if is_foreign else Superseded(),
                ),
            )
        elif kind == b"FULL":
            self._refuse(claim, TryAgainLater("Too many connections of this user."))
        else:
            self._accept_alone(claim)
            if may_be_known:
                self.disown(uuid, claim.peer.arrival)  # unless it was accepted

    def _confirmed(self, claim: Claim, refusal: Refusal, is_held: bool | None) -> None:
        if not self._is_pending(claim):
            return
        if is_held:
            self._refuse(claim, refusal)
        elif is_held is None or claim.is_repeated:
            self._refuse(claim, TryAgainLater("Another relay does not answer."))
        else:
            claim.is_repeated = True
            self._register(claim)

    def _accept_alone(self, claim: Claim) -> None:
        if self.serve_alone:
            self._accept(claim, 0, False)
            self.unsynced[claim.request.uuid] = None
        else:
            self._refuse(claim, TryAgainLater("The cluster cannot be reached."))

    def _accept(self, claim: Claim, takeovers: int, is_reconnect: bool) -> None:
        peer = claim.peer
        self._withdraw(peer)
        try:
            self._relay.accept(peer, claim.request, takeovers, is_reconnect)
        except Refusal as refusal:
            self._relay.refuse(peer, refusal)
            self.unsynced[claim.request.uuid] = None
        else:
            self._farewells.pop((claim.request.uuid, peer.arrival), None)
        peer.await_claim(False)

    def _refuse(self, claim: Claim, refusal: Refusal) -> None:
        self._withdraw(claim.peer)
        self._relay.refuse(claim.peer, refusal)

    def _withdraw(self, peer: Peer) -> None:
        uuid = self._claiming.pop(peer, None)
        if uuid is not None:
            del self._pending[uuid]

    # -- the end of a registration

    def release(self, peer: Peer, uuid: str | None) -> None:
        """Give up a UUID, or the wish for one."""
        self._withdraw(peer)
        if uuid is not None:
            self.unsynced.pop(uuid, None)
            self._unregister(uuid, peer.arrival)

    def disown(self, uuid: str, connection: int) -> None:
        """Correct a record that names this node for a connection that it lacks."""
        if not self._holds(uuid, connection):
            self._unregister(uuid, connection)

    def _holds(self, uuid: str, connection: int) -> bool:
        peer, claim = self._relay.registry.get(uuid), self._pending.get(uuid)
        # The engine may have a connection whose acceptance is still on its way.
        peers = (peer, None if claim is None else claim.peer)
        return any(each is not None and each.arrival == connection for each in peers)

    def _unregister(self, uuid: str, connection: int) -> None:
        if self._bus.ready:
            self._bus.call(
                partial(self._unregistered, uuid, connection),
                *("unregister", uuid, self._name, connection, self._recent_ms),
            )
        else:
            self._remember(uuid, connection)

    def _unregistered(self, uuid: str, connection: int, reply: Any) -> None:
        if isinstance(reply, Exception):
            self._remember(uuid, connection)
        else:
            self._part(1)

    def _part(self, most: int) -> None:
        """Send some farewells. All at once would keep this node from the replies."""
        while self._farewells and most:
            (uuid, connection), _ = self._farewells.popitem(last=False)
            if not self._holds(uuid, connection):
                self._unregister(uuid, connection)
                most -= 1

    def _remember(self, uuid: str, connection: int) -> None:
        self._farewells[uuid, connection] = None
        if len(self._farewells) > MAX_FAREWELLS:
            self._farewells.popitem(last=False)

    def kick(self, kick: codec.Kick) -> None:
        """Close a connection that another node has replaced."""
        peer = self._relay.registry.get(kick.uuid)
        claim = self._pending.get(kick.uuid)
        if peer is not None and peer.arrival == kick.connection:
            self._supersede(peer, kick.code == Forbidden.code)
        elif claim is not None and claim.peer.arrival == kick.connection:
            claim.is_kicked = True  # its own acceptance is still on its way

    def _supersede(self, peer: Peer, is_foreign: bool) -> None:
        if is_foreign:
            text = "The client UUID is already registered to another user."
            self._relay.refuse(peer, Forbidden(text))
            return
        refusal = Superseded()
        self._relay.leave(peer, REPLACED, LeaveReason.REPLACED)
        peer.close(refusal.code, refusal.reason)

    # -- asserting again

    def assert_all(self) -> None:
        """Assert all registrations of this node, and send the farewells."""
        self.unsynced = OrderedDict.fromkeys(
            peer.registration.uuid
            for peer in self._relay.registry
            if peer.registration is not None
        )
        self._part(BATCH)
        self._next_batch()

    def tick(self) -> None:
        """Assert due registrations; to be called twice a second."""
        now = self._clock()
        while self._inquiries:
            key, inquiries = next(iter(self._inquiries.items()))
            if now - inquiries[0].asked < QUESTION_SECONDS:
                break
            del self._inquiries[key]
            for inquiry in inquiries:
                inquiry.decided(None)
        if not self._bus.ready:
            return
        passed = now - self._last_share
        if passed >= SHARE_SECONDS:
            self._last_share = now
            self._assert_share(passed)
        self._next_batch()

    def _assert_share(self, passed: float) -> None:
        """Assert those that are next, so that each is asserted in time."""
        if not self._due:
            self._due = [
                peer.registration.uuid
                for peer in self._relay.registry
                if peer.registration is not None
            ]
        share = int(len(self._relay.registry) * passed / ASSERT_SECONDS) + 1
        for uuid in self._due[-share:]:
            self.unsynced[uuid] = None
        del self._due[-share:]

    def _next_batch(self) -> None:
        if self._in_batch or not self._bus.ready:
            return
        batch: list[tuple[str, Peer]] = []
        words: list[str | int] = []
        for uuid in list(islice(self.unsynced, BATCH)):
            peer = self._relay.registry.get(uuid)
            if peer is None:
                del self.unsynced[uuid]
                continue
            batch.append((uuid, peer))
            words += (uuid, peer.arrival, hashed_user(self._issuer, peer.user.sub))
            words.append(self._bus.engine_time(self._stamps(peer)))
        if batch:
            self._in_batch = True
            done = partial(self._batch_asserted, batch)
            self._bus.call(done, "again", self._name, self._recent_ms, *words)

    def _batch_asserted(self, batch: list[tuple[str, Peer]], reply: Any) -> None:
        self._in_batch = False
        if isinstance(reply, Exception):
            return  # until the next tick
        all_well = True
        for (uuid, peer), each in zip(batch, reply, strict=True):
            all_well &= self._asserted(uuid, peer, each)
        if all_well:
            self._next_batch()

    def _asserted(self, uuid: str, peer: Peer, reply: Any) -> bool:
        kind: bytes = reply[0]
        if self._relay.registry.get(uuid) is peer:
            if kind == b"OK":
                self.asserted += 1
                self.unsynced.pop(uuid, None)
            elif kind in {b"STALE", b"FOREIGN"}:
                self.stale += 1
                self.unsynced.pop(uuid, None)
                is_foreign = kind == b"FOREIGN"
                self._ask(
                    *(reply[1].decode(), uuid, int(reply[2])),
                    partial(self._judged, uuid, peer, is_foreign),
                )
        return kind == b"OK"

    def _judged(
        self, uuid: str, peer: Peer, is_foreign: bool, is_held: bool | None
    ) -> None:
        if self._relay.registry.get(uuid) is not peer:
            return
        if is_held:
            self._supersede(peer, is_foreign)
        else:
            self.unsynced[uuid] = None

    # -- questions between nodes

    def _ask(
        self,
        node: str,
        uuid: str,
        connection: int,
        decided: Callable[[bool | None], None],
    ) -> None:
        inquiries = self._inquiries.setdefault((node, uuid, connection), [])
        inquiries.append(Inquiry(self._clock(), decided))
        if len(inquiries) == 1:
            self.say(node, partial(codec.Question, uuid=uuid, connection=connection))

    def asked(self, question: codec.Question) -> None:
        """Tell another node whether a connection is there."""
        uuid, connection = question.uuid, question.connection
        is_held = self._holds(uuid, connection)
        if not is_held:
            self._unregister(uuid, connection)
        self.say(
            question.node,
            partial(
                codec.Confirmation, uuid=uuid, connection=connection, is_held=is_held
            ),
        )

    def told(self, answer: codec.Confirmation) -> None:
        """Hear from another node whether a connection is there."""
        key = answer.node, answer.uuid, answer.connection
        for inquiry in self._inquiries.pop(key, ()):
            inquiry.decided(answer.is_held)

"""Limits of addresses and users. Pure: time is an argument, in seconds.

A closed connection may disable the endpoint behind it for good. So a client over a
limit is asked to come back before its registration (1013), and is read more slowly
after it. Clients without room wait in the accept queue. Only a connection without a
complete handshake may end before its timeout.

A *debt* is the time at which past events are within their rate; see `Rate`.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from proxyrelay import config
from proxyrelay.errors import TryAgainLater
from proxyrelay.net.proxies import Proxies
from proxyrelay.net.rate import MAX_WAIT_SECONDS, Rate
from proxyrelay.switchboard.user import ANONYMOUS, User

RESERVED_DESCRIPTORS = 64
"""Open files for other uses: the log, listening sockets, Globus Auth."""

ROOM_SHARE = 16
"""A full relay accepts again when one connection in so many has left."""

EVICTION_GRACE_SECONDS = 3.0
"""Time for an honest client's request, while the relay has no backlog."""

MESSAGES_PER_ANSWER = 10
"""Messages that one answer counts as: it costs a write, and perhaps a log line."""

MAX_REMEMBERED_ADDRESSES = 10_000
"""Addresses without a connection that are remembered for their debt."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Origin(Generic[T]):
    """An address, or a network that counts as one address.

    Attributes:
        limited: Whether the limits of one address apply.
        open: Number of admitted connections.
        unregistered: Connections without a UUID, the oldest first, with their times of
            arrival.
        ending: Number of other connections without a UUID, which were evicted.
    """

    name: str
    limited: bool
    open: int = 0
    unregistered: dict[T, float] = field(default_factory=dict)
    ending: int = 0
    registration_debt: float = 0.0
    message_debt: float = 0.0


class Limits(Generic[T]):
    """Counts of connections and rates of messages, compared with their limits.

    Attributes:
        proxies: Trusted proxies, which name a client's address.
        unregistered: Number of connections without a UUID.
        burst: Seconds by which a debt may lie ahead of the time.
    """

    def __init__(self, settings: config.Limits) -> None:
        self.unregistered = 0
        self._origins: dict[str, Origin[T]] = {}
        self._ending: set[T] = set()
        # Addresses by their number of unregistered connections.
        self._crowds: defaultdict[int, dict[Origin[T], None]] = defaultdict(dict)
        self._owing: OrderedDict[str, Origin[T]] = OrderedDict()
        self._users: dict[User, int] = {}
        self._full = False
        self.apply(settings)

    def apply(self, settings: config.Limits) -> None:
        """Apply other settings from now on, and close no connection."""
        self._settings = settings
        self.proxies = Proxies(settings.trusted_proxies)
        burst = self.burst = settings.burst
        self._ceiling = burst + MAX_WAIT_SECONDS
        self._cost = 1 / settings.messages_per_client
        self._address_cost = 1 / settings.messages_per_address
        self._address_registers = Rate(settings.registrations_per_address, burst)
        self._address_speaks = Rate(settings.messages_per_address, burst)
        self._speaks = Rate(settings.messages_per_client, burst)
        self._registers = Rate(settings.registrations_per_client, burst)

    @property
    def users(self) -> int:
        """Number of users with a connection, if clients authenticate."""
        return len(self._users)

    def announced(self, host: str) -> bool:
        """Whether connections of an address begin with a PROXY header."""
        return self._settings.proxy_protocol and self.proxies.trust(host)

    # -- counts

    def room(self, sockets: int, descriptors: int) -> bool:
        """Whether one more connection fits, beside so many, with so many files."""

        def has_room(count: int, ceiling: int) -> bool:
            # A full relay stays full until there is room for several.
            return count < ceiling - (ceiling // ROOM_SHARE if self._full else 0)

        settings = self._settings
        ceiling = max(1, descriptors - RESERVED_DESCRIPTORS)
        self._full = not (
            has_room(sockets, min(settings.connections or ceiling, ceiling))
            and has_room(self.unregistered, settings.unregistered)
        )
        return not self._full

    def arrive(
        self, connection: T, name: str, limited: bool = True, now: float = 0.0
    ) -> Origin[T]:
        """Count a connection of an address or network, until `leave`."""
        origin = self._origin(name, limited)
        origin.unregistered[connection] = now
        self._recount(origin, 1)
        self.unregistered += 1
        return origin

    def readmit(self, name: str, limited: bool, user: User) -> Origin[T]:
        """Count an admitted connection that has a UUID already, over any limit."""
        origin = self._origin(name, limited)
        origin.open += 1
        if user != ANONYMOUS:
            self._users[user] = self._users.get(user, 0) + 1
        return origin

    def _origin(self, name: str, limited: bool) -> Origin[T]:
        origin = self._origins.get(name)
        if origin is None:
            origin = self._owing.pop(name, None) or Origin(name, limited)
            self._origins[name] = origin
        origin.limited = limited
        return origin

    def over_address_cap(self, origin: Origin[T], now: float) -> T | None:
        """Connection to evict, if an address has too many without a UUID.

        It is the oldest one, unless that is young: clients that come back after a fault
        need `EVICTION_GRACE_SECONDS`. Each connection is returned once.
        """
        ceiling = self._settings.unregistered_per_address
        if len(origin.unregistered) <= ceiling or not origin.limited:
            return None
        return self._oldest(origin, now)

    def over_total_cap(self, now: float) -> T | None:
        """Connection to evict, if the relay has nearly too many without a UUID.

        It is the oldest one of the address with the most, even of an address without
        limits. So a client with few addresses cannot keep all others out. None while
        enough evicted connections are ending.
        """
        ceiling = self._settings.unregistered
        waiting = self.unregistered - len(self._ending)
        if waiting < ceiling - ceiling // ROOM_SHARE or not self._crowds:
            return None
        return self._oldest(next(iter(self._crowds[max(self._crowds)])), now)

    def _oldest(self, origin: Origin[T], now: float) -> T | None:
        oldest, since = next(iter(origin.unregistered.items()))
        if not now - since > EVICTION_GRACE_SECONDS:
            return None
        del origin.unregistered[oldest]
        self._recount(origin, -1)
        origin.ending += 1
        self._ending.add(oldest)
        return oldest

    def _recount(self, origin: Origin[T], change: int) -> None:
        """Move an address among the crowds."""
        count = len(origin.unregistered)
        before = count - change
        self._crowds[before].pop(origin, None)
        if not self._crowds[before]:
            del self._crowds[before]
        if count:
            self._crowds[count][origin] = None

    def admit(self, origin: Origin[T], user: User) -> None:
        """Admit a connection after its authentication, if there is one.

        Raises:
            TryAgainLater: Too many of its address, or of its user.
        """
        settings = self._settings
        if origin.limited and origin.open >= settings.connections_per_address:
            raise TryAgainLater("Too many connections from this address.")
        if user != ANONYMOUS:
            count = self._users.get(user, 0)
            if count >= settings.connections_per_user:
                raise TryAgainLater("Too many connections of this user.")
            self._users[user] = count + 1
        origin.open += 1

    def settle(self, connection: T, origin: Origin[T]) -> None:
        """Note that a connection holds a UUID, or is lost."""
        if connection in origin.unregistered:
            del origin.unregistered[connection]
            self._recount(origin, -1)
        elif connection in self._ending:
            self._ending.discard(connection)
            origin.ending -= 1
        else:
            return
        self.unregistered -= 1

    def leave(
        self, connection: T, origin: Origin[T], now: float, user: User | None = None
    ) -> None:
        """Forget a connection, of a user once admitted. A debt of its address stays."""
        self.settle(connection, origin)
        if user is not None:
            origin.open -= 1
            count = self._users.pop(user, 0) - 1
            if count > 0:
                self._users[user] = count
        if origin.open or origin.unregistered or origin.ending:
            return
        del self._origins[origin.name]
        if max(origin.registration_debt, origin.message_debt) > now:
            self._owing[origin.name] = origin
            if len(self._owing) > MAX_REMEMBERED_ADDRESSES:
                self._owing.popitem(last=False)

    # -- rates

    def register(self, origin: Origin[T], now: float) -> None:
        """Charge a registration to an address.

        Raises:
            TryAgainLater: Too many from this address.
        """
        if origin.limited:
            debt, rate = origin.registration_debt, self._address_registers
            if rate.over(debt, now):
                raise TryAgainLater("Too many registrations from this address.")
            origin.registration_debt = rate.spend(debt, now)

    def register_again(self, debt: float, now: float) -> float:
        """New registration debt of a client after a further registration.

        Raises:
            TryAgainLater: Too many of this client.
        """
        if self._registers.over(debt, now):
            raise TryAgainLater("Too many registrations of this client.")
        return self._registers.spend(debt, now)

    def charge_answer(self, debt: float, now: float) -> float:
        """New message debt of a client after an answer to it."""
        return self._speaks.spend(debt, now, MESSAGES_PER_ANSWER)

    def charge_messages(
        self, origin: Origin[T], debt: float, now: float, count: int
    ) -> float:
        """New message debt of a client after messages. Its address is charged too."""
        # As `Rate.spend`, without two calls for each read. max() takes thrice as long.
        ceiling = now + self._ceiling
        if origin.limited:
            owed = origin.message_debt
            owed = (owed if owed > now else now) + count * self._address_cost  # noqa: FURB136
            origin.message_debt = owed if owed < ceiling else ceiling  # noqa: FURB136
        debt = (debt if debt > now else now) + count * self._cost  # noqa: FURB136
        return debt if debt < ceiling else ceiling  # noqa: FURB136

    def too_fast(
        self, origin: Origin[T], debt: float, now: float, since: float | None = None
    ) -> bool:
        """Whether a client is over its rate and is not read now.

        For other clients of its address it waits `MAX_WAIT_SECONDS` at most, from the
        begin of the pause (``since``). Otherwise these could make it wait for ever.
        """
        if self._speaks.over(debt, now):
            return True
        patient = since is None or now - since < MAX_WAIT_SECONDS
        return patient and self._address_speaks.over(origin.message_debt, now)

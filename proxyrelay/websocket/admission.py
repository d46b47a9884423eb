"""Who may connect, how much, how fast. Pure: time is an argument.

A relay that closes a connection may disable the endpoint behind it for good. So
whoever is over a limit is asked to come back before it has registered (1013), and is
read from more slowly after that; a crowd that does not fit waits to be accepted. Only
what does not even complete its handshake may be ended before its time.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Hashable
from typing import Generic, TypeVar

from proxyrelay import config
from proxyrelay.errors import TryAgainLater
from proxyrelay.net.proxy_header import Proxies
from proxyrelay.net.rate import LONGEST, Rate
from proxyrelay.switchboard.user import ANONYMOUS, User

RESERVE = 64
"""Open files that are not for clients: the log, listening sockets, Globus Auth."""

ROOM = 16
"""When the relay is full, one in so many must leave before it accepts again."""

MOMENT = 3.0
"""Seconds in which an honest client has sent its request, if the relay keeps up."""

ANSWER = 10
"""Messages that an answer counts as: the client is written to for it, and perhaps told
of in the log."""

REMEMBERED = 10_000
"""Addresses without a connection of which is known that they were too fast."""

T = TypeVar("T", bound=Hashable)


class Origin(Generic[T]):
    """What is known of an address, or of a network that counts as one.

    Attributes:
        name: The address.
        limited: Whether the limits of one address apply.
        open: Connections that were let in.
        unregistered: Those that hold no UUID yet, the oldest first, with the times
            at which they came.
        ending: How many there are besides whose time is over.
        registered: When its registrations are paid for.
        message_debt: When its messages are.
    """

    __slots__ = (
        *("ending", "limited", "name", "open"),
        *("message_debt", "registered", "unregistered"),
    )

    def __init__(self, name: str, limited: bool) -> None:
        self.name = name
        self.limited = limited
        self.open = 0
        self.unregistered: dict[T, float] = {}
        self.ending = 0
        self.registered = 0.0
        self.message_debt = 0.0


class Limits(Generic[T]):
    """Counts connections and what they do, and says when it is too much.

    Args:
        settings: What is too much.

    Attributes:
        proxies: Who is believed when it says where a connection comes from.
        unregistered: Connections that hold no UUID yet, of all addresses.
    """

    def __init__(self, settings: config.Limits) -> None:
        self.unregistered = 0
        self._origins: dict[str, Origin[T]] = {}
        self._ending: set[T] = set()
        # By how many connections they have whose time is not over, and the most.
        self._crowds: defaultdict[int, dict[Origin[T], None]] = defaultdict(dict)
        self._most = 0
        self._owing: OrderedDict[str, Origin[T]] = OrderedDict()
        self._users: dict[User, int] = {}
        self._full = False
        self.change(settings)

    def change(self, settings: config.Limits) -> None:
        """Apply other settings from now on. Nobody is closed for them."""
        self._settings = settings
        self.proxies = Proxies(settings.trusted_proxies)
        burst = settings.burst
        self._address_registers = Rate(settings.registrations_per_address, burst)
        self._address_speaks = Rate(settings.messages_per_address, burst)
        self._speaks = Rate(settings.messages_per_client, burst)
        self._registers = Rate(settings.registrations_per_client, burst)

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._origins) + len(self._owing)

    @property
    def users(self) -> int:
        """How many users have connections, if clients have to prove who they are."""
        return len(self._users)

    # -- whom

    def announced(self, host: str) -> bool:
        """Whether an address is a proxy's that says first whom it speaks for."""
        return self._settings.proxy_protocol and self.proxies.trust(host)

    # -- how many

    def room(self, sockets: int, descriptors: int) -> bool:
        """Whether one more connection may be accepted now.

        Args:
            sockets: Connections that there are, in whatever state.
            descriptors: How many files the process may have open.
        """
        settings = self._settings
        ceiling = max(1, descriptors - RESERVE)
        ceiling = min(settings.connections or ceiling, ceiling)
        # Full is full until there is room for several.
        share = ROOM if self._full else ceiling + settings.unregistered
        self._full = (
            sockets > ceiling - 1 - ceiling // share
            or self.unregistered
            > settings.unregistered - 1 - settings.unregistered // share
        )
        return not self._full

    def arrive(
        self, connection: T, name: str, limited: bool = True, now: float = 0.0
    ) -> Origin[T]:
        """Count a connection that was accepted.

        Args:
            connection: It, until it leaves.
            name: Where it comes from.
            limited: Whether the limits of one address apply to that.
            now: The time in seconds.

        Returns:
            All that is known of that address.
        """
        origin = self._origins.get(name)
        if origin is None:
            origin = self._owing.pop(name, None) or Origin(name, limited)
            self._origins[name] = origin
        origin.limited = limited
        origin.unregistered[connection] = now
        self._recount(origin, 1)
        self.unregistered += 1
        return origin

    def over_address_cap(self, origin: Origin[T], now: float) -> T | None:
        """A connection whose time is over before its deadline, since one more has come.

        It is the oldest of an address that has too many which hold no UUID, unless
        that is young: a crowd that comes back after a fault needs a moment. It is named
        once; its end may take several steps.
        """
        ceiling = self._settings.unregistered_per_address
        if len(origin.unregistered) <= ceiling or not origin.limited:
            return None
        return self._oldest(origin, now)

    def over_total_cap(self, now: float) -> T | None:
        """A connection whose time is over since hardly any more may hold no UUID.

        It is the oldest of the address that has the most of them, in the same way,
        whatever its limits: who has few addresses cannot keep all others out. None
        where as many are ending already as must.
        """
        settings = self._settings
        waiting = self.unregistered - len(self._ending)
        if waiting < settings.unregistered - settings.unregistered // ROOM or (
            not self._most
        ):
            return None
        return self._oldest(next(iter(self._crowds[self._most])), now)

    def _oldest(self, origin: Origin[T], now: float) -> T | None:
        oldest, since = next(iter(origin.unregistered.items()))
        if not now - since > MOMENT:
            return None
        del origin.unregistered[oldest]
        self._recount(origin, -1)
        origin.ending += 1
        self._ending.add(oldest)
        return oldest

    def _recount(self, origin: Origin[T], change: int) -> None:
        """Note that an address has one connection more, or less, that may register.

        So the one that has the most is at hand, without a look at the others.
        """
        count = len(origin.unregistered)
        self._crowds[count - change].pop(origin, None)
        if count:
            self._crowds[count][origin] = None
        if count > self._most or not self._crowds[self._most]:
            self._most = count

    def admit(self, origin: Origin[T], user: User) -> None:
        """Let a connection in, whose user is known now.

        Without authentication everybody is one user, for whom there is no limit.

        Raises:
            TryAgainLater: There are too many of its address, or of its user.
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
        """A connection holds a UUID, or is lost."""
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
        """Forget a connection, and its address if nothing is to be remembered.

        Args:
            connection: What has arrived.
            origin: Where from.
            now: The time in seconds.
            user: Who was admitted with it; None if nobody was.
        """
        self.settle(connection, origin)
        if user is not None:
            origin.open -= 1
        if user is not None and user != ANONYMOUS:
            count = self._users.pop(user) - 1
            if count:
                self._users[user] = count
        if origin.open or origin.unregistered or origin.ending:
            return
        del self._origins[origin.name]
        if max(origin.registered, origin.message_debt) > now:
            self._owing[origin.name] = origin
            if len(self._owing) > REMEMBERED:
                self._owing.popitem(last=False)

    # -- how fast

    def register(self, origin: Origin[T], now: float) -> None:
        """Note a registration.

        Args:
            origin: Where it comes from.
            now: The time in seconds.

        Raises:
            TryAgainLater: There were too many from there.
        """
        if not origin.limited:
            return
        if self._address_registers.over(origin.registered, now):
            raise TryAgainLater("Too many registrations from this address.")
        origin.registered = self._address_registers.spend(origin.registered, now)

    def register_again(self, due: float, now: float) -> float:
        """Note a registration of a client that has registered before.

        Args:
            due: When those before, but for the first, are paid for.
            now: The time in seconds.

        Returns:
            When that is from now on.

        Raises:
            TryAgainLater: There were too many.
        """
        if self._registers.over(due, now):
            raise TryAgainLater("Too many registrations of this client.")
        return self._registers.spend(due, now)

    def answered(self, due: float, now: float) -> float:
        """Note an answer to a client: to a registration, or to an offer in vain.

        Args:
            due: When what it has sent is paid for.
            now: The time in seconds.

        Returns:
            When that is from now on.
        """
        return self._speaks.spend(due, now, ANSWER)

    def heard(self, origin: Origin[T], due: float, now: float, count: int) -> float:
        """Note that messages of a client have come.

        Args:
            origin: Where from.
            due: When what it has sent before is paid for.
            now: The time in seconds.
            count: How many.

        Returns:
            When that is from now on.
        """
        if origin.limited:
            origin.message_debt = self._address_speaks.spend(
                origin.message_debt, now, count
            )
        return self._speaks.spend(due, now, count)

    def too_fast(
        self, origin: Origin[T], due: float, now: float, since: float | None = None
    ) -> bool:
        """Whether a client is not to be read from now.

        For others of its address it waits no longer than `LONGEST`: those that are read
        from first could have it wait for ever.

        Args:
            origin: Where it comes from.
            due: When what it has sent is paid for.
            now: The time in seconds.
            since: From when on it has not been read from; None if it was just now.
        """
        latest = now + self._settings.burst
        if due <= latest and origin.message_debt <= latest:
            return False
        if self._speaks.over(due, now):
            return True
        patient = since is None or now - since < LONGEST
        return patient and self._address_speaks.over(origin.message_debt, now)

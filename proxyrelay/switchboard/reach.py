"""Whether clients can reach each other, as far as offers and answers tell. Pure."""

from __future__ import annotations

from collections.abc import Callable

from proxyrelay.switchboard import events, messages
from proxyrelay.switchboard.candidates import is_private_only, kinds_of
from proxyrelay.switchboard.events import FIGHT_TAKEOVERS, Observer
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.pairs import Pairs
from proxyrelay.switchboard.peer import Peer, Registration, Sent

LOOK_SECONDS = 60.0
"""Seconds from one look at the candidates of a client to the next."""


class Reach:
    """Looks at candidates, and at pairs that do not connect.

    Attributes:
        pairs: The pairs whose offers a client of this relay has made.
    """

    def __init__(self, observer: Observer, clock: Callable[[], float]) -> None:
        self.pairs = Pairs()
        self._observer = observer
        self._clock = clock

    def look(self, sent: Sent) -> None:
        """Note the candidates of a client, by an offer or answer of it.

        It is due at the time of `Registration.look_due`. A description that is none for
        ICE changes nothing.
        """
        registration = sent.registration
        registration.look_due = self._clock() + LOOK_SECONDS
        kinds = kinds_of(messages.sdp_of(sent.message) or "")
        if not kinds:
            return
        registration.candidates = kinds
        if is_private_only(kinds) and not registration.is_private_told:
            registration.is_private_told = True
            self._observer(
                events.PrivateOnly(
                    *(registration.uuid, registration.name),
                    *(sent.peer.user.sub, sent.peer.address),
                    is_repeat=registration.takeovers > FIGHT_TAKEOVERS,
                )
            )

    def answered(
        self, offer: Offer, source: Peer, target: Registration, now: float
    ) -> None:
        """Note that an answer has reached the client that made the offer."""
        if source.registration is None:
            return
        pair = self.pairs.note(source.registration, target, offer, now)
        if pair is not None:
            self._observer(
                events.Unconnected(
                    *(pair.source.uuid, pair.target.uuid, source.user.sub),
                    count=pair.count,
                    seconds=now - pair.began,
                    cause=pair.cause.name.lower(),
                    reason=pair.cause.value,
                )
            )

    def tick(self) -> None:
        """Forget what is too old; to be called twice a second."""
        self.pairs.forget(self._clock())

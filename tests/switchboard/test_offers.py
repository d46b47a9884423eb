"""Outstanding offers, beside a model that looks through a list for everything."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Offers
from proxyrelay.switchboard.offers import (
    CONNECTED_PAIRS,
    CONNECTED_SECONDS,
    MAX_HELD_BYTES,
    OUTSTANDING,
    OUTSTANDING_OF_ONE,
    OUTSTANDING_OF_USER,
    Offer,
    OfferTable,
)
from tests.support.recording import A, B, C

TERMS = Offers(held_per_user=2, held_total=3)


def made(
    source: str = A, target: str = B, since: float = 0.0, holder: str = "me"
) -> Offer:
    """An offer that can be passed on."""
    return Offer(source, target, "a", since, holder=holder)


def waiting(
    source: str = A,
    target: str = B,
    since: float = 0.0,
    holder: str = "me",
    length: int = 1,
) -> Offer:
    """An offer that can wait."""
    return Offer(source, target, "a", since, b"x" * length, holder=holder)


class LedgerTests(SynchronousTestCase):
    """The bounds, and what a machine with few names does not come to."""

    def test_an_offer_is_closed_once(self) -> None:
        ledger, first = OfferTable(), made()
        ledger.add(first)
        self.assertTrue(ledger.close(first))
        self.assertFalse(ledger.close(first))
        ledger.add(made())
        self.assertFalse(ledger.close(first))
        self.assertEqual(len(ledger), 1)

    def test_an_offer_to_oneself_is_one_offer(self) -> None:
        ledger, alone = OfferTable(), made(A, A)
        ledger.add(alone)
        self.assertEqual(ledger.of(A), [alone])
        self.assertTrue(ledger.close(alone))
        self.assertEqual(ledger.of(A), [])

    def test_bounds_the_offers_of_a_client_on_both_sides(self) -> None:
        ledger = OfferTable()
        for number in range(OUTSTANDING_OF_ONE):
            self.assertIsNone(ledger.full(made(A, B)))
            pair = (A, str(number)) if number % 2 else (str(number), A)
            ledger.add(made(*pair))
        self.assertIsNotNone(ledger.full(made(A, B)))
        self.assertIsNotNone(ledger.full(made(B, A)))
        self.assertIsNone(ledger.full(made(B, C)))
        ledger.close(ledger.of(A)[0])
        self.assertIsNone(ledger.full(made(A, B)))

    def test_a_full_client_takes_room_from_the_largest_holder(self) -> None:
        ledger = OfferTable()
        for number in range(OUTSTANDING_OF_ONE):
            ledger.add(made(str(number), A, holder="few" if number < 24 else "many"))
        # It has more elsewhere, which does not count here.
        for number in range(OUTSTANDING_OF_ONE):
            ledger.add(made(str(number), str(-number - 1), holder="few"))
        for number in range(24, 520):
            one = made(C, A, holder="few" if number < 500 else "new")
            full = ledger.full(one)
            assert full is not None
            gone = full.displaced(one.holder)
            assert gone is not None
            self.assertEqual((gone.source, gone.holder), (str(number), "many"))
            ledger.close(gone)
            ledger.add(made(f"+{number}", A, holder=one.holder))
        full = ledger.full(made(C, A))
        assert full is not None
        self.assertEqual([full.size(one) for one in ("few", "many")], [500, 504])
        self.assertIsNone(full.displaced("many"))
        self.assertIsNone(ledger.full(made(C, B)))
        for offer in ledger.of(A)[: OUTSTANDING_OF_ONE // 2 + 1]:
            self.assertIn(A, ledger._crowds)
            ledger.close(offer)
        self.assertEqual(ledger._crowds, {})

    def test_bounds_the_offers_of_all(self) -> None:
        ledger = OfferTable()
        for number in range(OUTSTANDING):
            holder = "few" if number < 9 else str(number % 16)
            ledger.add(made(str(number), str(-number - 1), holder=holder))
        for holder in ("few", "me"):
            full = ledger.full(made(holder=holder))
            assert full is not None
            gone = full.displaced(holder)
            assert gone is not None
            self.assertNotEqual(gone.holder, "few")
            ledger.close(gone)
            self.assertIsNone(ledger.full(made(holder=holder)))
            ledger.add(made(holder, B))

    def test_bounds_those_of_one_holder(self) -> None:
        ledger = OfferTable()
        for number in range(OUTSTANDING_OF_USER):
            ledger.add(made(str(number), str(-number - 1)))
        one = made()
        self.assertFalse(ledger.allows(one))
        self.assertTrue(ledger.allows(made(holder="you")))
        ledger.close(ledger.of("0")[0])
        self.assertTrue(ledger.allows(one))

    def test_an_address_without_limits_has_no_bound_of_its_own(self) -> None:
        ledger = OfferTable()
        for number in range(OUTSTANDING_OF_USER):
            ledger.add(made(str(number), str(-number - 1)))
        one = made()
        one.capped = False
        self.assertTrue(ledger.allows(one))
        for pair in ((A, B), (B, C), (C, A), (A, C)):
            one = waiting(*pair)
            one.capped = False
            self.assertEqual(ledger.hold(one, TERMS), pair != (A, C))
            # Nobody has more than this one.
            self.assertIsNone(ledger.displaced(one, TERMS))

    def test_bounds_what_waits(self) -> None:
        ledger = OfferTable()
        self.assertFalse(ledger.hold(waiting(length=MAX_HELD_BYTES + 1), TERMS))
        first = waiting(A, B, length=MAX_HELD_BYTES)
        self.assertTrue(ledger.hold(first, TERMS))
        self.assertTrue(ledger.hold(waiting(A, C), TERMS))
        self.assertFalse(ledger.hold(waiting(B, C), TERMS))
        self.assertIsNone(ledger.displaced(waiting(B, C, holder="they"), TERMS))
        self.assertTrue(ledger.hold(waiting(B, C, holder="they"), TERMS))
        self.assertEqual((ledger.held, len(ledger)), (3, 3))
        # Who has the most makes room.
        other = waiting(C, B, holder="others")
        self.assertFalse(ledger.hold(other, TERMS))
        self.assertIs(ledger.displaced(other, TERMS), first)
        self.assertIsNone(ledger.displaced(waiting(C, B), TERMS))
        long = waiting(C, B, holder="others", length=MAX_HELD_BYTES + 1)
        self.assertIsNone(ledger.displaced(long, TERMS))
        ledger.pass_on(first)
        self.assertTrue(ledger.hold(other, TERMS))
        self.assertIsNone(ledger.displaced(waiting(C, A, holder="others"), TERMS))

    def test_bounds_who_has_found_each_other(self) -> None:
        ledger = OfferTable()
        for number in range(CONNECTED_PAIRS):
            ledger.mark_connected(A, str(number), 0.0)
        ledger.mark_connected(A, B, 1.0)
        self.assertEqual(ledger.last_connected(A, B, 1.0), -math.inf)
        # Who is known stays so, and makes room in the end.
        ledger.mark_connected("0", A, 1.0)
        self.assertEqual(ledger.last_connected(A, "0", 1.0), 1.0)
        now = CONNECTED_SECONDS
        ledger.forget(now)
        ledger.mark_connected(A, B, now)
        self.assertEqual(ledger.last_connected(B, A, now), now)
        self.assertEqual(ledger.last_connected(A, "0", now), 1.0)


UUIDS = st.sampled_from([A, B, C])
HOLDERS = st.sampled_from(["me", "they"])


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of steps, and a list of all that stands in the ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = OfferTable()
        self.model: list[Offer] = []
        self.answers: list[tuple[set[str], float]] = []
        self.now = 0.0

    def found(self, source: str, peer: str) -> Offer | None:
        for offer in self.model:
            if (offer.source, offer.target) == (source, peer):
                return offer
        return None

    def held(self, holder: str | None = None) -> list[Offer]:
        return [
            offer
            for offer in self.model
            if offer.text is not None and holder in {None, offer.holder}
        ]

    @rule(source=UUIDS, peer=UUIDS, holder=HOLDERS)
    def add(self, source: str, peer: str, holder: str) -> None:
        if self.found(source, peer) is None:
            offer = made(source, peer, self.now, holder)
            self.ledger.add(offer)
            self.model.append(offer)

    @rule(source=UUIDS, peer=UUIDS, holder=HOLDERS)
    def hold(self, source: str, peer: str, holder: str) -> None:
        if self.found(source, peer) is None:
            offer = waiting(source, peer, self.now, holder)
            room = len(self.held()) < 3 and len(self.held(holder)) < 2
            assert self.ledger.hold(offer, TERMS) == room
            if room:
                self.model.append(offer)

    @rule(source=UUIDS, peer=UUIDS)
    def pass_on(self, source: str, peer: str) -> None:
        offer = self.found(source, peer)
        if offer is not None and offer.text is not None:
            self.ledger.pass_on(offer)
            assert offer.text is None

    @rule(source=UUIDS, peer=UUIDS)
    def close(self, source: str, peer: str) -> None:
        offer = self.found(source, peer)
        if offer is not None:
            assert self.ledger.close(offer)
            self.model.remove(offer)
        assert not self.ledger.close(made(source, peer))

    @rule(one=UUIDS, other=UUIDS)
    def mark_connected(self, one: str, other: str) -> None:
        self.ledger.mark_connected(one, other, self.now)
        self.answers.append(({one, other}, self.now))

    @rule()
    def forget(self) -> None:
        self.ledger.forget(self.now)
        lately = {
            tuple(sorted(pair)) for pair, when in self.answers if self.now - when < 10
        }
        assert len(self.ledger._answered) == len(lately)

    @rule(seconds=st.integers(0, 5))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(seconds=st.integers(0, 9))
    def look(self, seconds: int) -> None:
        old = [o for o in self.model if self.now - o.since >= seconds]
        assert self.ledger.unanswered(self.now, seconds) == old
        unclaimed = [o for o in old if o.text is not None]
        assert self.ledger.unclaimed(self.now, seconds) == unclaimed

    @invariant()
    def holds_what_was_written_down(self) -> None:
        assert len(self.ledger) == len(self.model)
        assert self.ledger.held == len(self.held())
        for source in (A, B, C):
            assert self.ledger.of(source) == [
                o for o in self.model if source in {o.source, o.target}
            ]
            for peer in (A, B, C):
                assert self.ledger.find(source, peer) is self.found(source, peer)
                found = [when for pair, when in self.answers if pair == {source, peer}]
                last = found[-1] if found and self.now - found[-1] < 10 else -math.inf
                assert self.ledger.last_connected(source, peer, self.now) == last


class LedgerMachineTests(SynchronousTestCase):
    """Runs the machine."""

    def test_any_sequence(self) -> None:
        run_state_machine_as_test(
            LedgerMachine, settings=settings(max_examples=60, stateful_step_count=40)
        )

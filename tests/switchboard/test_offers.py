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
    CONNECTED_SECONDS,
    MAX_CONNECTED_PAIRS,
    MAX_HELD_BYTES,
    MAX_OFFERS,
    MAX_OFFERS_OF_CLIENT,
    MAX_OFFERS_OF_HOLDER,
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


class OfferTableTests(SynchronousTestCase):
    """The bounds, and what a machine with few names does not come to."""

    def test_table_offer_is_closed_once(self) -> None:
        table, first = OfferTable(), made()
        table.add(first)
        self.assertTrue(table.close(first))
        self.assertFalse(table.close(first))
        table.add(made())
        self.assertFalse(table.close(first))
        self.assertEqual(len(table), 1)

    def test_table_offer_to_oneself_is_one_offer(self) -> None:
        table, alone = OfferTable(), made(A, A)
        table.add(alone)
        self.assertEqual(table.of(A), [alone])
        self.assertTrue(table.close(alone))
        self.assertEqual(table.of(A), [])

    def test_table_full_client_has_no_room_on_either_side(self) -> None:
        table = OfferTable()
        for number in range(MAX_OFFERS_OF_CLIENT):
            self.assertIsNone(table.full(made(A, B)))
            pair = (A, str(number)) if number % 2 else (str(number), A)
            table.add(made(*pair))
        self.assertIsNotNone(table.full(made(A, B)))
        self.assertIsNotNone(table.full(made(B, A)))
        self.assertIsNone(table.full(made(B, C)))
        table.close(table.of(A)[0])
        self.assertIsNone(table.full(made(A, B)))

    def test_table_full_client_takes_room_from_the_largest_holder(self) -> None:
        table = OfferTable()
        for number in range(MAX_OFFERS_OF_CLIENT):
            table.add(made(str(number), A, holder="few" if number < 24 else "many"))
        # It has more elsewhere, which does not count here.
        for number in range(MAX_OFFERS_OF_CLIENT):
            table.add(made(str(number), str(-number - 1), holder="few"))
        for number in range(24, 520):
            one = made(C, A, holder="few" if number < 500 else "new")
            full = table.full(one)
            assert full is not None
            gone = full.displaced(one.holder)
            assert gone is not None
            self.assertEqual((gone.source, gone.holder), (str(number), "many"))
            table.close(gone)
            table.add(made(f"+{number}", A, holder=one.holder))
        full = table.full(made(C, A))
        assert full is not None
        self.assertEqual([full.size(one) for one in ("few", "many")], [500, 504])
        self.assertIsNone(full.displaced("many"))
        self.assertIsNone(table.full(made(C, B)))
        for offer in table.of(A)[: MAX_OFFERS_OF_CLIENT // 2 + 1]:
            self.assertIn(A, table._crowds)
            table.close(offer)
        self.assertEqual(table._crowds, {})

    def test_full_table_takes_room_from_the_largest_holder(self) -> None:
        table = OfferTable()
        for number in range(MAX_OFFERS):
            holder = "few" if number < 9 else str(number % 16)
            table.add(made(str(number), str(-number - 1), holder=holder))
        for holder in ("few", "me"):
            full = table.full(made(holder=holder))
            assert full is not None
            gone = full.displaced(holder)
            assert gone is not None
            self.assertNotEqual(gone.holder, "few")
            table.close(gone)
            self.assertIsNone(table.full(made(holder=holder)))
            table.add(made(holder, B))

    def test_table_bounds_the_offers_of_one_holder(self) -> None:
        table = OfferTable()
        for number in range(MAX_OFFERS_OF_HOLDER):
            table.add(made(str(number), str(-number - 1)))
        one = made()
        self.assertFalse(table.allows(one))
        self.assertTrue(table.allows(made(holder="you")))
        table.close(table.of("0")[0])
        self.assertTrue(table.allows(one))

    def test_table_address_without_limits_has_no_bound_of_its_own(self) -> None:
        table = OfferTable()
        for number in range(MAX_OFFERS_OF_HOLDER):
            table.add(made(str(number), str(-number - 1)))
        one = made()
        one.capped = False
        self.assertTrue(table.allows(one))
        for pair in ((A, B), (B, C), (C, A), (A, C)):
            one = waiting(*pair)
            one.capped = False
            self.assertEqual(table.hold(one, TERMS), pair != (A, C))
            # Nobody has more than this one.
            self.assertIsNone(table.displaced(one, TERMS))

    def test_table_bounds_waiting_offers(self) -> None:
        table = OfferTable()
        self.assertFalse(table.hold(waiting(length=MAX_HELD_BYTES + 1), TERMS))
        first = waiting(A, B, length=MAX_HELD_BYTES)
        self.assertTrue(table.hold(first, TERMS))
        self.assertTrue(table.hold(waiting(A, C), TERMS))
        self.assertFalse(table.hold(waiting(B, C), TERMS))
        self.assertIsNone(table.displaced(waiting(B, C, holder="they"), TERMS))
        self.assertTrue(table.hold(waiting(B, C, holder="they"), TERMS))
        self.assertEqual((table.held, len(table)), (3, 3))
        # Who has the most makes room.
        other = waiting(C, B, holder="others")
        self.assertFalse(table.hold(other, TERMS))
        self.assertIs(table.displaced(other, TERMS), first)
        self.assertIsNone(table.displaced(waiting(C, B), TERMS))
        long = waiting(C, B, holder="others", length=MAX_HELD_BYTES + 1)
        self.assertIsNone(table.displaced(long, TERMS))
        table.mark_passed_on(first)
        self.assertTrue(table.hold(other, TERMS))
        self.assertIsNone(table.displaced(waiting(C, A, holder="others"), TERMS))

    def test_table_bounds_connected_pairs(self) -> None:
        table = OfferTable()
        for number in range(MAX_CONNECTED_PAIRS):
            table.mark_connected(A, str(number), 0.0)
        table.mark_connected(A, B, 1.0)
        self.assertEqual(table.last_connected(A, B, 1.0), -math.inf)
        # Who is known stays so, and makes room in the end.
        table.mark_connected("0", A, 1.0)
        self.assertEqual(table.last_connected(A, "0", 1.0), 1.0)
        now = CONNECTED_SECONDS
        table.forget(now)
        table.mark_connected(A, B, now)
        self.assertEqual(table.last_connected(B, A, now), now)
        self.assertEqual(table.last_connected(A, "0", now), 1.0)


UUIDS = st.sampled_from([A, B, C])
HOLDERS = st.sampled_from(["me", "they"])


class OfferTableMachine(RuleBasedStateMachine):
    """Any sequence of steps, and a list of all that stands in the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = OfferTable()
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
            self.table.add(offer)
            self.model.append(offer)

    @rule(source=UUIDS, peer=UUIDS, holder=HOLDERS)
    def hold(self, source: str, peer: str, holder: str) -> None:
        if self.found(source, peer) is None:
            offer = waiting(source, peer, self.now, holder)
            room = len(self.held()) < 3 and len(self.held(holder)) < 2
            assert self.table.hold(offer, TERMS) == room
            if room:
                self.model.append(offer)

    @rule(source=UUIDS, peer=UUIDS)
    def pass_on(self, source: str, peer: str) -> None:
        offer = self.found(source, peer)
        if offer is not None and offer.text is not None:
            self.table.mark_passed_on(offer)
            assert offer.text is None

    @rule(source=UUIDS, peer=UUIDS)
    def close(self, source: str, peer: str) -> None:
        offer = self.found(source, peer)
        if offer is not None:
            assert self.table.close(offer)
            self.model.remove(offer)
        assert not self.table.close(made(source, peer))

    @rule(one=UUIDS, other=UUIDS)
    def mark_connected(self, one: str, other: str) -> None:
        self.table.mark_connected(one, other, self.now)
        self.answers.append(({one, other}, self.now))

    @rule()
    def forget(self) -> None:
        self.table.forget(self.now)
        lately = {
            tuple(sorted(pair)) for pair, when in self.answers if self.now - when < 10
        }
        assert len(self.table._answered) == len(lately)

    @rule(seconds=st.integers(0, 5))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(seconds=st.integers(0, 9))
    def look(self, seconds: int) -> None:
        old = [o for o in self.model if self.now - o.since >= seconds]
        assert self.table.unanswered(self.now, seconds) == old
        unclaimed = [o for o in old if o.text is not None]
        assert self.table.unclaimed(self.now, seconds) == unclaimed

    @invariant()
    def holds_what_was_written_down(self) -> None:
        assert len(self.table) == len(self.model)
        assert self.table.held == len(self.held())
        for source in (A, B, C):
            assert self.table.of(source) == [
                o for o in self.model if source in {o.source, o.target}
            ]
            for peer in (A, B, C):
                assert self.table.find(source, peer) is self.found(source, peer)
                found = [when for pair, when in self.answers if pair == {source, peer}]
                last = found[-1] if found and self.now - found[-1] < 10 else -math.inf
                assert self.table.last_connected(source, peer, self.now) == last


class OfferTableMachineTests(SynchronousTestCase):
    """Runs the machine."""

    def test_table_any_sequence_matches_the_model(self) -> None:
        run_state_machine_as_test(
            OfferTableMachine,
            settings=settings(max_examples=60, stateful_step_count=40),
        )

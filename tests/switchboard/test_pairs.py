"""Pairs of clients that do not connect."""

from __future__ import annotations

from uuid import UUID

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.switchboard import pairs
from proxyrelay.switchboard.candidates import HOST, ICE, PRIVATE_IPV4, Cause
from proxyrelay.switchboard.offers import Offer
from proxyrelay.switchboard.pairs import EXCHANGES, WINDOW_SECONDS, Pairs, PairState
from proxyrelay.switchboard.peer import Registration
from tests.support.recording import A, B

LAN = ICE | HOST | PRIVATE_IPV4


def held(uuid: str, since: float = 0.0, candidates: int = LAN) -> Registration:
    """A hold on a UUID since a time."""
    return Registration(uuid, "a", False, since, candidates=candidates)


class PairTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pairs = Pairs()
        self.one, self.other = held(A), held(B)

    def exchange(self, now: float, backwards: bool = False) -> PairState | None:
        one, other = (self.one, self.other)[:: -1 if backwards else 1]
        offer = Offer(one.uuid, other.uuid, "a", now, user="jo", holder="jo")
        return self.pairs.note(one, other, offer, now)

    def test_pair_with_three_exchanges_is_unconnected_once(self) -> None:
        found = [self.exchange(now) for now in (1.0, 60.0, 300.0, 310.0)]
        self.assertEqual([each is not None for each in found], [0, 0, 1, 0])
        (pair,) = self.pairs.unconnected()
        self.assertIs(pair, found[2])
        self.assertEqual((pair.source, pair.target, pair.user), (A, B, "jo"))
        self.assertEqual((pair.count, pair.began, pair.times[-1]), (4, 1.0, 310.0))
        self.assertIs(pair.cause, Cause.PRIVATE)

    def test_pair_counts_offers_in_both_directions(self) -> None:
        self.exchange(1.0)
        self.exchange(2.0, backwards=True)
        found = self.exchange(3.0, backwards=True)
        assert found is not None
        self.assertEqual((found.source, found.target), (B, A))
        self.assertEqual(len(self.pairs), 1)

    def test_pair_with_rare_exchanges_is_no_trouble(self) -> None:
        for number in range(10):
            now = 1 + number * WINDOW_SECONDS / 2
            self.pairs.forget(now)
            self.assertIsNone(self.exchange(now))
        self.assertEqual(self.pairs.unconnected(), [])

    def test_pair_counts_the_exchanges_of_a_sliding_window(self) -> None:
        found = [self.exchange(now) for now in (1.0, 500.0, 700.0, 800.0)]
        self.assertEqual([each is not None for each in found], [0, 0, 0, 1])

    def test_pair_begins_anew_after_a_registration(self) -> None:
        for restarted in (False, True):
            self.exchange(1.0)
            self.exchange(2.0)
            self.one, self.other = held(A, 2.5 * restarted), held(B, 2.5)
            self.assertIsNone(self.exchange(3.0))
            self.assertIsNone(self.exchange(4.0))
            self.assertIsNotNone(self.exchange(5.0))
            self.one = held(A, 5.5)
            self.assertIsNone(self.exchange(6.0))
            self.assertEqual(self.pairs.unconnected(), [])
            self.pairs.forget(6.0 + WINDOW_SECONDS)
            self.one, self.other = held(A), held(B)

    def test_pair_without_candidates_of_ice_does_not_count(self) -> None:
        for one, other in ((0, LAN), (LAN, 0), (0, 0)):
            self.one, self.other = held(A, 0, one), held(B, 0, other)
            for now in range(2 * EXCHANGES):
                self.assertIsNone(self.exchange(float(now)))
        self.assertEqual(len(self.pairs), 0)

    def test_pair_has_the_cause_of_the_last_exchange(self) -> None:
        for now in range(EXCHANGES):
            self.exchange(float(now))
        self.other.candidates = ICE
        self.exchange(10.0, backwards=True)
        (pair,) = self.pairs.unconnected()
        self.assertIs(pair.cause, Cause.NO_ADDRESS)
        self.assertEqual((pair.source_kinds, pair.target_kinds), (ICE, LAN))

    def test_pair_is_forgotten_after_its_last_exchange(self) -> None:
        for now in (0.0, 1.0, 2.0):
            self.exchange(now)
        self.pairs.forget(1.9 + WINDOW_SECONDS)
        self.assertEqual(len(self.pairs.unconnected()), 1)
        self.pairs.forget(2.0 + WINDOW_SECONDS)
        self.assertEqual((len(self.pairs), self.pairs.unconnected()), (0, []))
        self.assertIsNone(self.exchange(3.0 + WINDOW_SECONDS))

    def test_pairs_are_forgotten_some_at_a_time(self) -> None:
        self.patch(pairs, "MAX_FORGOTTEN_PER_TICK", 2)
        for number in range(3):
            self.one = held(str(UUID(int=number)))
            self.exchange(0.0)
        left = []
        for _ in range(3):
            self.pairs.forget(WINDOW_SECONDS)
            left.append(len(self.pairs))
        self.assertEqual(left, [1, 0, 0])

    def test_full_table_forgets_a_pair_of_the_largest_holder(self) -> None:
        self.patch(pairs, "MAX_PAIRS", 4)
        for now in (0.0, 1.0, 2.0):
            self.exchange(now)
        other = held(B)
        for number in range(10):
            one = held(str(UUID(int=number)))
            offer = Offer(one.uuid, B, "a", 3.0, holder="stranger")
            self.pairs.note(one, other, offer, 3.0)
        self.assertEqual(len(self.pairs), 4)
        (pair,) = self.pairs.unconnected()
        self.assertEqual(pair.holder, "jo")

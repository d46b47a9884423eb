"""Fair shares, beside a model that counts anew each time."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.switchboard.shares import Shares

HOLDERS = st.sampled_from("abc")


class SharesMachine(RuleBasedStateMachine):
    """Any sequence of steps, and a list of all items with their holders."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: Shares[int] = Shares()
        self.model: list[tuple[str, int]] = []
        self.count = 0

    @rule(holder=HOLDERS)
    def add(self, holder: str) -> None:
        self.count += 1
        self.shares.add(holder, self.count)
        self.model.append((holder, self.count))

    @rule(place=st.integers(0, 20))
    def remove(self, place: int) -> None:
        if place < len(self.model):
            self.shares.remove(*self.model.pop(place))

    @invariant()
    def the_largest_makes_room(self) -> None:
        sizes = Counter(holder for holder, _ in self.model)
        largest = max(sizes.values(), default=0)
        oldest = {
            next(item for holder, item in self.model if holder == each)
            for each, size in sizes.items()
            if size == largest
        }
        for holder in "abcd":
            assert self.shares.size(holder) == sizes[holder]
            found = self.shares.displaced(holder)
            assert found in oldest if sizes[holder] < largest else found is None
        if self.model:
            assert self.shares.oldest() in oldest
        else:
            # Nothing stays behind.
            assert not self.shares._items
            assert not self.shares._holders


class SharesTests(SynchronousTestCase):
    """Runs the machine."""

    def test_shares_any_sequence_matches_the_model(self) -> None:
        run_state_machine_as_test(
            SharesMachine, settings=settings(max_examples=60, stateful_step_count=40)
        )

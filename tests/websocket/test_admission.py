"""Limits of addresses and users, without connections."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay import config
from proxyrelay.errors import TryAgainLater
from proxyrelay.switchboard.user import ANONYMOUS, User
from proxyrelay.websocket.admission import (
    EVICTION_GRACE_SECONDS,
    MAX_REMEMBERED_ADDRESSES,
    MESSAGES_PER_ANSWER,
    RESERVED_DESCRIPTORS,
    ROOM_SHARE,
    Limits,
    Origin,
)

LATER = 100.0
"""Time at which connections of time 0 are no longer young."""

HERE, THERE = "192.0.2.1", "192.0.2.2"
ME, YOU = User("me"), User("you")

FILES = 1_000_000


def limits(**values: Any) -> Limits[int]:
    """Limits with other settings than the defaults."""
    return Limits(config.Limits(**values))


class CountTests(SynchronousTestCase):
    """Numbers of connections."""

    def admitted(self, of: Limits[int], count: int, user: User, name: str) -> int:
        """Number of admitted connections among so many."""
        done = 0
        for _ in range(count):
            origin = of.arrive(done, name)
            try:
                of.admit(origin, user)
            except TryAgainLater:
                break
            of.settle(done, origin)
            done += 1
        return done

    def test_room_ends_at_setting_or_open_files(self) -> None:
        few = limits(connections=3)
        for sockets, room in ((2, True), (3, False), (2, True)):
            self.assertIs(few.room(sockets, FILES), room)
        for many in (limits(), limits(connections=1000)):
            self.assertTrue(many.room(99, RESERVED_DESCRIPTORS + 100))
            self.assertFalse(many.room(100, RESERVED_DESCRIPTORS + 100))
            self.assertFalse(many.room(1, 0))
            self.assertTrue(many.room(0, 0))

    def test_room_after_full_begins_with_space_for_several(self) -> None:
        most = 10 * ROOM_SHARE
        many = limits(connections=most)
        for sockets, room in (
            *((most, False), (most - 10, False), (most - 11, True), (most - 1, True)),
        ):
            self.assertIs(many.room(sockets, FILES), room)

    def test_room_ends_at_unregistered(self) -> None:
        few = limits(unregistered=2)
        origin = few.arrive(0, HERE)
        self.assertTrue(few.room(1, FILES))
        few.arrive(1, THERE, limited=False)
        self.assertFalse(few.room(2, FILES))
        few.settle(0, origin)
        few.settle(0, origin)
        self.assertTrue(few.room(2, FILES))
        self.assertEqual(few.unregistered, 1)

    def test_admit_of_one_address_or_user_ends_at_setting(self) -> None:
        few = limits(connections_per_address=3, connections_per_user=4)
        for user, name, count in (
            (ANONYMOUS, HERE, 3),
            (ME, HERE, 0),
            (ME, THERE, 3),
            (ME, "192.0.2.3", 1),
            (YOU, "192.0.2.4", 3),
            (ANONYMOUS, "192.0.2.5", 3),
        ):
            self.assertEqual(self.admitted(few, 9, user, name), count)

    def test_over_address_cap_gives_the_oldest_once_unless_young(self) -> None:
        few, late = limits(unregistered_per_address=2), 10 + EVICTION_GRACE_SECONDS
        for connection in range(100):
            origin = few.arrive(connection, HERE, now=10)
            self.assertIsNone(few.over_address_cap(origin, late))
        named = [few.over_address_cap(origin, LATER) for _ in range(100)]
        self.assertEqual(named, [*range(98), None, None])

    def test_over_total_cap_gives_the_oldest_of_the_largest_crowd(self) -> None:
        few = limits(unregistered=9)
        for connection, name in enumerate("abbcbbcb"):
            few.arrive(connection, name, limited=name != "b")
            self.assertIsNone(few.over_total_cap(LATER))
        few.arrive(8, "a")
        self.assertFalse(few.room(9, FILES))
        self.assertIsNone(few.over_total_cap(EVICTION_GRACE_SECONDS))
        self.assertEqual(few.over_total_cap(LATER), 1)
        # One ending connection is enough, until one more arrives.
        self.assertIsNone(few.over_total_cap(LATER))
        for connection, name, named in ((9, "a", 2), (10, "a", 0), (11, "b", 4)):
            few.arrive(connection, name, now=LATER)
            self.assertEqual(few.over_total_cap(LATER), named)
            self.assertIsNone(few.over_total_cap(LATER))

    def test_over_total_cap_makes_room_for_several(self) -> None:
        many = limits(unregistered=10 * ROOM_SHARE)
        origins = [
            many.arrive(connection, str(connection % 5))
            for connection in range(10 * ROOM_SHARE)
        ]
        self.assertFalse(many.room(0, FILES))
        named = list(iter(lambda: many.over_total_cap(LATER), None))
        self.assertEqual(sorted(named), list(range(11)))
        for connection in named:
            self.assertFalse(many.room(0, FILES))
            many.settle(connection, origins[connection])
        self.assertTrue(many.room(0, FILES))
        self.assertIsNone(many.over_total_cap(LATER))

    def test_apply_of_lower_limits_closes_nothing(self) -> None:
        many = limits()
        self.admitted(many, 5, ME, HERE)
        many.apply(config.Limits(connections=1, connections_per_user=1))
        self.assertFalse(many.room(5, FILES))
        self.assertEqual(self.admitted(many, 1, ME, HERE), 0)
        changed = config.Limits(trusted_proxies=("192.0.2.0/24",))
        many.apply(changed)
        self.assertEqual(self.admitted(many, 1, ME, HERE), 1)
        self.assertTrue(many.proxies.trust(HERE))
        self.assertFalse(many.announced(HERE))
        many.apply(replace(changed, proxy_protocol=True))
        self.assertTrue(many.announced(HERE))
        self.assertFalse(many.announced("203.0.113.1"))


class RateTests(SynchronousTestCase):
    """Registrations and messages per second."""

    def test_register_over_rate_of_address_is_refused(self) -> None:
        slow = limits(registrations_per_address=1, burst=3)
        origin = slow.arrive(0, HERE)
        for _ in range(4):
            slow.register(origin, 100)
        self.assertRaises(TryAgainLater, slow.register, origin, 100)
        self.assertRaises(TryAgainLater, slow.register, origin, 100.9)
        slow.register(origin, 101)
        slow.register(slow.arrive(1, THERE), 100)

    def test_register_again_over_rate_of_client_is_refused(self) -> None:
        slow = limits(registrations_per_client=1, burst=3)
        due = 0.0
        for _ in range(4):
            due = slow.register_again(due, 100)
        self.assertRaises(TryAgainLater, slow.register_again, due, 100.9)
        due = slow.register_again(due, 101)
        self.assertRaises(TryAgainLater, slow.register_again, due, 101)

    def test_client_over_its_rate_is_too_fast(self) -> None:
        slow = limits(messages_per_client=10, burst=2)
        origin = slow.arrive(0, HERE)
        due = slow.charge_messages(origin, 0, 100, 20)
        self.assertFalse(slow.too_fast(origin, due, 100))
        due = slow.charge_messages(origin, due, 100, 1)
        self.assertTrue(slow.too_fast(origin, due, 100))
        self.assertFalse(slow.too_fast(origin, due, 100.2))
        self.assertFalse(slow.too_fast(origin, 0, 100))

    def test_client_with_answers_over_its_rate_is_too_fast(self) -> None:
        slow = limits(messages_per_client=MESSAGES_PER_ANSWER, burst=2)
        origin = slow.arrive(0, HERE)
        due = slow.charge_answer(slow.charge_answer(0, 100), 100)
        self.assertFalse(slow.too_fast(origin, due, 100))
        self.assertTrue(slow.too_fast(origin, slow.charge_answer(due, 100), 100))

    def test_client_of_address_over_rate_is_too_fast_for_a_while(self) -> None:
        slow = limits(messages_per_address=10, messages_per_client=10, burst=2)
        origin, other = slow.arrive(0, HERE), slow.arrive(1, THERE)
        for now in (100, 100.5, 101 - 0.01):
            due = slow.charge_messages(origin, 0, now, 90)
            self.assertTrue(slow.too_fast(origin, 0, now, since=100))
            self.assertFalse(slow.too_fast(other, 0, now))
        self.assertFalse(slow.too_fast(origin, 0, 101, since=100))
        self.assertTrue(slow.too_fast(origin, 0, 101))
        self.assertTrue(slow.too_fast(origin, due, 101, since=100))

    def test_address_without_limits_has_no_rates(self) -> None:
        slow = limits(messages_per_address=1, registrations_per_address=1, burst=1)
        origin = slow.arrive(0, HERE, limited=False)
        for _ in range(9):
            slow.register(origin, 100)
            slow.charge_messages(origin, 0, 100, 9)
        self.assertFalse(slow.too_fast(origin, 0, 100))

    def test_address_that_comes_back_keeps_its_debt(self) -> None:
        slow = limits(registrations_per_address=1, burst=1)
        for connection in range(2):
            origin = slow.arrive(connection, HERE)
            slow.register(origin, 100)
            slow.leave(connection, origin, 100)
        self.assertIs(slow.arrive(2, HERE), origin)
        self.assertRaises(TryAgainLater, slow.register, origin, 100)
        slow.leave(2, origin, 200)
        self.assertIsNot(slow.arrive(3, HERE), origin)

    def test_addresses_over_bound_are_forgotten(self) -> None:
        slow, origins = limits(), []
        for number in range(MAX_REMEMBERED_ADDRESSES + 10):
            origins.append(slow.arrive(0, str(number)))
            slow.register(origins[-1], 100)
            slow.leave(0, origins[-1], 100)
        for number, is_kept in ((9, False), (10, True), (len(origins) - 1, True)):
            found = slow.arrive(0, str(number)) is origins[number]
            self.assertIs(found, is_kept)


class LimitsMachine(RuleBasedStateMachine):
    """Connections arrive, are admitted, settle and leave, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: Limits[int] = limits(
            connections_per_user=2,
            connections_per_address=3,
            unregistered=7,
            unregistered_per_address=4,
        )
        self.now = 1000.0
        self.count = 0
        self.origins: dict[int, Origin[int]] = {}
        self.users: dict[int, User] = {}
        self.came: dict[int, float] = {}
        self.settled: set[int] = set()
        self.evicted: set[int] = set()

    def waiting(self, origin: Origin[int]) -> list[int]:
        """Connections of an address that were not evicted, the oldest first."""
        over = self.settled | self.evicted
        return [c for c in self.origins if self.origins[c] is origin and c not in over]

    def evict(self, connection: int, origin: Origin[int]) -> None:
        assert self.waiting(origin)[0] == connection
        assert self.now - self.came[connection] > EVICTION_GRACE_SECONDS
        self.evicted.add(connection)

    def some(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.origins)))

    @rule(name=st.sampled_from(["a", "b", "c"]), passed=st.floats(0, 100))
    def arrive(self, name: str, passed: float) -> None:
        self.now += passed
        self.count += 1
        origin = self.limits.arrive(self.count, name, name != "c", self.now)
        self.origins[self.count] = origin
        self.came[self.count] = self.now
        oldest = self.limits.over_address_cap(origin, self.now)
        if oldest is not None:
            assert len(self.waiting(origin)) > 4
            assert origin.limited
            self.evict(oldest, origin)

    @rule()
    def make_room(self) -> None:
        crowds = {o.name: self.waiting(o) for o in self.origins.values()}
        most = max(map(len, crowds.values()), default=0)
        count = sum(map(len, crowds.values()))
        found = self.limits.over_total_cap(self.now)
        if found is not None:
            assert count >= 7
            origin = self.origins[found]
            assert len(self.waiting(origin)) == most
            self.evict(found, origin)
        elif count >= 7:
            oldest = [c[0] for c in crowds.values() if len(c) == most]
            assert any(
                self.now - self.came[c] <= EVICTION_GRACE_SECONDS for c in oldest
            )

    @precondition(lambda self: self.origins)
    @rule(data=st.data(), user=st.sampled_from([ANONYMOUS, ME, YOU]))
    def admit(self, data: st.DataObject, user: User) -> None:
        connection = self.some(data)
        if connection in self.users:
            return
        origin = self.origins[connection]
        beside = [c for c in self.users if self.origins[c] is origin]
        same = [c for c in self.users if self.users[c] == user]
        full = origin.limited and len(beside) >= 3
        full = full or (user != ANONYMOUS and len(same) >= 2)
        try:
            self.limits.admit(origin, user)
        except TryAgainLater:
            assert full
        else:
            assert not full
            self.users[connection] = user

    @precondition(lambda self: self.origins)
    @rule(data=st.data())
    def speak(self, data: st.DataObject) -> None:
        origin = self.origins[self.some(data)]
        self.limits.charge_messages(origin, 0, self.now, 1000)

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(sorted(self.users)))
        if connection in self.evicted:
            return
        self.limits.settle(connection, self.origins[connection])
        self.settled.add(connection)

    @precondition(lambda self: self.origins)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        connection = self.some(data)
        origin = self.origins.pop(connection)
        user = self.users.pop(connection, None)
        self.limits.leave(connection, origin, self.now, user)

    @invariant()
    def counts_what_is_there(self) -> None:
        waiting = [c for c in self.origins if c not in self.settled]
        assert self.limits.unregistered == len(waiting)
        for origin in self.origins.values():
            assert list(origin.unregistered) == self.waiting(origin)
            mine = [c for c in waiting if self.origins[c] is origin]
            assert len(mine) == len(origin.unregistered) + origin.ending
            beside = [c for c in self.users if self.origins[c] is origin]
            assert origin.open == len(beside)
        names = {origin.name for origin in self.origins.values()}
        assert set(self.limits._origins) == names
        assert not names & set(self.limits._owing)
        assert set(self.limits._users) == set(self.users.values()) - {ANONYMOUS}
        assert self.limits.users == len(self.limits._users)


class StatefulTests(SynchronousTestCase):
    """`LimitsMachine`."""

    def test_limits_in_any_order_count_right(self) -> None:
        run_state_machine_as_test(
            LimitsMachine, settings=settings(max_examples=60, stateful_step_count=40)
        )

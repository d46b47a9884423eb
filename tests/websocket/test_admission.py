"""Who may connect, how much, how fast: the rules, without a connection."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
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
from proxyrelay.net.rate import MAX_WAIT_SECONDS, Rate
from proxyrelay.switchboard.user import ANONYMOUS, User
from proxyrelay.websocket.admission import (
    MAX_REMEMBERED_ADDRESSES,
    MESSAGES_PER_ANSWER,
    PATIENCE_SECONDS,
    RESERVED_DESCRIPTORS,
    ROOM_SHARE,
    Limits,
    Origin,
)

LATER = 100.0
"""When nobody is young any more who came at 0."""

HERE = "192.0.2.1"
ME, YOU = User("me"), User("you")

FILES = 1_000_000


def limits(**values: Any) -> Limits[int]:
    """Limits with other settings than the defaults."""
    return Limits(config.Limits(**values))


class RateTests(SynchronousTestCase):
    """How often something may happen."""

    def test_a_burst_and_then_so_many_in_a_second(self) -> None:
        rate = Rate(per_second=2, burst=5)
        due = 0.0
        for _ in range(10):
            due = rate.spend(due, 100)
            self.assertFalse(rate.over(due, 100))
        due = rate.spend(due, 100)
        self.assertTrue(rate.over(due, 100))
        self.assertFalse(rate.over(due, 100.5))

    def test_what_is_beyond_is_forgiven(self) -> None:
        rate = Rate(per_second=2, burst=5)
        due = rate.spend(0, 100, 1_000_000)
        self.assertTrue(rate.over(due, 100 + MAX_WAIT_SECONDS - 0.01))
        self.assertFalse(rate.over(due, 100 + MAX_WAIT_SECONDS))

    @given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
    def test_no_more_than_the_burst_and_the_rate(
        self, steps: list[tuple[float, bool]]
    ) -> None:
        rate = Rate(per_second=2, burst=5)
        due, now, done = 0.0, 1000.0, 0
        for passed, wanted in steps:
            now += passed
            if wanted and not rate.over(due, now):
                due = rate.spend(due, now)
                done += 1
        self.assertLessEqual(done, 2 * (5 + now - 1000) + 1.001)


class ConnectionTests(SynchronousTestCase):
    """How many there may be."""

    def admitted(self, of: Limits[int], count: int, user: User, name: str) -> int:
        """How many of so many connections are let in."""
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

    def test_in_total(self) -> None:
        few = limits(connections=3)
        self.assertTrue(few.room(2, FILES))
        self.assertFalse(few.room(3, FILES))
        self.assertTrue(few.room(2, FILES))

    def test_as_many_as_there_are_files(self) -> None:
        for many in (limits(), limits(connections=1000)):
            self.assertTrue(many.room(99, RESERVED_DESCRIPTORS + 100))
            self.assertFalse(many.room(100, RESERVED_DESCRIPTORS + 100))
            self.assertFalse(many.room(1, 0))
            self.assertTrue(many.room(0, 0))

    def test_full_until_there_is_room_for_several(self) -> None:
        many = limits(connections=10 * ROOM_SHARE)
        self.assertFalse(many.room(10 * ROOM_SHARE, FILES))
        self.assertFalse(many.room(10 * ROOM_SHARE - 10, FILES))
        self.assertTrue(many.room(10 * ROOM_SHARE - 11, FILES))
        self.assertTrue(many.room(10 * ROOM_SHARE - 1, FILES))

    def test_unregistered_in_total(self) -> None:
        few = limits(unregistered=2)
        origin = few.arrive(0, HERE)
        self.assertTrue(few.room(1, FILES))
        few.arrive(1, "192.0.2.2", limited=False)
        self.assertFalse(few.room(2, FILES))
        few.settle(0, origin)
        few.settle(0, origin)
        self.assertTrue(few.room(2, FILES))
        self.assertEqual(few.unregistered, 1)

    def test_of_one_address(self) -> None:
        few = limits(connections_per_address=3)
        self.assertEqual(self.admitted(few, 9, ANONYMOUS, HERE), 3)
        self.assertEqual(self.admitted(few, 9, ME, "192.0.2.2"), 3)

    def test_of_an_address_without_limits(self) -> None:
        few = limits(connections_per_address=1, unregistered_per_address=1)
        for connection in range(9):
            origin = few.arrive(connection, HERE, limited=False)
            self.assertIsNone(few.over_address_cap(origin, LATER))
            few.admit(origin, ANONYMOUS)

    def test_of_one_user(self) -> None:
        few = limits(connections_per_user=3)
        self.assertEqual(self.admitted(few, 9, ME, HERE), 3)
        self.assertEqual(self.admitted(few, 9, ME, "192.0.2.2"), 0)
        self.assertEqual(self.admitted(few, 9, YOU, "192.0.2.2"), 3)

    def test_everybody_is_no_user(self) -> None:
        few = limits(connections_per_user=1)
        self.assertEqual(self.admitted(few, 9, ANONYMOUS, HERE), 9)

    def test_who_is_refused_gets_in_later(self) -> None:
        few = limits(connections_per_user=1, connections_per_address=1)
        origin = few.arrive(0, HERE)
        few.admit(origin, ME)
        self.assertRaises(TryAgainLater, few.admit, few.arrive(1, HERE), YOU)
        other = few.arrive(2, "192.0.2.2")
        self.assertRaises(TryAgainLater, few.admit, other, ME)
        few.leave(0, origin, 0, ME)
        few.admit(other, ME)
        few.admit(origin, YOU)

    def test_those_without_a_uuid_have_had_their_time(self) -> None:
        few = limits(unregistered_per_address=2)
        origin = few.arrive(0, HERE)
        for connection in (1, 2):
            self.assertIsNone(few.over_address_cap(origin, LATER))
            few.arrive(connection, HERE)
        few.arrive(7, "192.0.2.2")
        self.assertEqual(few.over_address_cap(origin, LATER), 0)
        self.assertIsNone(few.over_address_cap(origin, LATER))
        # It takes a while to go; meanwhile it is another one's turn.
        few.arrive(3, HERE)
        self.assertEqual(few.over_address_cap(origin, LATER), 1)
        few.leave(0, origin, 0)
        few.settle(3, origin)
        self.assertIsNone(few.over_address_cap(origin, LATER))
        for connection in (1, 2):
            few.leave(connection, origin, 0)
        self.assertEqual((few.unregistered, len(few)), (1, 1))

    def test_a_crowd_has_a_moment(self) -> None:
        few = limits(unregistered_per_address=2)
        for connection in range(100):
            origin = few.arrive(connection, HERE, now=10)
            self.assertIsNone(few.over_address_cap(origin, 10 + PATIENCE_SECONDS))
        named = [few.over_address_cap(origin, LATER) for _ in range(100)]
        self.assertEqual(named, [*range(98), None, None])

    def test_those_of_the_address_that_has_most(self) -> None:
        few = limits(unregistered=9)
        for connection, name in enumerate("abbcbbcb"):
            few.arrive(connection, name, limited=name != "b")
            self.assertIsNone(few.over_total_cap(LATER))
        few.arrive(8, "a")
        self.assertFalse(few.room(9, FILES))
        self.assertIsNone(few.over_total_cap(PATIENCE_SECONDS))
        self.assertEqual(few.over_total_cap(LATER), 1)
        # One that is ending is enough, until one more comes.
        self.assertIsNone(few.over_total_cap(LATER))
        for connection, name, named in ((9, "a", 2), (10, "a", 0), (11, "b", 4)):
            few.arrive(connection, name, now=LATER)
            self.assertEqual(few.over_total_cap(LATER), named)
            self.assertIsNone(few.over_total_cap(LATER))

    def test_as_many_of_them_as_there_has_to_be_room_for(self) -> None:
        many = limits(unregistered=10 * ROOM_SHARE)
        for connection in range(10 * ROOM_SHARE):
            many.arrive(connection, str(connection % 5))
        self.assertFalse(many.room(0, FILES))
        named = list(iter(lambda: many.over_total_cap(LATER), None))
        self.assertEqual(len(named), 11)
        self.assertEqual(sorted(named), list(range(11)))
        for connection in named:
            self.assertFalse(many.room(0, FILES))
            many.settle(connection, many._origins[str(connection % 5)])
        self.assertTrue(many.room(0, FILES))
        self.assertIsNone(many.over_total_cap(LATER))

    def test_other_settings_close_nobody(self) -> None:
        many = limits()
        self.admitted(many, 5, ME, HERE)
        many.apply(config.Limits(connections=1, connections_per_user=1))
        self.assertFalse(many.room(5, FILES))
        self.assertEqual(self.admitted(many, 1, ME, HERE), 0)
        many.apply(config.Limits(trusted_proxies=("192.0.2.0/24",)))
        self.assertEqual(self.admitted(many, 1, ME, HERE), 1)
        self.assertTrue(many.proxies.trust(HERE))
        self.assertFalse(many.announced(HERE))
        many.apply(replace(many._settings, proxy_protocol=True))
        self.assertTrue(many.announced(HERE))
        self.assertFalse(many.announced("203.0.113.1"))


class SpeedTests(SynchronousTestCase):
    """How fast clients may be."""

    def test_registrations_of_one_address(self) -> None:
        slow = limits(registrations_per_address=1, burst=3)
        origin = slow.arrive(0, HERE)
        for _ in range(4):
            slow.register(origin, 100)
        self.assertRaises(TryAgainLater, slow.register, origin, 100)
        self.assertRaises(TryAgainLater, slow.register, origin, 100.9)
        slow.register(origin, 101)
        slow.register(slow.arrive(1, "192.0.2.2"), 100)

    def test_messages_of_one_client(self) -> None:
        slow = limits(messages_per_client=10, burst=2)
        origin = slow.arrive(0, HERE)
        due = slow.charge_messages(origin, 0, 100, 20)
        self.assertFalse(slow.too_fast(origin, due, 100))
        due = slow.charge_messages(origin, due, 100, 1)
        self.assertTrue(slow.too_fast(origin, due, 100))
        self.assertFalse(slow.too_fast(origin, due, 100.2))
        self.assertFalse(slow.too_fast(origin, 0, 100))

    def test_registrations_of_one_client(self) -> None:
        slow = limits(registrations_per_client=1, burst=3)
        due = 0.0
        for _ in range(4):
            due = slow.register_again(due, 100)
        self.assertRaises(TryAgainLater, slow.register_again, due, 100.9)
        due = slow.register_again(due, 101)
        self.assertRaises(TryAgainLater, slow.register_again, due, 101)

    def test_answers_to_one_client(self) -> None:
        slow = limits(messages_per_client=MESSAGES_PER_ANSWER, burst=2)
        origin = slow.arrive(0, HERE)
        due = slow.charge_answer(slow.charge_answer(0, 100), 100)
        self.assertFalse(slow.too_fast(origin, due, 100))
        self.assertTrue(slow.too_fast(origin, slow.charge_answer(due, 100), 100))

    def test_messages_of_one_address(self) -> None:
        slow = limits(messages_per_address=10, burst=2)
        origin = slow.arrive(0, HERE)
        other = slow.arrive(1, "192.0.2.2")
        slow.charge_messages(origin, 0, 100, 21)
        self.assertTrue(slow.too_fast(origin, 0, 100))
        self.assertFalse(slow.too_fast(other, 0, 100))

    def test_nobody_waits_for_ever_for_others_of_its_address(self) -> None:
        slow = limits(messages_per_address=10, messages_per_client=10, burst=2)
        origin = slow.arrive(0, HERE)
        for now in (100, 100.5, 101 - 0.01):
            due = slow.charge_messages(origin, 0, now, 90)
            self.assertTrue(slow.too_fast(origin, 0, now, since=100))
        self.assertFalse(slow.too_fast(origin, 0, 101, since=100))
        self.assertTrue(slow.too_fast(origin, 0, 101))
        self.assertTrue(slow.too_fast(origin, due, 101, since=100))

    def test_an_address_without_limits(self) -> None:
        slow = limits(messages_per_address=1, registrations_per_address=1, burst=1)
        origin = slow.arrive(0, HERE, limited=False)
        for _ in range(9):
            slow.register(origin, 100)
            slow.charge_messages(origin, 0, 100, 9)
        self.assertFalse(slow.too_fast(origin, 0, 100))

    def test_who_comes_back_is_remembered(self) -> None:
        slow = limits(registrations_per_address=1, burst=1)
        for connection in range(2):
            origin = slow.arrive(connection, HERE)
            slow.register(origin, 100)
            slow.leave(connection, origin, 100)
        self.assertEqual(len(slow), 1)
        self.assertRaises(TryAgainLater, slow.register, slow.arrive(2, HERE), 100)
        slow.leave(2, origin, 200)
        self.assertEqual(len(slow), 0)

    def test_but_not_too_many(self) -> None:
        slow = limits()
        for number in range(MAX_REMEMBERED_ADDRESSES + 10):
            origin = slow.arrive(0, str(number))
            slow.register(origin, 100)
            slow.leave(0, origin, 100)
        self.assertEqual(len(slow), MAX_REMEMBERED_ADDRESSES)
        self.assertEqual(slow.arrive(0, str(number)), origin)
        self.assertNotEqual(
            slow.arrive(0, "0").registration_debt, origin.registration_debt
        )


class LimitsMachine(RuleBasedStateMachine):
    """Connections come, are let in, settle and go, in any order."""

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
        self.named: set[int] = set()

    def waiting(self, origin: Origin[int]) -> list[int]:
        """The connections of an address whose time is not over, the oldest first."""
        over = self.settled | self.named
        return [c for c in self.origins if self.origins[c] is origin and c not in over]

    def name(self, connection: int, origin: Origin[int]) -> None:
        """The time of a connection is over."""
        assert self.waiting(origin)[0] == connection
        assert self.now - self.came[connection] > PATIENCE_SECONDS
        self.named.add(connection)

    def some(self, data: st.DataObject) -> int:
        """One of the connections that there are."""
        return data.draw(st.sampled_from(sorted(self.origins)))

    @rule(name=st.sampled_from(["a", "b", "c"]), passed=st.floats(0, 100))
    def arrive(self, name: str, passed: float) -> None:
        self.now += passed
        self.count += 1
        origin = self.limits.arrive(self.count, name, name != "c", self.now)
        self.origins[self.count] = origin
        self.came[self.count] = self.now
        over_address_cap = self.limits.over_address_cap(origin, self.now)
        if over_address_cap is not None:
            assert len(self.waiting(origin)) > 4
            assert origin.limited
            self.name(over_address_cap, origin)

    @rule()
    def make_room(self) -> None:
        crowds = {o.name: self.waiting(o) for o in self.origins.values()}
        most = max(map(len, crowds.values()), default=0)
        count = sum(map(len, crowds.values()))
        over_total_cap = self.limits.over_total_cap(self.now)
        if over_total_cap is not None:
            assert count >= 7
            origin = self.origins[over_total_cap]
            assert len(self.waiting(origin)) == most
            self.name(over_total_cap, origin)
        elif count >= 7:
            oldest = [c[0] for c in crowds.values() if len(c) == most]
            assert any(self.now - self.came[c] <= PATIENCE_SECONDS for c in oldest)

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
        if connection in self.named:
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


class StatefulTests(SynchronousTestCase):
    """The same in any order."""

    def test_counts_stay_right(self) -> None:
        run_state_machine_as_test(
            LimitsMachine, settings=settings(max_examples=60, stateful_step_count=40)
        )

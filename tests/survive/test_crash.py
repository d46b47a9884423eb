"""Crashes at any line of the relay, again and again."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Offers
from proxyrelay.survive import memory
from tests.support.recording import A, B, C
from tests.survive.lives import Crash, Step, World

CLIENTS = 5

UUIDS = (A, B, C)

MAX_LINE = 400
"""Lines of the relay for one step, about. A longer one is killed in its first part."""

who = st.integers(0, CLIENTS - 1)
uuids = st.sampled_from(UUIDS)

none = st.just("")

steps = st.one_of(
    st.just(Step("connect")),
    st.builds(Step, st.just("register"), who, uuids, st.sampled_from(("a", "b" * 200))),
    st.builds(Step, st.just("register"), who, uuids, st.just("a")),
    st.builds(Step, st.sampled_from(("offer", "answer")), who, uuids, uuids),
    st.builds(
        Step,
        st.sampled_from(("ping", "leave", "lose", "refuse", "half")),
        *(who, none, none),
    ),
    st.just(Step("pass")),
)

crashes = st.one_of(
    st.none(),
    st.builds(Crash, st.integers(0, 12), st.integers(0, MAX_LINE)),
    st.builds(Crash, st.just(0), st.integers(0, 3 * MAX_LINE)),
)

lives = st.lists(
    st.tuples(st.lists(steps, max_size=9), crashes), min_size=1, max_size=5
)


prelude = st.sampled_from(
    (
        [],
        [
            *(Step("connect"), Step("connect"), Step("connect")),
            *(Step("register", 0, A, "a"), Step("register", 1, B, "a")),
            *(Step("offer", 0, A, B), Step("offer", 1, B, C)),
        ],
        [
            *(Step("connect"), Step("connect"), Step("connect")),
            *(Step("register", 0, A, "a"), Step("register", 1, B, "a")),
            *(Step("leave", 1), Step("offer", 0, A, B)),
        ],
    )
)


class History:
    """What the clients may expect of the next life.

    Attributes:
        sure: Who must hold a UUID.
        maybe: Who may hold which UUID.
        halves: Clients that have sent a part of a frame.
    """

    def __init__(self, case: SynchronousTestCase, world: World) -> None:
        self.case = case
        self.world = world
        self.sure: dict[str, int] = {}
        self.maybe: set[tuple[str, int]] = set()
        self.halves: set[int] = set()
        self.connected = 0
        self.pairs: set[tuple[str, str]] = set()

    def possible(self, wished: list[Step]) -> list[Step]:
        """The steps that clients can take, begun with the rests of frames."""
        found = [Step("rest", one) for one in sorted(self.halves)]
        halves: set[int] = set()
        for step in wished:
            if step.what == "connect" or not self.connected:
                if self.connected < CLIENTS:
                    self.connected += 1
                    found.append(Step("connect"))
                continue
            one = step.who % self.connected
            if one in halves:
                halves.discard(one)
                found.append(Step("rest", one))
            if step.what == "half":
                halves.add(one)
            pair = step.uuid, step.other
            if step.what == "offer" and pair in self.pairs:
                continue
            if step.what == "offer":
                self.pairs.add(pair)
            found.append(step._replace(who=one))
        return [*found, Step("end")]

    def live(self, wished: list[Step], crash: Crash | None) -> None:
        """Live, and look at all that can be seen."""
        begun, planned = set(self.halves), self.connected
        plan = self.possible(wished)
        if crash is not None and crash.step > len(plan):
            crash = None
        states, status = self.world.live(plan, crash)
        self.case.assertNotIn("error", states[-1] if states else {}, states[-1:])
        if crash is None:
            self.case.assertEqual(status, os.EX_TEMPFAIL)
        else:
            self.case.assertEqual(status, -signal.SIGKILL)
            done = [step.what for step in plan[: crash.step]]
            self.connected = planned + done.count("connect")
        for number, state in enumerate(states):
            self.check(state)
            if number == 0:
                self.check_resumed(state)
            self.sure = {u: state["registered"][u] for u in state["kept_uuids"]}
            self.maybe = set(state["registered"].items())
        # The parser's part of a frame ends with a crash.
        taken = plan[: len(states) - 1] if states else []
        self.halves = begun
        for step in taken:
            if step.what == "half":
                self.halves.add(step.who)
            elif step.what == "rest":
                self.halves.discard(step.who)
        if crash is not None:
            now = plan[crash.step - 1] if crash.step else Step("resume")
            self.crashed(now)
            halved = {now.who} if now.what in {"half", "rest"} else set()
            self.doubt(self.halves | halved)
            self.halves = set()

    def doubt(self, clients: set[int]) -> None:
        """A client is out of step, and may be dropped."""
        self.sure = {u: one for u, one in self.sure.items() if one not in clients}

    def crashed(self, step: Step) -> None:
        """A step may have been taken, or a part of it."""
        if step.what == "register":
            self.maybe.add((step.uuid, step.who))
            self.doubt({step.who, self.sure.get(step.uuid, step.who)})
        elif step.what in {"leave", "lose", "refuse"}:
            self.doubt({step.who})

    def check(self, state: dict[str, Any]) -> None:
        case, registered = self.case, state["registered"]
        case.assertEqual(state["wrong"], [])
        case.assertEqual(state["leaked"], [])
        case.assertEqual(len(set(registered.values())), len(registered))
        case.assertEqual(state["entries"], len(state["kept"]))
        case.assertEqual(state["offers"], state["offer_entries"])
        case.assertEqual(len(state["kept"]) + state["unkept"], len(registered))
        case.assertLessEqual(len(state["kept"]), self.world.capacity)

    def check_resumed(self, state: dict[str, Any]) -> None:
        registered = state["registered"]
        self.case.assertLessEqual(set(registered.items()), self.maybe)
        self.case.assertLessEqual(self.sure.items(), registered.items())

    def check_end(self) -> None:
        """Let all registered clients be served once more, and look at all of them."""
        case, world = self.case, self.world
        begun = [Step("rest", one) for one in sorted(self.halves)]
        states, status = world.live(begun, None)
        case.assertEqual(status, 0, states[-1:])
        before = [world.received(one)[0]["pong probe"] for one in range(CLIENTS)]
        for state in states[:1]:
            self.check_resumed(state)
        self.sure = dict(states[-1]["registered"])
        self.maybe = set(self.sure.items())
        pings = [Step("ping", one) for one in sorted(self.sure.values())]
        states, status = world.live(pings, None)
        case.assertEqual(status, 0, states[-1:])
        state = states[-1]
        self.check(state)
        kept = {
            name: os.fstat(number).st_ino
            for name, number in world.supervisor.pairs
            if name != memory.NAME
        }
        case.assertEqual(kept, state["kept"])
        case.assertEqual(len(world.supervisor.pairs), len(kept) + 1)
        for one in state["registered"].values():
            case.assertTrue(world.wait_for(one, "pong probe", before[one] + 1))
        total: Counter[str] = Counter()
        for one in range(CLIENTS):
            got, over = world.received(one)
            total += got
            if one in state["registered"].values():
                case.assertEqual((got["close"], over), (0, False))
        for source in UUIDS:
            for target in UUIDS:
                offer = f"offer {source} {target}"
                case.assertLessEqual(total[offer], 1)
                ends = total[f"error {offer}"] + total[f"answer {target} {source}"]
                case.assertLessEqual(ends, 1)


BEGUN = [
    *(Step("connect"), Step("connect"), Step("connect")),
    *(Step("register", 0, A, "a"), Step("register", 1, B, "a")),
]

SWEPT = {
    "resume": [Step("offer", 0, A, B)],
    "resume_waiting": [Step("leave", 1), Step("offer", 0, A, B)],
    "register": [Step("register", 2, C, "a")],
    "move": [Step("offer", 1, B, A), Step("register", 0, C, "a")],
    "rename": [Step("register", 0, A, "b")],
    "takeover": [Step("offer", 1, B, A), Step("register", 2, A, "a")],
    "leave": [Step("offer", 0, A, B), Step("leave", 1)],
    "offer": [Step("offer", 0, A, B)],
    "answer": [Step("offer", 0, A, B), Step("answer", 1, B, A)],
    "end": [],
}
"""Steps of which the last one is swept, or the resumption after them."""

SWEEP_LINES = 30
"""Lines between two crashes of a sweep. Each window that ever was wrong is wider."""


class SweepTests(SynchronousTestCase):
    """A crash all over one step, and one more in the resumption after it."""

    def sweep(self, name: str) -> None:
        steps = [*BEGUN, *SWEPT[name]]
        swept = 0 if name.startswith("resume") else len(steps) + (name == "end")
        stride = int(os.environ.get("SWEEP_LINES", SWEEP_LINES))
        for line in range(0, 1000 if swept == 0 else MAX_LINE, stride):
            world = World(CLIENTS, 100, Offers(crossing=0, answer_timeout=5))
            try:
                history = History(self, world)
                if swept:
                    history.live(steps, Crash(swept, line))
                    history.live([], Crash(0, line))
                else:
                    history.live(steps, Crash(len(steps), sys.maxsize))
                    history.live([], Crash(0, line))
                history.check_end()
            except AssertionError as error:
                self.fail(f"at line {line}: {error}")
            finally:
                world.close()


def _swept(name: str) -> Callable[[SweepTests], None]:
    def test(self: SweepTests) -> None:
        self.sweep(name)

    return test


for _name in SWEPT:
    setattr(SweepTests, f"test_crash_in_{_name}_is_survived", _swept(_name))


class CrashTests(SynchronousTestCase):
    """No crash leaves a ghost, loses a client, or acts twice."""

    @settings(
        max_examples=int(os.environ.get("CRASHES", "30")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(prelude, lives, st.sampled_from((0.0, 0.25)), st.sampled_from((2, 100)))
    def test_history_with_crashes_keeps_exactly_what_was_there(
        self,
        prelude: list[Step],
        lives: list[tuple[list[Step], Crash | None]],
        crossing: float,
        capacity: int,
    ) -> None:
        world = World(CLIENTS, capacity, Offers(crossing=crossing, answer_timeout=5))
        try:
            history = History(self, world)
            for wished, crash in [(prelude, None), *lives]:
                history.live(wished, crash)
            history.check_end()
        finally:
            world.close()

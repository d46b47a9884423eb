"""Several journals in the place of one."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.observe.fan_out import EVENTS, FanOut
from proxyrelay.observe.null import NullObserver
from proxyrelay.switchboard.events import ConnectionObserver, RelayObserver
from proxyrelay.switchboard.messages import PeerConnection
from tests.support.recording import A, B, RecordingJournal, RecordingPeer


class Failing(NullObserver):
    """Fails at what it hears of."""

    def slowed(self, address: str) -> None:
        raise RuntimeError(address)


class FailingAtMessages(NullObserver):
    """Fails at what there is most of."""

    def forwarded(self, *event: Any) -> None:
        raise RuntimeError


OFFER = PeerConnection(A, "a", B, "offer", "v=0")


class JournalsTests(SynchronousTestCase):
    """All are told of everything."""

    def test_knows_every_event(self) -> None:
        events = {
            name
            for kind in (RelayObserver, ConnectionObserver)
            for name, method in vars(kind).items()
            if callable(method) and not name.startswith("_")
        }
        self.assertEqual(set(EVENTS), events)

    def test_tells_all_in_order(self) -> None:
        one, other = RecordingJournal(), RecordingJournal()
        other.events = one.events
        FanOut((one, NullObserver(), other)).slowed("a")
        self.assertEqual(one.events, [("slowed", "a")] * 2)

    def test_one_that_fails_harms_nobody(self) -> None:
        one, other = RecordingJournal(), RecordingJournal()
        FanOut((one, Failing(), other)).slowed("a")
        self.assertEqual(one.events, [("slowed", "a")])
        self.assertEqual(other.events, one.events)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_tells_of_messages_like_of_all_else(self) -> None:
        one, other = RecordingJournal(), RecordingJournal()
        source, target, message = RecordingPeer(), RecordingPeer(), OFFER
        FanOut((one, other)).forwarded(source, target, message, None)
        self.assertEqual(one.events, [("forwarded", source, target)])
        self.assertEqual(other.events, one.events)

    def test_one_that_fails_at_a_message_harms_nobody(self) -> None:
        journals = FanOut((FailingAtMessages(),))
        journals.forwarded(RecordingPeer(), RecordingPeer(), OFFER, None)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_does_not_call_who_does_nothing(self) -> None:
        """There is a message each few microseconds."""
        calls: list[str] = []

        class Traced(NullObserver):
            def __getattribute__(self, name: str) -> object:
                calls.append(name)
                return super().__getattribute__(name)

        journals = FanOut((RecordingJournal(), Traced()))
        calls.clear()
        journals.slowed("a")
        journals.forwarded(RecordingPeer(), RecordingPeer(), OFFER, None)
        self.assertEqual(calls, [])

"""Several journals in the place of one."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.errors import Forbidden, UnknownMessage
from proxyrelay.ledger import Drop
from proxyrelay.messages import PeerConnection
from proxyrelay.observe.journals import Journals
from proxyrelay.peer import Registration
from tests.support.recording import A, RecordingJournal, RecordingPeer, offer


class JournalsTests(SynchronousTestCase):
    """Each is told everything."""

    def calls(self) -> list[tuple[Any, ...]]:
        """Every method of a journal, with what it is told."""
        peer = RecordingPeer()
        message = msgspec.json.decode(offer(), type=PeerConnection)
        held = Registration(A, "a", False, 0.0)
        return [
            ("registered", peer, held),
            ("replaced", peer, peer, A, 1),
            ("left", peer, held, "why"),
            ("refused", peer, Forbidden("no")),
            ("forwarded", peer, peer, message),
            ("returned", peer, message, "error"),
            ("held", peer, message),
            ("shielded", peer, message, Drop.ERROR),
            ("deaf", peer, held),
            ("skipped", peer, UnknownMessage("not JSON")),
            ("rejected", "192.0.2.1:1", HTTPStatus.FORBIDDEN, "detail"),
            ("failed", "192.0.2.1:1", 1002, "detail"),
            ("dropped", "192.0.2.1:1", "why"),
            ("slowed", "192.0.2.1:1"),
        ]

    def test_the_calls_of_these_tests_are_all(self) -> None:
        methods = {n for n, v in vars(RecordingJournal).items() if callable(v)}
        self.assertEqual({name for name, *_ in self.calls()}, methods - {"__init__"})

    def test_tell_each_in_turn(self) -> None:
        one, other, alone = (RecordingJournal() for _ in range(3))
        both = Journals((one, other))
        for name, *about in self.calls():
            getattr(alone, name)(*about)
            getattr(both, name)(*about)
        self.assertEqual(one.events, alone.events)
        self.assertEqual(other.events, alone.events)

    def test_one_that_fails_disturbs_nobody(self) -> None:
        broken: Any = object()
        one = RecordingJournal()
        journals = Journals((broken, one))
        calls = self.calls()
        for name, *about in calls:
            getattr(journals, name)(*about)
        self.assertEqual(one.names, [name for name, *_ in calls])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), len(calls))

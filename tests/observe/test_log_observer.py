"""The log's lines about clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from string import Formatter
from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Logging
from proxyrelay.observe import log
from proxyrelay.observe.log_observer import LogObserver
from proxyrelay.switchboard import events
from proxyrelay.switchboard.events import (
    FIGHT_TAKEOVERS,
    Abandoned,
    BounceReason,
    Deafness,
    Dropped,
    Event,
    Failed,
    Fight,
    Held,
    Left,
    Operator,
    Probed,
    Refused,
    RefusedForNow,
    Registered,
    Rejected,
    Replaced,
    Returned,
    Shielded,
    Skipped,
    Slowed,
    WrongAdminToken,
)
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason
from proxyrelay.switchboard.peer import LeaveReason, Registration
from proxyrelay.switchboard.registry import Registry
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import User
from tests.support.capture import Capture
from tests.support.recording import (
    A,
    B,
    C,
    RecordingPeer,
    RecordingWaiting,
    offer,
    registration,
)

EVIL = "\x1b[31m{log_source}\n\u202e{name.__class__}"

PLACE, ELSEWHERE = "192.0.2.1:4711", "192.0.2.9:4711"


def left(uuid: str = A, address: str = PLACE, **more: Any) -> Left:
    """A client that leaves after 12.34 s."""
    fields: dict[str, Any] = {"name": "\xe9", "reason": "closed with 1000"}
    fields |= {"seconds": 12.34, "sent": 2, "received": 3, "shielded": 0}
    fields |= {"cause": LeaveReason.CLOSED, "user": "me", **more}
    return Left(uuid=uuid, address=address, **fields)


def about(**fields: Any) -> dict[str, Any]:
    """Fields of an event about an offer of A to B."""
    known = {"kind": "offer", "source": A, "target": B, "user": "me"}
    return {**known, "address": PLACE, **fields}


def returned(source: str = A, address: str = PLACE, reason: str = "gone") -> Returned:
    """An offer that went back."""
    fields = about(source=source, reason=reason, address=address)
    return Returned(**fields, why=BounceReason.UNKNOWN)


def shielded(is_repeat: bool = False) -> Shielded:
    """A message that was dropped."""
    why = DropReason.DUPLICATE
    return Shielded(**about(reason=why.value), why=why, is_repeat=is_repeat)


class LogObserverTestCase(SynchronousTestCase):
    """An observer on a clock, and its lines."""

    verbose = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.observer = LogObserver(self.clock.seconds, self.verbose)
        self.events = Capture(self).events

    def logged(self, call: Callable[..., None], *args: Any) -> list[tuple[str, str]]:
        """The lines of one call, each after the name of its level."""
        del self.events[:]
        call(*args)
        return [(event["log_level"].name, formatEvent(event)) for event in self.events]

    def lines(self, *events: Event) -> list[tuple[str, str]]:
        """The lines of some events."""
        return [line for event in events for line in self.logged(self.observer, event)]


class EventTests(LogObserverTestCase):
    """Lines of events."""

    def test_event_has_its_level_and_text(self) -> None:
        for event, line in (
            (
                Registered(A, "\xe9", "me", PLACE),
                f"info: registered {A} name='\\xe9' user='me' from {PLACE}",
            ),
            (
                Replaced(A, "192.0.2.2:1", PLACE),
                f"warn: replaced {A}: registered again from 192.0.2.2:1, so {PLACE} is "
                "closed",
            ),
            (
                left(),
                f"info: left {A} name='\\xe9' from {PLACE} after 12.3 s (messages: 2 "
                "sent, 3 received): closed with 1000",
            ),
            (
                Refused(A, "me", PLACE, 4002, "ForbiddenError: no"),
                f"warn: refused {PLACE} with 4002: ForbiddenError: no",
            ),
            (
                Refused(A, "me", PLACE, 4000, "Unknown message type.", "not JSON"),
                f"warn: refused {PLACE} with 4000: Unknown message type. (not JSON)",
            ),
            (
                RefusedForNow(None, "me", PLACE, 1013, "full"),
                f"info: refused {PLACE} with 1013: full",
            ),
            (
                Deafness(A, "\xe9", "me", PLACE, 90.0),
                f"warn: deaf {A} name='\\xe9' user='me' from {PLACE}: it came back 90 "
                "s ago and answers no offers since; restart this endpoint",
            ),
            (
                shielded(),
                f"warn: shielded {B} from an offer of {A} at {PLACE}: an offer of the "
                "same client to the same peer is not answered yet (further ones of "
                "this client are not logged)",
            ),
            (returned(), f"info: returned offer for {B} to {PLACE}: gone"),
            (
                Rejected(PLACE, 400, "a\nb"),
                f"info: rejected {PLACE} with HTTP 400: 'a\\nb'",
            ),
            (Failed(PLACE, 1002, "a\nb"), f"warn: failed {PLACE} with 1002: 'a\\nb'"),
            (Dropped(PLACE, "a\nb"), f"info: dropped {PLACE}: 'a\\nb'"),
            (
                Slowed(PLACE),
                f"warn: slowed {PLACE}: it sends more than [limits] allows",
            ),
            (Operator("drain", PLACE), f"info: drain is asked for from {PLACE}"),
            (
                Operator("disconnect", "local", A),
                f"info: disconnect of {A} is asked for from local",
            ),
        ):
            self.assertEqual([": ".join(found) for found in self.lines(event)], [line])
            namespace = self.events[0]["log_namespace"]
            self.assertEqual(namespace.partition(".")[0], "proxyrelay")

    def test_event_repeated_or_without_text_has_no_line(self) -> None:
        self.assertEqual(self.lines(shielded(True), Abandoned(**about())), [])

    def test_event_no_text_names_a_user_that_could_be_hidden(self) -> None:
        """The page formats the fields as they are; the log replaces ``user``."""
        for kind in vars(events).values():
            if isinstance(kind, type) and issubclass(kind, Event):
                names = [name for _, name, _, _ in Formatter().parse(kind.page)]
                self.assertNotIn("user", names)
                self.assertNotIn("user", kind.optional)

    def test_fight_has_one_line_with_both_addresses(self) -> None:
        relay = Relay(self.observer, self.clock.seconds, RecordingWaiting())
        for number in range(10):
            peer = RecordingPeer(address=f"192.0.2.{number}:1")
            relay.receive(peer, registration(A))
        lines = [formatEvent(event) for event in self.events]
        self.assertEqual(
            [line.partition(f" {A}")[0] for line in lines],
            [
                "registered",
                *(["replaced", "left", "registered"] * (FIGHT_TAKEOVERS - 1)),
                *("fight over", "left", "registered"),
            ],
        )
        self.assertIn(" from 192.0.2.3:1 and from 192.0.2.2:1;", lines[-3])
        # A client that leaves for another reason has its line.
        self.assertEqual(len(self.logged(relay.leave, peer, "closed")), 1)

    def test_returned_again_and_again_is_limited_by_address(self) -> None:
        def more(address: str) -> list[str]:
            lines = self.lines(returned(address=address))
            return [text.partition("gone")[2] for _, text in lines]

        self.assertEqual([more(PLACE) for _ in range(11)], [[""]] * 11)
        for _ in range(10):
            self.assertEqual([more(PLACE) for _ in range(140)], [[]] * 140)
            self.assertEqual(more(ELSEWHERE), [""])
            self.clock.advance(1)
            self.assertEqual(more(PLACE), [" (and 140 more before)"])
            self.assertEqual(self.events[-1]["untold"], 140)
        self.clock.advance(3)
        self.assertEqual(more(PLACE), [""])

    def test_returned_client_takes_another_uuid_keeps_its_limit(self) -> None:
        self.assertEqual(len(self.lines(*[returned(A)] * 12)), 11)
        self.lines(left(A, cause=LeaveReason.MOVED))
        self.assertEqual(self.lines(returned(B)), [])

    def test_returned_client_leaves_limit_is_forgotten(self) -> None:
        self.lines(*[returned(A), returned(B, ELSEWHERE)] * 20)
        self.lines(left(A), left(B, ELSEWHERE))
        again = self.lines(returned(A), returned(B, ELSEWHERE))
        self.assertEqual(len(again), 2)

    def test_wrong_admin_token_has_a_line_a_second(self) -> None:
        line = f"a wrong token for the private listener came from {PLACE}"
        guess = WrongAdminToken(PLACE)
        self.assertEqual(self.lines(guess, guess), [("warn", line)])
        self.clock.advance(0.9)
        self.assertEqual(self.lines(guess), [])
        self.clock.advance(0.1)
        self.assertEqual(self.lines(guess), [("warn", f"{line} (and 2 more before)")])
        self.clock.advance(1)
        self.assertEqual(self.lines(guess), [("warn", line)])

    def test_debugging_line_is_not_composed(self) -> None:
        # Not even read: these have none of the fields that the line names.
        nothing: Any = object()
        self.observer.forwarded(nothing, nothing, nothing, None)
        debugging = Skipped(PLACE, "a"), Held(**about()), Probed(PLACE)
        self.assertEqual(self.lines(*debugging), [])


class VerboseTests(LogObserverTestCase):
    """Further lines at DEBUG."""

    verbose = True

    def test_debugging_line_has_its_text(self) -> None:
        for event, text in (
            (Skipped(PLACE, "not JSON"), f"skipped a message of {PLACE}: not JSON"),
            (Held(**about()), f"held offer of {A} at {PLACE} for {B}"),
            (Probed(PLACE), f"probed by {PLACE}: it has sent nothing"),
        ):
            self.assertEqual(self.lines(event), [("debug", text)])

    def test_forwarded_shows_no_description(self) -> None:
        for kind in ("offer", "answer"):
            text = offer(A, B, description_type=kind, description="v=0 ice-pwd")
            message = msgspec.json.decode(text, type=PeerConnection)
            peers = RecordingPeer(), RecordingPeer(address=ELSEWHERE)
            line = f"forwarded {kind} of {A} at {PLACE} to {B} at {ELSEWHERE}"
            found = self.logged(self.observer.forwarded, *peers, message, None)
            self.assertEqual(found, [("debug", line)])
            self.assertNotIn("ice-pwd", repr(self.events))


class ClientsTests(LogObserverTestCase):
    """The list of clients."""

    def registry(self, count: int) -> Registry:
        registry = Registry()
        for number, uuid in enumerate((A, B, C)[:count], 1):
            client = RecordingPeer(User(f"user {number}"), f"192.0.2.{number}:1")
            client.registration = Registration(
                *(uuid, f"name {number}", False, self.clock.seconds()),
                sent=number,
                received=number + 1,
            )
            registry.add(uuid, client)
        return registry

    def clients(self, registry: Registry, limit: int) -> list[tuple[str, str]]:
        return self.logged(self.observer.clients, registry, limit)

    def client(self, number: int, uuid: str, unanswered: int = 0) -> tuple[str, str]:
        return (
            "info",
            f"connected {uuid} name='name {number}' user='user {number}' from "
            f"192.0.2.{number}:1 for 90 s (messages: {number} sent, "
            f"{number + 1} received; unanswered: {unanswered})",
        )

    def test_clients_up_to_the_limit_have_a_line_each(self) -> None:
        registry = self.registry(2)
        registry.add(C, RecordingPeer())  # it has no registration
        self.clock.advance(90)
        head = ("info", "connected clients: 3")
        both = [self.client(1, A), self.client(2, B)]
        self.assertEqual(self.clients(registry, 3), [head, *both])
        for limit in (0, 2):
            self.assertEqual(self.clients(registry, limit), [head])

    def test_clients_nobody_is_here_has_one_line(self) -> None:
        lines = [("info", "connected clients: 0")]
        self.assertEqual(self.clients(Registry(), 32), lines)

    def test_clients_deaf_one_is_marked(self) -> None:
        registry = self.registry(2)
        deaf = registry.get(B)
        assert deaf is not None and deaf.registration is not None  # noqa: PT018
        deaf.registration.deaf, deaf.registration.unanswered = True, 2
        self.clock.advance(90)
        level, text = self.client(2, B, 2)
        self.assertEqual(
            self.clients(registry, 32)[1:],
            [self.client(1, A), (level, f"{text}: deaf, restart it")],
        )


class EvilTests(LogObserverTestCase):
    """What a client chose stays inside its line, as text."""

    verbose = True

    def written(self, call: Callable[..., None], *args: Any) -> str:
        """What stands in the log after a call."""
        with Path(self.mktemp()).open("w+") as output:
            observer = log.open_log(Logging(default_level="DEBUG"), output)
            assert observer is not None
            globalLogPublisher.addObserver(observer)
            try:
                call(*args)
            finally:
                globalLogPublisher.removeObserver(observer)
            observer.close()
            output.seek(0)
            return output.read()

    def assert_lines(self, written: str, count: int) -> None:
        self.assertEqual(written.count("\n"), count, written)
        self.assertTrue(written.replace("\n", "").isprintable(), written)
        self.assertNotIn("<class", written)
        self.assertNotIn("object at", written)

    def test_event_text_of_a_client_is_quoted_and_forges_no_line(self) -> None:
        for event in (
            Registered(A, EVIL, EVIL, EVIL),
            Replaced(A, EVIL, EVIL),
            Fight(A, EVIL, EVIL),
            Held(**about(address=EVIL)),
            Deafness(A, EVIL, EVIL, EVIL, 1.0),
            left(name=EVIL, reason=EVIL),
            Refused(A, EVIL, EVIL, 4002, EVIL, EVIL),
            returned(reason=EVIL),
            Skipped(EVIL, EVIL),
            Rejected(EVIL, 400, EVIL),
            Failed(EVIL, 1002, EVIL),
            Dropped(EVIL, EVIL),
        ):
            self.assert_lines(self.written(self.observer, event), 1)
        for name in ("{log_source}", "{name.__class__}", EVIL):
            written = self.written(self.observer, Registered(A, name, "me", PLACE))
            self.assertIn(f" name={name!a} user=", written)
        client = RecordingPeer(User(EVIL))
        client.registration = Registration(A, EVIL, False, 0.0)
        registry = Registry()
        registry.add(A, client)
        self.assert_lines(self.written(self.observer.clients, registry, 32), 2)

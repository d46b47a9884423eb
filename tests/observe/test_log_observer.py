"""The log's lines about clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
from twisted.internet.task import Clock
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEvent,
    globalLogPublisher,
)
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Logging
from proxyrelay.observe import log
from proxyrelay.observe.log_observer import LogObserver
from proxyrelay.switchboard.event import Event
from proxyrelay.switchboard.events import (
    FIGHT_TAKEOVERS,
    Abandoned,
    BounceReason,
    Deafness,
    Dropped,
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
from proxyrelay.switchboard.user import User
from tests.support.recording import A, B, C, RecordingPeer, offer

EVIL = "\x1b[31m{log_source}\n\u202e{name.__class__}"

PLACE = "192.0.2.1:4711"


def peer(number: int = 1, user: str = "anonymous") -> RecordingPeer:
    """A client of a user, at an address of its own."""
    return RecordingPeer(User(user), f"192.0.2.{number}:4711")


ELSEWHERE = "192.0.2.9:4711"


def left(
    uuid: str = A, takeovers: int = 0, replaced: bool = False, **more: Any
) -> Left:
    """A client that leaves after 12.34 s."""
    fields: dict[str, Any] = {"name": "\xe9", "reason": "closed with 1000"}
    fields["cause"] = LeaveReason.REPLACED if replaced else LeaveReason.CLOSED
    fields |= {"address": PLACE, **more}
    return Left(
        uuid=uuid,
        user="me",
        seconds=12.34,
        sent=2,
        received=3,
        shielded=0,
        takeovers=takeovers,
        **fields,
    )


def about(**fields: Any) -> dict[str, Any]:
    """Fields of an event about an offer of A to B."""
    return {
        "kind": "offer",
        "source": A,
        "target": B,
        "user": "me",
        "address": PLACE,
        **fields,
    }


def returned(
    source: str = A, reason: str = "not there", address: str = PLACE
) -> Returned:
    """An offer that went back."""
    fields = about(source=source, reason=reason, address=address)
    return Returned(**fields, why=BounceReason.UNKNOWN)


def shielded(count: int = 1) -> Shielded:
    """A message that was dropped."""
    why = DropReason.DUPLICATE
    return Shielded(**about(reason=why.value), why=why, count=count)


class ObserverTestCase(SynchronousTestCase):
    """An observer on a clock, and what it logged."""

    verbose = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.observer = LogObserver(self.clock.seconds, self.verbose)
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def registration(self, uuid: str = A, name: str = "a", **fields: Any) -> Any:
        return Registration(uuid, name, False, self.clock.seconds(), **fields)

    def logged(self, call: Callable[..., None], *args: Any) -> list[tuple[str, str]]:
        """The lines of one call, each after the name of its level."""
        del self.events[:]
        call(*args)
        return [(event["log_level"].name, formatEvent(event)) for event in self.events]

    def lines(self, *events: Event) -> list[tuple[str, str]]:
        """The lines of some events."""
        return [line for event in events for line in self.logged(self.observer, event)]


class LineTests(ObserverTestCase):
    """The line of each event, and its level."""

    def test_each_event_has_its_text(self) -> None:
        for event, level, text in (
            (
                Registered(A, "\xe9", "me", PLACE),
                "info",
                f"registered {A} name='\\xe9' user='me' from {PLACE}",
            ),
            (
                Replaced(A, "192.0.2.2:1", PLACE),
                "warn",
                f"replaced {A}: registered again from 192.0.2.2:1, so {PLACE} is "
                "closed",
            ),
            (
                left(),
                "info",
                f"left {A} name='\\xe9' from {PLACE} after 12.3 s (messages: 2 sent, "
                "3 received): closed with 1000",
            ),
            (
                Refused(A, "me", PLACE, 4002, "ForbiddenError: no"),
                "warn",
                f"refused {PLACE} with 4002: ForbiddenError: no",
            ),
            (
                Refused(A, "me", PLACE, 4000, "Unknown message type.", "not JSON"),
                "warn",
                f"refused {PLACE} with 4000: Unknown message type. (not JSON)",
            ),
            (
                RefusedForNow(None, "me", PLACE, 1013, "full"),
                "info",
                f"refused {PLACE} with 1013: full",
            ),
            (
                Deafness(A, "\xe9", "me", PLACE, 90.0),
                "warn",
                f"deaf {A} name='\\xe9' user='me' from {PLACE}: it came back 90 s ago "
                "and answers no offers since; restart this endpoint",
            ),
            (
                shielded(),
                "warn",
                f"shielded {B} from an offer of {A} at {PLACE}: an offer of the same "
                "client to the same peer is not answered yet (further ones of this "
                "client are not logged)",
            ),
            (returned(), "info", f"returned offer for {B} to {PLACE}: not there"),
            (
                Rejected(PLACE, 400, "a\nb"),
                "info",
                f"rejected {PLACE} with HTTP 400: 'a\\nb'",
            ),
            (Failed(PLACE, 1002, "a\nb"), "warn", f"failed {PLACE} with 1002: 'a\\nb'"),
            (Dropped(PLACE, "a\nb"), "info", f"dropped {PLACE}: 'a\\nb'"),
            (
                Slowed(PLACE),
                "warn",
                f"slowed {PLACE}: it sends more than [limits] allows",
            ),
            (Operator("drain", PLACE), "info", f"drain is asked for from {PLACE}"),
            (
                Operator("disconnect", "local", A),
                "info",
                f"disconnect of {A} is asked for from local",
            ),
        ):
            self.assertEqual(self.lines(event), [(level, text)])

    def test_repeats_and_events_without_a_text_have_no_line(self) -> None:
        self.assertEqual(self.lines(shielded(2), Abandoned(**about())), [])

    def test_a_fight_has_one_line_with_both_addresses(self) -> None:
        found: list[tuple[str, str]] = []
        for takeovers in range(1, 10):
            kind = Fight if takeovers == FIGHT_TAKEOVERS else Replaced
            found += self.lines(
                kind(A, "192.0.2.2:1", PLACE, takeovers),
                left(takeovers=takeovers - 1, replaced=True),
                Registered(A, "a", "me", PLACE, takeovers),
            )
        self.assertEqual(
            [text.partition(f" {A}")[0] for _, text in found],
            [
                *(["replaced", "left", "registered"] * 2),
                *("fight over", "left", "registered"),
            ],
        )
        level, text = found[6]
        self.assertEqual(level, "warn")
        self.assertIn("192.0.2.2:1", text)
        self.assertIn(PLACE, text)
        # A client that leaves for another reason has its line.
        self.assertEqual(len(self.lines(left(takeovers=9))), 1)

    def test_returned_again_and_again(self) -> None:
        def more(address: str) -> list[str]:
            lines = self.lines(returned(address=address))
            return [text.partition("not there")[2] for _, text in lines]

        self.assertEqual([more(PLACE) for _ in range(11)], [[""]] * 11)
        for _ in range(10):
            self.assertEqual([more(PLACE) for _ in range(140)], [[]] * 140)
            self.assertEqual(more(ELSEWHERE), [""])
            self.clock.advance(1)
            self.assertEqual(more(PLACE), [" (and 140 more before)"])
            self.assertEqual(self.events[-1]["untold"], 140)
        self.clock.advance(3)
        self.assertEqual(more(PLACE), [""])

    def test_client_that_takes_another_uuid_keeps_its_limit(self) -> None:
        lines = [text for _ in range(11) for _, text in self.lines(returned(A))]
        self.lines(left(A, cause=LeaveReason.MOVED))
        self.assertEqual((len(lines), self.lines(returned(B))), (11, []))

    def test_nothing_is_kept_of_a_client_that_left(self) -> None:
        for _ in range(20):
            self.lines(returned(A), returned(B, address=ELSEWHERE))
        self.lines(left(A), left(B, address=ELSEWHERE))
        (limit,) = self.observer._limits.values()
        self.assertEqual(len(limit), 0)
        self.assertEqual(len(self.lines(returned(A))), 1)

    def test_wrong_tokens_have_a_line_in_a_second(self) -> None:
        line = f"a wrong token for the private listener came from {PLACE}"
        guess = WrongAdminToken(PLACE)
        self.assertEqual(self.lines(guess, guess), [("warn", line)])
        self.clock.advance(0.9)
        self.assertEqual(self.lines(guess), [])
        self.clock.advance(0.1)
        self.assertEqual(self.lines(guess), [("warn", f"{line} (and 2 more before)")])
        self.clock.advance(1)
        self.assertEqual(self.lines(guess), [("warn", line)])

    def test_lines_for_debugging_are_not_composed(self) -> None:
        # Not even read: these have none of the fields that the line names.
        nothing: Any = object()
        self.observer.forwarded(nothing, nothing, nothing, None)
        debugging = Skipped(PLACE, "a"), Held(**about()), Probed(PLACE)
        self.assertEqual(self.lines(*debugging), [])

    def test_has_the_namespace_of_the_relay(self) -> None:
        self.observer(Dropped(PLACE, "x"))
        (event,) = self.events
        self.assertEqual(event["log_namespace"].partition(".")[0], "proxyrelay")


class VerboseTests(ObserverTestCase):
    """What is logged besides at DEBUG."""

    verbose = True

    def message(self, **fields: Any) -> PeerConnection:
        return msgspec.json.decode(offer(A, B, **fields), type=PeerConnection)

    def test_each_event_has_its_text(self) -> None:
        for event, text in (
            (Skipped(PLACE, "not JSON"), f"skipped a message of {PLACE}: not JSON"),
            (Held(**about()), f"held offer of {A} at {PLACE} for {B}"),
            (Probed(PLACE), f"probed by {PLACE}: it has sent nothing"),
        ):
            self.assertEqual(self.lines(event), [("debug", text)])

    def test_forwarded(self) -> None:
        for kind in ("offer", "answer"):
            message = self.message(description_type=kind)
            self.assertEqual(
                self.logged(self.observer.forwarded, peer(1), peer(2), message, None),
                [
                    (
                        "debug",
                        f"forwarded {kind} of {A} at {PLACE} to {B} at 192.0.2.2:4711",
                    )
                ],
            )

    def test_never_shows_a_description(self) -> None:
        message = self.message(description="v=0 ice-pwd")
        found = self.logged(self.observer.forwarded, peer(), peer(), message, None)
        self.assertNotIn("ice-pwd", repr(found))
        self.assertNotIn("ice-pwd", repr(self.events))


class ClientsTests(ObserverTestCase):
    """The list of clients."""

    def registry(self, count: int) -> Registry:
        registry = Registry()
        for number, uuid in enumerate((A, B, C)[:count], 1):
            client = peer(number, user=f"user {number}")
            client.registration = self.registration(
                uuid, f"name {number}", sent=number, received=number + 1
            )
            registry.add(uuid, client)
        return registry

    def client(self, number: int, uuid: str, seconds: int) -> tuple[str, str]:
        return (
            "info",
            f"connected {uuid} name='name {number}' user='user {number}' from "
            f"192.0.2.{number}:4711 for {seconds} s (messages: {number} sent, "
            f"{number + 1} received; unanswered: 0)",
        )

    def test_nobody(self) -> None:
        self.assertEqual(
            self.logged(self.observer.clients, self.registry(0), 32),
            [("info", "connected clients: 0")],
        )

    def test_up_to_the_limit_each_has_a_line(self) -> None:
        registry = self.registry(2)
        self.clock.advance(90)
        for limit in (2, 3):
            self.assertEqual(
                self.logged(self.observer.clients, registry, limit),
                [
                    ("info", "connected clients: 2"),
                    self.client(1, A, 90),
                    self.client(2, B, 90),
                ],
            )

    def test_above_the_limit_there_is_only_the_number(self) -> None:
        for limit in (0, 2):
            self.assertEqual(
                self.logged(self.observer.clients, self.registry(3), limit),
                [("info", "connected clients: 3")],
            )

    def test_a_deaf_client_is_marked(self) -> None:
        registry = self.registry(2)
        for client in registry:
            assert client.registration is not None
            client.registration.deaf = client.registration.uuid == B
            client.registration.unanswered = 2 * client.registration.deaf
        level, text = self.client(2, B, 0)
        text = text.replace("unanswered: 0", "unanswered: 2")
        self.assertEqual(
            self.logged(self.observer.clients, registry, 32)[1:],
            [self.client(1, A, 0), (level, f"{text}: deaf, restart it")],
        )

    def test_a_peer_without_a_registration_is_passed_over(self) -> None:
        registry = Registry()
        registry.add(A, peer())
        self.assertEqual(
            self.logged(self.observer.clients, registry, 32),
            [("info", "connected clients: 1")],
        )


class EvilTests(ObserverTestCase):
    """What a client chose stays inside its line, as text."""

    verbose = True

    def written(self, call: Callable[..., None], *args: Any) -> str:
        """What stands in the log after a call."""
        with Path(self.mktemp()).open("w+") as output:
            observer = log.observer(Logging(default_level="DEBUG"), output)
            assert observer is not None
            globalLogPublisher.addObserver(observer)
            try:
                call(*args)
            finally:
                globalLogPublisher.removeObserver(observer)
            observer.close()
            output.seek(0)
            return output.read()

    def test_no_line_is_forged(self) -> None:
        client = peer(user=EVIL)
        client.registration = self.registration(A, EVIL)
        registry = Registry()
        registry.add(A, client)
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
            self.check(self.written(self.observer, event), 1)
        self.check(self.written(self.observer.clients, registry, 32), 2)

    def check(self, written: str, count: int) -> None:
        self.assertEqual(written.count("\n"), count, written)
        self.assertTrue(written.replace("\n", "").isprintable(), written)
        self.assertNotIn("<class", written)
        self.assertNotIn("object at", written)

    def test_names_are_quoted(self) -> None:
        for name in ("{log_source}", "{name.__class__}", EVIL):
            written = self.written(self.observer, Registered(A, name, "me", PLACE))
            self.assertIn(f" name={name!a} user=", written)
        self.assertEqual(self.events[-1]["log_level"], LogLevel.info)

"""What happens to clients, one line each."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
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
from proxyrelay.errors import (
    Forbidden,
    MessageTooLong,
    Refusal,
    Superseded,
    TryAgainLater,
    Unauthorized,
    UnknownMessage,
)
from proxyrelay.observe import log
from proxyrelay.observe.journal import LogObserver
from proxyrelay.switchboard.events import BounceReason
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.offers import DropReason
from proxyrelay.switchboard.peer import REPLACED, LeaveReason, Registration
from proxyrelay.switchboard.registry import Registry
from proxyrelay.switchboard.user import User
from tests.support.recording import A, B, C, RecordingPeer, offer

EVIL = "\x1b[31m{log_source}\n\u202e{name.__class__}"


def peer(number: int = 1, user: str = "anonymous") -> RecordingPeer:
    """A client of a user, at an address of its own."""
    return RecordingPeer(User(user), f"192.0.2.{number}:4711")


class JournalTestCase(SynchronousTestCase):
    """A journal on a clock, and what it logged."""

    verbose = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.journal = LogObserver(self.clock.seconds, self.verbose)
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def registration(self, uuid: str = A, name: str = "a", **fields: Any) -> Any:
        since = self.clock.seconds()
        return Registration(uuid, name, False, since, **fields)

    def message(self, **fields: Any) -> PeerConnection:
        return msgspec.json.decode(offer(A, B, **fields), type=PeerConnection)

    def logged(self, call: Callable[..., None], *args: Any) -> list[tuple[str, str]]:
        """The lines of one call, each after the name of its level."""
        del self.events[:]
        call(*args)
        return [(event["log_level"].name, formatEvent(event)) for event in self.events]


class LogJournalTests(JournalTestCase):
    """The line of each event, and its level."""

    def test_registered(self) -> None:
        self.assertEqual(
            self.logged(
                self.journal.registered, peer(user="me"), self.registration(A, "é")
            ),
            [("info", f"registered {A} name='\\xe9' user='me' from 192.0.2.1:4711")],
        )

    def test_replaced(self) -> None:
        self.assertEqual(
            self.logged(self.journal.replaced, peer(1), peer(2), A, 1),
            [
                (
                    "warn",
                    f"replaced {A}: registered again from 192.0.2.2:4711, so "
                    "192.0.2.1:4711 is closed",
                )
            ],
        )

    def test_a_fight_has_one_line_with_both_addresses(self) -> None:
        lines: list[tuple[str, str]] = []
        holder, other = peer(1), peer(2)
        for rounds in range(1, 10):
            before = self.registration(A, rounds=rounds - 1)
            after = self.registration(A, rounds=rounds)
            for call, *about in (
                (self.journal.replaced, holder, other, A, rounds),
                (
                    self.journal.left,
                    holder,
                    before,
                    REPLACED,
                    LeaveReason.REPLACED,
                ),
                (self.journal.registered, other, after),
            ):
                lines += self.logged(cast(Any, call), *cast(Any, about))
            holder, other = other, holder
        texts = [text.partition(f" {A}")[0] for _, text in lines]
        self.assertEqual(
            texts,
            [
                *(["replaced", "left", "registered"] * 2),
                *("fight over", "left", "registered"),
            ],
        )
        level, text = lines[6]
        self.assertEqual(level, "warn")
        self.assertIn("192.0.2.1:4711", text)
        self.assertIn("192.0.2.2:4711", text)
        # Who leaves for another reason has its line.
        lines = self.logged(
            self.journal.left, holder, after, "closed by the client", LeaveReason.CLOSED
        )
        self.assertEqual(len(lines), 1)

    def test_the_first_message_that_is_dropped_has_a_line(self) -> None:
        client = peer()
        client.registration = self.registration(A)
        for dropped in (1, 2):
            client.registration.dropped = dropped
            self.assertEqual(
                self.logged(
                    self.journal.shielded, client, self.message(), DropReason.DUPLICATE
                ),
                [
                    (
                        "warn",
                        f"shielded {B} from an offer of {A} at 192.0.2.1:4711: an "
                        "offer of the same client to the same peer is not answered yet "
                        "(further ones of this client are not logged)",
                    )
                ][: 2 - dropped],
            )

    def test_deaf(self) -> None:
        registration = self.registration(A, "\xe9", again=True)
        self.clock.advance(90)
        self.assertEqual(
            self.logged(self.journal.deaf, peer(user="me"), registration),
            [
                (
                    "warn",
                    f"deaf {A} name='\\xe9' user='me' from 192.0.2.1:4711: it came "
                    "back 90 s ago and answers no offers since; restart this endpoint",
                )
            ],
        )

    def test_left(self) -> None:
        registration = self.registration(A, "é", sent=2, received=3)
        self.clock.advance(12.34)
        self.assertEqual(
            self.logged(
                self.journal.left,
                peer(),
                registration,
                "closed with 1000",
                LeaveReason.SHUT,
            ),
            [
                (
                    "info",
                    f"left {A} name='\\xe9' from 192.0.2.1:4711 after 12.3 s "
                    "(messages: 2 sent, 3 received): closed with 1000",
                )
            ],
        )

    def test_refused(self) -> None:
        refusals: list[tuple[Refusal, str, str]] = [
            (Forbidden("no"), "warn", "4002: ForbiddenError: no"),
            (Unauthorized("no"), "warn", "4001: UnauthorizedError: no"),
            (MessageTooLong(), "warn", "4003: Message length exceeds limit."),
            (UnknownMessage(""), "warn", "4000: Unknown message type."),
            (
                UnknownMessage("not JSON"),
                "warn",
                "4000: Unknown message type. (not JSON)",
            ),
            (TryAgainLater("full"), "info", "1013: full"),
        ]
        for refusal, level, text in refusals:
            self.assertEqual(
                self.logged(self.journal.refused, peer(), refusal),
                [(level, f"refused 192.0.2.1:4711 with {text}")],
            )

    def test_refused_for_a_newer_connection(self) -> None:
        ((level, text),) = self.logged(self.journal.refused, peer(), Superseded())
        self.assertEqual(level, "warn")
        self.assertIn("with 4004: Relay received a registration with the same", text)

    def test_returned(self) -> None:
        self.assertEqual(
            self.logged(
                self.journal.returned,
                peer(),
                self.message(),
                "not there",
                BounceReason.UNKNOWN,
            ),
            [("info", f"returned offer for {B} to 192.0.2.1:4711: not there")],
        )

    def test_returned_again_and_again(self) -> None:
        client, other = peer(1), peer(2)

        def returned(to: RecordingPeer) -> list[str]:
            lines = self.logged(
                self.journal.returned,
                to,
                self.message(),
                "not there",
                BounceReason.UNKNOWN,
            )
            return [text.partition("not there")[2] for _, text in lines]

        self.assertEqual([returned(client) for _ in range(11)], [[""]] * 11)
        for _ in range(10):
            self.assertEqual([returned(client) for _ in range(140)], [[]] * 140)
            self.assertEqual(returned(other), [""])
            self.clock.advance(1)
            self.assertEqual(returned(client), [" (and 140 more before)"])
        self.clock.advance(3)
        self.assertEqual(returned(client), [""])

    def test_rejected(self) -> None:
        self.assertEqual(
            self.logged(
                self.journal.rejected, "192.0.2.1:1", HTTPStatus.BAD_REQUEST, "a\nb"
            ),
            [("info", "rejected 192.0.2.1:1 with HTTP 400: 'a\\nb'")],
        )

    def test_failed(self) -> None:
        self.assertEqual(
            self.logged(self.journal.failed, "192.0.2.1:1", 1002, "a\nb"),
            [("warn", "failed 192.0.2.1:1 with 1002: 'a\\nb'")],
        )

    def test_dropped(self) -> None:
        self.assertEqual(
            self.logged(self.journal.dropped, "192.0.2.1:1", "a\nb"),
            [("info", "dropped 192.0.2.1:1: 'a\\nb'")],
        )

    def test_probed(self) -> None:
        self.assertEqual(
            self.logged(self.journal.probed, "192.0.2.1:1"),
            [("debug", "probed by 192.0.2.1:1: it has sent nothing")],
        )

    def test_operators(self) -> None:
        self.assertEqual(
            self.logged(self.journal.operator, "drain", "192.0.2.1:1", None),
            [("info", "drain is asked for from 192.0.2.1:1")],
        )
        self.assertEqual(
            self.logged(self.journal.operator, "disconnect", "local", A),
            [("info", f"disconnect of {A} is asked for from local")],
        )

    def test_wrong_tokens_have_a_line_in_a_second(self) -> None:
        line = "a wrong token for the private listener came from 192.0.2.1:1"
        guess = self.journal.unauthorized
        for more in ("", " (and 2 more before)", ""):
            self.assertEqual(
                self.logged(guess, "192.0.2.1:1"), [("warn", f"{line}{more}")]
            )
            if not more:
                self.assertEqual(self.logged(guess, "192.0.2.1:1"), [])
                self.clock.advance(0.9)
                self.assertEqual(self.logged(guess, "192.0.2.1:1"), [])
                self.clock.advance(0.1)
            else:
                self.clock.advance(1)

    def test_lines_for_debugging_are_not_composed(self) -> None:
        # Not even read: these have none of the fields that the line names.
        nothing: Any = object()
        self.assertEqual(
            self.logged(self.journal.forwarded, nothing, nothing, nothing, None), []
        )
        self.assertEqual(self.logged(self.journal.skipped, nothing, nothing), [])
        self.assertEqual(self.logged(self.journal.held, nothing, nothing), [])

    def test_has_the_namespace_of_the_relay(self) -> None:
        self.journal.dropped("192.0.2.1:1", "x")
        (event,) = self.events
        self.assertEqual(event["log_namespace"].partition(".")[0], "proxyrelay")


class VerboseJournalTests(JournalTestCase):
    """What is logged besides at DEBUG."""

    verbose = True

    def test_forwarded(self) -> None:
        for kind in ("offer", "answer"):
            self.assertEqual(
                self.logged(
                    self.journal.forwarded,
                    peer(1),
                    peer(2),
                    self.message(description_type=kind),
                    None,
                ),
                [
                    (
                        "debug",
                        f"forwarded {kind} of {A} at 192.0.2.1:4711 to {B} at "
                        "192.0.2.2:4711",
                    )
                ],
            )

    def test_skipped(self) -> None:
        self.assertEqual(
            self.logged(self.journal.skipped, peer(), UnknownMessage("not JSON")),
            [("debug", "skipped a message of 192.0.2.1:4711: not JSON")],
        )

    def test_held(self) -> None:
        self.assertEqual(
            self.logged(self.journal.held, peer(), self.message()),
            [("debug", f"held offer of {A} at 192.0.2.1:4711 for {B}")],
        )

    def test_never_shows_a_description(self) -> None:
        message = self.message(description="v=0 ice-pwd")
        client = peer()
        client.registration = self.registration(dropped=1)
        for call, *args in (
            (self.journal.held, peer(), message),
            (self.journal.shielded, client, message, DropReason.CROSSING),
            (self.journal.forwarded, peer(), peer(), message, None),
            (self.journal.returned, peer(), message, "not there", BounceReason.UNKNOWN),
        ):
            self.assertNotIn("ice-pwd", repr(self.logged(call, *args)))
            for event in self.events:
                self.assertNotIn("ice-pwd", repr(event))


class ClientsTests(JournalTestCase):
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
            self.logged(self.journal.clients, self.registry(0), 32),
            [("info", "connected clients: 0")],
        )

    def test_up_to_the_limit_each_has_a_line(self) -> None:
        registry = self.registry(2)
        self.clock.advance(90)
        for limit in (2, 3):
            self.assertEqual(
                self.logged(self.journal.clients, registry, limit),
                [
                    ("info", "connected clients: 2"),
                    self.client(1, A, 90),
                    self.client(2, B, 90),
                ],
            )

    def test_above_the_limit_there_is_only_the_number(self) -> None:
        for limit in (0, 2):
            self.assertEqual(
                self.logged(self.journal.clients, self.registry(3), limit),
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
            self.logged(self.journal.clients, registry, 32)[1:],
            [self.client(1, A, 0), (level, f"{text}: deaf, restart it")],
        )

    def test_a_peer_without_a_registration_is_passed_over(self) -> None:
        registry = Registry()
        registry.add(A, peer())
        self.assertEqual(
            self.logged(self.journal.clients, registry, 32),
            [("info", "connected clients: 1")],
        )


class EvilTests(JournalTestCase):
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
        registration = self.registration(A, EVIL, dropped=1)
        client.registration = registration
        message = self.message(source_name=EVIL, description=EVIL)
        registry = Registry()
        registry.add(A, client)
        for count, call, *args in (
            (1, self.journal.registered, client, registration),
            (1, self.journal.replaced, client, client, A, 1),
            (1, self.journal.replaced, client, client, A, 3),
            (1, self.journal.held, client, message),
            (1, self.journal.shielded, client, message, DropReason.ERROR),
            (1, self.journal.deaf, client, registration),
            (1, self.journal.left, client, registration, EVIL, LeaveReason.LOST),
            (1, self.journal.refused, client, Forbidden(EVIL)),
            (1, self.journal.refused, client, UnknownMessage(EVIL)),
            (1, self.journal.forwarded, client, client, message, None),
            (1, self.journal.returned, client, message, EVIL, BounceReason.UNKNOWN),
            (1, self.journal.skipped, client, UnknownMessage(EVIL)),
            (1, self.journal.rejected, EVIL, HTTPStatus.BAD_REQUEST, EVIL),
            (1, self.journal.failed, EVIL, 1002, EVIL),
            (1, self.journal.dropped, EVIL, EVIL),
            (2, self.journal.clients, registry, 32),
        ):
            written = self.written(cast(Any, call), *cast(Any, args))
            self.assertEqual(written.count("\n"), count, written)
            self.assertTrue(written.replace("\n", "").isprintable(), written)
            self.assertNotIn("<class", written)
            self.assertNotIn("object at", written)

    def test_names_are_quoted(self) -> None:
        for name in ("{log_source}", "{name.__class__}", EVIL):
            client = peer()
            written = self.written(
                self.journal.registered, client, self.registration(A, name)
            )
            self.assertIn(f" name={name!a} user=", written)

    def test_at_the_level_of_information(self) -> None:
        self.journal.registered(peer(), self.registration())
        self.assertEqual(self.events[-1]["log_level"], LogLevel.info)

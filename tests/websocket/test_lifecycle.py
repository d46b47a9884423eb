"""The table of phases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Timeouts
from proxyrelay.errors import TryAgainLater
from proxyrelay.websocket.lifecycle import (
    PHASES,
    SLACK_SHARE,
    UNREAD_SECONDS,
    Lifecycle,
    lost_reason,
)
from proxyrelay.websocket.state import Phase


class Recorder:
    """A connection that records what the table does to it."""

    def __init__(self) -> None:
        self.phase = Phase.GONE
        self.request_is_whole = False
        self.done: list[object] = []
        self.flow = SimpleNamespace(heard=False, paused=False, is_in_debt=False)
        self.transport = SimpleNamespace(
            abortConnection=lambda: self.done.append("abort")
        )

    def drop(self, reason: str) -> None:
        self.done.append(reason)

    def check_alive(self) -> None:
        self.done.append("ping")

    def cancel_authentication(self) -> None:
        self.done.append("cancel")

    def refuse(self, refusal: TryAgainLater) -> None:
        self.done.append(refusal.reason)


class LifecycleTests(SynchronousTestCase):
    """Timeouts, as the table has them."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.has_unread = False
        self.lifecycle = Lifecycle(
            self.clock, Timeouts(), lambda: False, lambda _: self.has_unread
        )

    def entered(self, phase: Phase) -> Any:
        connection: Any = Recorder()
        self.lifecycle.enter(connection, phase)
        return connection

    def expire(self, phase: Phase) -> None:
        """Let a timeout end, in steps that the queue sees as on time."""
        seconds = getattr(Timeouts(), PHASES[phase].setting) * (1 + SLACK_SHARE)
        steps = int(seconds / 0.5) + 1
        self.clock.pump([seconds / steps] * steps)

    def test_lifecycle_every_phase_but_the_last_has_a_row(self) -> None:
        self.assertEqual([*PHASES, Phase.GONE], list(Phase))

    def test_lifecycle_expired_phase_acts_as_its_row_says(self) -> None:
        expected: dict[Phase, list[str]] = {
            Phase.TLS_HANDSHAKE: ["TLS handshake took too long"],
            Phase.OPENING: ["opening handshake took too long"],
            Phase.AUTHENTICATING: ["cancel", "authentication took too long"],
            Phase.REGISTERING: ["No registration arrived in time."],
            Phase.READY: ["ping"],
            Phase.AWAITING_PONG: ["no answer to a ping"],
            Phase.CLOSING: ["no answer to a close frame"],
            Phase.DROPPING: ["abort"],
        }
        self.assertEqual(expected.keys(), PHASES.keys())
        for phase, done in expected.items():
            connection = self.entered(phase)
            self.expire(phase)
            self.assertEqual((phase, connection.done), (phase, done))

    def test_lifecycle_phase_with_a_sign_of_life_begins_its_timeout_anew(self) -> None:
        opening, ready = self.entered(Phase.OPENING), self.entered(Phase.READY)
        opening.request_is_whole = ready.flow.heard = True
        self.expire(Phase.OPENING)
        self.expire(Phase.READY)
        self.assertEqual((opening.done, ready.done, ready.flow.heard), ([], [], False))

    def test_lifecycle_client_that_does_not_read_is_pinged(self) -> None:
        connection = self.entered(Phase.READY)
        connection.flow.heard = connection.flow.paused = True
        self.expire(Phase.READY)
        self.assertEqual(connection.done, ["ping"])

    def test_lifecycle_pong_behind_unread_frames_is_awaited_again(self) -> None:
        connection = self.entered(Phase.AWAITING_PONG)
        connection.flow.heard = connection.flow.is_in_debt = True
        self.expire(Phase.AWAITING_PONG)
        self.assertEqual(connection.done, [])
        connection.flow.is_in_debt = False
        self.expire(Phase.AWAITING_PONG)
        self.assertEqual(connection.done, ["no answer to a ping"])

    def test_lifecycle_awaited_input_that_may_be_unread_extends_the_phase(self) -> None:
        for phase, row in PHASES.items():
            self.has_unread = True
            connection = self.entered(phase)
            self.expire(phase)
            self.assertEqual((phase, not connection.done), (phase, row.awaits_input))
            self.has_unread = False
            self.clock.advance(UNREAD_SECONDS)
            self.assertTrue(connection.done, phase)
            self.lifecycle.enter(connection, Phase.GONE)

    def test_lifecycle_early_expiry_drops_handshakes(self) -> None:
        early: list[object] = []
        for phase in PHASES:
            connection = self.entered(phase)
            self.lifecycle.expire_early(connection)
            early += connection.done[:1]
        drop = "too many without a registration"
        refused = "No registration arrived in time."
        self.assertEqual(early[:4], [drop, drop, "cancel", refused])

    def test_lost_reason_names_the_phase_and_the_tls_error(self) -> None:
        for failure, end in (
            (Failure(ConnectionLost()), ""),
            (Failure(SSL.Error([("", "", "unknown ca")])), " (TLS: unknown ca)"),
        ):
            text = lost_reason(Phase.OPENING, failure)
            self.assertEqual(text, f"connection lost before a whole request{end}")

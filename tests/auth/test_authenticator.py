"""Authentication of clients, while Globus answers and while it fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.logger import LogLevel

from proxyrelay.auth.cache import INACTIVE_TTL_SECONDS, fingerprint
from proxyrelay.auth.circuit_breaker import MAX_PAUSE_SECONDS
from proxyrelay.auth.fair_queue import BURST_TOKENS
from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.http import MAX_CONNECTIONS
from proxyrelay.auth.introspector import Introspector
from proxyrelay.auth.policy import Introspection, Policy
from proxyrelay.errors import Forbidden, TryAgainLater, Unauthorized
from proxyrelay.switchboard.user import User
from tests.auth.globus_case import (
    STALE_SECONDS,
    START,
    TIMEOUT,
    TTL_SECONDS,
    AuthenticatorTestCase,
)
from tests.support.globus import (
    CLIENT_ID,
    JO,
    JSON,
    SECRET,
    SERVICE,
    TOKEN,
    Asked,
    FakeResponse,
    active,
)

INACTIVE = {"active": False}


class RefusalTests(AuthenticatorTestCase):
    """Refusals, and trouble that is not the client's fault."""

    def test_authenticate_bad_header_refuses_without_request(self) -> None:
        for headers in ({}, {"authorization": "Basic a"}):
            refused = self.auth.authenticate(headers, "192.0.2.1")
            self.failureResultOf(refused, Unauthorized)
        self.assertEqual(self.agent.requests, [])
        self.nothing_is_left()

    def test_authenticate_rejected_token_refuses_with_4002(self) -> None:
        for value, sub in (
            (INACTIVE, None),
            (active(aud=["other"]), JO),
            (active(exp=START), JO),
        ):
            self.use_cache(STALE_SECONDS)
            refused = self.come_to(value)
            refusal = self.failureResultOf(refused, Forbidden).value
            self.assertEqual((refusal.code, refusal.sub), (4002, sub))
            self.assertLessEqual(len(refusal.reason.encode()), 123)
        self.nothing_is_left()

    def test_authenticate_any_trouble_sends_away_with_1013(self) -> None:
        def slow_body(asked: Asked) -> None:
            asked.respond().feed(b"{")
            self.clock.advance(TIMEOUT)

        elsewhere = {"Location": "https://elsewhere.example"}
        troubles: dict[str, Callable[[Asked], Any]] = {
            "silence": lambda _: self.clock.advance(TIMEOUT),
            "slow body": slow_body,
            "refused": lambda asked: asked.fail(Refused()),
            "gzip": lambda asked: asked.respond(
                200, JSON | {"Content-Encoding": "gzip"}
            ),
            "too long": lambda asked: asked.respond().feed(b" " * 99_999),
            "another type": lambda asked: asked.reply(active(), 200, {}),
            "broken": lambda asked: asked.reply(b"{"),
            "nobody's": lambda asked: asked.reply(active(sub=None)),
            "redirect": lambda asked: asked.reply(b"", 302, elsewhere),
            "no client": lambda asked: asked.reply({"error": "invalid_client"}, 401),
        }
        for code in (400, 403, 404, 429, 500, 502, 503, 504):
            troubles[str(code)] = partial(Asked.reply, value={}, code=code)
        for name, trouble in troubles.items():
            with self.subTest(name):
                coming = self.come()
                for _ in range(int(4 * TIMEOUT)):
                    for each in self.agent.pending:
                        trouble(each)
                    if not coming.called:
                        self.clock.advance(0.25)
                self.sent_away(coming)
                self.nothing_is_left()
                self.clock.advance(60)

    def test_authenticate_defect_in_introspection_sends_away(self) -> None:
        def broken(token: str, timeout: float) -> Deferred[Introspection]:
            raise KeyError(f"{token} {SECRET}")

        cast(Any, self.globus).introspect = broken
        for _ in range(2 * MAX_CONNECTIONS):
            self.sent_away(self.come())
        self.nothing_is_left()
        line = self.errors()[0]
        self.assertIn("failed with KeyError at", line)
        self.assertIn("in broken", line)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_authenticate_defect_in_cache_sends_all_waiters_away(self) -> None:
        def broken(*_: object) -> None:
            raise KeyError(f"{TOKEN} {SECRET}")

        self.patch(self.cache, "put", broken)
        coming = [self.come() for _ in range(3)]
        self.agent.last.reply(active())
        for each in coming:
            self.sent_away(each)
        self.nothing_is_left()
        (line,) = self.errors()
        self.assertIn("failed with KeyError at", line)
        self.assertEqual(self.flushLoggedErrors(), [])


class WaiterTests(AuthenticatorTestCase):
    """Clients that wait for one answer."""

    def test_waiters_same_token_share_one_request(self) -> None:
        for value, code, end in (
            (active(), 200, self.let_in),
            ({}, 400, self.sent_away),
        ):
            self.use_cache(STALE_SECONDS)
            coming = [self.come() for _ in range(50)]
            (asked,) = self.agent.pending
            asked.reply(value, code)
            for each in coming:
                end(each)
            self.nothing_is_left()

    def test_waiters_other_tokens_get_their_own_answers(self) -> None:
        one, other = self.come("one"), self.come("other")
        self.agent.requests[1].reply(active(sub="b"))
        self.agent.requests[0].reply(active(sub="a"))
        self.assertEqual(self.successResultOf(one), User("a"))
        self.assertEqual(self.successResultOf(other), User("b"))

    def test_waiter_leaves_others_get_the_answer(self) -> None:
        one, other = self.come(), self.come()
        self.give_up(one)
        self.assertEqual(self.agent.last.cancelled, 0)
        self.agent.last.reply(active())
        self.let_in(other)
        self.nothing_is_left()

    def test_last_waiter_leaves_request_is_cancelled(self) -> None:
        for each in (self.come(), self.come()):
            self.give_up(each)
        self.assertEqual(self.agent.last.cancelled, 1)
        for _ in range(2):
            self.nothing_is_left()
            self.clock.advance(TIMEOUT)
        self.assertEqual(len(self.agent.requests), 1)
        self.assertEqual(self.captured.lines(), [])
        self.enter()

    def test_waiter_callback_cancels_another_waiter(self) -> None:
        one, other = self.come(), self.come()
        one.addCallback(lambda _: other.cancel())
        self.agent.last.reply(active())
        self.successResultOf(one)
        self.failureResultOf(other, CancelledError)
        self.nothing_is_left()

    def test_waiter_callback_authenticates_again(self) -> None:
        found: list[Deferred[User]] = []
        one = self.come()
        one.addCallback(lambda _: found.append(self.come()))
        self.agent.last.reply(active())
        self.let_in(found[0])
        self.nothing_is_left()

    def test_waiters_are_kept_without_the_token(self) -> None:
        self.enter()
        self.clock.advance(TTL_SECONDS)
        coming = self.come()
        self.assertNotIn(TOKEN, repr(self.auth._pending) + repr(vars(self.cache)))
        self.assertIn(fingerprint(TOKEN), self.auth._pending)
        self.give_up(coming)


class CachedTests(AuthenticatorTestCase):
    """Answers from the cache, fresh and stale."""

    def test_cached_answer_serves_for_its_ttl(self) -> None:
        self.enter()
        self.clock.advance(TTL_SECONDS - 0.1)
        self.let_in(self.come())
        self.clock.advance(0.1)
        self.assertNoResult(self.come())
        self.assertEqual(len(self.agent.requests), 2)

    def test_cached_answer_ends_with_the_token(self) -> None:
        self.enter(exp=START + 10)
        self.clock.advance(9.9)
        self.let_in(self.come())
        self.clock.advance(0.1)
        self.sent_away(self.come_to({}, 400))

    def test_inactive_answer_serves_for_a_short_time(self) -> None:
        self.failureResultOf(self.come_to(INACTIVE), Forbidden)
        self.failureResultOf(self.come(), Forbidden)
        self.assertEqual(len(self.agent.requests), 1)
        self.clock.advance(INACTIVE_TTL_SECONDS)
        self.enter()

    def test_stale_answer_serves_while_globus_fails(self) -> None:
        self.enter()
        self.clock.advance(TTL_SECONDS)
        for _ in range(20):
            coming = self.come()
            for each in self.agent.pending:
                each.reply({}, 401)
            self.let_in(coming)
        self.sent_away(self.come("stranger"))
        self.nothing_is_left()
        (line,) = self.captured.lines(LogLevel.warn)
        self.assertIn("are let in on an older answer", line)
        self.assertEqual(len(self.errors()), 1)
        # The log has a line about each outage.
        self.clock.advance(MAX_PAUSE_SECONDS)
        self.enter()
        self.clock.advance(TTL_SECONDS)
        self.let_in(self.come_to({}, 400))
        self.assertEqual(len(self.captured.lines(LogLevel.warn)), 2)

    def test_stale_answer_after_its_time_sends_away(self) -> None:
        for stale_if_error in (STALE_SECONDS, 0):
            self.use_cache(stale_if_error)
            self.enter()
            self.clock.advance(TTL_SECONDS + stale_if_error)
            self.sent_away(self.come_to({}, 400))
        self.assertEqual(self.captured.lines(LogLevel.warn), [])

    def test_stale_answer_is_authorized_again(self) -> None:
        self.enter()
        self.clock.advance(TTL_SECONDS)
        self.auth._policy = Policy(CLIENT_ID, denied_users=frozenset({JO}))
        self.failureResultOf(self.come_to({}, 400), Forbidden)

    def test_known_token_passes_invalid_ones_of_its_address(self) -> None:
        self.enter()
        for number in range(BURST_TOKENS):
            refused = self.come_to(INACTIVE, token=str(number))
            self.failureResultOf(refused, Forbidden)
        waiting = [self.come(f"more{number}") for number in range(20)]
        self.clock.advance(TTL_SECONDS)
        for one in waiting:
            one.addErrback(lambda _: None)
        self.enter()

    def test_immediate_answers_need_no_turn_of_the_reactor(self) -> None:
        class Immediate:
            def introspect(self, token: str, timeout: float) -> Deferred[Introspection]:
                answer: Deferred[Introspection] = Deferred()
                answer.callback(Introspection(active=True, sub=token, aud=CLIENT_ID))
                return answer

        introspector = Introspector(cast(Globus, Immediate()), self.clock, TIMEOUT)
        self.auth = self.auth.changed(Policy(CLIENT_ID), introspector)
        for name in ("a", "b", "a"):
            self.assertEqual(self.successResultOf(self.come(name)), User(name))
        self.nothing_is_left()


class StartTests(AuthenticatorTestCase):
    """The trial of the credentials when the relay begins to serve."""

    def line(self, level: Any) -> str:
        """The only line in the log; it has this level."""
        (line,) = self.captured.lines()
        self.assertEqual(self.captured.lines(level), [line])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return line

    def test_start_good_credentials_names_the_application(self) -> None:
        self.auth.start()
        (asked,) = self.agent.requests
        url = f"{SERVICE}/v2/api/clients/{CLIENT_ID}"
        self.assertEqual((asked.method, asked.uri), ("GET", url))
        self.assertEqual(self.captured.lines(), [])
        asked.reply({"client": {"id": CLIENT_ID, "name": "Our\nrelay"}})
        self.assertEqual(
            self.line(LogLevel.debug),
            "Globus Auth knows the relay's application, 'Our\\nrelay'",
        )
        self.auth.stop()

    def test_start_wrong_credentials_logs_one_error(self) -> None:
        self.auth.start()
        self.agent.last.reply({"error": "invalid_client"}, 401)
        self.assertEqual(
            self.line(LogLevel.error),
            "Globus Auth answered 401 (invalid_client): the client ID or the secret is "
            "wrong (client ID from here, secret from there): new clients are asked to "
            "come back until that is put right; 'proxyrelay check' tells whether it is",
        )
        # The same trouble with the first token needs no second line.
        coming = self.come_to({"error": "invalid_client"}, 401)
        self.failureResultOf(coming, TryAgainLater)
        self.clock.advance(0)
        self.line(LogLevel.error)

    def test_start_globus_fails_logs_a_warning(self) -> None:
        address = f"(auth.kwargs.service_url is {SERVICE})"
        for end, words in (
            (lambda: self.agent.last.reply({}, 503), "answered 503"),
            (lambda: self.agent.last.reply({}, 404), f"answered 404 {address}"),
            (
                lambda: self.agent.last.fail(OSError("refused")),
                f"cannot be reached: refused {address}",
            ),
            (lambda: self.clock.advance(7), "did not answer within 7 s"),
        ):
            self.captured.events.clear()
            self.auth.start()
            end()
            self.assertEqual(
                self.line(LogLevel.warn),
                f"Globus Auth {words}: the relay's client ID and secret could not be "
                "tried",
            )

    def test_start_line_breaks_from_globus_are_escaped(self) -> None:
        self.auth.start()
        self.agent.last.reply({"error": "a\nb\u2028c"}, 401)
        self.assertIn("(a\\nb\\u2028c)", self.line(LogLevel.error))

    def test_stop_cancels_the_trial_silently(self) -> None:
        self.auth.stop()
        self.auth.start()
        self.auth.stop()
        self.assertEqual(self.agent.last.cancelled, 1)
        self.assertEqual(self.captured.lines(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_start_defect_is_logged(self) -> None:
        self.auth.start()
        broken = FakeResponse(200, JSON)
        self.patch(broken, "deliverBody", None)
        self.agent.last.answer.callback(broken)
        (line,) = self.errors()
        self.assertIn("trying the credentials failed with TypeError at\n", line)

"""Authentication of clients, while Globus answers and while it fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectionRefusedError,  # noqa: A004 - Twisted's
)
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.auth.cache import INACTIVE_TTL_SECONDS, TokenCache, fingerprint
from proxyrelay.auth.circuit_breaker import MAX_PAUSE_SECONDS
from proxyrelay.auth.globus_api import Globus
from proxyrelay.auth.http import MAX_CONNECTIONS
from proxyrelay.auth.introspector import Introspector
from proxyrelay.auth.invalid_tokens import BURST_TOKENS
from proxyrelay.auth.policy import Introspection, Policy
from proxyrelay.errors import Forbidden, TryAgainLater, Unauthorized
from proxyrelay.switchboard.user import User
from tests.auth.globus_case import (
    STALE_SECONDS,
    START,
    TIMEOUT,
    AuthenticatorTestCase,
)
from tests.support.clock import EagerClock
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


class AuthenticatorTests(AuthenticatorTestCase):
    """Users, refusals, and shared answers."""

    def test_lets_in_whom_globus_knows(self) -> None:
        self.enter()
        self.nothing_is_left()

    def test_refuses_a_header_without_asking(self) -> None:
        for headers in ({}, {"authorization": "Basic a"}):
            refused = self.auth.authenticate(headers, "192.0.2.1")
            self.failureResultOf(refused, Unauthorized)
        self.assertEqual(self.agent.requests, [])
        self.nothing_is_left()

    def test_refuses_what_is_not_taken(self) -> None:
        for value, sub in (
            ({"active": False}, None),
            (active(aud=["other"]), JO),
            (active(exp=START), JO),
        ):
            self.cache = self.auth._cache = TokenCache(100, 60, 300)
            coming = self.come()
            self.agent.last.reply(value)
            refusal = self.failureResultOf(coming, Forbidden).value
            self.assertEqual((refusal.code, refusal.sub), (4002, sub))
            self.assertLessEqual(len(refusal.reason.encode()), 123)
        self.nothing_is_left()

    def test_everything_else_is_not_the_clients_fault(self) -> None:
        def times_out(asked: Asked) -> None:
            self.clock.advance(TIMEOUT)

        def slow_body(asked: Asked) -> None:
            asked.respond().feed(b"{")
            self.clock.advance(TIMEOUT)

        troubles: dict[str, Callable[[Asked], Any]] = {
            "silence": times_out,
            "a slow body": slow_body,
            "refused": lambda asked: asked.fail(ConnectionRefusedError()),
            "compressed": lambda asked: asked.respond(
                200, JSON | {"Content-Encoding": "gzip"}
            ),
            "too long": lambda asked: asked.respond().feed(b" " * 99_999),
            "another type": lambda asked: asked.reply(active(), 200, {}),
            "broken": lambda asked: asked.reply(b"{"),
            "nobody's": lambda asked: asked.reply(active(sub=None)),
            "a redirect": lambda asked: asked.reply(
                b"", 302, {"Location": "https://elsewhere.example"}
            ),
            "no client": lambda asked: asked.reply({"error": "invalid_client"}, 401),
            **{
                str(code): partial(Asked.reply, value={}, code=code)
                for code in (400, 403, 404, 429, 500, 502, 503, 504)
            },
        }
        for name, trouble in troubles.items():
            with self.subTest(name):
                coming = self.come()
                trouble(self.agent.last)
                left = TIMEOUT
                while not coming.called and left > 0:
                    self.clock.advance(0.25)
                    left -= 0.25
                    for each in self.agent.pending:
                        trouble(each)
                self.sent_away(coming)
                self.nothing_is_left()
                self.clock.advance(60)

    def test_asks_once_for_all_who_come_with_one_token(self) -> None:
        coming = [self.come() for _ in range(50)]
        self.assertEqual(len(self.agent.requests), 1)
        self.agent.last.reply(active())
        for each in coming:
            self.assertEqual(self.successResultOf(each), User(JO))
        self.nothing_is_left()

    def test_sends_all_away_together(self) -> None:
        coming = [self.come() for _ in range(50)]
        self.agent.last.reply({}, 400)
        for each in coming:
            self.sent_away(each)
        self.nothing_is_left()

    def test_different_tokens_are_different_questions(self) -> None:
        one, other = self.come("one"), self.come("other")
        self.agent.requests[1].reply(active(sub="b"))
        self.agent.requests[0].reply(active(sub="a"))
        self.assertEqual(self.successResultOf(one), User("a"))
        self.assertEqual(self.successResultOf(other), User("b"))

    def test_who_leaves_does_not_take_the_others_answer_along(self) -> None:
        one, other = self.come(), self.come()
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertEqual(self.agent.last.cancelled, 0)
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(other), User(JO))
        self.nothing_is_left()

    def test_the_last_who_leaves_ends_the_question(self) -> None:
        one, other = self.come(), self.come()
        for each in (one, other):
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.assertEqual(self.agent.last.cancelled, 1)
        self.nothing_is_left()
        self.clock.advance(TIMEOUT)
        self.nothing_is_left()
        self.assertEqual(len(self.agent.requests), 1)
        self.assertEqual(self.captured.lines(), [])
        self.enter()

    def test_who_leaves_between_attempts(self) -> None:
        coming = self.come()
        self.agent.last.fail(ConnectionRefusedError())
        coming.cancel()
        self.failureResultOf(coming, CancelledError)
        self.nothing_is_left()

    def test_who_leaves_in_line(self) -> None:
        others = [self.come(f"other{number}") for number in range(MAX_CONNECTIONS)]
        for _ in range(10):
            coming = self.come()
            coming.cancel()
            self.failureResultOf(coming, CancelledError)
        for each in others:
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.nothing_is_left()
        self.enter()

    def test_one_who_hears_the_answer_may_make_another_leave(self) -> None:
        one, other = self.come(), self.come()
        one.addCallback(lambda _: other.cancel())
        self.agent.last.reply(active())
        self.successResultOf(one)
        self.failureResultOf(other, CancelledError)
        self.nothing_is_left()

    def test_one_who_hears_the_answer_may_make_another_come(self) -> None:
        found: list[Deferred[User]] = []
        one = self.come()
        one.addCallback(lambda _: found.append(self.come()))
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(found[0]), User(JO))
        self.nothing_is_left()

    def test_remembers_for_its_time(self) -> None:
        self.enter()
        self.clock.advance(59.9)
        self.assertEqual(self.successResultOf(self.come()), User(JO))
        self.clock.advance(0.1)
        self.assertNoResult(self.come())
        self.assertEqual(len(self.agent.requests), 2)

    def test_never_beyond_the_end_of_the_token(self) -> None:
        self.enter(exp=START + 10)
        self.clock.advance(9.9)
        self.assertEqual(self.successResultOf(self.come()), User(JO))
        self.clock.advance(0.1)
        coming = self.come()
        self.agent.last.reply({}, 400)
        self.sent_away(coming)

    def test_an_inactive_token_is_asked_about_again_soon(self) -> None:
        coming = self.come()
        self.agent.last.reply({"active": False})
        self.failureResultOf(coming, Forbidden)
        self.failureResultOf(self.come(), Forbidden)
        self.assertEqual(len(self.agent.requests), 1)
        self.clock.advance(INACTIVE_TTL_SECONDS)
        self.enter()

    def test_an_older_answer_serves_while_globus_fails(self) -> None:
        self.enter()
        self.clock.advance(60)
        for _ in range(20):
            coming = self.come()
            for each in self.agent.pending:
                each.reply({}, 401)
            self.assertEqual(self.successResultOf(coming), User(JO))
        stranger = self.come("stranger")
        self.sent_away(stranger)
        self.nothing_is_left()
        (line,) = self.captured.lines(LogLevel.warn)
        self.assertIn("are let in on an older answer", line)
        self.assertEqual(len(self.errors()), 1)
        # The log has a line about each outage.
        self.clock.advance(MAX_PAUSE_SECONDS)
        self.enter()
        self.clock.advance(60)
        coming = self.come()
        self.agent.last.reply({}, 400)
        self.successResultOf(coming)
        self.assertEqual(len(self.captured.lines(LogLevel.warn)), 2)

    def test_made_up_tokens_displace_no_answer(self) -> None:
        self.enter()
        for number in range(1000):
            self.cache.put(fingerprint(str(number)), Introspection(active=False), START)
        self.clock.advance(60)
        coming = self.come()
        self.agent.last.reply({}, 400)
        self.assertEqual(self.successResultOf(coming), User(JO))

    def test_made_up_tokens_keep_nobody_out_who_is_known(self) -> None:
        self.enter()
        for number in range(BURST_TOKENS):
            coming = self.come(str(number))
            self.agent.last.reply({"active": False})
            self.failureResultOf(coming, Forbidden)
        waiting = [self.come(f"more{number}") for number in range(20)]
        self.clock.advance(60)  # past the freshness of its answer
        for one in waiting:
            one.addErrback(lambda _: None)
        coming = self.come()
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(coming), User(JO))

    def test_an_older_answer_has_an_end(self) -> None:
        self.enter()
        self.clock.advance(60 + STALE_SECONDS)
        coming = self.come()
        self.agent.last.reply({}, 400)
        self.sent_away(coming)
        self.assertEqual(self.captured.lines(LogLevel.warn), [])

    def test_an_older_answer_serves_only_if_that_is_wanted(self) -> None:
        self.use_cache(stale_if_error=0)
        self.enter()
        self.clock.advance(60)
        coming = self.come()
        self.agent.last.reply({}, 400)
        self.sent_away(coming)
        self.assertEqual(self.captured.lines(LogLevel.warn), [])

    def test_an_older_answer_is_judged_again(self) -> None:
        self.enter()
        self.clock.advance(60)
        self.auth._policy = Policy(CLIENT_ID, denied_users=frozenset({JO}))
        coming = self.come()
        self.agent.last.reply({}, 400)
        self.failureResultOf(coming, Forbidden)

    def test_a_mistake_of_ours_is_not_the_clients_fault(self) -> None:
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

    def test_a_defect_with_the_answer_reaches_every_client(self) -> None:
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

    def test_keeps_no_token(self) -> None:
        self.enter()
        self.clock.advance(60)
        coming = self.come()
        self.assertNotIn(TOKEN, repr(self.auth._pending) + repr(vars(self.cache)))
        self.assertIn(fingerprint(TOKEN), self.auth._pending)
        coming.cancel()
        self.failureResultOf(coming, CancelledError)


class StartTests(AuthenticatorTestCase):
    """The trial of the credentials when the relay begins to serve."""

    def said(self, level: Any) -> str:
        """The only line in the log; it has this level."""
        (line,) = self.captured.lines()
        self.assertEqual(self.captured.lines(level), [line])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return line

    def test_credentials_that_work(self) -> None:
        self.auth.start()
        self.assertEqual(
            [(asked.method, asked.uri) for asked in self.agent.requests],
            [("GET", f"{SERVICE}/v2/api/clients/{CLIENT_ID}")],
        )
        self.assertEqual(self.captured.lines(), [])
        self.agent.last.reply({"client": {"id": CLIENT_ID, "name": "Our\nrelay"}})
        self.assertEqual(
            self.said(LogLevel.debug),
            "Globus Auth knows the relay's application, 'Our\\nrelay'",
        )
        self.auth.stop()

    def test_credentials_that_do_not(self) -> None:
        self.auth.start()
        self.agent.last.reply({"error": "invalid_client"}, 401)
        self.assertEqual(
            self.said(LogLevel.error),
            "Globus Auth answered 401 (invalid_client): the client ID or the secret is "
            "wrong (client ID from here, secret from there): new clients are asked to "
            "come back until that is put right; 'proxyrelay check' tells whether it is",
        )
        # The same trouble with the first token needs no second line.
        coming = self.come()
        self.agent.last.reply({"error": "invalid_client"}, 401)
        self.failureResultOf(coming, TryAgainLater)
        self.clock.advance(0)
        self.said(LogLevel.error)

    def test_globus_that_cannot_be_asked(self) -> None:
        address = f"(auth.kwargs.service_url is {SERVICE})"
        untried = ": the relay's client ID and secret could not be tried"
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
            line = self.said(LogLevel.warn)
            self.assertEqual(line, f"Globus Auth {words}{untried}")

    def test_no_line_is_forged(self) -> None:
        self.auth.start()
        self.agent.last.reply({"error": "a\nb\u2028c"}, 401)
        self.assertIn("(a\\nb\\u2028c)", self.said(LogLevel.error))

    def test_stopping_gives_it_up(self) -> None:
        self.auth.stop()
        self.auth.start()
        self.auth.stop()
        self.assertEqual(self.agent.last.cancelled, 1)
        self.assertEqual(self.captured.lines(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_mistake_of_the_relay_is_logged(self) -> None:
        self.auth.start()
        broken = FakeResponse(200, JSON)
        self.patch(broken, "deliverBody", None)
        self.agent.last.answer.callback(broken)
        (line,) = self.captured.lines(LogLevel.error)
        self.assertIn("trying the credentials failed with TypeError at\n", line)


class ImmediateTests(SynchronousTestCase):
    """An answer at once needs no turn of the reactor."""

    def test_an_answer_that_comes_at_once(self) -> None:
        class Immediate:
            def introspect(self, token: str, timeout: float) -> Deferred[Introspection]:
                answer: Deferred[Introspection] = Deferred()
                answer.callback(Introspection(active=True, sub=token, aud=("relay",)))
                return answer

        clock = EagerClock()
        auth = GlobusAuthenticator(
            Introspector(cast(Globus, Immediate()), clock, TIMEOUT),
            TokenCache(1, 60, 300),
            Policy("relay"),
            clock,
        )
        for name in ("a", "b", "a"):
            coming = auth.authenticate({"authorization": f"Bearer {name}"}, "192.0.2.1")
            self.assertEqual(self.successResultOf(coming), User(name))
        self.assertEqual(clock.getDelayedCalls(), [])

"""From tokens to users, while Globus is well, and while it is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectionLost,
    ConnectionRefusedError,  # noqa: A004 - Twisted's
)
from twisted.logger import LogLevel, eventAsText
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived

from proxyrelay.auth.cache import INACTIVE_TTL, TokenCache, fingerprint
from proxyrelay.auth.circuit_breaker import LONGEST_PAUSE, SHORTEST_PAUSE, THRESHOLD
from proxyrelay.auth.globus_api import CONNECTIONS, Globus, GlobusError, Late
from proxyrelay.auth.introspector import (
    FIRST_SHARE,
    QUIET,
    GlobusAuthenticator,
    Introspector,
)
from proxyrelay.auth.invalid_tokens import BURST
from proxyrelay.auth.policy import Introspection, Policy
from proxyrelay.errors import Forbidden, TryAgainLater, Unauthorized
from proxyrelay.switchboard.user import User
from tests.support.capture import Capture
from tests.support.clock import EagerClock
from tests.support.globus import (
    CLIENT_ID,
    JO,
    JSON,
    SECRET,
    TOKEN,
    Asked,
    PendingAgent,
    active,
    globus,
)

TIMEOUT = 7.0
START = 1_000_000.0
NOTHING: dict[str, str] = {}


class GlobusTestCase(SynchronousTestCase):
    """Globus behind an agent that answers when the test says so."""

    def setUp(self) -> None:
        self.clock = EagerClock()
        self.clock.advance(START)
        self.agent = PendingAgent()
        self.globus = globus(self.agent, self.clock)
        self.introspector = Introspector(self.globus, self.clock, TIMEOUT, lambda: 0.0)
        self.captured = Capture(self)
        self.addCleanup(self.check_log)

    def check_log(self) -> None:
        """No secret is in any event, in whatever field."""
        for event in self.captured.events:
            text = eventAsText(event) + repr(event)
            for secret in (SECRET, TOKEN):
                self.assertNotIn(secret, text)

    def errors(self) -> list[str]:
        return self.captured.lines(LogLevel.error)

    def nothing_is_left(self) -> None:
        self.assertEqual(self.agent.pending, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class IntrospectorTests(GlobusTestCase):
    """Attempts, turns and the breaker."""

    def ask(self, token: str = TOKEN) -> Deferred[Introspection]:
        return self.introspector.ask(token, "192.0.2.1")

    def failed(self, asked: Deferred[Introspection]) -> str:
        return str(self.failureResultOf(asked, GlobusError).value)

    def open_breaker(self) -> None:
        for number in range(THRESHOLD):
            asked = self.ask(f"opening{number}")
            self.agent.last.reply({}, 401)
            self.failed(asked)

    def test_a_question_that_globus_dislikes_says_nothing_of_globus(self) -> None:
        for code, value in ((400, {}), (403, {}), (404, {}), (200, active(sub=None))):
            for number in range(2 * THRESHOLD):
                asked = self.ask(f"strange{number}")
                self.agent.last.reply(value, code)
                self.failed(asked)
        self.works()

    def time_out(self) -> None:
        self.clock.advance(FIRST_SHARE * TIMEOUT)
        self.clock.advance(TIMEOUT)

    def works(self) -> None:
        """A question is asked at once, and answered."""
        asked = self.ask("well")
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.nothing_is_left()

    def test_asks_once_if_it_is_answered(self) -> None:
        asked = self.ask()
        self.assertEqual([each.token for each in self.agent.requests], [TOKEN])
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.nothing_is_left()
        self.assertEqual(self.captured.lines(), [])

    def test_tries_again_while_there_is_time(self) -> None:
        asked = self.ask()
        self.agent.last.fail(ConnectionRefusedError())
        for delay in (0.25, 0.5, 1.0, 2.0):
            self.agent.last.fail(ConnectionRefusedError())
            self.assertEqual(self.agent.pending, [])
            self.clock.advance(delay - 0.01)
            self.assertEqual(self.agent.pending, [])
            self.clock.advance(0.01)
            self.assertEqual(len(self.agent.pending), 1)
        self.assertEqual(len(self.agent.requests), 6)
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(asked).sub, JO)
        self.nothing_is_left()

    def test_does_not_try_again_in_vain(self) -> None:
        for code, value in ((400, {}), (401, {"error": "invalid_client"}), (302, {})):
            asked = self.ask()
            self.agent.last.reply(value, code)
            self.assertIn(str(code), self.failed(asked))
            self.nothing_is_left()

    def test_waits_for_as_long_as_globus_asks(self) -> None:
        asked = self.ask()
        self.agent.last.reply({}, 503, JSON | {"Retry-After": "3"})
        self.clock.advance(2.9)
        self.assertEqual(len(self.agent.requests), 1)
        self.clock.advance(0.1)
        self.agent.last.reply(active())
        self.successResultOf(asked)
        self.nothing_is_left()

    def test_does_not_wait_beyond_its_time(self) -> None:
        for pause in ("7", "120", "1" * 30):
            asked = self.ask()
            self.agent.last.reply({}, 429, JSON | {"Retry-After": pause})
            self.assertIn("429", self.failed(asked))
            self.nothing_is_left()

    def test_the_time_is_for_all_attempts(self) -> None:
        asked = self.ask()
        self.clock.advance(2)
        self.agent.last.reply({}, 503)
        self.clock.advance(0.25)
        self.assertEqual(len(self.agent.pending), 1)
        self.clock.advance(4.7)
        self.assertNoResult(asked)
        self.clock.advance(0.05)
        self.failed(asked)
        self.nothing_is_left()

    def test_the_time_is_for_the_turn_too(self) -> None:
        others = [self.ask(f"other{number}") for number in range(CONNECTIONS)]
        asked = self.ask()
        self.clock.advance(2)
        self.assertNotEqual(self.agent.last.token, TOKEN)
        self.agent.requests[0].reply(active())
        self.successResultOf(others[0])
        # It is this one's turn; 5 s are left.
        self.assertEqual(self.agent.last.token, TOKEN)
        for other in others[1:]:
            other.cancel()
            self.failureResultOf(other, CancelledError)
        self.clock.advance(4)
        self.clock.advance(0.875)
        self.assertNoResult(asked)
        self.clock.advance(0.125)
        self.failed(asked)
        self.nothing_is_left()

    def test_a_turn_that_does_not_come(self) -> None:
        for number in range(CONNECTIONS):
            self.ask(f"other{number}")
        asked = self.ask()
        # The others, which came first, are kept from ending first.
        waiting = list(self.clock.getDelayedCalls())
        for call in waiting[:-1]:
            call.delay(TIMEOUT)
        self.clock.advance(TIMEOUT)
        self.assertIn("too many questions", self.failed(asked))
        self.assertEqual(len(self.agent.requests), CONNECTIONS)
        for each in self.agent.pending:
            each.reply(active())
        self.nothing_is_left()
        self.assertIn("too many questions", self.errors()[0])

    def test_takes_turns_in_order(self) -> None:
        asked = [self.ask(str(number)) for number in range(CONNECTIONS + 5)]
        self.assertEqual(len(self.agent.pending), CONNECTIONS)
        asked[CONNECTIONS + 1].cancel()
        self.failureResultOf(asked[CONNECTIONS + 1], CancelledError)
        while self.agent.pending:
            self.agent.pending[0].reply(active())
            self.assertLessEqual(len(self.agent.pending), CONNECTIONS)
        tokens = [each.token for each in self.agent.requests]
        numbers = [n for n in range(CONNECTIONS + 5) if n != CONNECTIONS + 1]
        self.assertEqual(tokens, list(map(str, numbers)))
        self.nothing_is_left()

    def test_a_connection_that_the_network_has_forgotten(self) -> None:
        """It costs a part of the time, and says nothing about Globus."""
        for number in range(2 * THRESHOLD):
            asked = self.ask(f"forgotten{number}")
            self.clock.advance(FIRST_SHARE * TIMEOUT)
            self.assertEqual(len(self.agent.requests), 2 * number + 2)
            self.agent.last.reply(active())
            self.successResultOf(asked)
            self.nothing_is_left()
        self.assertEqual(self.captured.lines(), [])

    def test_connections_that_are_reset(self) -> None:
        """They say nothing about Globus either, and cost no time."""
        asked = [self.ask(str(number)) for number in range(2 * THRESHOLD)]
        for each in self.agent.pending:
            each.fail(ResponseNeverReceived([Failure(ConnectionLost())]))
        for each in self.agent.pending:
            each.reply(active())
        for one in asked:
            self.successResultOf(one)
        self.assertEqual(self.captured.lines(), [])
        self.nothing_is_left()

    def test_globus_is_silent(self) -> None:
        asked = [self.ask(str(number)) for number in range(THRESHOLD)]
        self.time_out()
        for one in asked:
            self.assertIn("did not answer within", self.failed(one))
        self.assertIn("at the moment", self.failed(self.ask()))
        self.assertIn("did not answer", self.errors()[0])
        self.nothing_is_left()

    def test_a_silent_probe_is_followed_by_a_pause(self) -> None:
        self.open_breaker()
        self.clock.advance(SHORTEST_PAUSE)
        probe = self.ask()
        self.clock.advance(FIRST_SHARE * TIMEOUT)
        self.assertIn("at the moment", self.failed(self.ask("other")))
        self.clock.advance(TIMEOUT)
        self.failed(probe)
        self.assertIn("at the moment", self.failed(self.ask("other")))
        self.clock.advance(SHORTEST_PAUSE)
        self.works()

    def nobodys(self, source: str, token: str) -> Deferred[Introspection]:
        asked = self.introspector.ask(token, source)
        if self.agent.pending:
            self.agent.last.reply({"active": False})
        return asked

    def exhaust(self, source: str) -> None:
        """Bring so many tokens of nobody that the source is no longer trusted."""
        for number in range(BURST):
            self.successResultOf(self.nobodys(source, str(number)))

    def test_one_at_a_time_from_where_many_were_nobodys(self) -> None:
        self.exhaust("192.0.2.7")
        asked = [self.introspector.ask(str(n), "192.0.2.7") for n in range(50)]
        (suspect,) = self.agent.pending
        another = self.ask("well")
        self.agent.last.reply(active())
        self.successResultOf(another)
        known = self.introspector.ask("known", "192.0.2.7", known=True)
        self.assertEqual(self.agent.last.token, "known")
        self.agent.last.reply(active())
        self.successResultOf(known)
        self.assertEqual(self.agent.pending, [suspect])
        while self.agent.pending:
            (one,) = self.agent.pending
            one.reply(active())
        for each in asked:
            self.successResultOf(each)
        self.nothing_is_left()

    def test_who_waits_too_long_there_is_asked_to_come_back(self) -> None:
        self.exhaust("192.0.2.7")
        asked = [self.introspector.ask(str(n), "192.0.2.7") for n in range(200)]
        for _ in range(6):
            self.clock.advance(1)
            self.agent.last.reply({"active": False})
        self.clock.advance(1)
        for one in asked[:6]:
            self.assertFalse(self.successResultOf(one).active)
        self.failureResultOf(asked[6], GlobusError)
        for one in asked[7:]:
            self.failureResultOf(one, TryAgainLater)
        self.nothing_is_left()

    def test_are_trusted_again(self) -> None:
        self.exhaust("192.0.2.7")
        self.clock.advance(10)
        asked = [self.introspector.ask(str(n), "192.0.2.7") for n in range(5)]
        self.assertEqual(len(self.agent.pending), 5)
        for each in self.agent.pending:
            each.reply(active())
        for one in asked:
            self.successResultOf(one)

    def test_those_in_line_are_not_spared(self) -> None:
        asked = [
            self.introspector.ask(str(number), "192.0.2.7") for number in range(2000)
        ]
        most = 0
        while self.agent.pending:
            if len(self.agent.requests) > 2 * (BURST + CONNECTIONS):
                most = max(most, len(self.agent.pending))
            for each in self.agent.pending:
                each.reply({"active": False})
        self.assertEqual(most, 1)
        for one in asked:
            self.successResultOf(one)
        self.nothing_is_left()

    def test_good_tokens_have_none(self) -> None:
        for number in range(3 * BURST):
            asked = self.ask(str(number))
            self.agent.last.reply(active())
            self.successResultOf(asked)

    def test_stops_asking_while_globus_does_not_answer(self) -> None:
        self.open_breaker()
        for _ in range(100):
            self.assertEqual(self.failed(self.ask()), "does not answer at the moment")
        self.assertEqual(len(self.agent.requests), THRESHOLD)
        self.nothing_is_left()

    def test_tries_again_by_one_question(self) -> None:
        self.open_breaker()
        self.clock.advance(SHORTEST_PAUSE)
        probe = self.ask()
        for _ in range(10):
            self.failed(self.ask())
        self.assertEqual(len(self.agent.pending), 1)
        self.agent.last.reply(active())
        self.successResultOf(probe)
        self.works()

    def test_a_probe_that_is_given_up_makes_way(self) -> None:
        self.open_breaker()
        self.clock.advance(SHORTEST_PAUSE)
        probe = self.ask()
        probe.cancel()
        self.failureResultOf(probe, CancelledError)
        self.nothing_is_left()
        self.works()

    def test_a_failed_probe_is_not_repeated(self) -> None:
        self.open_breaker()
        self.clock.advance(SHORTEST_PAUSE)
        probe = self.ask()
        self.agent.last.fail(ConnectionRefusedError())
        self.agent.last.fail(ConnectionRefusedError())
        self.clock.advance(0.25)
        self.failed(probe)
        self.nothing_is_left()

    def test_an_outage_ends_by_itself(self) -> None:
        for _ in range(100):
            self.clock.advance(LONGEST_PAUSE / 3)
            asked = self.ask()
            for each in self.agent.pending:
                each.reply({}, 500)
            self.clock.advance(TIMEOUT)
            self.failed(asked)
        self.clock.advance(LONGEST_PAUSE)
        self.works()

    def test_thousands_in_line_when_it_stops(self) -> None:
        """The line is sent away in one go, and every turn comes back."""
        asked = [self.ask(str(number)) for number in range(3000)]
        for _ in range(2):
            for each in self.agent.pending:
                each.fail(ConnectionRefusedError())
        self.clock.advance(0.25)
        for one in asked:
            self.assertIn("at the moment", self.failed(one))
        self.nothing_is_left()
        self.clock.advance(LONGEST_PAUSE)
        self.works()
        for number in range(CONNECTIONS):
            self.ask(str(number))
        self.assertEqual(len(self.agent.pending), CONNECTIONS)
        for each in self.agent.pending:
            each.reply(active())

    def test_leaves_nothing_whenever_it_is_given_up(self) -> None:
        def waits_for_its_turn() -> None:
            for number in range(CONNECTIONS):
                self.ask(str(number))

        def waits_for_another_attempt(asked: Asked) -> None:
            asked.fail(ConnectionRefusedError())

        stages: tuple[Callable[[Asked], Any], ...] = (
            lambda _: None,
            lambda asked: asked.respond(),
            lambda asked: asked.respond().feed(b"{"),
            waits_for_another_attempt,
        )
        for stage in stages:
            asked = self.ask()
            stage(self.agent.last)
            asked.cancel()
            self.failureResultOf(asked, CancelledError)
            self.nothing_is_left()
            self.clock.advance(TIMEOUT)
            self.nothing_is_left()
        # None of them kept a turn.
        waits_for_its_turn()
        self.assertEqual(len(self.agent.pending), CONNECTIONS)
        asked = self.ask()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        for each in self.agent.pending:
            each.reply(active())
        self.nothing_is_left()

    def test_departures_are_no_failures(self) -> None:
        for _ in range(3 * THRESHOLD):
            asked = self.ask()
            asked.cancel()
            self.failureResultOf(asked, CancelledError)
        self.works()
        self.assertEqual(self.captured.lines(), [])

    def test_an_attempt_without_time_is_no_failure(self) -> None:
        for _ in range(3 * THRESHOLD):
            asked = self.ask()
            self.clock.advance(2)
            self.agent.last.reply({}, 503)
            self.clock.advance(0.25)
            self.clock.advance(4)
            self.agent.last.reply({}, 503)
            self.clock.advance(0.5)
            self.clock.advance(0.25)
            self.assertIn("did not answer", self.failed(asked))
            self.assertEqual(self.introspector._breaker._failures, 2)
            self.introspector._breaker.succeeded()

    def test_a_clock_that_is_set_back_or_forth(self) -> None:
        for hours in (1, -1):
            held = [self.ask(str(number)) for number in range(CONNECTIONS)]
            asked = self.ask()
            self.clock.rightNow += 3600 * hours
            for each in list(self.agent.pending):
                each.reply(active())
            for one in held:
                self.successResultOf(one)
            for each in self.agent.pending:
                each.reply(active())
            self.successResultOf(asked)
            self.nothing_is_left()


class LogTests(GlobusTestCase):
    """Trouble is logged when it begins, changes and ends."""

    def fail_with(self, value: object, code: int = 400) -> None:
        asked = self.introspector.ask(TOKEN, "192.0.2.1")
        self.agent.last.reply(value, code)
        self.failureResultOf(asked, GlobusError)
        self.introspector._breaker._open_until = 0

    def test_once(self) -> None:
        for _ in range(20):
            self.fail_with({"error": "invalid_client"}, 401)
            self.clock.advance(QUIET)
        self.assertEqual(
            self.captured.lines(),
            [
                "Globus Auth answered 401 (invalid_client): the client ID or the "
                "secret is wrong (client ID from , secret from ): new clients are "
                "asked to come back until that is put right; 'proxyrelay check' tells "
                "whether it is"
            ],
        )
        self.assertEqual(len(self.errors()), 1)

    def test_when_it_changes_and_when_it_ends(self) -> None:
        self.fail_with({}, 400)
        self.clock.advance(QUIET)
        self.fail_with({}, 404)
        self.clock.advance(QUIET)
        self.fail_with({}, 404)
        for _ in range(2):
            self.answered()
        self.clock.advance(QUIET)
        self.fail_with({}, 404)
        lines = self.captured.lines()
        self.assertEqual(
            [
                word
                for line in lines
                for word in ("400", "404", "again")
                if word in line
            ],
            ["400", "404", "again", "404"],
        )

    def answered(self) -> None:
        asked = self.introspector.ask(TOKEN, "192.0.2.1")
        self.agent.last.reply(active())
        self.successResultOf(asked)

    def test_not_at_every_change(self) -> None:
        for _ in range(100):
            self.fail_with({}, 400)
            self.answered()
            self.clock.advance(QUIET / 10)
        self.assertLess(len(self.captured.lines()), 25)
        self.assertIn("answers again", self.captured.lines()[-1])

    def test_numbers_in_globus_words_are_no_change(self) -> None:
        for number in range(10):
            self.fail_with({"errors": [{"code": "E", "detail": f"request {number}"}]})
            self.clock.advance(QUIET)
        self.assertEqual(len(self.captured.lines()), 1)

    def test_how_long_globus_was_late_is_no_change(self) -> None:
        for wait in (0, 1, 2):
            others = [
                self.introspector.ask(str(n), "192.0.2.1") for n in range(CONNECTIONS)
            ]
            asked = self.introspector.ask(TOKEN, "192.0.2.1")
            self.clock.advance(wait)
            for each in self.agent.pending[:CONNECTIONS]:
                each.reply(active())
            for other in others:
                self.successResultOf(other)
            self.introspector._trouble = Late if wait else None
            self.clock.advance(FIRST_SHARE * TIMEOUT)
            self.clock.advance(TIMEOUT)
            self.failureResultOf(asked, GlobusError)
        late = [line for line in self.captured.lines() if "did not answer" in line]
        self.assertEqual(len(late), 1)

    def test_escapes_what_globus_says(self) -> None:
        self.fail_with({"error": "a\n2026-01-01 INFO forged \x1b[31m{log_source}"})
        (line,) = self.captured.lines()
        self.assertTrue(line.isprintable())
        self.assertIn("forged", line)
        self.assertIn("{log_source}", line)

    def test_hides_what_globus_quotes(self) -> None:
        self.fail_with({"error": f"bad token {TOKEN}, bad secret {SECRET}"})
        (line,) = self.captured.lines()
        self.assertIn("bad token (hidden), bad secret (hidden)", line)


class AuthenticatorTests(GlobusTestCase):
    """Clients, and what becomes of them."""

    stale_if_error = 300.0

    def setUp(self) -> None:
        super().setUp()
        self.cache = TokenCache(100, 60, self.stale_if_error)
        self.auth = GlobusAuthenticator(
            *(self.introspector, self.cache, Policy(CLIENT_ID), self.clock),
            wall=self.clock.seconds,
        )

    def nothing_is_left(self) -> None:
        super().nothing_is_left()
        self.assertEqual(self.auth._questions, {})

    def come(self, token: str = TOKEN) -> Deferred[User]:
        return self.auth.authenticate({"authorization": f"Bearer {token}"}, "192.0.2.1")

    def enter(self, **fields: Any) -> None:
        """A client with the usual token is let in."""
        coming = self.come()
        self.agent.last.reply(active(**fields))
        self.assertEqual(self.successResultOf(coming), User(JO))

    def sent_away(self, coming: Deferred[User]) -> None:
        refusal = self.failureResultOf(coming, TryAgainLater).value
        self.assertEqual(refusal.code, 1013)
        self.assertEqual(str(refusal), "Globus Auth cannot be asked right now.")

    def test_lets_in_whom_globus_knows(self) -> None:
        self.enter()
        self.nothing_is_left()

    def test_refuses_a_header_without_asking(self) -> None:
        for headers in (NOTHING, {"authorization": "Basic a"}):
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
        others = [self.come(f"other{number}") for number in range(CONNECTIONS)]
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
        self.clock.advance(INACTIVE_TTL)
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
        # The next outage is told of again.
        self.clock.advance(LONGEST_PAUSE)
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
        self.assertEqual(bool(self.stale_if_error), coming.result == User(JO))
        coming.addErrback(lambda _: None)

    def test_made_up_tokens_keep_nobody_out_who_is_known(self) -> None:
        self.enter()
        for number in range(BURST):
            coming = self.come(str(number))
            self.agent.last.reply({"active": False})
            self.failureResultOf(coming, Forbidden)
        waiting = [self.come(f"more{number}") for number in range(20)]
        self.clock.advance(60)  # its answer is no longer fresh
        for one in waiting:
            one.addErrback(lambda _: None)
        coming = self.come()
        self.agent.last.reply(active())
        self.assertEqual(self.successResultOf(coming), User(JO))

    def test_an_older_answer_has_an_end(self) -> None:
        self.enter()
        self.clock.advance(60 + self.stale_if_error)
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
        for _ in range(2 * CONNECTIONS):
            self.sent_away(self.come())
        self.nothing_is_left()
        line = self.errors()[0]
        self.assertIn("failed with KeyError at", line)
        self.assertIn("in broken", line)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_keeps_no_token(self) -> None:
        self.enter()
        self.clock.advance(60)
        coming = self.come()
        self.assertNotIn(TOKEN, repr(self.auth._questions) + repr(vars(self.cache)))
        self.assertIn(fingerprint(TOKEN), self.auth._questions)
        coming.cancel()
        self.failureResultOf(coming, CancelledError)


class StrictAuthenticatorTests(AuthenticatorTests):
    """The same without older answers."""

    stale_if_error = 0.0

    def test_an_older_answer_serves_while_globus_fails(self) -> None:
        self.enter()
        self.clock.advance(60)
        coming = self.come()
        self.agent.last.reply({}, 400)
        self.sent_away(coming)
        self.assertEqual(self.captured.lines(LogLevel.warn), [])

    def test_an_older_answer_is_judged_again(self) -> None:
        """There is none."""


class ImmediateTests(SynchronousTestCase):
    """Nothing waits for what is known at once."""

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

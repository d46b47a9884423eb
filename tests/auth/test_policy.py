"""Bearer tokens, introspection answers and the policy."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.policy import (
    MAX_TOKEN_CHARACTERS,
    SCOPES,
    Introspection,
    Policy,
    authorize,
    bearer_token,
)
from proxyrelay.config import PROXYSTORE_RELAY, AuthArguments
from proxyrelay.errors import Forbidden, Unauthorized
from proxyrelay.switchboard.user import User

TOKENS = st.from_regex(r"[A-Za-z0-9._~+/-]{1,60}={0,3}", fullmatch=True)

RELAY = "8d7fdd4c-5f2c-4f43-9d7a-3c1f0a7f2f52"
NOW = 1000.0


def known(**fields: object) -> Introspection:
    """Answer about an accepted token; keywords replace fields."""
    values: dict[str, object] = {
        "active": True,
        "sub": "jo",
        "username": "jo@example.org",
        "aud": (RELAY,),
        "scope": "a b",
        "exp": NOW + 1,
    }
    return Introspection(**{**values, **fields})  # type: ignore[arg-type]


class BearerTokenTests(SynchronousTestCase):
    """The Authorization header (RFC 6750, section 2.1)."""

    def refused(self, headers: dict[str, str]) -> str:
        with self.assertRaises(Unauthorized) as caught:
            bearer_token(headers)
        self.assertEqual(caught.exception.code, 4001)
        self.assertLessEqual(len(caught.exception.reason.encode()), 123)
        reason: str = caught.exception.reason
        return reason

    @given(TOKENS, st.sampled_from(["Bearer", "bearer", "BEARER", "bEaReR"]))
    def test_takes_every_token(self, token: str, scheme: str) -> None:
        self.assertEqual(bearer_token({"authorization": f"{scheme} {token}"}), token)

    def test_takes_more_spaces(self) -> None:
        self.assertEqual(bearer_token({"authorization": "  Bearer   abc \t"}), "abc")

    def test_a_token_has_a_longest_length(self) -> None:
        longest = "a" * MAX_TOKEN_CHARACTERS
        self.assertEqual(bearer_token({"authorization": f"Bearer {longest}"}), longest)
        self.refused({"authorization": f"Bearer {longest}a"})

    def test_refuses_what_is_missing(self) -> None:
        self.assertEqual(
            self.refused({}),
            "UnauthorizedError: The request has no Authorization header.",
        )

    def test_refuses_other_schemes(self) -> None:
        for value in ("", "Basic abc", "abc", "Bearerabc", "Bearer\tabc", "Token a"):
            self.assertIn("no bearer token", self.refused({"authorization": value}))

    def test_refuses_what_is_malformed_and_does_not_repeat_it(self) -> None:
        for token in (
            *("", " ", "a b", "a, Bearer b", "a=b", "=", "a\x00b", "a\nb", "é", "a%20"),
            *('"secret"', "a;b", "a:b", "a\x0bb"),
        ):
            text = self.refused({"authorization": f"Bearer {token}"})
            self.assertEqual(text, "UnauthorizedError: The bearer token is malformed.")

    @given(st.text(max_size=30))
    def test_is_a_token_or_a_refusal(self, value: str) -> None:
        try:
            token = bearer_token({"authorization": value})
        except Unauthorized:
            return
        self.assertRegex(token, r"\A[A-Za-z0-9._~+/-]+=*\Z")


class IntrospectionTests(SynchronousTestCase):
    """Fields of an answer."""

    def test_an_audience_is_a_list_or_one(self) -> None:
        for aud, meant in (
            ("a", ("a",)),
            (("a", "b"), ("a", "b")),
            (None, ()),
            ((),) * 2,
        ):
            self.assertEqual(known(aud=aud).audience, meant)

    def test_scopes_are_separated_by_spaces(self) -> None:
        self.assertEqual(known(scope=" a  b ").scopes, {"a", "b"})
        self.assertEqual(known(scope=None).scopes, frozenset())

    def test_a_domain_follows_the_last_at(self) -> None:
        for name, domain in (
            ("jo@Example.ORG", "example.org"),
            ("a@b@c", "c"),
            ("example.org", ""),
            ("jo@", ""),
            ("", ""),
            (None, ""),
        ):
            self.assertEqual(known(username=name).domain, domain)


class JudgeTests(SynchronousTestCase):
    """Accepted and rejected tokens."""

    def refused(self, answer: Introspection, policy: Policy) -> str:
        with self.assertRaises(Forbidden) as caught:
            authorize(answer, policy, NOW)
        self.assertEqual(caught.exception.code, 4002)
        reason: str = caught.exception.reason
        return reason

    def test_takes_what_is_meant_for_the_relay(self) -> None:
        policy = Policy(RELAY, frozenset({"a"}))
        self.assertEqual(authorize(known(), policy, NOW), User("jo"))
        self.assertEqual(authorize(known(exp=None), policy, NOW), User("jo"))
        self.assertEqual(authorize(known(aud=("x", RELAY)), policy, NOW), User("jo"))

    def test_a_user_is_its_sub(self) -> None:
        one = authorize(known(username="a@a", client_id="x"), Policy(RELAY), NOW)
        other = authorize(known(username="b@b", client_id="y"), Policy(RELAY), NOW)
        self.assertEqual(one, other)

    def test_refuses_the_inactive(self) -> None:
        for answer in (Introspection(active=False), known(sub=None)):
            self.assertIn("expired or has been", self.refused(answer, Policy(RELAY)))

    def test_refuses_the_expired(self) -> None:
        for exp in (NOW, NOW - 1, 0, -1):
            self.assertIn("expired", self.refused(known(exp=exp), Policy(RELAY)))

    def test_refuses_another_audience(self) -> None:
        for aud in ("other", (), None, (RELAY.upper(),)):
            self.assertEqual(
                self.refused(known(aud=aud), Policy(RELAY)),
                f"ForbiddenError: The token is not meant for {RELAY}.",
            )

    def test_refuses_a_missing_scope_and_names_it(self) -> None:
        policy = Policy(RELAY, frozenset({f"{SCOPES}/{RELAY}/relay_all", "a"}))
        self.assertEqual(
            self.refused(known(), policy),
            f"ForbiddenError: The token lacks the scope {RELAY}/relay_all.",
        )

    def test_reasons_are_short_or_say_the_point_first(self) -> None:
        for answer, policy in (
            (known(active=False), Policy(RELAY)),
            (known(exp=1), Policy(RELAY)),
            (known(aud="x"), Policy(RELAY)),
            (known(), Policy(RELAY, frozenset({f"{SCOPES}/{RELAY}/relay_all"}))),
            (known(), Policy(RELAY, denied_users=frozenset({"jo"}))),
        ):
            self.assertLessEqual(len(self.refused(answer, policy).encode()), 123)
        long = "x" * 200
        self.assertIn("not meant for", self.refused(known(), Policy(long))[:123])
        policy = Policy(RELAY, frozenset({long}))
        self.assertIn("lacks the scope", self.refused(known(), policy)[:123])

    def test_lists_of_users_and_domains(self) -> None:
        jo, org = frozenset({"jo"}), frozenset({"example.org"})
        other = frozenset({"other"})
        for policy, taken in (
            (Policy(RELAY), True),
            (Policy(RELAY, allowed_users=jo), True),
            (Policy(RELAY, allowed_domains=org), True),
            (Policy(RELAY, allowed_users=other, allowed_domains=org), True),
            (Policy(RELAY, allowed_users=other), False),
            (Policy(RELAY, allowed_domains=other), False),
            (Policy(RELAY, denied_users=jo), False),
            (Policy(RELAY, denied_domains=org), False),
            (Policy(RELAY, allowed_users=jo, denied_domains=org), False),
            (Policy(RELAY, allowed_domains=org, denied_users=jo), False),
            (Policy(RELAY, denied_users=other, denied_domains=other), True),
        ):
            if taken:
                self.assertEqual(authorize(known(), policy, NOW), User("jo"), policy)
            else:
                text = self.refused(known(), policy)
                self.assertIn("may not use this relay", text)
                self.assertNotIn("jo", text)

    def test_who_has_no_domain_is_in_none(self) -> None:
        for name in (None, "", "example.org", "jo@"):
            for domain in ("example.org", ""):
                policy = Policy(RELAY, allowed_domains=frozenset({domain}))
                self.refused(known(username=name), policy)


class SettingsTests(SynchronousTestCase):
    """The policy of the settings."""

    def test_the_defaults_are_those_of_stock_clients(self) -> None:
        self.assertEqual(
            Policy.from_settings(AuthArguments(), RELAY), Policy(PROXYSTORE_RELAY)
        )

    def test_an_application_of_its_own_wants_its_scope(self) -> None:
        made = Policy.from_settings(AuthArguments(audience=RELAY), RELAY)
        self.assertEqual(made.audience, RELAY)
        self.assertEqual(
            made.required_scopes,
            {f"https://auth.globus.org/scopes/{RELAY}/relay_all"},
        )

    def test_scopes_can_be_set(self) -> None:
        for scopes in ((), ("a",), ("a", "b")):
            for audience in (RELAY, "other"):
                arguments = AuthArguments(audience=audience, required_scopes=scopes)
                made = Policy.from_settings(arguments, RELAY)
                self.assertEqual(made.required_scopes, set(scopes))

    def test_domains_are_compared_in_lower_case(self) -> None:
        made = Policy.from_settings(
            AuthArguments(
                client_secret_file=Path("secret"),
                allowed_users=("A",),
                denied_users=("B",),
                allowed_domains=("Example.ORG",),
                denied_domains=("EVIL.example",),
            ),
            RELAY,
        )
        self.assertEqual(
            (
                made.allowed_users,
                made.denied_users,
                made.allowed_domains,
                made.denied_domains,
            ),
            ({"A"}, {"B"}, {"example.org"}, {"evil.example"}),
        )

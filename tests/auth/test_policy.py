"""Bearer tokens, introspection answers and the policy."""

from __future__ import annotations

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
RELAY_ALL = f"{SCOPES}/{RELAY}/relay_all"
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

    def refused(self, value: str | None) -> str:
        headers = {} if value is None else {"authorization": value}
        with self.assertRaises(Unauthorized) as caught:
            bearer_token(headers)
        self.assertEqual(caught.exception.code, 4001)
        self.assertLessEqual(len(caught.exception.reason.encode()), 123)
        return str(caught.exception.reason.removeprefix("UnauthorizedError: "))

    @given(TOKENS, st.sampled_from(["Bearer", "bearer", "BEARER", "bEaReR"]))
    def test_bearer_token_any_token_is_returned(self, token: str, scheme: str) -> None:
        self.assertEqual(bearer_token({"authorization": f"{scheme} {token}"}), token)

    def test_bearer_token_more_spaces_are_removed(self) -> None:
        self.assertEqual(bearer_token({"authorization": "  Bearer   abc \t"}), "abc")

    def test_bearer_token_too_long_is_refused(self) -> None:
        longest = "a" * MAX_TOKEN_CHARACTERS
        self.assertEqual(bearer_token({"authorization": f"Bearer {longest}"}), longest)
        self.refused(f"Bearer {longest}a")

    def test_bearer_token_missing_is_refused(self) -> None:
        text = "The request has no Authorization header."
        self.assertEqual(self.refused(None), text)

    def test_bearer_token_other_scheme_is_refused(self) -> None:
        for value in ("", "Basic abc", "abc", "Bearerabc", "Bearer\tabc", "Token a"):
            self.assertIn("no bearer token", self.refused(value))

    def test_bearer_token_malformed_is_refused_and_not_quoted(self) -> None:
        for token in (
            *("", " ", "a b", "a, Bearer b", "a=b", "=", "a\x00b", "a\nb", "é", "a%20"),
            *('"secret"', "a;b", "a:b", "a\x0bb"),
        ):
            text = self.refused(f"Bearer {token}")
            self.assertEqual(text, "The bearer token is malformed.")

    @given(st.text(max_size=30))
    def test_bearer_token_any_text_is_a_token_or_refused(self, value: str) -> None:
        try:
            token = bearer_token({"authorization": value})
        except Unauthorized:
            return
        self.assertRegex(token, r"\A[A-Za-z0-9._~+/-]+=*\Z")


class IntrospectionTests(SynchronousTestCase):
    """Fields of an answer."""

    def test_introspection_fields_are_split(self) -> None:
        for field, value, name, expected in (
            ("aud", "a", "audience", ("a",)),
            ("aud", ("a", "b"), "audience", ("a", "b")),
            ("aud", (), "audience", ()),
            ("aud", None, "audience", ()),
            ("scope", " a  b ", "scopes", {"a", "b"}),
            ("scope", None, "scopes", set()),
            ("username", "jo@Example.ORG", "domain", "example.org"),
            ("username", "a@b@c", "domain", "c"),
            ("username", "example.org", "domain", ""),
            ("username", "jo@", "domain", ""),
            ("username", "", "domain", ""),
            ("username", None, "domain", ""),
        ):
            with self.subTest(field, value=value):
                self.assertEqual(getattr(known(**{field: value}), name), expected)


class AuthorizeTests(SynchronousTestCase):
    """Accepted and rejected tokens."""

    def accepted(self, answer: Introspection, policy: Policy) -> None:
        self.assertEqual(authorize(answer, policy, NOW), User("jo"))

    def refused(self, answer: Introspection, policy: Policy) -> str:
        with self.assertRaises(Forbidden) as caught:
            authorize(answer, policy, NOW)
        self.assertEqual(caught.exception.code, 4002)
        return str(caught.exception.reason.removeprefix("ForbiddenError: "))

    def test_authorize_token_for_the_relay_gives_its_sub(self) -> None:
        policy = Policy(RELAY, frozenset({"a"}))
        for answer in (
            known(),
            known(exp=None),
            known(aud=("x", RELAY)),
            known(username="a@a"),
        ):
            self.accepted(answer, policy)

    def test_authorize_unfit_token_is_refused_with_a_short_reason(self) -> None:
        lacking = Policy(RELAY, frozenset({RELAY_ALL, "a"}))
        stopped = "The token is expired or has been revoked."
        other = f"The token is not meant for {RELAY}."
        for answer, policy, reason in (
            (Introspection(active=False), Policy(RELAY), stopped),
            (known(active=False), Policy(RELAY), stopped),
            (known(sub=None), Policy(RELAY), stopped),
            *(
                (known(exp=exp), Policy(RELAY), "The token has expired.")
                for exp in (NOW, NOW - 1, 0, -1)
            ),
            *(
                (known(aud=aud), Policy(RELAY), other)
                for aud in ("other", (), None, (RELAY.upper(),))
            ),
            (known(), lacking, f"The token lacks the scope {RELAY}/relay_all."),
        ):
            with self.subTest(answer=answer):
                text = self.refused(answer, policy)
                self.assertEqual(text, reason)
                self.assertLessEqual(len(f"ForbiddenError: {text}"), 123)

    def test_authorize_long_names_say_the_point_first(self) -> None:
        long = "x" * 200
        self.assertIn("not meant for", self.refused(known(), Policy(long))[:100])
        policy = Policy(RELAY, frozenset({long}))
        self.assertIn("lacks the scope", self.refused(known(), policy)[:100])

    def test_authorize_lists_of_users_and_domains_decide(self) -> None:
        jo, org = frozenset({"jo"}), frozenset({"example.org"})
        other = frozenset({"other"})
        for policy, is_accepted in (
            (Policy(RELAY), True),
            (Policy(RELAY, allowed_users=jo), True),
            (Policy(RELAY, allowed_domains=org), True),
            (Policy(RELAY, allowed_users=other, allowed_domains=org), True),
            (Policy(RELAY, denied_users=other, denied_domains=other), True),
            (Policy(RELAY, allowed_users=other), False),
            (Policy(RELAY, allowed_domains=other), False),
            (Policy(RELAY, denied_users=jo), False),
            (Policy(RELAY, denied_domains=org), False),
            (Policy(RELAY, allowed_users=jo, denied_domains=org), False),
            (Policy(RELAY, allowed_domains=org, denied_users=jo), False),
        ):
            with self.subTest(policy=policy):
                if is_accepted:
                    self.accepted(known(), policy)
                    continue
                text = self.refused(known(), policy)
                self.assertEqual(text, "This identity may not use this relay.")

    def test_authorize_user_without_domain_is_in_no_domain(self) -> None:
        for name in (None, "", "example.org", "jo@"):
            for domain in ("example.org", ""):
                policy = Policy(RELAY, allowed_domains=frozenset({domain}))
                self.refused(known(username=name), policy)


class SettingsTests(SynchronousTestCase):
    """The policy of the settings."""

    def test_policy_default_is_that_of_stock_clients(self) -> None:
        made = Policy.from_settings(AuthArguments(), RELAY)
        self.assertEqual(made, Policy(PROXYSTORE_RELAY))

    def test_policy_own_audience_requires_its_scope(self) -> None:
        made = Policy.from_settings(AuthArguments(audience=RELAY), RELAY)
        scope = f"https://auth.globus.org/scopes/{RELAY}/relay_all"
        self.assertEqual(made, Policy(RELAY, frozenset({scope})))

    def test_policy_scopes_of_the_settings_win(self) -> None:
        for scopes in ((), ("a",), ("a", "b")):
            for audience in (RELAY, "other"):
                arguments = AuthArguments(audience=audience, required_scopes=scopes)
                made = Policy.from_settings(arguments, RELAY)
                self.assertEqual(made.required_scopes, set(scopes))

    def test_policy_domains_become_lower_case(self) -> None:
        arguments = AuthArguments(
            allowed_users=("A",),
            denied_users=("B",),
            allowed_domains=("Example.ORG",),
            denied_domains=("EVIL.example",),
        )
        made = Policy.from_settings(arguments, RELAY)
        self.assertEqual((made.allowed_users, made.denied_users), ({"A"}, {"B"}))
        self.assertEqual(made.allowed_domains, {"example.org"})
        self.assertEqual(made.denied_domains, {"evil.example"})

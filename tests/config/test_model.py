"""Secrets, exposure to strangers, and the place of the private listener."""

from __future__ import annotations

from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Admin, Auth, Config, Secret, admin_listen, load
from proxyrelay.errors import ConfigError
from tests.config.case import ConfigTestCase


class SecretTests(ConfigTestCase):
    """Secrets show themselves only when asked."""

    SECRET = "hunter2-hunter2"

    def assertHidden(self, *things: object) -> None:  # noqa: N802 - as trial spells it
        for thing in things:
            self.assertNotIn("hunter2", repr(thing))
            self.assertNotIn("hunter2", str(thing))

    def test_reveals_itself_by_name_only(self) -> None:
        secret = Secret(self.SECRET)
        self.assertEqual(secret.reveal(), self.SECRET)
        self.assertHidden(secret, [secret], f"{secret} {secret!r} {secret!a}")
        with self.assertRaises(TypeError):
            msgspec.json.encode(secret)

    def test_equal_secrets_are_equal(self) -> None:
        self.assertEqual(Secret("a"), Secret("a"))
        self.assertEqual(len({Secret("a"), Secret("a"), Secret("b")}), 2)
        self.assertNotEqual(Secret("a"), Secret("b"))
        self.assertNotEqual(Secret("a"), "a")

    def test_is_not_shown_by_the_settings(self) -> None:
        loaded = self.load(f"[auth.kwargs]\nclient_secret = '{self.SECRET}'\n")
        secret = loaded.config.auth.kwargs.client_secret
        assert secret is not None
        self.assertEqual(secret.reveal(), self.SECRET)
        self.assertHidden(loaded.config, loaded.config.auth, loaded.problems)

    def test_is_not_shown_by_what_was_loaded(self) -> None:
        self.assertHidden(
            self.load(f"[auth.kwargs]\nclient_secret = '{self.SECRET}'\n")
        )

    def test_is_not_shown_by_problems(self) -> None:
        for text in (
            "[auth.kwargs]\nclient_secret = ['{}']\n",
            "[auth.kwargs]\nclient_secret = {{x = '{}'}}\n",
            "[auth.kwargs]\nclient_secrets = '{}'\n",
            "[auth.kwarg]\nclient_secret = '{}'\n",
            "[[auth.kwargs]]\nclient_secret = '{}'\n",
            "[auth]\nclient_secret = '{}'\n",
            "[auth]\nkwargs = '{}'\n",
            "auth = '{}'\n",
            "port = '{}'\n",
            "[logging]\ndefault_level = '{}'\n",
            "[auth]\nmethod = '{}'\n",
            "[auth.kwargs]\nclient_secret = '{}\n",
            "[auth.kwargs]\nclient_secret = {}\n",
            "[auth.kwargs]\nclient_secret '{}'\n",
            "[auth.kwargs]\nclient_secret = '''{}\n",
            '[auth.kwargs]\nclient_secret = "{}\\y"\n',
            "[auth.kwargs]\nclient_secret = 'a'\nclient_secret = '{}'\n",
        ):
            loaded = self.load(text.format(self.SECRET))
            self.assertNotEqual(loaded.problems, [], text)
            self.assertHidden(
                *loaded.problems, ConfigError(loaded.problems), loaded.config
            )

    def test_is_not_shown_if_it_is_a_number(self) -> None:
        problem = self.only("[auth.kwargs]\nclient_secret = 20406080\n")
        self.assertNotIn("20406080", repr(problem) + str(problem))


class ExposureTests(SynchronousTestCase):
    """Exposure to strangers on the network."""

    TLS = Path("cert.pem")
    AUTH = Auth("globus")

    def test_tells_what_is_missing(self) -> None:
        for config, missing in (
            (Config(), ["TLS", "certfile", "authentication", "[auth]"]),
            (Config(certfile=self.TLS), ["authentication", "[auth]"]),
            (Config(auth=self.AUTH), ["TLS", "certfile"]),
        ):
            text = config.exposure()
            assert text is not None
            for word in ("TLS", "certfile", "authentication", "[auth]"):
                self.assertEqual(word in text, word in missing, text)

    def test_a_safe_relay_is_not_exposed(self) -> None:
        self.assertIsNone(Config(certfile=self.TLS, auth=self.AUTH).exposure())

    def test_the_loopback_interface_is_not_exposed(self) -> None:
        for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
            self.assertIsNone(Config(host=host).exposure(), host)

    def test_other_interfaces_are_exposed(self) -> None:
        for host in (None, "0.0.0.0", "::", "192.0.2.1", "relay.example"):
            self.assertIsNotNone(Config(host=host).exposure(), host)


class AdminTests(SynchronousTestCase):
    """The place of the private listener, and its callers."""

    def test_a_place_is_an_address_or_a_path(self) -> None:
        for listen, place in (
            ("127.0.0.1:8701", ("127.0.0.1", 8701)),
            ("[::1]:8701", ("::1", 8701)),
            ("unix:/run/a b", Path("/run/a b")),
            (None, None),
        ):
            self.assertEqual(Admin(listen=listen).place, place)

    def test_what_others_reach_needs_a_token(self) -> None:
        path = Path(self.mktemp())
        for listen in ("0.0.0.0:1", "[::]:1", "192.0.2.1:1", "relay.example:1"):
            path.write_text(f"[admin]\nlisten = '{listen}'\n")
            (problem,) = load(path).problems
            self.assertEqual((problem.key, problem.line), ("admin.listen", 2))
            self.assertIn("needs a token_file beside it", problem.message)
            path.write_text(f"[admin]\nlisten = '{listen}'\ntoken_file = 'a'\n")
            self.assertEqual(load(path).problems, [])

    def test_it_is_not_where_clients_come_to(self) -> None:
        path = Path(self.mktemp())
        for host, port, listen, meets in (
            ("127.0.0.1", 1, "127.0.0.1:1", True),
            ("0.0.0.0", 1, "127.0.0.1:1", True),
            ("::", 1, "[::1]:1", True),
            ("127.0.0.2", 1, "127.0.0.1:1", False),
            ("127.0.0.1", 2, "127.0.0.1:1", False),
            ("127.0.0.1", 0, "127.0.0.1:0", False),
        ):
            path.write_text(
                f"host = '{host}'\nport = {port}\n[admin]\nlisten = '{listen}'\n"
            )
            found = [(problem.key, problem.line) for problem in load(path).problems]
            self.assertEqual(found, [("admin.listen", 4)] if meets else [], listen)
        path.write_text("[admin]\nlisten = '127.0.0.1:8700'\n")
        (problem,) = load(path).problems
        self.assertIn("is where clients come to (port 8700)", problem.message)

    def test_what_this_machine_reaches_does_not(self) -> None:
        path = Path(self.mktemp())
        for listen in ("127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/a"):
            path.write_text(f"[admin]\nlisten = '{listen}'\n")
            self.assertEqual(load(path).problems, [])

    def test_is_found_whatever_else_is_wrong(self) -> None:
        path = Path(self.mktemp())
        for text, listen in (
            ("[admin]\nlisten = 'a:1' # b\n", "a:1"),
            ("admin.listen = 'a:1'\n", "a:1"),
            ("prot = 1\n[admin]\nlisten = 'a:1'\nlisen = 1\n", "a:1"),
            ("port = x\n[ admin ]\nallowed_hosts = ['b']\n listen='a:1'\n", "a:1"),
            ("[admin]\nlisten = 'a:1'\n[admin]\nlisten = 'b:1'\n", "a:1"),
            ("[admin]\nlisten = 'a:1'\n[limits\n", "a:1"),
            ("port = x\n[admin]\n[limits]\nlisten = 'a:1'\n", None),
            ("port = x\n[admin]\n# listen = 'a:1'\nlistening = 'a:1'\n", None),
            ("[admin]\nlisten = a:1\n", None),
            ("[admin]\nlisten = 1\n", None),
            ("admin = 1\n", None),
            ("port = 1\n", None),
        ):
            path.write_text(text)
            self.assertEqual(admin_listen(path), listen, text)
        path.write_bytes(b"# \xff\n[admin]\nlisten = 'a:1'\n")
        self.assertEqual(admin_listen(path), "a:1")

"""Secrets, exposure to strangers, and the place of the private listener."""

from __future__ import annotations

from pathlib import Path

import msgspec

from proxyrelay.config import Admin, Auth, Config, Secret, admin_listen
from proxyrelay.errors import ConfigError
from tests.config.case import ConfigTestCase


class SecretTests(ConfigTestCase):
    """Secrets show themselves only when asked."""

    SECRET = "hunter2-hunter2"

    def assertHidden(self, *things: object) -> None:  # noqa: N802 - as trial spells it
        for thing in things:
            self.assertNotIn("hunter2", f"{thing!r}{thing}")

    def test_secret_reveals_itself_by_name_only(self) -> None:
        secret = Secret(self.SECRET)
        self.assertEqual(secret.reveal(), self.SECRET)
        self.assertHidden(secret, [secret], f"{secret} {secret!r} {secret!a}")
        with self.assertRaises(TypeError):
            msgspec.json.encode(secret)

    def test_secret_equals_same_secret_only(self) -> None:
        self.assertEqual(Secret("a"), Secret("a"))
        self.assertEqual(len({Secret("a"), Secret("a"), Secret("b")}), 2)
        self.assertNotEqual(Secret("a"), Secret("b"))
        self.assertNotEqual(Secret("a"), "a")

    def test_secret_loaded_is_hidden(self) -> None:
        loaded = self.load(f"[auth.kwargs]\nclient_secret = '{self.SECRET}'\n")
        secret = loaded.config.auth.kwargs.client_secret
        assert secret is not None
        self.assertEqual(secret.reveal(), self.SECRET)
        self.assertHidden(loaded, loaded.config, loaded.config.auth, loaded.problems)

    def test_secret_in_problems_is_hidden(self) -> None:
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
        problem = self.only("[auth.kwargs]\nclient_secret = 20406080\n")
        self.assertNotIn("20406080", repr(problem) + str(problem))


class ConfigTests(ConfigTestCase):
    """All settings together."""

    def test_config_is_frozen(self) -> None:
        with self.assertRaises(AttributeError):
            Config().port = 1  # type: ignore[misc]

    def test_scheme_tells_tls(self) -> None:
        self.assertEqual(Config().scheme, "ws")
        self.assertEqual(Config(certfile=Path("cert.pem")).scheme, "wss")

    def test_exposure_tells_what_is_missing(self) -> None:
        certfile, auth = Path("cert.pem"), Auth("globus")
        for config, missing in (
            (Config(), {"TLS", "certfile", "authentication", "[auth]"}),
            (Config(certfile=certfile), {"authentication", "[auth]"}),
            (Config(auth=auth), {"TLS", "certfile"}),
            (Config(certfile=certfile, auth=auth), set[str]()),
        ):
            exposure = config.exposure() or ""
            words = ("TLS", "certfile", "authentication", "[auth]")
            self.assertEqual({word for word in words if word in exposure}, missing)

    def test_exposure_depends_on_interface(self) -> None:
        for private in (
            *("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"),
        ):
            self.assertIsNone(Config(host=private).exposure(), private)
        for host in (
            *(None, "0.0.0.0", "::"),
            *("192.0.2.1", "::ffff:192.0.2.1", "relay.example"),
        ):
            self.assertIsNotNone(Config(host=host).exposure(), host)


class AdminTests(ConfigTestCase):
    """The place of the private listener, and its callers."""

    def test_place_is_address_or_path(self) -> None:
        for listen, place in (
            ("127.0.0.1:8701", ("127.0.0.1", 8701)),
            ("[::1]:8701", ("::1", 8701)),
            ("unix:/run/a b", Path("/run/a b")),
            (None, None),
        ):
            self.assertEqual(Admin(listen=listen).place, place)

    def test_token_is_needed_where_others_reach_the_listener(self) -> None:
        words = "needs a token_file beside it"
        for listen in ("0.0.0.0:1", "[::]:1", "192.0.2.1:1", "relay.example:1"):
            text = f"[admin]\nlisten = '{listen}'\n"
            self.assert_problem(text, "admin.listen", 2, words)
            self.sound(f"{text}token_file = 'a'\n")
        for listen in ("127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/a"):
            self.sound(f"[admin]\nlisten = '{listen}'\n")

    def test_place_of_clients_is_refused(self) -> None:
        for host, port, listen, meets in (
            ("127.0.0.1", 1, "127.0.0.1:1", True),
            ("0.0.0.0", 1, "127.0.0.1:1", True),
            ("::", 1, "[::1]:1", True),
            ("127.0.0.2", 1, "127.0.0.1:1", False),
            ("127.0.0.1", 2, "127.0.0.1:1", False),
            ("127.0.0.1", 0, "127.0.0.1:0", False),
        ):
            text = f"host = '{host}'\nport = {port}\n[admin]\nlisten = '{listen}'\n"
            self.assertEqual(self.found(text), [("admin.listen", 4)] if meets else [])
        words = "is where clients come to (port 8700)"
        text = "[admin]\nlisten = '127.0.0.1:8700'\n"
        self.assert_problem(text, "admin.listen", 2, words)

    def test_admin_listen_is_found_in_broken_file(self) -> None:
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
            self.path.write_text(text)
            self.assertEqual(admin_listen(self.path), listen, text)
        self.path.write_bytes(b"# \xff\n[admin]\nlisten = 'a:1'\n")
        self.assertEqual(admin_listen(self.path), "a:1")

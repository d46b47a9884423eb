"""``proxyrelay turn``: a table for an endpoint, from a secret."""

from __future__ import annotations

import io
import os
import time
import tomllib
from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from uuid import uuid4

from aiortc import RTCIceServer
from aiortc.rtcicetransport import connection_kwargs
from proxystore.endpoint.config import (
    EndpointConfig,
    EndpointRelayConfig,
    read_config,
    write_config,
)
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.cli import turn
from proxyrelay.config import Secret
from proxyrelay.errors import ConfigError
from tests.cli.command_case import CommandTestCase

SECRET = "correct-horse-battery"

URL = "turn:turn.example.org:3478"


class CredentialTests(SynchronousTestCase):
    def test_password_is_the_authentication_code_of_the_user_name(self) -> None:
        """The codes are those of ``openssl dgst -sha1 -hmac``."""
        for name, expected in (
            ("jo", ("1700000000:jo", "MdiARQp9n0F4RBwC9yAiVdJUaBg=")),
            (None, ("1700000000", "0+OExXzhfypLXRbFYXhJu0wB3Vk=")),
        ):
            pair = turn.credentials(Secret(SECRET), 1_700_000_000, name)
            self.assertEqual(pair, expected)

    def test_table_is_toml_with_the_end_in_words(self) -> None:
        text = turn.table(["stun:a", "turn:a"], ("0:jo", "b/+="), 1_700_000_000)
        self.assertIn("until 2023-11-14 22:13:20 UTC", text)
        self.assertEqual(
            tomllib.loads(text)["relay"]["ice_servers"],
            [
                {
                    "urls": ["stun:a", "turn:a"],
                    "username": "0:jo",
                    "credential": "b/+=",
                }
            ],
        )


class ArgumentTests(SynchronousTestCase):
    def refused(self, parse: Callable[[str], object], *texts: str) -> None:
        for text in texts:
            with self.assertRaises((ValueError, ArgumentTypeError), msg=text):
                parse(text)

    def test_lifetime_has_a_unit_or_is_in_seconds(self) -> None:
        for text, seconds in (
            ("30d", 30 * 86400),
            ("12h", 12 * 3600),
            ("90m", 90 * 60),
            ("60", 60),
            ("3650d", 3650 * 86400),
        ):
            self.assertEqual(turn.lifetime(text), seconds)
        self.refused(
            turn.lifetime,
            *("", "d", "59", "3651d", "-1d", "1.5h", "1w", "٣d"),
            99 * "9",
        )
        error = self.assertRaises(ArgumentTypeError, turn.lifetime, "5x")
        self.assertIn("30d, 12h, 90m or 3600", str(error))

    def test_user_has_no_colon_and_is_short(self) -> None:
        self.assertEqual(turn.user("jo_1.a@b-c"), "jo_1.a@b-c")
        self.refused(turn.user, "", "a:b", 'a"', "a b", "é", "a\n", "a" * 65)

    def test_server_over_udp_is_the_stun_server_too(self) -> None:
        for text, stun in (
            ("turn:a.example", "stun:a.example"),
            (URL, "stun:turn.example.org:3478"),
            ("turn:192.0.2.1:80?transport=udp", "stun:192.0.2.1:80"),
        ):
            self.assertEqual(turn.ice_urls(text), [stun, text])

    def test_server_over_tcp_or_tls_stands_alone(self) -> None:
        for text in ("turn:a?transport=tcp", "turns:a:443", "turns:a?transport=tcp"):
            self.assertEqual(turn.ice_urls(text), [text])

    def test_url_that_endpoints_do_not_understand_is_refused(self) -> None:
        self.refused(
            turn.ice_urls,
            *("", "turn:", "a.example", "stun:a", "https://a", "turn://a", "turn:jo@a"),
            *(
                "turn:[2001:db8::1]:3478",
                "turn:2001:db8::1",
                "turn:a:0",
                "turn:a:65536",
            ),
            *("turns:a?transport=udp", "turn:a?transport=sctp", "TURN:a", 'turn:a"'),
            *("turn:a\n", "turn:a:٣", "turn:a:65536"),
        )

    def test_urls_are_used_by_the_library_of_endpoints(self) -> None:
        for text in (URL, "turn:a?transport=tcp", "turns:a:443"):
            server = RTCIceServer(turn.ice_urls(text), username="u", credential="c")
            found = connection_kwargs([server])
            scheme, host, *_ = text.partition("?")[0].split(":")
            self.assertEqual(found["turn_server"][0], host)
            self.assertEqual(found["turn_ssl"], scheme == "turns")
            self.assertEqual("stun_server" in found, text == URL)
            self.assertEqual(
                (found["turn_username"], found["turn_password"]), ("u", "c")
            )


class CommandTests(CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.write(f"{SECRET}\n")

    def write(self, text: str, mode: int = 0o600) -> Path:
        path = self.folder / "secret"
        path.write_text(text)
        path.chmod(mode)
        return path

    def print_table(self, *options: str) -> str:
        status, lines = self.run_command(
            "turn", "--secret-file", str(self.file), URL, *options
        )
        self.assertEqual(status, 0)
        return "\n".join(lines) + "\n"

    def test_table_lasts_as_long_as_asked_and_hides_the_secret(self) -> None:
        for options, seconds in ((), 30 * 86400), (("--lifetime", "12h"), 12 * 3600):
            before = int(time.time())
            text = self.print_table("--user", "jo", *options)
            after = int(time.time())
            (server,) = tomllib.loads(text)["relay"]["ice_servers"]
            expiry, _, name = server["username"].partition(":")
            self.assertEqual(name, "jo")
            self.assertTrue(before <= int(expiry) - seconds <= after)
            self.assertNotIn(SECRET, text)

    def test_table_fits_behind_the_file_of_an_endpoint(self) -> None:
        config = EndpointConfig(
            name="one",
            uuid=str(uuid4()),
            port=8701,
            relay=EndpointRelayConfig(address="wss://relay.example.org:8700"),
        )
        write_config(config, str(self.folder))
        text = self.print_table()
        with (self.folder / "config.toml").open("a", encoding="utf-8") as file:
            file.write(text)
        found = read_config(str(self.folder))
        (server,) = found.relay.ice_servers or []
        self.assertEqual(server.urls, ["stun:turn.example.org:3478", URL])
        self.assertEqual(found.relay.address, config.relay.address)

    def test_secret_that_others_may_read_is_refused(self) -> None:
        """The problem does not get into a file that standard output goes to."""
        self.file.chmod(0o644)
        errors = io.StringIO()
        with redirect_stderr(errors):
            status, lines = self.run_command(
                "turn", "--secret-file", str(self.file), URL
            )
        self.assertEqual((status, lines), (1, []))
        expected = f"problem: --secret-file: others may read {self.file}: chmod o= it\n"
        self.assertEqual(errors.getvalue(), expected)

    def test_file_without_a_secret_is_refused_and_not_shown(self) -> None:
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        folder, missing = self.folder, self.folder / "missing"
        for text in ("", "a" * 15, "a" * 1001, "two words of a secret", "é" * 20):
            with self.assertRaises(ConfigError) as caught:
                turn.read_secret(self.write(text))
            self.assertIn(" must hold static-auth-secret ", str(caught.exception))
            self.assertNotIn(text or "\n", str(caught.exception))
        for path in (pipe, folder, missing):
            with self.assertRaises(ConfigError) as caught:
                turn.read_secret(path)
            self.assertIn(" cannot be read: ", str(caught.exception))

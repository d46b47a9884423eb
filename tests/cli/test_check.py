"""``proxyrelay check``: the relay that would serve, or each problem."""

from __future__ import annotations

from datetime import timedelta

import trustme

from proxyrelay.config import PROXYSTORE_RELAY
from proxyrelay.net import certificates, listening
from tests.cli.command_case import (
    DAY,
    GLOBUS,
    HOST,
    OUR_CLIENT,
    CommandTestCase,
    GlobusCommandTestCase,
)
from tests.support.globus import CLIENT_ID, SERVICE


class CheckTests(CommandTestCase):
    """The relay of a configuration, or its problems."""

    def test_tells_what_would_be_served(self) -> None:
        self.assertEqual(
            self.check(HOST + "port = 0\n"),
            (
                0,
                [
                    "would serve ws on 127.0.0.1, port (any)",
                    "authentication: none",
                    "log: INFO and above, to standard output",
                    'set: host = "127.0.0.1"',
                    "set: port = 0",
                    "no problems",
                ],
            ),
        )

    def test_tells_what_the_options_say(self) -> None:
        status, lines = self.check(
            "host = 'nowhere.invalid'\nport = 'x'\n",
            "--host=127.0.0.1",
            "--port=0",
            f"--log-dir={self.folder / 'logs'}",
            "--log-level=debug",
        )
        self.assertEqual(status, 0)
        self.assertEqual(lines[0], "would serve ws on 127.0.0.1, port (any)")
        self.assertIn(
            f"log: DEBUG and above, to standard output and {self.folder / 'logs'}",
            lines,
        )
        self.assertIn('set: logging.default_level = "DEBUG"', lines)

    def test_tells_how_users_are_shown(self) -> None:
        text = HOST + "port = 0\n[logging]\nprivacy = true\n"
        words = "users and addresses: shown as pseudonyms"
        key = f"privacy_key_file = '{self.folder / 'key'}'\n"
        for more, end in (("", ", others after each start"), (key, "")):
            status, lines = self.check(text + more)
            self.assertEqual(status, 0)
            self.assertIn(words + end, lines)
        self.assertIn("set: logging.privacy = true", lines)
        self.assertFalse((self.folder / "key").exists())

    def test_never_shows_a_secret(self) -> None:
        status, lines = self.check(HOST + "port = 0\n" + GLOBUS, "--offline")
        self.assertEqual(status, 0)
        self.assertIn("set: auth.kwargs.client_secret = (hidden)", lines)
        self.assertNotIn("hunter2", "\n".join(lines))

    def test_tells_of_the_certificate(self) -> None:
        status, lines = self.check(self.certificates())
        end = (certificates.now() + 90 * DAY + timedelta(hours=1)).date().isoformat()
        self.assertEqual(status, 0, lines)
        self.assertEqual(lines[0], "would serve wss on 127.0.0.1, port (any)")
        self.assertIn("certificate: for relay.example, 192.0.2.1", lines)
        self.assertIn(f"certificate: valid until {end} (90 days left)", lines)
        self.assertIn("certificate: 2 in the chain, and the key matches", lines)

    def test_check_certificate_of_last_hours_tells_hours(self) -> None:
        status, lines = self.check(self.certificates(days=0))
        self.assertEqual(status, 0, lines)
        self.assertIn("(0 hours left)", "".join(lines))

    def test_warns_and_passes(self) -> None:
        status, lines = self.check(
            self.certificates(days=3, whole=False)
            + "max_message_bytes = 2000000\n[logging]\ndefault_log_level = 'INFO'\n"
        )
        self.assertEqual(status, 0)
        self.assertEqual(
            [line.partition(":")[0] for line in lines[:4]], ["warning"] * 4
        )
        self.assertFalse(lines[4].startswith("warning"))
        text = "\n".join(lines[:4])
        for start, word in (
            (f"warning: {self.path}:7: logging.default_log_level: ", "default_level"),
            (f"warning: {self.path}:3: certfile: ", "expires soon"),
            (f"warning: {self.path}:3: certfile: ", "fullchain.pem"),
            (f"warning: {self.path}:5: max_message_bytes: ", "has no effect"),
        ):
            self.assertIn(start, text)
            self.assertIn(word, text)

    def test_warns_of_strangers(self) -> None:
        status, lines = self.run_command("check", "--port=0")
        self.assertEqual(status, 0)
        self.assertTrue(lines[0].startswith("warning: other machines reach"), lines)
        self.assertEqual(lines[1], "would serve ws on all interfaces, port (any)")

    def test_lists_every_problem(self) -> None:
        status, lines = self.check(
            "prot = 1\ncertfile = 'missing.pem'\n[logging]\nlog_dir = 'relay.toml'\n",
            "--log-level=loud",
            "--port=x",
        )
        self.assertEqual(status, 1)
        self.assertEqual(
            sorted(line.removeprefix(f"problem: {self.path}")[:28] for line in lines),
            sorted(
                [
                    ":1: prot: unknown setting; did you mean port"[:28],
                    ":2: certfile: /"[:14] + str(self.folder / "missing.pem")[:14],
                    ":4: logging.log_dir: /"[:21] + str(self.path)[:7],
                    "problem: --log-level: expected DEBUG"[:28],
                    "problem: --port: expected a whole"[:28],
                ]
            ),
        )

    def test_a_file_that_cannot_be_read_is_the_only_problem(self) -> None:
        for path in (self.folder / "missing.toml", self.folder):
            status, lines = self.run_command("check", "--config", str(path))
            self.assertEqual((status, len(lines)), (1, 1), lines)
            self.assertTrue(lines[0].startswith(f"problem: {path}: cannot be read: "))

    def test_broken_toml_is_the_only_problem(self) -> None:
        status, lines = self.check("\nport 1\n")
        self.assertEqual((status, len(lines)), (1, 1), lines)
        self.assertTrue(lines[0].startswith(f"problem: {self.path}:2: is not valid"))

    def test_an_expired_certificate_fails(self) -> None:
        status, lines = self.check(self.certificates(days=-3))
        self.assertEqual((status, len(lines)), (1, 1), lines)
        self.assertTrue(lines[0].startswith(f"problem: {self.path}:3: certfile: "))
        self.assertIn("expired on", lines[0])

    def test_the_key_of_another_certificate_fails(self) -> None:
        text = self.certificates()
        key = trustme.CA().issue_cert("relay.example").private_key_pem
        (self.folder / "key.pem").write_bytes(key.bytes())
        status, lines = self.check(text)
        self.assertEqual((status, len(lines)), (1, 1), lines)
        self.assertTrue(lines[0].startswith(f"problem: {self.path}:4: keyfile: "))


class GlobusCheckTests(GlobusCommandTestCase):
    """Trial of the credentials."""

    def check_globus(self, text: str = "", *options: str) -> tuple[int, list[str]]:
        return self.check(f"{HOST}port = 0\n{GLOBUS}{text}", *options)

    def test_tells_that_they_work(self) -> None:
        self.answer = OUR_CLIENT
        status, lines = self.check_globus()
        self.assertEqual(status, 0, lines)
        self.assertIn("authentication: globus", lines)
        self.assertEqual(
            lines[-2:],
            ["credentials: work, for the application 'ours'", "no problems"],
        )
        self.assertNotIn("hunter2", "\n".join(lines))

    def test_tells_which_tokens_are_taken(self) -> None:
        own = f"https://auth.globus.org/scopes/{CLIENT_ID}/relay_all"
        for text, audience, scopes in (
            ("", PROXYSTORE_RELAY, "(none)"),
            (f"audience = '{CLIENT_ID.upper()}'\n", CLIENT_ID, own),
            ("required_scopes = ['urn:b', 'urn:a']\n", PROXYSTORE_RELAY, "urn:a urn:b"),
        ):
            status, lines = self.check_globus(text, "--offline")
            self.assertEqual(status, 0, lines)
            self.assertIn(f"tokens: must be meant for {audience}", lines)
            self.assertIn(f"tokens: must have the scopes {scopes}", lines)

    def test_tells_where_it_has_asked(self) -> None:
        url = f"service_url = '{SERVICE}'\n"
        for code, text, place in (
            (404, "", ":3: auth: "),
            (404, url, ":8: auth.kwargs.service_url: "),
            (500, url, ":3: auth: "),
        ):
            self.answer = ({}, code)
            status, (line, *_) = self.check_globus(text)
            self.assertEqual(status, 1)
            start = f"problem: {self.path}{place}Globus Auth answered {code}"
            self.assertTrue(line.startswith(start), line)
            address = f"(auth.kwargs.service_url is {SERVICE})"
            self.assertEqual(address in line, code == 404)

    def test_tells_that_they_do_not_work(self) -> None:
        self.answer = ({"error": "invalid_client"}, 401)
        status, (line, *_) = self.check_globus()
        self.assertEqual(status, 1)
        self.assertEqual(
            line,
            f"problem: {self.path}:3: auth: Globus Auth answered 401 (invalid_client): "
            "the client ID or the secret is wrong (client ID from "
            "auth.kwargs.client_id, secret from auth.kwargs.client_secret)",
        )

    def test_does_not_ask_a_wrong_address(self) -> None:
        status, (line,) = self.check_globus("service_url = 'https://x:99999'\n")
        self.assertEqual(status, 1)
        start = f"problem: {self.path}:8: auth.kwargs.service_url: "
        self.assertTrue(line.startswith(start), line)
        self.assertEqual(self.agent.requests, [])

    def test_does_not_ask_offline(self) -> None:
        status, lines = self.check_globus("", "--offline")
        self.assertEqual(status, 0, lines)
        self.assertEqual(self.agent.requests, [])
        self.assertEqual(
            lines[-2:], ["credentials: not tried (--offline)", "no problems"]
        )

    def test_tells_what_is_missing(self) -> None:
        status, lines = self.check(HOST + "port = 0\n[auth]\nmethod = 'globus'\n")
        self.assertEqual((status, len(lines)), (1, 2), lines)
        self.assertEqual(self.agent.requests, [])


class PortTests(CommandTestCase):
    """Trial of the port."""

    def taken(self) -> int:
        (taken,) = listening.bind("127.0.0.1", 0)
        self.addCleanup(taken.close)
        port: int = taken.getsockname()[1]
        return port

    def test_a_taken_port_fails(self) -> None:
        port = self.taken()
        status, lines = self.check(HOST + f"port = {port}\n")
        self.assertEqual(status, 1)
        self.assertEqual(
            lines,
            [
                f"problem: {self.path}:2: port: cannot listen on 127.0.0.1 port "
                f"{port}: address already in use (another process listens there; "
                "stop it or set another port)"
            ],
        )

    def test_a_taken_port_that_is_not_shared_is_explained(self) -> None:
        status, (line,) = self.check(
            HOST + f"port = {self.taken()}\nreuse_port = true\n"
        )
        self.assertEqual(status, 1)
        self.assertIn("was started without reuse_port, or by another user", line)

    def test_a_taken_port_of_an_option_has_no_line_of_the_file(self) -> None:
        port = self.taken()
        status, (line,) = self.check(HOST + "port = 0\n", f"--port={port}")
        self.assertEqual(status, 1)
        self.assertIn(f"127.0.0.1 port {port}", line)
        self.assertNotIn(f"{self.path}:2", line)

    def test_a_host_of_nobody_is_a_problem_of_the_host(self) -> None:
        for host in ("nowhere.invalid", "192.0.2.1", "a..b"):
            status, lines = self.check(f"\n\nhost = '{host}'\nport = 0\n")
            self.assertEqual(status, 1)
            (line,) = [line for line in lines if line.startswith("problem: ")]
            self.assertTrue(line.startswith(f"problem: {self.path}:3: host: "), line)
            self.assertIn(host, line)

    def test_the_port_is_given_back(self) -> None:
        port = self.taken()
        self.doCleanups()
        for _ in range(2):
            status, lines = self.check(HOST + f"port = {port}\n")
            self.assertEqual(status, 0, lines)
            self.assertEqual(lines[0], f"would serve ws on 127.0.0.1, port {port}")
        for bound in listening.bind("127.0.0.1", port):
            bound.close()

    def test_a_port_that_is_shared_is_not_taken(self) -> None:
        (other,) = listening.bind("127.0.0.1", 0, reuse=True)
        self.addCleanup(other.close)
        port = other.getsockname()[1]
        text = HOST + f"port = {port}\n"
        self.assertEqual(self.check(text)[0], 1)
        self.assertEqual(self.check(text + "reuse_port = true\n")[0], 0)

    def test_the_default_port_is_not_tried_for_a_wrong_one(self) -> None:
        self.patch(listening, "bind", lambda *_, **__: self.fail("tried"))
        for text, options in (
            ("port = 'x'\n", []),
            ("host = 1\n", []),
            ("", ["--port=x"]),
            ("port =\n", []),
        ):
            status, lines = self.check(text, *options)
            self.assertEqual((status, len(lines)), (1, 1), lines)


class LogDirTests(CommandTestCase):
    """The folder of the log stays as it is."""

    def test_is_never_made(self) -> None:
        for options in ([], [f"--log-dir={self.folder / 'x' / 'y'}"]):
            status, _ = self.check(
                HOST + "port = 0\nlogging.log_dir = 'logs'\n", *options
            )
            self.assertEqual(status, 0)
            self.assertEqual(list(self.folder.iterdir()), [self.path])

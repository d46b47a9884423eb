"""``proxyrelay check``: the relay that would serve, or each problem."""

from __future__ import annotations

from datetime import timedelta

import trustme

from proxyrelay.cli import check
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
from tests.support.engine import Engine
from tests.support.globus import CLIENT_ID, SERVICE

SOUND = HOST + "port = 0\n"


class CheckTests(CommandTestCase):
    """The relay of a configuration, or its problems."""

    def test_check_of_sound_file_shows_relay(self) -> None:
        self.assertEqual(
            self.checked(SOUND),
            [
                "no problems",
                "would serve ws on 127.0.0.1, port (any)",
                "authentication: none",
                "log: INFO and above, to standard output",
                'set: host = "127.0.0.1"',
                "set: port = 0",
            ],
        )

    def test_check_with_options_shows_their_values(self) -> None:
        logs = self.folder / "logs"
        lines = self.checked(
            "host = 'nowhere.invalid'\nport = 'x'\n",
            *("--host=127.0.0.1", "--port=0", f"--log-dir={logs}"),
            "--log-level=debug",
        )
        self.assertEqual(lines[1], "would serve ws on 127.0.0.1, port (any)")
        self.assertIn(f"log: DEBUG and above, to standard output and {logs}", lines)
        self.assertIn('set: logging.default_level = "DEBUG"', lines)

    def test_check_with_privacy_shows_how_users_are_written(self) -> None:
        text = SOUND + "[logging]\nprivacy = true\n"
        words = "users and addresses: shown as pseudonyms"
        key = f"privacy_key_file = '{self.folder / 'key'}'\n"
        for more, end in (("", ", others after each start"), (key, "")):
            lines = self.checked(text + more)
            self.assertIn(words + end, lines)
        self.assertIn("set: logging.privacy = true", lines)
        self.assertFalse((self.folder / "key").exists())

    def test_check_with_secret_hides_it(self) -> None:
        lines = self.checked(SOUND + GLOBUS, "--offline")
        self.assertIn("set: auth.kwargs.client_secret = (hidden)", lines)
        self.assertNotIn("hunter2", "\n".join(lines))

    def test_check_with_certificate_describes_it(self) -> None:
        lines = self.checked(self.certificates())
        end = (certificates.now() + 90 * DAY + timedelta(hours=1)).date().isoformat()
        self.assertEqual(lines[1], "would serve wss on 127.0.0.1, port (any)")
        self.assertIn("certificate: for relay.example, 192.0.2.1", lines)
        self.assertIn(f"certificate: valid until {end} (90 days left)", lines)
        self.assertIn("certificate: 2 in the chain, and the key matches", lines)

    def test_paths_are_shown_short_where_that_is_the_same_file(self) -> None:
        (self.folder / "a" / "b").mkdir(parents=True)
        (self.folder / "c").symlink_to(self.folder / "a" / "b")
        for path, shown in (("a/../d", "d"), ("c/../d", "c/../d")):
            self.assertEqual(
                check._short(self.folder / path), f"{self.folder.resolve()}/{shown}"
            )

    def test_check_certificate_of_last_hours_tells_hours(self) -> None:
        lines = self.checked(self.certificates(days=0))
        self.assertIn("(0 hours left)", "".join(lines))

    def test_check_with_doubtful_values_warns_and_passes(self) -> None:
        lines = self.checked(
            self.certificates(days=3, whole=False)
            + "max_message_bytes = 2000000\n[logging]\ndefault_log_level = 'INFO'\n"
        )
        warnings = [line for line in lines if line.startswith("warning: ")]
        self.assertEqual(warnings, lines[-4:])
        for start, word in (
            (f"warning: {self.path}:7: logging.default_log_level: ", "default_level"),
            (f"warning: {self.path}:3: certfile: ", "expires soon"),
            (f"warning: {self.path}:3: certfile: ", "fullchain.pem"),
            (f"warning: {self.path}:5: max_message_bytes: ", "has no effect"),
        ):
            found = [line for line in warnings if line.startswith(start)]
            self.assertIn(word, "".join(found))

    def test_check_of_open_relay_warns(self) -> None:
        status, lines = self.run_command("check", "--port=0")
        self.assertEqual(status, 0)
        self.assertTrue(lines[-1].startswith("warning: other machines reach"), lines)
        self.assertEqual(lines[1], "would serve ws on all interfaces, port (any)")

    def test_check_of_wrong_file_lists_each_problem(self) -> None:
        text = "prot = 1\ncertfile = 'missing.pem'\n[logging]\nlog_dir = 'relay.toml'\n"
        status, lines = self.check(text, "--log-level=loud", "--port=x")
        self.assertEqual((status, len(lines)), (1, 5), lines)
        for start in (
            f"problem: {self.path}:1: prot: unknown setting",
            f"problem: {self.path}:2: certfile: {self.folder / 'missing.pem'}",
            f"problem: {self.path}:4: logging.log_dir: {self.path}",
            "problem: --log-level: expected DEBUG",
            "problem: --port: expected a whole",
        ):
            self.assertTrue(any(line.startswith(start) for line in lines), start)

    def test_check_of_unreadable_file_has_one_problem(self) -> None:
        for path in (self.folder / "missing.toml", self.folder):
            status, lines = self.run_command("check", "--config", str(path))
            self.assertEqual((status, len(lines)), (1, 1), lines)
            self.assertTrue(lines[0].startswith(f"problem: {path}: cannot be read: "))
        line = self.problem("\nport 1\n")
        self.assertTrue(line.startswith(f"problem: {self.path}:2: is not valid"))

    def test_check_of_expired_certificate_fails(self) -> None:
        line = self.problem(self.certificates(days=-3))
        self.assertTrue(line.startswith(f"problem: {self.path}:3: certfile: "))
        self.assertIn("expired on", line)

    def test_check_of_foreign_key_fails(self) -> None:
        text = self.certificates()
        key = trustme.CA().issue_cert("relay.example").private_key_pem
        (self.folder / "key.pem").write_bytes(key.bytes())
        line = self.problem(text)
        self.assertTrue(line.startswith(f"problem: {self.path}:4: keyfile: "))

    def test_check_with_log_dir_makes_no_folder(self) -> None:
        for options in ([], [f"--log-dir={self.folder / 'x' / 'y'}"]):
            self.checked(SOUND + "logging.log_dir = 'logs'\n", *options)
            self.assertEqual(list(self.folder.iterdir()), [self.path])


class CredentialsTests(GlobusCommandTestCase):
    """Trial of the credentials."""

    TEXT = SOUND + GLOBUS

    def test_credentials_that_work_are_reported(self) -> None:
        self.answer = OUR_CLIENT
        lines = self.checked(self.TEXT)
        self.assertIn("authentication: globus", lines)
        works = "credentials: work, for the application 'ours'"
        self.assertEqual(lines[-2], works)
        self.assertNotIn("hunter2", "\n".join(lines))

    def test_tokens_that_are_accepted_are_described(self) -> None:
        own = f"https://auth.globus.org/scopes/{CLIENT_ID}/relay_all"
        for text, audience, scopes in (
            ("", PROXYSTORE_RELAY, "(none)"),
            (f"audience = '{CLIENT_ID.upper()}'\n", CLIENT_ID, own),
            ("required_scopes = ['urn:b', 'urn:a']\n", PROXYSTORE_RELAY, "urn:a urn:b"),
        ):
            lines = self.checked(self.TEXT + text, "--offline")
            self.assertIn(f"tokens: must be meant for {audience}", lines)
            self.assertIn(f"tokens: must have the scopes {scopes}", lines)

    def test_credentials_at_wrong_address_blame_the_address(self) -> None:
        url = f"service_url = '{SERVICE}'\n"
        for code, text, place in (
            (404, "", ":3: auth: "),
            (404, url, ":8: auth.kwargs.service_url: "),
            (500, url, ":3: auth: "),
        ):
            self.answer = ({}, code)
            line = self.problem(self.TEXT + text)
            start = f"problem: {self.path}{place}Globus Auth answered {code}"
            self.assertTrue(line.startswith(start), line)
            address = f"(auth.kwargs.service_url is {SERVICE})"
            self.assertEqual(address in line, code == 404)

    def test_credentials_that_are_refused_name_their_origin(self) -> None:
        self.answer = ({"error": "invalid_client"}, 401)
        self.assertEqual(
            self.problem(self.TEXT),
            f"problem: {self.path}:3: auth: Globus Auth answered 401 (invalid_client): "
            "the client ID or the secret is wrong (client ID from "
            "auth.kwargs.client_id, secret from auth.kwargs.client_secret)",
        )

    def test_credentials_that_are_unsound_are_not_tried(self) -> None:
        line = self.problem(self.TEXT + "service_url = 'https://x:99999'\n")
        start = f"problem: {self.path}:8: auth.kwargs.service_url: "
        self.assertTrue(line.startswith(start), line)
        status, lines = self.check(SOUND + "[auth]\nmethod = 'globus'\n")
        self.assertEqual((status, len(lines)), (1, 2), lines)
        self.assertEqual(self.agent.requests, [])

    def test_credentials_offline_are_not_tried(self) -> None:
        lines = self.checked(self.TEXT, "--offline")
        self.assertEqual(self.agent.requests, [])
        untried = "credentials: not tried (--offline)"
        self.assertEqual(lines[-2], untried)


class PortTests(CommandTestCase):
    """Trial of the port."""

    def taken(self, reuse: bool = False) -> int:
        (taken,) = listening.bind("127.0.0.1", 0, reuse=reuse)
        self.addCleanup(taken.close)
        port: int = taken.getsockname()[1]
        return port

    def test_port_that_is_taken_fails(self) -> None:
        port = self.taken()
        self.assertEqual(
            self.problem(HOST + f"port = {port}\n"),
            f"problem: {self.path}:2: port: cannot listen on 127.0.0.1 port "
            f"{port}: address already in use (another process listens there: "
            "set another port)",
        )
        line = self.problem(HOST + f"port = {port}\nreuse_port = true\n")
        self.assertIn("was started without reuse_port, or by another user", line)

    def test_port_of_option_has_no_line_of_the_file(self) -> None:
        port = self.taken()
        line = self.problem(SOUND, f"--port={port}")
        self.assertIn(f"127.0.0.1 port {port}", line)
        self.assertNotIn(f"{self.path}:2", line)

    def test_host_of_nobody_blames_the_host(self) -> None:
        for host in ("nowhere.invalid", "192.0.2.1", "a..b"):
            line = self.problem(f"\n\nhost = '{host}'\nport = 0\n")
            self.assertTrue(line.startswith(f"problem: {self.path}:3: host: "), line)
            self.assertIn(host, line)

    def test_port_after_check_is_free(self) -> None:
        port = self.taken()
        self.doCleanups()
        for _ in range(2):
            lines = self.checked(HOST + f"port = {port}\n")
            self.assertEqual(lines[1], f"would serve ws on 127.0.0.1, port {port}")
        for bound in listening.bind("127.0.0.1", port):
            bound.close()

    def test_port_that_is_shared_passes_with_reuse_port(self) -> None:
        text = HOST + f"port = {self.taken(reuse=True)}\n"
        self.problem(text)
        self.checked(text + "reuse_port = true\n")

    def test_port_beside_wrong_value_is_not_tried(self) -> None:
        self.patch(listening, "bind", lambda *_, **__: self.fail("tried"))
        for text in ("port = 'x'\n", "host = 1\n", "port =\n"):
            self.problem(text)
        self.problem("", "--port=x")


class ClusterTests(CommandTestCase):
    """Trial of the engine."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = Engine()
        self.addCleanup(self.engine.stop)
        self.text = f"{SOUND}[cluster]\nengine = 'unix:{self.engine.socket}'\n"

    def test_engine_that_suits_is_described(self) -> None:
        lines = [line for line in self.checked(self.text) if "engine: " in line]
        self.assertEqual(len(lines), 3)
        self.assertIn("ACL SETUSER relay on >PASSWORD", lines[2])

    def test_engine_that_refuses_is_a_problem_of_its_line(self) -> None:
        self.engine.client.config_set("requirepass", "hunter2")
        start = f"problem: {self.path}:4: cluster.engine: {self.engine.socket} refuses"
        self.assertTrue(self.problem(self.text).startswith(start))

    def test_engine_that_is_not_there_is_a_warning_of_its_line(self) -> None:
        self.engine.kill()
        line = self.checked(self.text)[-1]
        start = f"warning: {self.path}:4: cluster.engine: {self.engine.socket} cannot"
        self.assertTrue(line.startswith(start), line)

    def test_engine_offline_or_beside_a_problem_is_not_tried(self) -> None:
        self.engine.kill()
        lines = self.checked(self.text, "--offline")
        self.assertIn("engine: not tried (--offline)", lines)
        line = self.problem(f"{self.text}key_file = 'missing'\n")
        self.assertIn(":5: cluster.key_file: ", line)

"""Settings and certificates that change while a relay serves."""

from __future__ import annotations

import signal
import ssl
import threading
from queue import Queue

from tests.integration.test_twistd import TwistdTestCase
from tests.support.certificates import SETTINGS, Authority
from tests.support.processes import RelayProcess
from tests.support.recording import A, B, offer, registration
from tests.support.served import Client


class ReloadTestCase(TwistdTestCase):
    def serve(self, text: str, *options: str) -> RelayProcess:
        return self.relay("--config", self.write_config(text), *options)

    def hang_up(self, relay: RelayProcess) -> None:
        relay.send(signal.SIGHUP)

    def assert_served(self, *clients: Client) -> None:
        for client in clients:
            client.send(registration(A).decode())
            self.assertIn('"success": true', client.recv())


class SettingsTests(ReloadTestCase):
    def test_reloaded_settings_apply_to_new_clients_if_they_can(self) -> None:
        relay = self.serve("max_message_bytes = 1000\n")
        before = self.registered(relay.url)
        Authority().write(self.folder)
        path = self.write_config(
            f"max_message_bytes = 500\nreuse_port = true\n{SETTINGS}"
            "[logging]\nlog_dir = 'logs'\ndefault_level = 'DEBUG'\n"
            "current_client_interval = 0.1\n[timeouts]\nping_interval = 0.1\n"
        )
        pid = str(relay.pid)
        status, lines = self.command("reload", "--config", path, "--pid", pid)
        self.assertEqual(status, 0, lines)
        told = f"sent SIGHUP to process {pid}; the log of the relay has the outcome"
        self.assertEqual(lines[-1], told)
        relay.wait_for(
            " INFO +reloaded, changed: max_message_bytes, logging.default_level, "
            "logging.current_client_interval, timeouts.ping_interval$"
        )
        relay.wait_for(
            "WARNING +changed as well, but only for a relay that is started anew: "
            "certfile, keyfile, reuse_port, logging.log_dir$"
        )
        self.assertFalse((self.folder / "logs").exists())
        relay.wait_for("connected clients: 1")
        self.assert_served(before)
        after = self.registered(relay.url)  # takes the place of the other one
        self.assert_closed(before, 4004)
        after.send("x" * 501)
        self.assert_closed(after, 4003)

    def test_file_with_a_problem_changes_nothing(self) -> None:
        relay = self.serve("max_message_bytes = 1000\n")
        client = self.registered(relay.url)
        path = self.write_config("max_message_bytes = 500\nprot = 1\nport = 'x'\n")
        status, lines = self.command("reload", "-c", path, "--pid", str(relay.pid))
        self.assertEqual(status, 1)
        self.assertIn("relay.toml:2: prot: unknown setting", lines[0])
        self.assertNotIn("reload", relay.said)
        self.hang_up(relay)
        relay.wait_for(f"ERROR +{path}:2: prot: unknown setting; did you mean port")
        relay.wait_for("ERROR +nothing is reloaded; problems: 1$")
        self.assert_served(client)
        newer = self.registered(relay.url)
        newer.send("x" * 501)
        self.assert_closed(newer, 4000)
        self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.errors, [])

    def test_files_good_and_bad_under_load_disturb_nobody(self) -> None:
        authority = Authority()
        authority.write(self.folder)
        relay = self.serve(SETTINGS + "[offers]\nshield = false\n")
        context = authority.client_context()
        one = self.registered(relay.url, context)
        other = self.registered(relay.url, context, uuid=B)
        failed: Queue[Exception] = Queue()
        enough = threading.Event()

        def talk() -> None:
            try:
                while not enough.is_set():
                    one.send(offer(A, B).decode())
                    other.recv()
            except Exception as error:
                failed.put(error)

        talking = threading.Thread(target=talk)
        talking.start()
        try:
            for number in range(10):
                bad = "prot = 1\n" if number % 2 else ""
                self.write_config(
                    f"{bad}{SETTINGS}max_message_bytes = {5000 + number}\n"
                    f"[timeouts]\nping_interval = {5 + number}\n"
                    "[offers]\nshield = false\n"
                )
                Authority().write(self.folder)
                self.hang_up(relay)
                relay.wait_for_next("reloaded, changed|nothing is reloaded")
        finally:
            enough.set()
            talking.join()
        self.assertEqual(list(failed.queue), [])
        self.assertNotIn("Traceback", relay.said)
        self.assertEqual(relay.stop(), 0)


class CertificateTests(ReloadTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.old, self.new = Authority(), Authority()
        self.old.write(self.folder)

    def serve_old(self, interval: float) -> tuple[RelayProcess, Client]:
        relay = self.serve(f"{SETTINGS}certificate_interval = {interval}\n")
        return relay, self.registered(relay.url, self.old.client_context())

    def assert_renewed(self, relay: RelayProcess, client: Client) -> None:
        """New connections have the new certificate, and old ones stay."""
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.registered(relay.url, self.old.client_context(), uuid=B)
        self.registered(relay.url, self.new.client_context(), uuid=B)
        self.assert_served(client)

    def test_renewed_certificate_is_served_after_a_signal(self) -> None:
        relay, client = self.serve_old(0)
        self.new.write(self.folder)
        self.hang_up(relay)
        relay.wait_for("reloaded, changed: certificate$")
        self.assert_renewed(relay, client)

    def test_renewed_certificate_that_is_seen_waits_for_its_key(self) -> None:
        relay, client = self.serve_old(0.05)
        elsewhere = self.folder / "new"
        elsewhere.mkdir()
        certfile, keyfile = self.new.write(elsewhere)
        certfile.replace(self.folder / certfile.name)
        relay.wait_for("ERROR +keyfile: the key in .* is not that of the certificate")
        relay.wait_for("ERROR +the certificate that was read before is served on")
        self.registered(relay.url, self.old.client_context(), uuid=B)
        keyfile.replace(self.folder / keyfile.name)
        relay.wait_for("serving a renewed certificate, valid until ")
        self.assert_renewed(relay, client)
        self.assertEqual(relay.said.count("is not that of the certificate"), 1)

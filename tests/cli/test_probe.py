"""``proxyrelay probe``: each failure is provoked for real, on loopback."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import time
from argparse import ArgumentTypeError, Namespace
from datetime import timedelta
from pathlib import Path
from unittest import mock

import trustme
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from proxyrelay.cli import probe, probe_report, probe_steps
from proxyrelay.cli.probe_report import ProbeFailure, Report
from proxyrelay.net import certificates
from proxyrelay.switchboard.messages import ACCEPTED
from tests.cli.command_case import DAY, CommandTestCase
from tests.support.frames import CLOSE
from tests.support.loopback import (
    Handler,
    Loopback,
    hangs,
    replies,
    says,
    upgrades,
)
from tests.support.processes import PATIENCE

COMMAND = (sys.executable, "-m", "proxyrelay.cli.main", "probe")

PROJECT = Path(__file__).parents[2]


def without_proxies() -> dict[str, str]:
    """The environment of the tests, but for its proxies."""
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}


class ProbeTestCase(CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = trustme.CA()
        self.root = self.folder / "root.pem"
        self.root.write_bytes(self.authority.cert_pem.bytes())

    def serve(self, handler: Handler, context: ssl.SSLContext | None = None) -> str:
        """Run a server, and return its address."""
        server = Loopback(handler, context)
        self.addCleanup(server.stop)
        return f"{'ws' if context is None else 'wss'}://localhost:{server.port}"

    def probe(self, url: str, *options: str, **variables: str) -> tuple[int, str]:
        """Probe in this process, as far as the upgrade; return status and output."""
        with mock.patch.dict(os.environ, without_proxies() | variables, clear=True):
            status, lines = self.run_command("probe", url, *options)
        return status, "\n".join(lines)

    def probe_all(self, url: str, *options: str, **variables: str) -> tuple[int, str]:
        """Probe in a process of its own; return status and output."""
        done = subprocess.run(
            [*COMMAND, url, *options],
            cwd=PROJECT,
            env=without_proxies() | variables,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout

    def assert_failed(
        self, outcome: tuple[int, str], step: str, what: str, advice: str
    ) -> None:
        status, output = outcome
        first = output.splitlines()[0]
        self.assertEqual(status, 2, output)
        self.assertRegex(first, rf"^CRITICAL: {step}: .*{what}", output)
        self.assertRegex(output, rf"(?m)^what to do: .*{advice}")
        self.assertNotIn("|", output.replace(first, ""))


class ReachTests(ProbeTestCase):
    def test_unknown_name_fails(self) -> None:
        outcome = self.probe("ws://nosuch.invalid:8700")
        self.assert_failed(outcome, "name", "nosuch.invalid", "[nN]ame")

    def test_impossible_name_fails(self) -> None:
        outcome = self.probe(f"ws://{'a' * 70}.invalid:8700")
        self.assert_failed(outcome, "name", "name", "address")

    def test_refused_connection_fails(self) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            outcome = self.probe(f"ws://127.0.0.1:{holder.getsockname()[1]}")
        self.assert_failed(outcome, "tcp", "refuses", "start the relay")

    def test_dropped_packets_fail_in_time(self) -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            place = full.getsockname()
            waiting = [socket.socket() for _ in range(4)]
            for each in waiting:
                self.addCleanup(each.close)
                each.setblocking(False)
                each.connect_ex(place)
            outcome = self.probe(f"ws://127.0.0.1:{place[1]}", "--timeout", "1")
        self.assert_failed(outcome, "tcp", "(in time|timeout)", "(firewall|log)")

    def test_second_address_that_answers_is_a_warning(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        port = listener.getsockname()[1]
        report = Report("ws://relay.example")
        deadline = time.monotonic() + PATIENCE
        addresses = ["127.0.0.2", "127.0.0.1"]
        sock, place = probe_steps._connect(addresses, port, "relay", report, deadline)
        sock.close()
        self.assertEqual(place.host, "127.0.0.1")
        self.assertIn("127.0.0.2", report.warnings[0])
        self.assertEqual(report.status, probe_report.WARNING)


class ProxyTests(ProbeTestCase):
    def proxied(self, handler: Handler) -> tuple[int, str]:
        proxy = self.serve(handler).replace("ws:", "http:")
        return self.probe("wss://relay.example:8700", HTTPS_PROXY=proxy)

    def test_answer_of_a_proxy_fails_with_its_meaning(self) -> None:
        for status, advice in (
            (502, "cannot reach the relay"),
            (503, "cannot reach the relay"),
            (403, "permit CONNECT"),
            (407, "name and password"),
            (405, "Ask the proxy's operator"),
        ):
            outcome = self.proxied(says(f"HTTP/1.1 {status} No\r\n\r\n".encode()))
            self.assert_failed(outcome, "proxy", f"answers {status} No", advice)

    def test_proxy_that_is_none_fails(self) -> None:
        outcome = self.proxied(says(b"SSH-2.0-x\r\n"))
        self.assert_failed(outcome, "proxy", "does not speak HTTP", "SOCKS")

    def test_absent_proxy_fails(self) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            proxy = f"http://127.0.0.1:{holder.getsockname()[1]}"
            outcome = self.probe("wss://relay.example:8700", HTTPS_PROXY=proxy)
        self.assert_failed(outcome, "tcp", "refuses", "proxy")

    def test_socks_proxy_is_a_warning(self) -> None:
        url = self.serve(says(b"HTTP/1.1 404 Not Found\r\n\r\n"))
        _, output = self.probe(url, ALL_PROXY="x", SOCKS_PROXY="socks5://127.0.0.1:1")
        self.assertRegex(output, "(?m)^warning: SOCKS_PROXY names a proxy")

    def test_no_proxy_goes_past_the_proxy(self) -> None:
        url = self.serve(says(b"HTTP/1.1 404 Not Found\r\n\r\n"))
        outcome = self.probe(url, HTTP_PROXY="http://127.0.0.1:1", NO_PROXY="localhost")
        self.assert_failed(outcome, "upgrade", "404", "another HTTP server")


class TlsTests(ProbeTestCase):
    def context(
        self,
        *names: str,
        authority: trustme.CA | None = None,
        sent: int | None = None,
        days: int = 90,
        start: int = -100,
        further: tuple[trustme.Blob, ...] = (),
    ) -> ssl.SSLContext:
        """Context of a server with a new certificate; ``sent`` cuts the chain."""
        now = certificates.now()
        issued = (authority or self.authority).issue_cert(
            *(names or ("localhost", "127.0.0.1")),
            not_before=now + start * DAY,
            not_after=now + days * DAY + timedelta(hours=1),
        )
        chain = [*issued.cert_chain_pems, *further][:sent]
        path = self.folder / "served.pem"
        pems = [issued.private_key_pem, *chain]
        path.write_bytes(b"".join(blob.bytes() for blob in pems))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def probed(self, context: ssl.SSLContext, *options: str) -> tuple[int, str]:
        found = options or ("--ca-file", str(self.root))
        return self.probe(self.serve(upgrades, context), *found)

    def test_expired_certificate_fails(self) -> None:
        outcome = self.probed(self.context(days=-3))
        self.assert_failed(outcome, "tls", r"expired on \d{4}-", "Renew it")

    def test_certificate_of_the_future_fails(self) -> None:
        outcome = self.probed(self.context(start=5))
        self.assert_failed(outcome, "tls", r"not valid before \d{4}-", "clock")

    def test_certificate_for_another_name_fails(self) -> None:
        for host, names in (
            ("localhost", ("relay.example", "192.0.2.1")),
            ("127.0.0.1", ("localhost",)),
        ):
            url = self.serve(upgrades, self.context(*names)).replace("localhost", host)
            outcome = self.probe(url, "--ca-file", str(self.root))
            shown = " ".join(names)
            self.assert_failed(
                outcome, "tls", f"is for {shown}, not for {host}", "names"
            )

    def test_self_signed_certificate_fails(self) -> None:
        # A root as the certificate of a server.
        path = self.folder / "self.pem"
        path.write_bytes(
            self.authority.private_key_pem.bytes() + self.authority.cert_pem.bytes()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        other = self.folder / "other.pem"
        other.write_bytes(trustme.CA().cert_pem.bytes())
        outcome = self.probed(context, "--ca-file", str(other))
        self.assert_failed(outcome, "tls", "self-signed", "SSL_CERT_FILE")

    def test_private_authority_that_is_sent_fails(self) -> None:
        further = (self.authority.cert_pem,)
        outcome = self.probed(self.context(further=further), "--days", "14")
        self.assert_failed(outcome, "tls", "is not trusted here", "--ca-file")

    def test_missing_intermediate_fails(self) -> None:
        inner = self.authority.create_child_ca()
        outcome = self.probed(self.context(authority=inner, sent=1))
        self.assert_failed(outcome, "tls", "may lack an intermediate", "fullchain.pem")

    def test_missing_second_intermediate_fails(self) -> None:
        inner = self.authority.create_child_ca().create_child_ca()
        outcome = self.probed(self.context(authority=inner, sent=2))
        self.assert_failed(outcome, "tls", "unknown here", "further intermediate")

    def test_plain_port_fails_over_tls(self) -> None:
        for answer in (says(b"HTTP/1.1 400 No\r\n\r\n"), self.answer_at_once):
            url = self.serve(answer).replace("ws:", "wss:")
            outcome = self.probe(url, "--timeout", "2")
            self.assertEqual(outcome[0], 2)
            self.assertRegex(outcome[1], "tls: .*(does not speak TLS|in time|timeout)")
            self.assertIn("ws://", outcome[1])

    @staticmethod
    def answer_at_once(sock: socket.socket) -> None:
        sock.recv(10)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    def test_early_end_and_silence_fail(self) -> None:
        url = self.serve(lambda sock: None).replace("ws:", "wss:")
        outcome = self.probe(url)
        self.assert_failed(outcome, "tls", "ends the connection", "firewall")
        url = self.serve(hangs).replace("ws:", "wss:")
        outcome = self.probe(url, "--timeout", "1")
        self.assertEqual(outcome[0], 2)
        self.assertRegex(outcome[1], "^CRITICAL: tls: ")

    def test_declined_handshake_fails(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate
        outcome = self.probed(context)
        self.assert_failed(outcome, "tls", "declines", "common version")

    def test_file_without_authorities_is_unknown(self) -> None:
        for text in (None, "nothing"):
            path = self.folder / "empty.pem"
            if text is not None:
                path.write_text(text)
            status, output = self.probed(self.context(), "--ca-file", str(path))
            self.assertEqual(status, 3)
            self.assertRegex(output, "^UNKNOWN: .*empty.pem has no certificates")


class UpgradeTests(ProbeTestCase):
    def test_http_answers_fail_with_their_meaning(self) -> None:
        for status, advice in (
            (502, "does not reach it"),
            (504, "does not reach it"),
            (400, "wss://"),
            (401, "wants a login"),
            (403, "forbids"),
            (404, "another HTTP server"),
            (407, "HTTPS_PROXY"),
            (426, "Upgrade"),
            (301, "redirects"),
            (200, "Another server"),
        ):
            url = self.serve(says(f"HTTP/1.1 {status} A|b\r\n\r\n".encode()))
            outcome = self.probe(url)
            self.assert_failed(outcome, "upgrade", f"HTTP {status} A/b", advice)

    def test_private_listener_is_recognised(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nServer: proxyrelay\r\n\r\n"
        outcome = self.probe(self.serve(says(answer)))
        self.assert_failed(outcome, "upgrade", "HTTP 200", "private listener")

    def test_other_services_fail(self) -> None:
        for handler, what in (
            (says(b"SSH-2.0-OpenSSH\r\n"), "does not speak HTTP"),
            (lambda sock: None, "without an answer"),
            (says(b"HTTP/1.1 101 x\r\n\r\n"), "not that of a WebSocket server"),
        ):
            outcome = self.probe(self.serve(handler))
            self.assert_failed(outcome, "upgrade", what, "(port|log)")

    def test_silent_service_fails_in_time(self) -> None:
        outcome = self.probe(self.serve(hangs), "--timeout", "1")
        self.assert_failed(outcome, "upgrade", "(in time|timeout)", ".")

    def test_tls_port_fails_without_tls(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued = self.authority.issue_cert("localhost")
        issued.configure_cert(context)
        url = self.serve(upgrades, context).replace("wss:", "ws:")
        self.assert_failed(self.probe(url), "upgrade", "speaks TLS", "wss://")


class ExchangeTests(ProbeTestCase):
    def closes(self, code: int, reason: str) -> Handler:
        return replies(struct.pack("!H", code) + reason.encode(), opcode=CLOSE)

    def test_close_codes_fail_with_their_meaning(self) -> None:
        token = self.folder / "token"
        token.write_text("Bearer abc\n")
        given = ("--token-file", str(token))
        for code, options, advice in (
            (4001, (), "--token-file"),
            (4001, given, "alone, in one line"),
            (4002, given, "proxyrelay globus check"),
            (4004, (), "operator"),
            (1013, (), "full, drains"),
            (1011, (), "log"),
        ):
            url = self.serve(self.closes(code, "why"))
            outcome = self.probe_all(url, *options)
            what = f"closes with {code} why"
            self.assert_failed(outcome, "registration", what, advice)

    def test_server_that_is_no_relay_fails(self) -> None:
        outcome = self.probe_all(self.serve(replies(b"hello")))
        self.assert_failed(outcome, "registration", "no relay", "host and port")

    def test_silent_relay_fails_in_time(self) -> None:
        outcome = self.probe_all(self.serve(upgrades_and_hangs), "--timeout", "3")
        self.assert_failed(outcome, "registration", "timeout", "log")

    def test_file_of_authorities_has_no_effect_without_tls(self) -> None:
        url = self.serve(self.closes(4001, "why"))
        status, output = self.probe_all(url, "--ca-file", str(self.folder / "absent"))
        self.assertEqual(status, 2, output)

    def test_offer_without_an_answer_fails_in_time(self) -> None:
        outcome = self.probe_all(self.serve(replies(ACCEPTED)), "--timeout", "3")
        self.assert_failed(outcome, "exchange", "timeout", "does not deliver")

    def test_time_that_ends_among_exchanges_names_the_timeout(self) -> None:
        report = Report("ws://a", exchanges=[0.5, 0.25], current="exchange")
        report.failure = probe._late(report, Namespace(count=9, timeout=1.5))
        self.assertEqual(report.summary, "exchange: 2 of 9 exchanges within 1.5 s")
        self.assertIn("lower --count. The slowest took 500.0 ms", report.failure.advice)

    def test_offer_that_comes_back_fails(self) -> None:
        error = json.dumps(
            {
                "source_uuid": "0b0f8a9e-5d3a-4a5e-9a58-0c7d4e1f2a3b",
                "source_name": "a",
                "peer_uuid": "0b0f8a9e-5d3a-4a5e-9a58-0c7d4e1f2a3b",
                "description_type": "offer",
                "description": "",
                "error": "it is not there",
                "message_type": "peer_connection",
            }
        )
        outcome = self.probe_all(self.serve(replies(ACCEPTED, error.encode())))
        self.assert_failed(outcome, "exchange", "it is not there", "log")

    def test_relay_that_leaves_in_the_exchange_fails(self) -> None:
        def handler(sock: socket.socket) -> None:
            upgrades(sock)
            sock.recv(4096)
            sock.sendall(bytes([0x81, len(ACCEPTED)]) + ACCEPTED)
            sock.recv(4096)

        outcome = self.probe_all(self.serve(handler))
        self.assert_failed(outcome, "exchange", "closes", "log")


def upgrades_and_hangs(sock: socket.socket) -> None:
    """Answers nothing after the upgrade."""
    upgrades(sock)
    hangs(sock)


class UsageTests(ProbeTestCase):
    def test_wrong_command_line_is_unknown(self) -> None:
        for arguments in ((), ("ws://a", "--bogus"), ("ws://a", "--count=0")):
            with mock.patch("sys.stderr"):
                status, lines = self.run_command("probe", *arguments)
            self.assertEqual((status, lines[0][:8]), (3, "UNKNOWN:"))
        for text in ("0", "1001", "x"):
            error = self.assertRaises(ArgumentTypeError, probe.count, text)
            self.assertIn("1 to 1000", str(error))
        for url in ("http://relay.example", "relay.example", "ws://a:b"):
            status, output = self.probe(url)
            self.assertEqual((status, output[:8]), (3, "UNKNOWN:"), url)

    def test_output_that_cannot_be_written_is_unknown(self) -> None:
        if not Path("/dev/full").exists():
            raise SkipTest("needs /dev/full")
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [*COMMAND, "relay.example"],
                cwd=PROJECT,
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=2 * PATIENCE,
                check=False,
            )
        self.assertEqual(done.returncode, 3, done.stderr)

    def test_token_that_cannot_be_read_is_unknown_and_not_shown(self) -> None:
        path = self.folder / "token"
        for text in (None, "", "a secret", "a\nsecret", "s\xe9cret"):
            if text is not None:
                path.write_text(text, encoding="latin-1")
            status, output = self.probe("ws://127.0.0.1:1", "--token-file", str(path))
            self.assertEqual((status, output[:8]), (3, "UNKNOWN:"), text)
            self.assertNotIn("secret", output)

    def test_failure_as_json_names_step_and_advice(self) -> None:
        url = self.serve(says(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"))
        status, output = self.probe(url, "--json")
        found = json.loads(output)
        self.assertEqual(status, 2)
        self.assertEqual((found["status"], found["exit_status"]), ("CRITICAL", 2))
        self.assertEqual(found["failed_step"], "upgrade")
        self.assertIn("proxy", found["advice"])
        self.assertEqual([each["name"] for each in found["steps"]], ["name", "tcp"])

    def test_address_that_is_not_valid_is_shown_without_a_password(self) -> None:
        path = self.folder / "probe.prom"
        for url in ("ws://me:secret@a", "ws://me:s/secret@a", "x://me:secret@a/\udcff"):
            status, output = self.probe(url, "--json", "--textfile", str(path))
            self.assertEqual(status, 3)
            self.assertIn("//a", json.loads(output)["url"])
            self.assertIn('{url="', path.read_text())
            self.assertNotIn("secret", output + path.read_text())

    def test_failure_is_written_for_the_node_exporter(self) -> None:
        path = self.folder / "probe.prom"
        url = self.serve(says(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"))
        self.probe(url, "--textfile", str(path))
        text = path.read_text()
        self.assertIn(f'proxyrelay_probe_status{{url="{url}"}} 2.0\n', text)
        self.assertIn('step="tcp"', text)
        self.assertEqual(sorted(self.folder.iterdir()), sorted([path, self.root]))

    def test_file_that_cannot_be_written_is_unknown(self) -> None:
        url = self.serve(says(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"))
        path = self.folder / "absent" / "probe.prom"
        status, output = self.probe(url, "--textfile", str(path))
        self.assertEqual((status, output[:8]), (3, "UNKNOWN:"))


class ReportTests(SynchronousTestCase):
    def test_texts_of_peers_are_one_printable_line(self) -> None:
        failure = ProbeFailure("a\x1b[2J\nb\xe9", "c\rd")
        self.assertRegex(str(failure), r"^[ -~]+$")
        self.assertRegex(failure.advice, r"^[ -~]+$")

    def test_long_texts_of_peers_are_cut(self) -> None:
        for length, shown in ((500, 500), (501, 503), (10**6, 503)):
            self.assertEqual(len(str(ProbeFailure(length * "a", ""))), shown)

    def test_first_line_has_one_bar(self) -> None:
        report = Report("ws://relay.example")
        report.done("tcp", 0.5, "a|b")
        report.warn("c|d")
        first, *rest = probe_report.lines(report, 14)
        self.assertEqual(first, "WARNING: c/d | tcp=0.500000s")
        self.assertFalse(any("|" in line for line in rest))
        self.assertTrue(re.search("500.0 ms", rest[0]))

"""Renewed certificate files, looked at from time to time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import trustme

from proxyrelay.config import Config
from proxyrelay.net import certificates
from tests.service.test_reload import ReloadTestCase
from tests.support.certificates import Authority

INTERVAL_SECONDS = 60


class CertificateWatchTests(ReloadTestCase):
    """The certificate files of a relay with TLS."""

    def setUp(self) -> None:
        super().setUp()
        self.old, self.new = Authority(), Authority()
        certfile, keyfile = self.old.write(self.folder)
        self.serve(Config(certfile=certfile, keyfile=keyfile), self.old.pair())

    def look(self) -> list[str]:
        """Return the log lines of the next look."""
        self.captured.events.clear()
        self.clock.advance(INTERVAL_SECONDS)
        return self.captured.lines()

    def served(self) -> Authority:
        assert self.relay.pair is not None
        chain = self.relay.pair.chain
        return self.new if chain == self.new.pair().chain else self.old

    def test_watch_new_files_are_served_once(self) -> None:
        told: list[str] = []
        self.reload.renewed = told.append
        self.assertEqual(self.look(), [])
        self.new.write(self.folder)
        lines = self.look()
        self.assertEqual(lines, told)
        self.assertIn("serving a renewed certificate, valid until ", lines[0])
        self.assertIs(self.served(), self.new)
        self.assertEqual(self.look(), [])
        self.assertEqual(self.relay.changes, 1)

    def test_watch_same_content_changes_nothing(self) -> None:
        self.look()
        self.old.write(self.folder)
        self.assertEqual(self.look(), [])
        self.assertEqual(self.relay.changes, 0)

    def test_watch_served_expired_certificate_is_not_logged_again(self) -> None:
        expired = Authority(end=datetime(2020, 1, 1, tzinfo=UTC))
        expired.write(self.folder)
        self.relay.pair = expired.pair()
        self.assertEqual([self.look(), self.look()], [[], []])
        self.new.write(self.folder)
        (line,) = self.look()
        self.assertTrue(line.startswith("serving a renewed certificate"))

    def test_watch_mismatch_is_logged_at_second_look_only(self) -> None:
        certfile, keyfile = self.folder / "cert.pem", self.folder / "privkey.pem"
        key = keyfile.read_bytes()
        self.new.write(self.folder)
        new = keyfile.read_bytes()
        keyfile.write_bytes(key)
        self.assertEqual(self.look(), [])  # perhaps they are just being written
        wrong, result = self.look()
        self.assertIn(f"is not that of the certificate in {certfile}", wrong)
        self.assertEqual(result, "the certificate that was read before is served on")
        self.assertEqual(self.look(), [])
        self.assertIs(self.served(), self.old)
        keyfile.write_bytes(new)
        self.assertEqual(len(self.look()), 1)
        self.assertIs(self.served(), self.new)

    def test_watch_missing_file_is_logged_until_it_is_back(self) -> None:
        self.look()
        (self.folder / "cert.pem").unlink()
        self.assertEqual([len(self.look()) for _ in range(3)], [0, 2, 0])
        self.old.write(self.folder)
        self.assertEqual(self.look(), [])

    def test_watch_expired_files_are_not_served(self) -> None:
        yesterday = certificates.now() - timedelta(days=1)
        self.new.issued = trustme.CA().issue_cert(
            "localhost",
            not_before=yesterday - timedelta(days=1),
            not_after=yesterday,
            key_type=trustme.KeyType.ECDSA,
        )
        self.new.write(self.folder)
        self.assertEqual(self.look(), [])
        self.assertIn("expired on", self.look()[0])
        self.assertIs(self.served(), self.old)

    def test_watch_files_refused_by_openssl_are_tried_again(self) -> None:
        self.new.write(self.folder)
        self.relay.refuses = True
        self.assertEqual(self.look(), [])
        self.assertIn("is refused by OpenSSL", self.look()[0])
        self.relay.refuses = False
        self.assertEqual(len(self.look()), 1)

    def test_watch_failing_look_is_logged_until_next_files(self) -> None:
        self.patch(certificates, "load", lambda *_: [].pop())
        (line,) = self.look()
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)
        self.assertIn("the certificate files cannot be looked at", line)
        self.assertEqual(self.look(), [])

    def test_watch_without_tls_looks_at_nothing(self) -> None:
        self.serve(Config())
        self.assertEqual(self.look(), [])

    def test_watch_defect_is_logged(self) -> None:
        unlikely: Any = msgspec.structs.replace(self.relay.config, certfile=5)
        self.relay.config = unlikely
        (line, *_) = self.look()
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.assertIn("the certificate files are no longer watched", line)

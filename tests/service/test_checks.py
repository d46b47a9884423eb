"""Inspection of the files and the environment that settings name."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from unittest import mock

import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.testing import MemoryReactorClock

from proxyrelay import config
from proxyrelay.auth.credentials import ID_VARIABLE, SECRET_VARIABLE, Credentials
from proxyrelay.auth.globus_api import Globus
from proxyrelay.config import PROXYSTORE_RELAY, Auth, AuthArguments, Config, Secret
from proxyrelay.service.checks import Inspection, inspect, open_to_all
from proxyrelay.switchboard.messages import MESSAGE_CEILING
from tests.config.case import ConfigTestCase
from tests.net.test_certificates import Issued, ecdsa
from tests.support.certificates import Authority
from tests.support.globus import CLIENT_ID

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)

HOST = "host = '127.0.0.1'\n"

METHOD = "[auth]\nmethod = 'globus'\n"

GLOBUS = f"{METHOD}[auth.kwargs]\nclient_id = '{CLIENT_ID}'\n"

SOUND_GLOBUS = f"{GLOBUS}audience = '{CLIENT_ID}'\nclient_secret = 'b'\n"


class InspectionTestCase(ConfigTestCase):
    """Problems, faults and warnings of a file."""

    def setUp(self) -> None:
        super().setUp()
        self.environment: dict[str, str] = {}
        self.mode = 0o600

    def inspect(self, text: str, **overrides: str) -> Inspection:
        self.path.write_text(text)
        self.path.chmod(self.mode)
        loaded = config.load(
            self.path,
            {f"--{name.replace('_', '-')}": text for name, text in overrides.items()},
        )
        before = [*loaded.problems], [*loaded.warnings]
        found = inspect(loaded, NOW, self.environment)
        self.assertEqual((loaded.problems, loaded.warnings), before)
        return found

    def findings(self, text: str | bytes) -> Inspection:
        return self.inspect(str(text))

    def assert_sound(self, text: str) -> Inspection:
        """There is neither a problem nor a fault nor a warning."""
        found = self.inspect(text)
        lists = (found.problems, found.faults, found.warnings)
        self.assertEqual(lists, ([], [], []), text)
        return found


class InspectTests(InspectionTestCase):
    """Settings in general, and certificates."""

    def certificates(
        self, start: datetime = NOW - DAY, end: datetime = NOW + 90 * DAY
    ) -> str:
        """Write a pair; returns the settings that name it."""
        authority = trustme.CA()
        issued = authority.issue_cert("relay.example", not_before=start, not_after=end)
        (self.folder / "cert.pem").write_bytes(
            issued.cert_chain_pems[0].bytes() + authority.cert_pem.bytes()
        )
        (self.folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
        return f"{HOST}certfile = 'cert.pem'\nkeyfile = 'key.pem'\n"

    def test_inspect_sound_file_finds_nothing(self) -> None:
        found = self.assert_sound(HOST)
        self.assertEqual(found, Inspection(Config(host="127.0.0.1")))

    def test_inspect_reading_problems_are_kept(self) -> None:
        found = self.inspect(
            "port = 'x'\ncertfile = 'missing.pem'\n[logging]\nlog_dir = 'relay.toml'\n"
            "default_log_level = 'INFO'\n"
        )
        self.assertEqual(
            [(p.key, p.line) for p in found.problems],
            [("port", 1), ("certfile", 2), ("logging.log_dir", 4)],
        )
        self.assertEqual([p.key for p in found.warnings], ["logging.default_log_level"])

    def test_inspect_pair_is_read(self) -> None:
        found = self.assert_sound(self.certificates())
        assert found.pair is not None
        self.assertEqual(found.pair.names(), ["relay.example"])

    def test_inspect_wrong_pair_is_problem(self) -> None:
        mismatch = self.certificates()
        (self.folder / "key.pem").write_bytes(
            trustme.CA().issue_cert("relay.example").private_key_pem.bytes()
        )
        weak = Issued("leaf", key=ecdsa(ec.SECP192R1()))
        (self.folder / "both.pem").write_bytes(weak.pem + weak.key_pem())
        missing = f"{self.folder / 'missing.pem'} cannot be read: No such file or "
        for text, key, line, words in (
            (mismatch, "keyfile", 3, ""),
            (f"{HOST}certfile = 'both.pem'\n", "certfile", 2, ""),
            (f"{HOST}\ncertfile = 'missing.pem'\n", "certfile", 3, missing),
            # What was refused is not opened.
            (f"{HOST}certfile = 1\n", "certfile", 2, ""),
            (f"{HOST}certfile = 'missing.pem'\nkeyfile = 1\n", "keyfile", 3, ""),
        ):
            self.assert_problem(text, key, line, words)

    def test_inspect_expired_certificate_is_fault(self) -> None:
        found = self.inspect(self.certificates(NOW - 9 * DAY, NOW - DAY))
        self.assertEqual(found.problems, [])
        (fault,) = found.faults
        self.assertEqual((fault.key, fault.line), ("certfile", 2))
        self.assertIn("expired on 2026-05-31", fault.message)
        self.assertIsNotNone(found.pair)

    def test_inspect_ending_certificate_is_warning(self) -> None:
        text = self.certificates(NOW - 2 * DAY, NOW + DAY)
        self.assert_warning(text, "certfile", 2, "expires soon, on 2026-06-02")

    def test_inspect_message_ceiling_is_warned_of(self) -> None:
        text = f"{HOST}\nmax_message_bytes = "
        self.assert_sound(f"{text}{MESSAGE_CEILING}\n")
        words = str(MESSAGE_CEILING)
        text += f"{MESSAGE_CEILING + 1}\n"
        self.assert_warning(text, "max_message_bytes", 3, words)

    def test_inspect_exposure_is_warned_of_unless_problems(self) -> None:
        self.assert_warning("", "", None, "without TLS")
        # The defaults stand in for what is wrong, so that it may not be true.
        self.assertEqual(self.inspect("certfile = 1\n").warnings, [])


class GlobusTests(InspectionTestCase):
    """Authentication and its credentials."""

    def test_credentials_in_environment_are_found_if_needed(self) -> None:
        self.environment = {ID_VARIABLE: CLIENT_ID, SECRET_VARIABLE: "b"}
        found = self.inspect(HOST + METHOD)
        self.assertEqual(found.problems, [])
        self.assertEqual(found.credentials, Credentials(CLIENT_ID, Secret("b")))
        self.assertIsNone(self.assert_sound(HOST).credentials)

    def test_credentials_missing_or_wrong_are_problems(self) -> None:
        for text, lines in (
            ("", [None, None]),
            ("[auth.kwargs]\nclient_id = 'a b'\nclient_secret = 'hunter 2'\n", [5, 6]),
        ):
            found = self.inspect(HOST + METHOD + text)
            self.assertIsNone(found.credentials)
            names = ("client_id", "client_secret")
            expected = [
                (f"auth.kwargs.{name}", line, str(self.path))
                for name, line in zip(names, lines, strict=True)
            ]
            problems = [(p.key, p.line, p.file) for p in found.problems]
            self.assertEqual(problems, expected)

    def test_credentials_file_missing_is_problem_of_its_line(self) -> None:
        words = f"{self.folder / 'missing'} cannot be read: No such file or directory"
        text = f"{HOST}{GLOBUS}client_secret_file = 'missing'\n"
        self.assert_problem(text, "auth.kwargs.client_secret_file", 6, words)

    def test_credentials_beside_other_mistakes_are_not_missed(self) -> None:
        for text, key in (
            (f"{METHOD}kwargs.client_id = 12\n", "client_id"),
            (f"{GLOBUS}client_secret_fil = 'secret'\n", "client_secret_fil"),
            ("[auth]\nmethod = 'Globus'\nkwargs.client_secret = 'b'\n", "method"),
            (f"{METHOD}[auth.kwarg]\nclient_id = 'b'\n", "kwarg"),
            ("auth = 1\n", "auth"),
        ):
            (problem,) = self.inspect(HOST + text).problems
            self.assertEqual(problem.key.rpartition(".")[2], key)

    def test_audience_forgotten_is_warned_of(self) -> None:
        secret = "client_secret = 'b'\n"
        key = "auth.kwargs.audience"
        self.assert_warning(f"{HOST}{GLOBUS}{secret}", key, None, "is not set")
        for audience in (CLIENT_ID, PROXYSTORE_RELAY):
            self.assert_sound(f"{HOST}{GLOBUS}{secret}audience = '{audience}'\n")
        self.assert_sound(HOST + GLOBUS.replace(CLIENT_ID, PROXYSTORE_RELAY) + secret)

    def test_secret_readable_by_all_is_warned_of(self) -> None:
        secret = self.folder / "secret"
        secret.write_text("b\n")
        text = f"{HOST}{GLOBUS}audience = '{CLIENT_ID}'\n"
        key = "auth.kwargs.client_secret"
        for mode in (0o600, 0o640, 0o644):
            secret.chmod(mode)
            self.mode = 0o600
            in_file = f"{text}client_secret_file = 'secret'\n"
            is_open = mode == 0o644
            if is_open:
                self.assert_warning(in_file, f"{key}_file", 7, "chmod o-r")
            else:
                self.assert_sound(in_file)
            self.mode = mode
            in_settings = f"{text}client_secret = 'b'\n"
            if is_open:
                self.assert_warning(in_settings, key, 7, "chmod o-r")
            else:
                self.assert_sound(in_settings)
        self.environment = {SECRET_VARIABLE: "b"}
        self.assert_sound(text)

    def test_trust_store_missing_is_warned_of(self) -> None:
        for path in (self.folder / "missing", self.folder):
            self.environment = {"SSL_CERT_FILE": str(path)}
            text = f"{path} cannot be read"
            self.assert_warning(HOST + SOUND_GLOBUS, "SSL_CERT_FILE", None, text)
            self.assert_sound(HOST)
        for there in (str(self.path), ""):
            self.environment = {"SSL_CERT_FILE": there}
            self.assert_sound(HOST + SOUND_GLOBUS)

    def test_token_of_client_in_clear_text_is_warned_of(self) -> None:
        text = "bearer tokens travel in clear text"
        self.assert_warning(SOUND_GLOBUS, "", None, text)

    def test_service_url_accepted_can_be_asked(self) -> None:
        for url in (
            "https://auth.example.org/",
            "https://Localhost:8443/~globus/%20;a=b",
            "https://192.0.2.1:65535",
            f"https://{'x' * 63}.1.2-3",
        ):
            found = self.assert_sound(f"{HOST}{SOUND_GLOBUS}service_url = '{url}'\n")
            assert found.credentials is not None
            read = found.config.auth.kwargs.service_url
            service = Globus.connect(MemoryReactorClock(), read, found.credentials, 1)
            self.assertNoResult(service.client(1))

    def test_open_to_all_explains_each_relay(self) -> None:
        self.assertEqual(open_to_all(Auth("globus")), [])
        for auth, key in (
            (Auth(), "auth"),
            (Auth(None, AuthArguments(client_id="a")), "auth.kwargs"),
        ):
            (problem,) = open_to_all(auth)
            self.assertEqual(problem.key, key)
            self.assertIn("everybody would be let in", problem.message)
        text = f"{HOST}[auth.kwargs]\nclient_id = 'a'\n"
        self.assert_problem(text, "auth.kwargs", 2, "everybody would be let in")


class LogTests(InspectionTestCase):
    """The logs and the key of the pseudonyms."""

    def test_log_files_missing_or_not_are_not_made(self) -> None:
        (self.folder / "logs").mkdir()
        before = {self.path, self.folder / "logs"}
        for options in (
            "log_dir = 'a/b/c'\n",
            "log_dir = 'logs'\n",
            "audit_log = 'a/b.log'\nprivacy = true\nprivacy_key_file = 'key'\n",
        ):
            self.assert_sound(f"{HOST}[logging]\n{options}")
            self.assertEqual({*self.folder.rglob("*")}, before)

    def test_log_dir_unwritable_is_problem(self) -> None:
        (self.folder / "logs" / "proxyrelay.log").mkdir(parents=True)
        for name, words in (
            ("relay.toml", "is no folder that can be written or made"),
            ("relay.toml/logs", "is no folder that can be written or made"),
            ("logs", "is no regular file that can be written"),
        ):
            text = f"{HOST}logging.log_dir = '{name}'\n"
            problem = self.assert_problem(text, "logging.log_dir", 2, words)
            self.assertTrue(problem.message.startswith(str(self.folder / name)))

    def test_log_dir_without_permission_is_problem(self) -> None:
        locked = self.folder / "locked"
        locked.mkdir(mode=0o500)
        if os.access(locked, os.W_OK):
            self.skipTest("this user may write everywhere")
        for name in ("locked", "locked/logs"):
            text = f"{HOST}logging.log_dir = '{name}'\n"
            self.assert_problem(text, "logging.log_dir", 2)

    def test_log_dir_of_option_has_no_line(self) -> None:
        text = f"{HOST}logging.log_dir = 'logs'\n"
        (problem,) = self.inspect(text, log_dir=str(self.path)).problems
        self.assertIn(str(self.path), problem.message)
        self.assertEqual((problem.line, problem.file), (None, None))

    def test_audit_log_unwritable_is_problem(self) -> None:
        (self.folder / "logs").mkdir()
        os.mkfifo(self.folder / "fifo")
        out = (self.folder / "out").open("w")
        self.addCleanup(out.close)
        descriptor = f"/dev/fd/{out.fileno()}"
        (self.folder / "link").symlink_to(descriptor)
        for words, names in (
            ("is no regular file that can be written", ("logs", "fifo", "/dev/null")),
            ("is no folder that can be written or made", ("relay.toml/a.log",)),
            # A file that a process has open would lose its name when it is long.
            (
                "is an open file of a process",
                (descriptor, f"/proc/self/fd/{out.fileno()}", "link"),
            ),
            (
                "is the log itself",
                ("folder/proxyrelay.log", "folder/../folder/proxyrelay.log"),
            ),
        ):
            for name in names:
                self.assert_problem(
                    f"{HOST}[logging]\nlog_dir = 'folder'\naudit_log = '{name}'\n",
                    *("logging.audit_log", 4, words),
                )
        (self.folder / "nowhere").symlink_to("missing/a.log")
        (self.folder / "round").symlink_to("round")
        for name, words in (
            ("nowhere", "is a link into a folder that is not there"),
            ("round", "Too many levels of symbolic links"),
            ("a" * 300, "File name too long"),
        ):
            self.assert_problem(
                f"{HOST}logging.audit_log = '{name}'\n",
                *("logging.audit_log", 2, words),
            )
        (self.folder / "file").symlink_to("out")
        self.assert_sound(f"{HOST}logging.audit_log = 'file'\n")

    def test_privacy_key_wrong_is_problem_if_used(self) -> None:
        text = f"{HOST}[logging]\nprivacy = true\nprivacy_key_file = "
        key = "logging.privacy_key_file"
        (self.folder / "key").write_text("short")
        (self.folder / "link").symlink_to("missing")
        for name, words in (
            ("nowhere/key", "is no folder"),
            ("link", "is a link to a file that is not there"),
            (".", "no regular"),
            ("key", "holds no key"),
        ):
            problem = self.assert_problem(f"{text}'{name}'\n", key, 4, words)
            self.assertNotIn("short", problem.message)
        unused = f"{text}'key'\n".replace("true", "false")
        self.assert_warning(unused, key, 4, "no effect without privacy = true")

    def test_privacy_key_readable_by_all_is_warned_of(self) -> None:
        text = f"{HOST}[logging]\nprivacy = true\nprivacy_key_file = 'key'\n"
        (self.folder / "key").write_text("k" * 32)
        for mode in (0o600, 0o640):
            (self.folder / "key").chmod(mode)
            self.assert_sound(text)
        (self.folder / "key").chmod(0o644)
        self.assert_warning(text, "logging.privacy_key_file", 4, "chmod o-r")


class AdminTests(InspectionTestCase):
    """The private listener and its token."""

    TEXT = f"{HOST}[admin]\nlisten = '127.0.0.1:0'\ntoken_file = 'token'\n"

    def setUp(self) -> None:
        super().setUp()
        self.file = self.folder / "token"
        self.file.write_text("0123456789abcdef\n")
        self.file.chmod(0o600)

    def test_token_is_read_and_hidden(self) -> None:
        found = self.assert_sound(self.TEXT)
        self.assertEqual(found.token, Secret("0123456789abcdef"))
        self.assertNotIn("0123456789abcdef", repr(found))

    def test_token_readable_by_all_is_warned_of(self) -> None:
        self.file.chmod(0o644)
        words = "everybody on this machine can read"
        self.assert_warning(self.TEXT, "admin.token_file", 4, words)

    def test_token_wrong_is_problem(self) -> None:
        key, words = "admin.token_file", "must hold one token of 16 or more"
        for content in ("", "short", "a" * 4097, "two words 0123456789", "\xe9" * 20):
            self.file.write_text(content)
            self.assert_problem(self.TEXT, key, 4, words)
        self.file.unlink()
        self.assert_problem(self.TEXT, key, 4, "cannot be read: No such file")
        os.mkfifo(self.file)
        self.assert_problem(self.TEXT, key, 4, "is no regular file")

    def test_token_without_listener_is_not_read(self) -> None:
        found = self.assert_sound(f"{HOST}[admin]\ntoken_file = 'missing'\n")
        self.assertIsNone(found.token)

    def test_listener_for_others_is_warned_of(self) -> None:
        key = "admin.listen"
        text = self.TEXT.replace("127.0.0.1:0", "0.0.0.0:0")
        self.assert_warning(text, key, 3, "the token travels in clear text")
        text = f"{HOST}[admin]\nlisten = "
        words = "whoever has an account on this machine"
        self.assert_warning(f"{text}'127.0.0.1:0'\n", key, 3, words)
        self.assert_sound(f"{text}'unix:/run/proxyrelay/admin.sock'\n")


class ClusterTests(InspectionTestCase):
    """The files of the cluster, and the packages that it needs."""

    TEXT = f"{HOST}[cluster]\nengine = 'tls:redis.example:6380'\n"
    FILES = f"{TEXT}password_file = 'password'\nkey_file = 'key'\n"

    def setUp(self) -> None:
        super().setUp()
        for name, text in (("password", "secret\n"), ("key", f"# new\n{'0a' * 32}\n")):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o640)

    def test_cluster_without_its_packages_is_one_problem(self) -> None:
        with mock.patch.dict(sys.modules, {"hiredis": None}):
            problem = self.assert_problem(self.TEXT, "cluster", 2)
            self.assert_sound(HOST)
        self.assertEqual(
            problem.message,
            "[cluster] needs the packages of proxyrelay[cluster]: "
            "pip install 'proxyrelay[cluster]'",
        )

    def test_files_right_are_read(self) -> None:
        found = self.assert_sound(self.FILES)
        self.assertEqual(len(found.cluster_keys), 1)
        self.assertNotIn("0a0a", repr(found))

    def test_files_that_others_may_read_are_problems(self) -> None:
        for name, key, line in (
            ("password", "cluster.password_file", 4),
            ("key", "cluster.key_file", 5),
        ):
            for mode in (0o644, 0o602):
                (self.folder / name).chmod(mode)
                words = f"others may read {self.folder / name}: chmod o= it"
                self.assert_problem(self.FILES, key, line, words)
            (self.folder / name).chmod(0o640)

    def test_files_wrong_are_problems(self) -> None:
        digits = "must hold 64 hexadecimal digits in each line, unlike those of key"
        for name, line, content, words in (
            ("password", 4, b"", "must hold one password, in one line"),
            ("password", 4, b"secret\nmore\n", "must hold one password, in one line"),
            ("password", 4, b"secret" * 100, "must hold one password, in one line"),
            ("password", 4, b"secret\xff", "is not UTF-8 text"),
            ("key", 5, b"", "holds no key, such as 'openssl rand -hex 32' prints"),
            ("key", 5, b"# none\n\n", "holds no key"),
            ("key", 5, b"0a" * 31, f"{digits} 1"),
            ("key", 5, b"0a" * 32 + b"\n" + b"0g" * 32, f"{digits} 2"),
            ("key", 5, "\u0660".encode() * 64, f"{digits} 1"),
        ):
            file = self.folder / name
            before = file.read_bytes()
            file.write_bytes(content)
            problem = self.assert_problem(
                self.FILES, f"cluster.{name}_file", line, f"{file} {words}"
            )
            for secret in ("secret", "0a0a", "0g0g"):
                self.assertNotIn(secret, problem.message)
            file.write_bytes(before)

    def test_files_that_cannot_be_read_are_all_named(self) -> None:
        for name in ("password", "key"):
            (self.folder / name).unlink()
        os.mkfifo(self.folder / "key")
        missing = "cannot be read: No such file or directory"
        text = (
            f"{self.FILES}ca_file = 'missing'\n"
            "client_certfile = 'cert.pem'\nclient_keyfile = 'privkey.pem'\n"
        )
        self.assertEqual(
            [str(problem) for problem in self.inspect(text).problems],
            [
                f"{self.path}:{line}: cluster.{name}: {self.folder / file} {words}"
                for line, name, file, words in (
                    (4, "password_file", "password", missing),
                    (5, "key_file", "key", "is no regular file"),
                    (6, "ca_file", "missing", missing),
                    (7, "client_certfile", "cert.pem", missing),
                    (8, "client_keyfile", "privkey.pem", missing),
                )
            ],
        )

    def test_certificates_are_read_and_wrong_ones_are_problems(self) -> None:
        authority = Authority()
        authority.write(self.folder)
        authority.write_root(self.folder)
        text = (
            f"{self.TEXT}ca_file = 'root.pem'\nclient_certfile = 'cert.pem'\n"
            "client_keyfile = 'privkey.pem'\n"
        )
        (self.folder / "privkey.pem").chmod(0o600)
        self.assert_sound(text)
        (self.folder / "privkey.pem").chmod(0o644)
        self.assert_warning(text, "cluster.client_keyfile", 6, "chmod o-r")
        (self.folder / "privkey.pem").chmod(0o600)
        (self.folder / "root.pem").write_text("nothing")
        self.assert_problem(text, "cluster.ca_file", 4, "holds no PEM certificate")
        authority.write_root(self.folder)
        (self.folder / "other").mkdir()
        Authority().write(self.folder / "other")
        self.assert_problem(
            text.replace("'cert.pem'", "'other/cert.pem'"),
            *("cluster.client_keyfile", 6, "is not that of the certificate"),
        )

    def test_files_of_a_cluster_that_is_not_set_are_not_read(self) -> None:
        self.assert_warning(
            f"{HOST}[cluster]\nkey_file = 'missing'\n", "cluster", 2, "has no effect"
        )

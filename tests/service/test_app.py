"""From a command line to a running relay."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import trustme
from twisted.application import service
from twisted.logger import ILogObserver, LogLevel
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.authenticator import GlobusAuthenticator
from proxyrelay.auth.credentials import ID_VARIABLE, SECRET_VARIABLE
from proxyrelay.config import Config, Logging
from proxyrelay.errors import ConfigError
from proxyrelay.net import certificates as tls
from proxyrelay.net import listening, process
from proxyrelay.observe import log
from proxyrelay.service.app import Application, makeService
from proxyrelay.service.relay_service import RelayService
from proxyrelay.service.reload import Reload
from proxyrelay.service.signals import Signals
from tests.service.case import LOOPBACK, free_port, parsed, relay_service
from tests.support.capture import Capture


class MakeServiceTests(SynchronousTestCase):
    """The service that twistd runs."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "relay.toml"
        self.output = Path(self.mktemp()).open("w+")  # noqa: SIM115
        self.addCleanup(self.output.close)
        self.patch(sys, "stdout", self.output)
        built = log.observer

        def observer(*arguments: Any) -> log.Log | None:
            found = built(*arguments)
            if found is not None:
                self.addCleanup(found.close)
            return found

        self.patch(log, "observer", observer)

    def make(self, text: str, *arguments: str, daemon: bool = False) -> Application:
        self.path.write_text(text)
        options = parsed("-c", str(self.path), *arguments)
        if daemon:
            options.parent = cast(Any, {"nodaemon": False})
        made = makeService(options)
        self.addCleanup(lambda: self.successResultOf(cast(Any, made.stopService())))
        return made

    def refused(self, text: str, *arguments: str) -> list[str]:
        with self.assertRaises(SystemExit) as caught:
            self.make(text, *arguments)
        return str(caught.exception).splitlines()

    def certificates(self, **options: Any) -> str:
        """Write a pair; returns the settings that name it."""
        issued = trustme.CA().issue_cert("localhost", **options)
        (self.folder / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
        (self.folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
        return "certfile = 'cert.pem'\nkeyfile = 'key.pem'\n"

    def test_lists_every_problem(self) -> None:
        lines = self.refused(
            "port = 'x'\ncertfile = 'missing.pem'\n[logging]\nlog_dir = 'relay.toml'\n",
            "--log-level=loud",
        )
        self.assertEqual(len(lines), 4, lines)
        for line, start, word in zip(
            sorted(lines),
            (
                "proxyrelay: --log-level: ",
                f"proxyrelay: {self.path}:1: port: ",
                f"proxyrelay: {self.path}:2: certfile: ",
                f"proxyrelay: {self.path}:4: logging.log_dir: ",
            ),
            ("DEBUG", "whole number", "No such file", "folder"),
            strict=True,
        ):
            self.assertTrue(line.startswith(start), line)
            self.assertIn(word, line)

    def test_globus_needs_credentials(self) -> None:
        for variable in (ID_VARIABLE, SECRET_VARIABLE, "CREDENTIALS_DIRECTORY"):
            if variable in os.environ:
                value = os.environ.pop(variable)
                self.addCleanup(os.environ.__setitem__, variable, value)
        lines = self.refused("port = 0\n[auth]\nmethod = 'globus'\n")
        self.assertEqual(len(lines), 2)
        for line, name in zip(lines, ("client_id", "client_secret"), strict=True):
            self.assertIn(f"auth.kwargs.{name}: is missing", line)

    def test_globus_is_asked_with_credentials(self) -> None:
        made = self.make(
            "host = '127.0.0.1'\nport = 0\n[auth]\nmethod = 'globus'\n[auth.kwargs]\n"
            "client_id = 'ebd5bbed-95e2-47cf-9c80-39e2064274bd'\n"
            "client_secret = 'hunter2'\n"
        )
        _, relay, _ = made
        self.assertIsInstance(relay.factory.authenticator, GlobusAuthenticator)
        self.output.seek(0)
        self.assertNotIn("hunter2", self.output.read())

    def test_names_a_file_that_is_not_there(self) -> None:
        with self.assertRaises(SystemExit) as caught:
            makeService(parsed("-c", str(self.folder / "missing.toml")))
        self.assertEqual(
            str(caught.exception),
            f"proxyrelay: {self.folder / 'missing.toml'}: cannot be read: "
            "No such file or directory",
        )

    def test_names_a_taken_port(self) -> None:
        (taken,) = listening.bind("127.0.0.1", 0)
        self.addCleanup(taken.close)
        port = taken.getsockname()[1]
        (line,) = self.refused(f"host = '127.0.0.1'\nport = {port}\n")
        self.assertEqual(
            line,
            f"proxyrelay: cannot listen on 127.0.0.1 port {port}: address already in "
            "use (another process listens there; stop it or set another port)",
        )

    def test_a_log_that_cannot_be_opened_leaves_no_socket(self) -> None:
        (self.folder / "logs" / "proxyrelay.log").mkdir(parents=True)
        port = free_port()
        lines = self.refused(
            f"host = '127.0.0.1'\nport = {port}\nlogging.log_dir = 'logs'\n"
        )
        self.assertIn("logging.log_dir", lines[0])
        for bound in listening.bind("127.0.0.1", port):
            bound.close()

    def test_has_a_relay_and_its_signals(self) -> None:
        made = self.make("host = '127.0.0.1'\nport = 0\n")
        self.assertEqual([type(each) for each in made], [Signals, RelayService, Reload])
        _, relay, _ = made
        self.assertEqual(relay.config, LOOPBACK)

    def test_gives_its_log_to_the_application(self) -> None:
        application = service.Application("proxyrelay")
        made = self.make("host = '127.0.0.1'\nport = 0\n")
        made.setServiceParent(application)
        self.assertIn(made, list(service.IServiceCollection(application)))
        observer = application.getComponent(ILogObserver)
        observer(
            {
                "log_format": "hello {who!a}",
                "who": "wörld",
                "log_level": LogLevel.info,
                "log_namespace": "proxyrelay",
                "log_time": 0.0,
            }
        )
        observer.close()
        self.output.seek(0)
        self.assertTrue(self.output.read().endswith(" INFO     hello 'w\\xf6rld'\n"))

    def test_a_daemon_logs_to_its_folder(self) -> None:
        application = service.Application("proxyrelay")
        made = self.make(
            "host = '127.0.0.1'\nport = 0\nlogging.log_dir = 'logs'\n", daemon=True
        )
        made.setServiceParent(application)
        observer = application.getComponent(ILogObserver)
        observer(
            {
                "log_format": "hello",
                "log_level": LogLevel.info,
                "log_namespace": "proxyrelay",
                "log_time": 0.0,
            }
        )
        observer.close()
        text = (self.folder / "logs" / "proxyrelay.log").read_text()
        self.assertTrue(text.endswith(" hello\n"), text)
        self.output.seek(0)
        self.assertEqual(self.output.read(), "")

    def test_a_daemon_without_a_folder_leaves_the_log_to_twistd(self) -> None:
        application = service.Application("proxyrelay")
        before = application.getComponent(ILogObserver)
        self.make("host = '127.0.0.1'\nport = 0\n", daemon=True).setServiceParent(
            application
        )
        self.assertIs(application.getComponent(ILogObserver), before)

    def test_leaves_the_log_to_an_option_of_twistd(self) -> None:
        self.path.write_text("host = '127.0.0.1'\nport = 0\n")
        for option in ("logfile", "syslog"):
            application = service.Application("proxyrelay")
            before = application.getComponent(ILogObserver)
            options = parsed("-c", str(self.path))
            options.parent = cast(Any, {"nodaemon": True, option: "x"})
            made = makeService(options)
            self.addCleanup(made.stopService)
            made.setServiceParent(application)
            self.assertIs(application.getComponent(ILogObserver), before)

    def test_writes_to_standard_output_if_twistd_is_asked_to(self) -> None:
        self.path.write_text("host = '127.0.0.1'\nport = 0\n")
        application = service.Application("proxyrelay")
        options = parsed("-c", str(self.path))
        options.parent = cast(Any, {"nodaemon": True, "logfile": "-"})
        made = makeService(options)
        self.addCleanup(made.stopService)
        made.setServiceParent(application)
        observer = application.getComponent(ILogObserver)
        (writer,) = observer.writers
        self.assertEqual(writer.name, "standard output")

    def test_refuses_a_second_place_for_the_log(self) -> None:
        self.path.write_text("host = '127.0.0.1'\nport = 0\n")
        options = parsed("-c", str(self.path), f"--log-dir={self.folder / 'logs'}")
        options.parent = cast(Any, {"nodaemon": True, "logfile": "x"})
        with self.assertRaises(SystemExit) as caught:
            makeService(options)
        self.assertIn("--logfile", str(caught.exception))

    def test_refuses_a_format_that_twistd_does_not_know(self) -> None:
        text = "host = '127.0.0.1'\nport = 0\nlogging.format = 'json'\n"
        self.path.write_text(text)
        for options, wrong in (
            ({"logfile": "x"}, "excludes twistd's --logfile and --syslog"),
            ({"syslog": True}, "excludes twistd's --logfile and --syslog"),
            ({"nodaemon": False}, "needs log_dir beside it"),
        ):
            asked = parsed("-c", str(self.path))
            asked.parent = cast(Any, {"nodaemon": True, **options})
            with self.assertRaises(SystemExit) as caught:
                makeService(asked)
            self.assertIn(f"logging.format: {wrong}", str(caught.exception))
        made = self.make(f"{text}logging.log_dir = 'logs'\n", daemon=True)
        made.setServiceParent(service.Application("proxyrelay"))

    def test_writes_an_audit_log_from_start_to_stop(self) -> None:
        made = self.make("host = '127.0.0.1'\nport = 0\nlogging.audit_log = 'a/b'\n")
        _, relay, _ = made
        relay.startService()
        relay.reopen()
        self.assertEqual(relay.lost_lines, {"log": 0, "audit": 0})
        self.successResultOf(relay.stopService())
        lines = (self.folder / "a" / "b").read_text().splitlines()
        self.assertEqual(
            [json.loads(line)["event"] for line in lines], ["started", "stopped"]
        )

    def test_an_audit_log_or_a_key_that_cannot_be_had_leaves_no_socket(self) -> None:
        port = free_port()
        for key, settings in (
            ("audit_log", Logging(audit_log=self.folder)),
            ("privacy_key_file", Logging(privacy=True, privacy_key_file=self.folder)),
        ):
            config = Config(host="127.0.0.1", port=port, logging=settings)
            with self.assertRaises(ConfigError) as caught:
                relay_service(config)
            (problem,) = caught.exception.problems
            self.assertEqual(problem.key, f"logging.{key}")
        for bound in listening.bind("127.0.0.1", port):
            bound.close()

    def test_joins_a_parent_that_is_no_application(self) -> None:
        parent = service.MultiService()
        made = self.make("host = '127.0.0.1'\nport = 0\n")
        made.setServiceParent(parent)
        self.assertEqual(list(parent), [made])
        self.assertEqual(made.parent, parent)

    def test_logs_warnings(self) -> None:
        captured = Capture(self)
        self.make("port = 0\nlogging.default_log_level = 'DEBUG'\n")
        alias, exposure = captured.lines(LogLevel.warn)
        self.assertIn("write default_level", alias)
        self.assertIn("without TLS", exposure)
        self.assertEqual(captured.lines(LogLevel.error), [])

    def test_warns_of_more_connections_than_files(self) -> None:
        captured = Capture(self)
        self.patch(process, "raise_limit", lambda: 1000)
        text = "host = '127.0.0.1'\nport = 0\nlimits.connections = "
        self.make(f"{text}936\n")
        self.assertEqual(captured.lines(LogLevel.warn), [])
        self.make(f"{text}937\n")
        (warning,) = captured.lines(LogLevel.warn)
        self.assertTrue(warning.startswith("limits.connections: needs 1001 open "))

    def test_reads_its_file_again_from_another_folder(self) -> None:
        text = "host = '127.0.0.1'\nport = 0\n"
        self.path.write_text(text)
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        made = makeService(parsed("-c", "relay.toml"))
        self.addCleanup(lambda: self.successResultOf(cast(Any, made.stopService())))
        os.chdir(before)
        self.path.write_text(f"{text}max_message_bytes = 4711\n")
        _, relay, reload = made
        reload.reload()
        self.assertEqual(relay.config.max_message_bytes, 4711)

    def test_does_not_read_again_what_is_no_regular_file(self) -> None:
        self.path.write_text("host = '127.0.0.1'\nport = 0\n")
        options = parsed("-c", str(self.path))
        made = makeService(options)
        self.addCleanup(lambda: self.successResultOf(cast(Any, made.stopService())))
        _, relay, reload = made
        before = relay.config
        # To read a pipe would wait for ever, to read a device never end.
        self.patch(options, "load", lambda: self.fail("it was read"))
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        for place in (pipe, self.folder, "/dev/zero"):
            captured = Capture(self)
            self.path.unlink()
            self.path.symlink_to(place)
            reload.reload()
            self.assertEqual(
                captured.lines(LogLevel.error),
                [
                    f"{self.path}: is no regular file: it cannot be read anew",
                    "nothing is reloaded; problems: 1",
                ],
            )
            self.assertIs(relay.config, before)

    def test_logs_no_warning_without_a_reason(self) -> None:
        captured = Capture(self)
        self.make("host = '127.0.0.1'\nport = 0\n")
        self.assertEqual(captured.lines(LogLevel.warn, LogLevel.error), [])

    def test_serves_an_expired_certificate_and_logs_the_fault(self) -> None:
        captured = Capture(self)
        yesterday = tls.now() - timedelta(days=1)
        made = self.make(
            "host = '127.0.0.1'\nport = 0\n"
            + self.certificates(
                not_before=yesterday - timedelta(days=1), not_after=yesterday
            )
        )
        (fault,) = captured.lines(LogLevel.error)
        self.assertIn(f"{self.path}:3: certfile: ", fault)
        self.assertIn(f"expired on {yesterday.date().isoformat()}", fault)
        _, relay, _ = made
        self.assertEqual(relay.config.scheme, "wss")

    def test_refuses_the_key_of_another_certificate(self) -> None:
        text = self.certificates()
        other = trustme.CA().issue_cert("localhost")
        (self.folder / "key.pem").write_bytes(other.private_key_pem.bytes())
        (line,) = self.refused(text)
        self.assertTrue(line.startswith(f"proxyrelay: {self.path}:2: keyfile: "), line)

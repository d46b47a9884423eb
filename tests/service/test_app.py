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
from tests.service.case import (
    LOOPBACK,
    FolderTestCase,
    free_port,
    parsed,
    relay_service,
)

TEXT = "host = '127.0.0.1'\nport = 0\n"
"""Settings of a relay that disturbs nobody."""

EXCLUDED = "excludes twistd's --logfile and --syslog"


class MakeServiceTests(FolderTestCase):
    """The service that twistd runs."""

    def setUp(self) -> None:
        super().setUp()
        self.output = Path(self.mktemp()).open("w+")  # noqa: SIM115
        self.addCleanup(self.output.close)
        self.patch(sys, "stdout", self.output)
        built = log.open_log

        def observer(*arguments: Any) -> log.Log | None:
            found = built(*arguments)
            if found is not None:
                self.addCleanup(found.close)
            return found

        self.patch(log, "open_log", observer)

    def make(self, text: str, *arguments: str, **twistd: Any) -> Application:
        """Build a relay with options of its own, and with those of twistd."""
        self.path.write_text(text)
        options = parsed("-c", str(self.path), *arguments)
        if twistd:
            options.parent = cast(Any, {"nodaemon": True, **twistd})
        self.options = options
        made = makeService(options)
        self.addCleanup(lambda: self.successResultOf(cast(Any, made.stopService())))
        return made

    def refused(self, text: str, *arguments: str, **twistd: Any) -> list[str]:
        with self.assertRaises(SystemExit) as caught:
            self.make(text, *arguments, **twistd)
        return str(caught.exception).splitlines()

    def application_log(self, text: str, **twistd: Any) -> Any:
        """The log of a twistd application with the relay; None for twistd's own."""
        application = service.Application("proxyrelay")
        before = application.getComponent(ILogObserver)
        made = self.make(text, **twistd)
        made.setServiceParent(application)
        self.assertIn(made, list(service.IServiceCollection(application)))
        after = application.getComponent(ILogObserver)
        return None if after is before else after

    def write_event(self, observer: Any) -> None:
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

    def certificates(self, **options: Any) -> str:
        """Write a pair; returns the settings that name it."""
        issued = trustme.CA().issue_cert("localhost", **options)
        (self.folder / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
        (self.folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
        return "certfile = 'cert.pem'\nkeyfile = 'key.pem'\n"

    # -- what is built

    def test_make_service_builds_signals_relay_and_reload(self) -> None:
        made = self.make(TEXT)
        self.assertEqual([type(each) for each in made], [Signals, RelayService, Reload])
        _, relay, _ = made
        self.assertEqual(relay.config, LOOPBACK)
        self.assertEqual(self.captured.lines(LogLevel.warn, LogLevel.error), [])
        parent = service.MultiService()  # which is no application
        made.setServiceParent(parent)
        self.assertEqual((list(parent), made.parent), ([made], parent))

    def test_make_service_with_credentials_asks_globus(self) -> None:
        made = self.make(
            f"{TEXT}[auth]\nmethod = 'globus'\n[auth.kwargs]\n"
            "client_id = 'ebd5bbed-95e2-47cf-9c80-39e2064274bd'\n"
            "client_secret = 'hunter2'\n"
        )
        _, relay, _ = made
        self.assertIsInstance(relay.factory.authenticator, GlobusAuthenticator)
        self.output.seek(0)
        self.assertNotIn("hunter2", self.output.read())

    def test_make_service_with_expired_certificate_serves_and_logs_fault(self) -> None:
        yesterday = tls.now() - timedelta(days=1)
        start = yesterday - timedelta(days=1)
        pair = self.certificates(not_before=start, not_after=yesterday)
        _, relay, _ = self.make(TEXT + pair)
        (fault,) = self.captured.lines(LogLevel.error)
        self.assertIn(f"{self.path}:3: certfile: ", fault)
        self.assertIn(f"expired on {yesterday.date().isoformat()}", fault)
        self.assertEqual(relay.config.scheme, "wss")

    def test_make_service_with_warnings_logs_them(self) -> None:
        self.make("port = 0\nlogging.default_log_level = 'DEBUG'\n")
        alias, exposure = self.captured.lines(LogLevel.warn)
        self.assertIn("write default_level", alias)
        self.assertIn("without TLS", exposure)
        self.assertEqual(self.captured.lines(LogLevel.error), [])

    def test_make_service_with_too_few_files_warns(self) -> None:
        self.patch(process, "raise_limit", lambda: 1000)
        self.make(f"{TEXT}limits.connections = 936\n")
        self.assertEqual(self.captured.lines(LogLevel.warn), [])
        self.make(f"{TEXT}limits.connections = 937\n")
        (warning,) = self.captured.lines(LogLevel.warn)
        self.assertTrue(warning.startswith("limits.connections: needs 1001 open "))

    # -- what is refused

    def test_make_service_with_problems_lists_each(self) -> None:
        lines = self.refused(
            "port = 'x'\ncertfile = 'missing.pem'\n[logging]\nlog_dir = 'relay.toml'\n",
            "--log-level=loud",
        )
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

    def test_make_service_without_credentials_is_refused(self) -> None:
        for variable in (ID_VARIABLE, SECRET_VARIABLE, "CREDENTIALS_DIRECTORY"):
            if variable in os.environ:
                value = os.environ.pop(variable)
                self.addCleanup(os.environ.__setitem__, variable, value)
        lines = self.refused("port = 0\n[auth]\nmethod = 'globus'\n")
        for line, name in zip(lines, ("client_id", "client_secret"), strict=True):
            self.assertIn(f"auth.kwargs.{name}: is missing", line)

    def test_make_service_without_file_names_it(self) -> None:
        missing = self.folder / "missing.toml"
        self.assertEqual(
            self.refused("", "-c", str(missing)),
            [f"proxyrelay: {missing}: cannot be read: No such file or directory"],
        )

    def test_make_service_with_key_of_another_certificate_is_refused(self) -> None:
        text = self.certificates()
        other = trustme.CA().issue_cert("localhost")
        (self.folder / "key.pem").write_bytes(other.private_key_pem.bytes())
        (line,) = self.refused(text)
        self.assertTrue(line.startswith(f"proxyrelay: {self.path}:2: keyfile: "), line)

    def test_make_service_with_taken_port_names_it(self) -> None:
        (taken,) = listening.bind("127.0.0.1", 0)
        self.addCleanup(taken.close)
        port = taken.getsockname()[1]
        self.assertEqual(
            self.refused(f"host = '127.0.0.1'\nport = {port}\n"),
            [
                f"proxyrelay: cannot listen on 127.0.0.1 port {port}: address already "
                "in use (another process listens there: set another port)"
            ],
        )

    def test_make_service_with_wrong_log_leaves_no_socket(self) -> None:
        (self.folder / "logs" / "proxyrelay.log").mkdir(parents=True)
        port = free_port()
        lines = self.refused(
            f"host = '127.0.0.1'\nport = {port}\nlogging.log_dir = 'logs'\n"
        )
        self.assertIn("logging.log_dir", lines[0])
        for key, settings in (
            ("audit_log", Logging(audit_log=self.folder)),
            ("privacy_key_file", Logging(privacy=True, privacy_key_file=self.folder)),
        ):
            with self.assertRaises(ConfigError) as caught:
                relay_service(Config(host="127.0.0.1", port=port, logging=settings))
            (problem,) = caught.exception.problems
            self.assertEqual(problem.key, f"logging.{key}")
        for bound in listening.bind("127.0.0.1", port):
            bound.close()

    # -- logs

    def test_log_of_foreground_goes_to_standard_output(self) -> None:
        self.write_event(self.application_log(TEXT))
        self.output.seek(0)
        self.assertTrue(self.output.read().endswith(" INFO     hello 'w\\xf6rld'\n"))
        (writer,) = self.application_log(TEXT, logfile="-").writers
        self.assertEqual(writer.name, "standard output")

    def test_log_of_daemon_goes_to_folder(self) -> None:
        text = f"{TEXT}[logging]\nlog_dir = 'logs'\nformat = 'json'\n"
        self.write_event(self.application_log(text, nodaemon=False))
        line = (self.folder / "logs" / "proxyrelay.log").read_text()
        self.assertEqual(json.loads(line)["message"], "hello 'w\\xf6rld'")
        self.output.seek(0)
        self.assertEqual(self.output.read(), "")

    def test_log_of_twistd_stays_where_it_is_asked_for(self) -> None:
        for twistd in ({"nodaemon": False}, {"logfile": "x"}, {"syslog": True}):
            self.assertIsNone(self.application_log(TEXT, **twistd))

    def test_log_of_twistd_refuses_folder_and_format(self) -> None:
        json_text = f"{TEXT}logging.format = 'json'\n"
        folder_text = f"{TEXT}logging.log_dir = 'logs'\n"
        wanted = "needs log_dir beside it, as there is no standard output"
        for text, twistd, wrong in (
            (json_text, {"logfile": "x"}, f"logging.format: {EXCLUDED}"),
            (json_text, {"syslog": True}, f"logging.format: {EXCLUDED}"),
            (json_text, {"nodaemon": False}, f"logging.format: {wanted}"),
            (folder_text, {"logfile": "x"}, f"logging.log_dir: {EXCLUDED}"),
        ):
            self.assertEqual(self.refused(text, **twistd), [f"proxyrelay: {wrong}"])

    def test_audit_log_from_start_to_stop_is_written(self) -> None:
        _, relay, _ = self.make(f"{TEXT}logging.audit_log = 'a/b'\n")
        relay.startService()
        relay.reopen()
        self.assertEqual(relay.lost_lines, {"log": 0, "audit": 0})
        self.successResultOf(relay.stopService())
        lines = (self.folder / "a" / "b").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        self.assertEqual(events, ["started", "stopped"])

    # -- reload

    def test_reload_after_change_of_folder_reads_same_file(self) -> None:
        self.path.write_text(TEXT)
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        made = makeService(parsed("-c", "relay.toml"))
        self.addCleanup(lambda: self.successResultOf(cast(Any, made.stopService())))
        os.chdir(before)
        self.path.write_text(f"{TEXT}max_message_bytes = 4711\n")
        _, relay, reload = made
        reload.reload()
        self.assertEqual(relay.config.max_message_bytes, 4711)

    def test_reload_of_no_regular_file_is_refused_unread(self) -> None:
        _, relay, reload = self.make(TEXT)
        before = relay.config
        # To read a pipe would wait for ever, to read a device never end.
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        for place, why in (
            (pipe, "it is no regular file"),
            (self.folder, "Is a directory"),
            ("/dev/zero", "it is no regular file"),
        ):
            self.captured.events.clear()
            self.path.unlink()
            self.path.symlink_to(place)
            reload.reload()
            self.assertEqual(
                self.captured.lines(LogLevel.error),
                [
                    f"{self.path}: cannot be read: {why}",
                    "nothing is reloaded; problems: 1",
                ],
            )
            self.assertIs(relay.config, before)

"""From a command line to a running relay, and back."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, cast

import msgspec
import trustme
from twisted.application import service
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from proxyrelay import __version__
from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.auth.credentials import ID_VARIABLE, SECRET_VARIABLE
from proxyrelay.auth.introspector import GlobusAuthenticator
from proxyrelay.config import Config, Level, Logging, Timeouts
from proxyrelay.errors import ConfigError, StartError
from proxyrelay.net import certificates as tls
from proxyrelay.net import listening, process
from proxyrelay.net.heap import CROWD, Heap
from proxyrelay.observe import log
from proxyrelay.service.app import (
    SWEEP,
    Application,
    Options,
    RelayService,
    Signals,
    makeService,
)
from proxyrelay.service.reload import Reload
from proxyrelay.switchboard.messages import PeerConnection
from proxyrelay.switchboard.peer import Peer
from proxyrelay.websocket.lifecycle import Phase
from tests.support.certificates import Authority
from tests.support.recording import A, RecordingPeer, offer

reactor: Any = _reactor

LOOPBACK = Config(host="127.0.0.1", port=0)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    (bound,) = listening.bind("127.0.0.1", 0)
    port: int = bound.getsockname()[1]
    bound.close()
    return port


class Capture:
    """Keeps what is logged while a test runs."""

    def __init__(self, case: SynchronousTestCase) -> None:
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        case.addCleanup(globalLogPublisher.removeObserver, observer)

    def lines(self, *levels: Any) -> list[str]:
        """The texts of the relay's own events, of some levels or of all."""
        return [
            formatEvent(event)
            for event in self.events
            if event.get("log_namespace", "").startswith("proxyrelay")
            and (not levels or event["log_level"] in levels)
        ]


class Connection:
    """Stands for an open connection."""

    def __init__(self) -> None:
        self.aborted = 0
        self.shuts = 0

    def close_going_away(self) -> None:
        self.shuts += 1

    def abort(self) -> None:
        self.aborted += 1


class Calls:
    """Stands for what reads the settings."""

    def reload(self) -> None:
        """Read nothing."""


class SignalReactor:
    """Keeps what it is asked to do about signals and stopping."""

    def __init__(self) -> None:
        self.started: list[Callable[[], None]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.stops = 0
        self.running = True

    def callWhenRunning(self, call: Callable[[], None]) -> None:  # noqa: N802
        self.started.append(call)

    def callFromThread(self, call: Any, *args: Any) -> None:  # noqa: N802
        self.calls.append((call, *args))

    def stop(self) -> None:
        self.stops += 1
        if not self.running:
            raise ReactorNotRunning
        self.running = False


def relay_service(
    settings: Config = LOOPBACK, pair: tls.KeyPair | None = None
) -> tuple[RelayService, MemoryReactorClock]:
    """A relay on a reactor without a network."""
    memory = MemoryReactorClock()
    relay = RelayService(settings, AnonymousAuthenticator(), pair, memory)
    return relay, memory


def parsed(*arguments: str) -> Options:
    """A command line, read."""
    options = Options()
    options.parseOptions(list(arguments))
    return options


class OptionsTests(SynchronousTestCase):
    """The command line of ``twistd proxyrelay``."""

    def refused(self, *arguments: str) -> str:
        with self.assertRaises(SystemExit) as caught:
            parsed(*arguments)
        return str(caught.exception)

    def test_says_nothing_by_default(self) -> None:
        options = parsed()
        self.assertEqual(
            dict(options),
            dict.fromkeys(["config", "host", "port", "log-dir", "log-level"]),
        )
        self.assertEqual(options.load().config, Config())

    def test_reads_a_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text("port = 4711\n")
        for arguments in (["-c", str(path)], [f"--config={path}"]):
            loaded = parsed(*arguments).load()
            self.assertEqual((loaded.config, loaded.problems), (Config(port=4711), []))
            self.assertEqual(loaded.file, str(path.absolute()))

    def test_overrides_the_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text("port = 4711\nhost = 'a'\n")
        loaded = parsed(
            "-c", str(path), "--host=b", "--port=1", "--log-dir=/c", "--log-level=warn"
        ).load()
        self.assertEqual(loaded.problems, [])
        self.assertEqual(
            loaded.config,
            Config(host="b", port=1, logging=Logging(Path("/c"), "WARNING")),
        )

    def test_refuses_what_it_does_not_know(self) -> None:
        self.assertEqual(
            self.refused("--bogus"),
            "proxyrelay: option --bogus not recognized; see 'twistd proxyrelay --help'",
        )

    def test_refuses_an_option_without_its_value(self) -> None:
        self.assertIn("--port", self.refused("--port"))

    def test_refuses_arguments(self) -> None:
        text = self.refused("relay.toml")
        self.assertTrue(text.startswith("proxyrelay: "), text)
        self.assertIn("--help", text)

    def test_tells_its_version(self) -> None:
        output = StringIO()
        self.patch(sys, "stdout", output)
        with self.assertRaises(SystemExit) as caught:
            parsed("--version")
        self.assertEqual(caught.exception.code, 0)
        self.assertEqual(output.getvalue(), f"proxyrelay {__version__}\n")

    def test_explains_each_option(self) -> None:
        usage = str(Options())
        for word in (
            "-c, --config=",
            "--host=",
            "--port=",
            "--log-dir=",
            "--log-level=",
        ):
            self.assertIn(word, usage)
        self.assertIn("proxyrelay check", usage)


class MakeServiceTests(SynchronousTestCase):
    """What twistd is given to run."""

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


class RelayServiceTests(SynchronousTestCase):
    """A relay and its sockets, on a reactor without a network."""

    def test_binds_at_construction(self) -> None:
        port = free_port()
        settings = Config(host="127.0.0.1", port=port)
        relay, memory = relay_service(settings)
        with self.assertRaises(StartError):
            listening.bind("127.0.0.1", port)
        self.assertEqual(memory.adoptedPorts, [])
        self.assertEqual(relay.urls, [])
        self.successResultOf(relay.stopService())

    def test_a_taken_port_is_an_error_at_construction(self) -> None:
        (taken,) = listening.bind("127.0.0.1", 0)
        self.addCleanup(taken.close)
        with self.assertRaises(StartError):
            relay_service(Config(host="127.0.0.1", port=taken.getsockname()[1]))

    def test_stopping_before_starting_frees_the_port(self) -> None:
        port = free_port()
        relay, _ = relay_service(Config(host="127.0.0.1", port=port))
        self.successResultOf(relay.stopService())
        for bound in listening.bind("127.0.0.1", port):
            bound.close()

    def test_serves_once_whether_privileged_or_not(self) -> None:
        for privileged in (False, True):
            relay, memory = relay_service()
            if privileged:
                relay.privilegedStartService()
            relay.startService()
            self.assertEqual(len(memory.adoptedPorts), 1)
            self.assertIs(memory.adoptedPorts[0][2].served, relay.factory)
            self.assertEqual(relay.urls, ["ws://0.0.0.0:1234"])
            self.successResultOf(relay.stopService())

    def test_says_what_it_serves(self) -> None:
        captured = Capture(self)
        relay, memory = relay_service()
        relay.privilegedStartService()
        relay.startService()
        for call, args, options in memory.whenRunningHooks:
            call(*args, **options)
        self.assertEqual(
            captured.lines(),
            [
                f"proxyrelay {__version__} serves ws://0.0.0.0:1234 "
                "(authentication: none)"
            ],
        )
        self.successResultOf(relay.stopService())

    def test_serves_tls_with_a_certificate(self) -> None:
        settings = msgspec.structs.replace(LOOPBACK, certfile=Path("in memory"))
        relay, memory = relay_service(settings, Authority().pair())
        relay.startService()
        self.assertIs(memory.adoptedPorts[0][2].served, relay.factory)
        self.assertEqual(relay.urls, ["wss://0.0.0.0:1234"])
        self.successResultOf(relay.stopService())

    def test_composes_lines_for_debugging_only_at_that_level(self) -> None:
        message = msgspec.json.decode(offer(), type=PeerConnection)
        for level, count in (("DEBUG", 1), ("INFO", 0)):
            settings = msgspec.structs.replace(
                LOOPBACK, logging=Logging(default_level=cast(Level, level))
            )
            relay, _ = relay_service(settings)
            captured = Capture(self)
            relay.journal.forwarded(RecordingPeer(), RecordingPeer(), message, None)
            self.assertEqual(len(captured.lines(LogLevel.debug)), count)
            self.successResultOf(relay.stopService())

    def test_stops_when_the_last_connection_is_gone(self) -> None:
        relay, memory = relay_service()
        relay.startService()
        connection: Any = Connection()
        relay.factory.connections.add(connection)
        stopped = relay.stopService()
        self.assertEqual((connection.shuts, connection.aborted), (1, 0))
        self.assertNoResult(stopped)
        relay.factory.connection_lost(connection)
        self.successResultOf(stopped)
        self.assertEqual(memory.getDelayedCalls(), [])

    def test_aborts_what_does_not_go(self) -> None:
        relay, memory = relay_service()
        relay.startService()
        connection: Any = Connection()
        relay.factory.connections.add(connection)
        stopped = relay.stopService()
        memory.advance(9.9)
        self.assertEqual(connection.aborted, 0)
        memory.advance(0.2)
        self.assertEqual(connection.aborted, 1)
        relay.factory.connection_lost(connection)
        self.successResultOf(stopped)


class ChangeTests(SynchronousTestCase):
    """Other settings, while a relay serves."""

    def changed(
        self, after: Config, before: Config = LOOPBACK, pair: tls.KeyPair | None = None
    ) -> RelayService:
        relay, self.memory = relay_service(before, pair)
        relay.startService()
        self.addCleanup(lambda: self.successResultOf(relay.stopService()))
        self.before = relay.factory.protocol
        relay.change(after, relay.pair, relay.authenticator)
        self.assertEqual((relay.config, relay.factory.config), (after, after))
        return relay

    def test_the_same_change_nothing(self) -> None:
        relay = self.changed(LOOPBACK)
        self.assertIs(relay.factory.protocol, self.before)

    def test_new_connections_have_another_longest_message(self) -> None:
        relay = self.changed(msgspec.structs.replace(LOOPBACK, max_message_bytes=9))
        before: Any = self.before
        after: Any = relay.factory.protocol
        self.assertEqual(after.maxMessagePayloadSize, 9)
        self.assertEqual(before.maxMessagePayloadSize, 1024 * 1024)

    def test_deadlines_have_other_lengths(self) -> None:
        timeouts = Timeouts(ping_interval=3)
        relay = self.changed(msgspec.structs.replace(LOOPBACK, timeouts=timeouts))
        deadlines: Any = relay.factory.lifecycle.queues[Phase.READY]
        self.assertEqual(deadlines._seconds, 3)

    def test_other_origins_are_let_in(self) -> None:
        origins = ("https://relay.example",)
        relay = self.changed(msgspec.structs.replace(LOOPBACK, allowed_origins=origins))
        allowed = relay.factory.origin_allowed
        self.assertTrue(allowed("https://relay.example"))
        self.assertFalse(allowed("https://elsewhere.example"))

    def test_lines_for_debugging_are_composed_at_that_level(self) -> None:
        logging = Logging(default_level="DEBUG")
        relay = self.changed(msgspec.structs.replace(LOOPBACK, logging=logging))
        self.assertTrue(relay.journal.verbose)

    def test_another_certificate_is_served(self) -> None:
        secure = msgspec.structs.replace(LOOPBACK, certfile=Path("in memory"))
        relay = self.changed(secure, secure, Authority().pair())
        other = Authority().pair()
        relay.change(secure, other, relay.authenticator)
        self.assertIs(relay.pair, other)

    def test_a_certificate_that_openssl_refuses_changes_nothing(self) -> None:
        secure = msgspec.structs.replace(LOOPBACK, certfile=Path("in memory"))
        relay = self.changed(secure, secure, Authority().pair())
        wrong = tls.KeyPair(Authority().pair().chain, Authority().pair().key)
        before = relay.pair
        with self.assertRaises(ConfigError):
            relay.change(LOOPBACK, wrong, AnonymousAuthenticator())
        self.assertEqual((relay.config, relay.pair), (secure, before))

    def test_another_authenticator_is_asked(self) -> None:
        relay = self.changed(LOOPBACK)
        before, after = Asked(), Asked()
        for asked in (before, before, after):
            relay.change(LOOPBACK, None, asked)
        self.assertIs(relay.authenticator, after)
        self.assertEqual((before.calls, after.calls), (["start", "stop"], ["start"]))

    def test_the_census_has_another_interval(self) -> None:
        for interval, count in ((10, 6), (0, 0), (60, 1)):
            captured = Capture(self)
            logging = Logging(current_client_interval=interval)
            self.changed(msgspec.structs.replace(LOOPBACK, logging=logging))
            self.memory.pump([10] * 6)
            self.assertEqual(captured.lines(), ["connected clients: 0"] * count)


class Asked(AnonymousAuthenticator):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")


class CensusTests(SynchronousTestCase):
    """The list of clients, from time to time."""

    def started(self, **options: Any) -> tuple[RelayService, MemoryReactorClock]:
        settings = msgspec.structs.replace(LOOPBACK, logging=Logging(**options))
        relay, memory = relay_service(settings)
        relay.startService()
        self.addCleanup(lambda: self.successResultOf(relay.stopService()))
        self.captured = Capture(self)
        return relay, memory

    def test_is_logged_at_its_interval(self) -> None:
        _, memory = self.started(current_client_interval=30)
        self.assertEqual(self.captured.lines(), [])
        memory.advance(29)
        self.assertEqual(self.captured.lines(), [])
        memory.advance(1)
        self.assertEqual(self.captured.lines(LogLevel.info), ["connected clients: 0"])
        memory.pump([30, 30])
        self.assertEqual(self.captured.lines(), ["connected clients: 0"] * 3)

    def test_is_off_at_an_interval_of_0(self) -> None:
        _, memory = self.started(current_client_interval=0)
        memory.advance(86400)
        self.assertEqual(self.captured.lines(), [])

    def test_ends_when_the_relay_stops(self) -> None:
        relay, memory = self.started(current_client_interval=30)
        self.successResultOf(relay.stopService())
        memory.advance(30)
        self.assertEqual(self.captured.lines(), ["stopped"])
        self.assertEqual(memory.getDelayedCalls(), [])

    def test_keeps_to_its_limit(self) -> None:
        relay, memory = self.started(current_client_interval=30, current_client_limit=0)
        relay.factory.relay.registry.add(A, cast(Peer, RecordingPeer()))
        memory.advance(30)
        self.assertEqual(self.captured.lines(), ["connected clients: 1"])

    def test_says_so_if_it_fails(self) -> None:
        relay, memory = self.started(current_client_interval=30)
        relay.factory.relay.registry.add(A, cast(Peer, object()))
        memory.advance(30)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        (failed,) = [e for e in self.captured.events if "log_failure" in e]
        self.assertIn("the list of clients has stopped", eventAsText(failed))


class HeapTests(SynchronousTestCase):
    """The memory of clients that have left."""

    def test_goes_back_when_the_relay_has_time(self) -> None:
        relay, memory = relay_service(LOOPBACK)
        connections: set[Any] = cast(Any, relay.factory.connections)
        left: list[int] = []
        relay._heap = Heap(lambda: left.append(len(connections)))
        relay.startService()
        self.addCleanup(lambda: self.successResultOf(relay.stopService()))
        connections.update(range(CROWD))
        memory.advance(SWEEP)
        connections.clear()
        relay.factory.pace._waiting.append(lambda: None)
        memory.advance(SWEEP)
        self.assertEqual(left, [])
        relay.factory.pace._next_turn()
        memory.advance(SWEEP)
        self.assertEqual(left, [0])


class SignalsTests(SynchronousTestCase):
    """What the process does when it is sent a signal."""

    def setUp(self) -> None:
        self.relay, self.memory = relay_service()
        self.relay.startService()
        self.addCleanup(self.relay.stopService)
        self.reactor = SignalReactor()
        self.reloads = Calls()
        self.signals = Signals(self.relay, cast(Any, self.reloads), self.reactor)
        self.captured = Capture(self)

    def connected(self) -> Connection:
        connection: Any = Connection()
        self.relay.factory.connections.add(connection)
        self.addCleanup(self.relay.factory.connections.clear)
        return cast(Connection, connection)

    def test_the_first_stops_the_reactor(self) -> None:
        connection = self.connected()
        self.signals.stop("SIGTERM")
        self.assertEqual(self.reactor.stops, 1)
        self.assertEqual(connection.aborted, 0)
        self.assertEqual(
            self.captured.lines(), ["stopping on SIGTERM, connections to close: 1"]
        )

    def test_the_second_aborts_the_connections(self) -> None:
        connection = self.connected()
        self.signals.stop("SIGINT")
        self.relay.stopService()  # as the reactor does when it stops
        self.signals.stop("SIGINT")
        self.assertEqual(connection.aborted, 1)
        self.assertEqual(self.reactor.stops, 1)

    def test_survives_a_reactor_that_has_stopped(self) -> None:
        self.reactor.running = False
        self.signals.stop("SIGTERM")
        self.assertEqual(self.captured.lines()[1:], ["the reactor has stopped already"])

    def handlers(self) -> dict[signal.Signals, Any]:
        """What happens on each signal, and will again after the test."""
        ends = (signal.SIGINT, signal.SIGTERM)
        numbers = (*ends, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        handlers = {number: signal.getsignal(number) for number in numbers}
        for number, handler in handlers.items():
            self.addCleanup(signal.signal, number, handler)
        return handlers

    def test_reads_the_settings_at_a_hangup_and_hands_over_at_another(self) -> None:
        before = self.handlers()
        self.signals.startService()
        for start in self.reactor.started:
            start()
        for number, call in (
            (signal.SIGHUP, self.reloads.reload),
            (signal.SIGUSR1, self.signals._reopen),
            (signal.SIGUSR2, self.relay.drain),
        ):
            caught = signal.getsignal(number)
            assert callable(caught)
            self.assertNotEqual(caught, before[number])
            called: list[int] = []
            self.assertEqual(self.signals._calls[number], call)
            self.signals._calls[number] = partial(called.append, 1)
            for _ in range(2):
                caught(number, None)
                caught(number, None)  # one of them will do
                run, *arguments = self.reactor.calls.pop()
                self.assertEqual(self.reactor.calls, [])
                run(*arguments)
            self.assertEqual(len(called), 2)
        self.assertEqual(self.reactor.stops, 0)

    def test_opens_log_files_anew_at_a_signal(self) -> None:
        self.handlers()
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        self.signals._install()
        self.signals._reopen()
        self.assertEqual(self.captured.lines(), ["log files are opened anew"])

    def test_leaves_the_file_of_twistd_to_its_own_handler(self) -> None:
        self.handlers()
        called: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _: called.append(number))
        self.signals._install()
        self.signals._reopen()
        self.assertEqual(called, [signal.SIGUSR1])
        self.assertEqual(self.captured.lines(), ["log files are opened anew"])

    def test_takes_the_signals_when_the_reactor_runs(self) -> None:
        before = self.handlers()
        self.signals.startService()
        self.assertEqual(before, {n: signal.getsignal(n) for n in before})
        for start in self.reactor.started:
            start()
        del before[signal.SIGHUP], before[signal.SIGUSR1], before[signal.SIGUSR2]
        for number, handler in before.items():
            caught = signal.getsignal(number)
            assert callable(caught)
            self.assertNotEqual(caught, handler)
            # A handler may interrupt anything, so it only leaves word.
            caught(number, None)
            self.assertEqual(self.reactor.stops, 0)
            self.assertEqual(self.reactor.calls.pop(), (self.signals.stop, number.name))


class Reader(Protocol):
    """Sends a request and keeps all that comes back."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.received = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.request)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(self.received)


class ServingTests(TestCase):
    """A relay on the reactor."""

    timeout = 30

    async def test_serves_and_frees_the_port(self) -> None:
        relay = RelayService(LOOPBACK, AnonymousAuthenticator(), None, reactor)
        relay.startService()
        (url,) = relay.urls
        port = int(url.removeprefix("ws://127.0.0.1:"))
        reader = Reader(b"GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n")
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), reader)
        self.assertTrue((await reader.done).startswith(b"HTTP/1.1 426 "))
        await relay.stopService()
        for bound in listening.bind("127.0.0.1", port):
            bound.close()

    async def test_serves_every_address_of_a_host(self) -> None:
        settings = Config(host=None, port=0)
        relay = RelayService(settings, AnonymousAuthenticator(), None, reactor)
        relay.startService()
        try:
            ports = {url.rpartition(":")[2] for url in relay.urls}
            self.assertEqual(len(ports), 1)
            self.assertIn(f"ws://0.0.0.0:{ports.pop()}", relay.urls)
        finally:
            await relay.stopService()

"""The trial of the engine, with real ones."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path
from typing import Any

import redis
import trustme
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.cluster.trial import ARGUMENTS, Report, acl, commands, try_engine
from proxyrelay.config.cluster import Cluster
from tests.cluster.test_scripts import Scripts
from tests.support.engine import Engine, SentinelGroup, free_port

PASSWORD = "hunter2"

FORBIDDEN = (
    *("KEYS relay:*", "FLUSHALL", "CONFIG GET *", "CLIENT LIST", "MONITOR"),
    *("GET other:1", "PUBLISH other x", "EVAL return 0"),
)
"""Commands that the user of the relay must not have."""


class TrialTestCase(SynchronousTestCase):
    """A folder, and an engine."""

    options: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.engine = Engine(*self.options)
        self.addCleanup(self.engine.stop)

    def cluster(self, **settings: Any) -> Cluster:
        settings = {"engine": f"unix:{self.engine.socket}", **settings}
        return Cluster(prefix="relay", call_timeout=0.5, **settings)

    def password(self, text: str = PASSWORD) -> Path:
        file = self.folder / "password"
        file.write_text(text)
        file.chmod(0o600)
        return file

    def sound(self, cluster: Cluster) -> list[str]:
        """Lines about an engine without a problem."""
        report = try_engine(cluster)
        self.assertEqual((report.problems, report.warnings), ([], []))
        return report.lines

    def problem(self, report: Report, setting: str) -> str:
        """The only problem, of a setting."""
        self.assertEqual(report.warnings, [])
        (problem,) = report.problems
        self.assertEqual(problem.key, f"cluster.{setting}")
        self.assertNotIn(PASSWORD, problem.message)
        return problem.message

    def warning(self, report: Report, setting: str) -> str:
        """The only warning, of a setting."""
        self.assertEqual(report.problems, [])
        (warning,) = report.warnings
        self.assertEqual(warning.key, f"cluster.{setting}")
        return warning.message


class EngineTests(TrialTestCase):
    """The engine itself."""

    def test_engine_right_is_described_and_left_as_it_was(self) -> None:
        first, second, third = self.sound(self.cluster())
        self.assertEqual(first.rpartition(" at ")[2], str(self.engine.socket))
        self.assertIn("user 'default' may run all", second)
        self.assertTrue(third.endswith(acl(self.cluster())))
        self.assertEqual(self.engine.client.keys(), [])

    def test_engine_that_is_not_there_is_a_warning(self) -> None:
        self.engine.kill()
        text = self.warning(try_engine(self.cluster()), "engine")
        self.assertIn("Until it can, the relay serves its own clients alone", text)
        alone = self.cluster(without_engine="refuse")
        self.assertIn("refuses new clients", self.warning(try_engine(alone), "engine"))
        far = self.cluster(engine=f"tcp:127.0.0.1:{free_port()}")
        self.assertIn("Connection refused", self.warning(try_engine(far), "engine"))

    def test_engine_that_stands_is_a_warning(self) -> None:
        self.engine.signal(signal.SIGSTOP)
        self.addCleanup(self.engine.signal, signal.SIGCONT)
        text = self.warning(try_engine(self.cluster()), "engine")
        self.assertIn("it does not answer in time", text)

    def test_something_else_is_a_warning(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=self.answer_http, args=(listening,))
            thread.start()
            engine = f"tcp:127.0.0.1:{listening.getsockname()[1]}"
            report = try_engine(self.cluster(engine=engine))
            thread.join()
        self.assertIn("it is no engine", self.warning(report, "engine"))

    def answer_http(self, listening: socket.socket) -> None:
        """Answer one connection as a web server does."""
        connection, _ = listening.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    def test_replica_is_a_problem(self) -> None:
        self.engine.client.replicaof("127.0.0.1", 1)
        text = self.problem(try_engine(self.cluster()), "engine")
        self.assertIn("the master is needed", text)

    def test_database_that_is_not_there_is_a_problem(self) -> None:
        self.sound(self.cluster(database=15))
        text = self.problem(try_engine(self.cluster(database=16)), "database")
        self.assertIn("out of range", text)

    def test_engine_that_forgets_keys_is_warned_of(self) -> None:
        self.engine.client.config_set("maxmemory-policy", "allkeys-lru")
        text = self.warning(try_engine(self.cluster()), "engine")
        self.assertIn("set maxmemory-policy to noeviction, not allkeys-lru", text)

    def test_redis_cluster_is_a_problem(self) -> None:
        self.engine.kill()
        self.engine.start("--cluster-enabled", "yes")
        text = self.problem(try_engine(self.cluster()), "engine")
        self.assertIn("a Redis Cluster cannot be used", text)


class UserTests(TrialTestCase):
    """The user of the engine's ACL."""

    def allow(self, rules: str) -> None:
        """Have the engine's user by an ACL command."""
        self.engine.client.execute_command(rules.replace(">PASSWORD", f">{PASSWORD}"))

    def user(self, **settings: Any) -> Cluster:
        return self.cluster(username="relay", password_file=self.password(), **settings)

    def test_shown_user_suffices_and_may_nothing_else(self) -> None:
        cluster = self.user()
        self.allow(acl(cluster))
        self.assertIn("user 'relay' may run all", self.sound(cluster)[1])
        client = redis.Redis(
            unix_socket_path=str(self.engine.socket),
            username="relay",
            password=PASSWORD,
        )
        self.addCleanup(client.close)
        for command in FORBIDDEN:
            with self.assertRaises(redis.ResponseError, msg=command) as caught:
                client.execute_command(*command.split())
            self.assertIn("no permission", str(caught.exception).lower(), command)
        # Scripts(...) runs each one, with the rights of that user.
        scripts = Scripts(client)
        for node in ("n1", "n2"):
            scripts.lease(node)
        self.assertEqual(scripts.register("u", "n1", 1, "s", limit=9)[0], "OK")
        inbox = client.pubsub()
        self.addCleanup(inbox.close)
        inbox.subscribe("relay:1:in:n1", "relay:1:in:n2")
        self.assertEqual(scripts.forward("u", "s")[0], "SENT")
        reply = scripts.register("u", "n2", 2, "other", stamp=-9_000_000, mode="again")
        self.assertEqual(reply[0], "OK")
        self.assertEqual(scripts.unregister("u", "n2", 2), 1)
        self.assertEqual(scripts.forward("u", "other"), ["HOLD"])
        self.assertEqual(scripts.register("u", "n2", 3, "other")[0], "OK")
        for name, arguments in (
            ("held", ("n2", "0")),
            ("nodes", ()),
            ("leave", ("n2",)),
        ):
            scripts.run(name, *arguments)
        self.assertEqual(scripts.reap("n2"), "0")

    def test_each_missing_right_is_named(self) -> None:
        cluster = self.user()
        for lacks, named in (
            ("-hset -zadd", "+hset +zadd"),
            ("-subscribe -publish", "+publish +subscribe"),
            ("-evalsha -script", "+script|load +evalsha"),
            ("-set -del", "+set +del"),
            ("resetkeys ~other:*", "~relay:*"),
            ("resetchannels", "&relay:*:in:*"),
        ):
            self.allow(acl(cluster))
            self.engine.client.execute_command(f"ACL SETUSER relay {lacks}")
            text = self.problem(try_engine(cluster), "username")
            start = f"user 'relay' of the engine lacks {named}. To make a user"
            self.assertTrue(text.startswith(start), text)
            self.assertTrue(text.endswith(acl(cluster)))
            self.engine.client.flushall()

    def test_each_needed_right_is_needed(self) -> None:
        cluster = self.user(database=1)
        self.allow(acl(cluster))
        for command in commands(cluster):
            name = command.lower().replace(" ", "|")
            self.engine.client.execute_command(f"ACL SETUSER relay -{name}")
            text = self.problem(try_engine(cluster), "username")
            self.assertIn(f"lacks +{name}. ", text)
            self.engine.client.execute_command(f"ACL SETUSER relay +{name}")
        self.sound(cluster)

    def test_wrong_password_shows_how_to_make_the_user(self) -> None:
        text = self.problem(try_engine(self.user()), "password_file")
        self.assertIn("the engine refuses user 'relay': WRONGPASS", text)
        self.assertTrue(text.endswith(acl(self.user())))

    def test_missing_password_is_a_problem(self) -> None:
        self.engine.client.config_set("requirepass", PASSWORD)
        text = self.problem(try_engine(self.cluster()), "engine")
        self.assertIn("NOAUTH", text)
        self.sound(self.cluster(password_file=self.password()))

    def test_arguments_are_those_of_all_commands(self) -> None:
        every = self.cluster(database=1, sentinels=("tcp:a:1",))
        self.assertEqual(commands(every), sorted(ARGUMENTS))
        self.assertNotIn("+role", acl(self.cluster()))
        self.assertIn("+role", acl(every))


class FakeTests(TrialTestCase):
    """Engines that are too old, or none."""

    def test_old_or_other_engine_is_a_problem(self) -> None:
        old = "*12\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n6.2.9\r\n"
        rest = "$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
        rest += "$1\r\na\r\n:1\r\n$1\r\nb\r\n:2\r\n"
        for reply, words in (
            (old + rest, "Redis 6.2.9 is too old: 7.0 is needed"),
            ("-ERR unknown command\r\n", "refuses this relay: ERR unknown command"),
        ):
            with socket.create_server(("127.0.0.1", 0)) as listening:
                arguments = (listening, reply.encode())
                thread = threading.Thread(target=self.answer, args=arguments)
                thread.start()
                engine = f"tcp:127.0.0.1:{listening.getsockname()[1]}"
                report = try_engine(self.cluster(engine=engine))
                thread.join()
            self.assertIn(words, self.problem(report, "engine"))

    def answer(self, listening: socket.socket, reply: bytes) -> None:
        """Answer all commands of one connection in the same way."""
        connection, _ = listening.accept()
        with connection:
            while connection.recv(1000):
                connection.sendall(reply)


class TlsTests(TrialTestCase):
    """An engine with TLS."""

    def setUp(self) -> None:
        super().setUp()
        self.engine.kill()
        authority, self.port = trustme.CA(), free_port()
        authority.cert_pem.write_to_path(str(self.folder / "ca"))
        for name, host in (("engine", "localhost"), ("own", "relay.example")):
            pair = authority.issue_cert(host)
            pair.private_key_and_cert_chain_pem.write_to_path(str(self.folder / name))
        self.engine.start(
            *("--bind", "127.0.0.1", "--tls-port", str(self.port)),
            *("--tls-cert-file", str(self.folder / "engine")),
            *("--tls-key-file", str(self.folder / "engine")),
            *("--tls-ca-cert-file", str(self.folder / "ca")),
        )

    def over_tls(self, host: str = "localhost", **settings: Any) -> Cluster:
        own = self.folder / "own"
        settings = {
            "ca_file": self.folder / "ca",
            "client_certfile": own,
            "client_keyfile": own,
            **settings,
        }
        return self.cluster(engine=f"tls:{host}:{self.port}", **settings)

    def test_right_name_and_certificate_pass(self) -> None:
        self.assertEqual(len(self.sound(self.over_tls())), 3)

    def test_wrong_name_or_authority_or_no_certificate_is_a_problem(self) -> None:
        for cluster, words in (
            (self.over_tls("127.0.0.1"), "is not valid for '127.0.0.1'"),
            (self.over_tls(ca_file=None), "certificate"),
            (
                self.over_tls(client_certfile=None, client_keyfile=None),
                "certificate",
            ),
        ):
            text = self.problem(try_engine(cluster), "engine")
            self.assertIn(words, text.lower())


class SentinelTests(SynchronousTestCase):
    """Sentinels that name the master."""

    def test_master_is_found_and_silent_sentinels_are_named(self) -> None:
        group = SentinelGroup()
        self.addCleanup(group.stop)
        nobody = f"tcp:127.0.0.1:{free_port()}"
        places = tuple(f"tcp:127.0.0.1:{port}" for port in group.sentinels)
        cluster = Cluster(sentinels=(nobody, *places), master="relay")
        report = try_engine(cluster)
        self.assertEqual(report.problems, [])
        self.assertIn(f"127.0.0.1:{group.port}", report.lines[0])
        (warning,) = report.warnings
        self.assertEqual(warning.key, "cluster.sentinels")
        self.assertTrue(warning.message.startswith(f"{nobody} cannot be reached"))
        report = try_engine(Cluster(sentinels=places, master="other"))
        (problem,) = report.problems
        self.assertEqual(
            (problem.key, problem.message),
            ("cluster.master", "no sentinel knows a master 'other'"),
        )
        report = try_engine(Cluster(sentinels=(nobody,)))
        self.assertEqual((report.problems, len(report.warnings)), ([], 1))

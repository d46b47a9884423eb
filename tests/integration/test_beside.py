"""Commands beside a real relay: check, reload, drain, and each example of the help."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import shutil
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

from proxyrelay.cli import actions
from proxyrelay.cli import main as cli
from tests.cli.command_case import HOST
from tests.integration.test_twistd import TwistdTestCase
from tests.support.certificates import SETTINGS, Authority
from tests.support.processes import RelayProcess
from tests.support.recording import A

HERE = "this relay already serves here"


class BesideTestCase(TwistdTestCase):
    """A relay with a private listener."""

    def setUp(self) -> None:
        super().setUp()
        # The path of a socket must be short.
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.place = f"unix:{folder}/admin.sock"
        self.admin = f"[admin]\nlisten = '{self.place}'\n"

    def serve(self, text: str) -> RelayProcess:
        """Start a relay; then ``relay.toml`` has its port."""
        path = self.write_config(f"{HOST}{text}")
        relay = self.relay("--config", path)
        self.asked = self.folder / "asked.toml"
        self.asked.write_text(f"{HOST}port = {relay.port}\n{text}")
        return relay

    def check(self) -> tuple[int, list[str]]:
        return self.command("check", "--config", self.asked)


class CheckTests(BesideTestCase):
    """A taken place is no problem, if it is this relay's."""

    def test_check_beside_this_relay_tells_its_process(self) -> None:
        relay = self.serve(self.admin)
        self.registered(relay.url)
        status, lines = self.check()
        self.assertEqual(status, 0, lines)
        told = f"{HERE}: process {relay.pid}, ready, clients: 1"
        self.assertEqual(lines[:2], ["no problems", told])

    def test_check_beside_relay_without_private_listener_sees_it(self) -> None:
        Authority().write(self.folder)
        for text in ("", SETTINGS):
            self.serve(text)
            status, lines = self.check()
            self.assertEqual((status, lines[1]), (0, HERE), lines)

    def test_check_with_other_token_sees_the_relay(self) -> None:
        (self.folder / "token").write_text("a" * 32)
        self.serve(f"{self.admin}token_file = 'token'\n")
        (self.folder / "token").write_text("b" * 32)
        status, lines = self.check()
        self.assertEqual((status, lines[1]), (0, HERE), lines)

    def test_check_of_second_relay_names_the_owner_of_its_listener(self) -> None:
        relay = self.serve(self.admin)
        self.asked.write_text(f"{HOST}port = 0\n{self.admin}")
        status, lines = self.check()
        self.assertEqual((status, len(lines)), (1, 1), lines)
        self.assertIn(f"process {relay.pid}, a relay that serves {relay.url}", lines[0])

    def test_check_beside_a_draining_relay_says_so(self) -> None:
        relay = self.serve(self.admin)
        client = self.registered(relay.url)
        self.command("drain", "--config", self.asked)
        status, lines = self.check()
        self.assertEqual((status, len(lines)), (1, 1), lines)
        told = f"it is process {relay.pid}, a relay that is draining: wait for its end,"
        self.assertIn(told, lines[0])
        client.close()
        self.assertEqual(relay.wait(), 0)

    def test_check_beside_relay_with_the_other_scheme_says_so(self) -> None:
        Authority().write(self.folder)
        for admin in ("", self.admin):
            relay = self.serve(f"{SETTINGS}{admin}")
            self.asked.write_text(f"{HOST}port = {relay.port}\n{admin}")
            status, lines = self.check()
            self.assertEqual(status, 0, lines)
            self.assertIn("here, but with wss in the place of ws:", lines[1])
            relay.stop()

    def test_disconnect_of_no_uuid_names_it(self) -> None:
        errors = io.StringIO()
        with redirect_stderr(errors):
            status = cli.main(["disconnect", "--admin", self.place, "nope"])
        self.assertEqual(
            (status, errors.getvalue()), (1, "problem: 'nope' is no UUID\n")
        )

    def test_check_beside_strangers_has_both_problems(self) -> None:
        relay = self.serve("[admin]\nlisten = '127.0.0.1:0'\n")
        line = relay.wait_for(r"the private listener is http://127.0.0.1:(\d+)")
        self.asked.write_text(
            f"{HOST}port = {line[1]}\n[admin]\nlisten = '127.0.0.1:{relay.port}'\n"
        )
        status, lines = self.check()
        found = [line for line in lines if line.startswith("problem: ")]
        self.assertEqual((status, len(found)), (1, 2), lines)

    def test_check_with_reuse_port_tells_of_the_relay(self) -> None:
        relay = self.serve(f"reuse_port = true\n{self.admin}")
        status, lines = self.check()
        self.assertEqual(status, 0, lines)
        self.assertIn(f"{HERE}: process {relay.pid}", lines[1])

    def test_check_of_two_names_of_one_place_finds_it(self) -> None:
        port = self.serve("").port
        self.asked.write_text(
            f"host = 'localhost'\nport = {port + 1}\n"
            f"[admin]\nlisten = '127.0.0.1:{port + 1}'\n"
        )
        status, lines = self.check()
        self.assertEqual(status, 1)
        self.assertIn("is where clients come to", lines[0])


class CommandTests(BesideTestCase):
    """Outcomes that the private listener tells."""

    def test_reload_prints_what_has_changed_and_what_waits(self) -> None:
        self.serve(self.admin)
        path = self.write_config(
            f"{HOST}max_message_bytes = 4711\nreuse_port = true\n{self.admin}"
        )
        status, lines = self.command("reload", "--config", path)
        self.assertEqual(status, 0)
        self.assertEqual(
            lines,
            ["reloaded: changed: max_message_bytes; waits for a new start: reuse_port"],
        )
        status, lines = self.command("reload", "--admin", self.place)
        self.assertTrue(lines[0].startswith("reloaded: nothing has changed"), lines)

    def test_reload_that_is_refused_prints_each_problem(self) -> None:
        self.serve(self.admin)
        path = self.write_config(f"{HOST}prot = 1\nmax_clients = 1\n{self.admin}")
        for which in (("--admin", self.place), ("--config", path)):
            status, lines = self.command("reload", *which)
            self.assertEqual((status, len(lines)), (1, 2), lines)
            for line, name in zip(lines, ("prot", "max_clients"), strict=True):
                self.assertTrue(line.startswith(f"problem: {path}:"), line)
                self.assertIn(f"{name}: unknown setting", line)

    def test_drain_prints_how_many_clients_are_left(self) -> None:
        relay = self.serve(self.admin)
        client = self.registered(relay.url)
        status, lines = self.command("drain", "--config", self.asked)
        told = "draining; clients left: 1, connections: 1"
        self.assertEqual((status, lines), (0, [told]))
        client.close()
        self.assertEqual(relay.wait(), 0)

    def test_drain_of_a_shared_listener_asks_for_the_process(self) -> None:
        relay = self.serve(f"reuse_port = true\n{self.admin}")
        status, lines = self.command("drain", "--config", self.asked)
        self.assertEqual((status, len(lines)), (1, 1), lines)
        self.assertIn(f'this one is {{"pid": {relay.pid}}}; name the', lines[0])

    def test_command_without_answer_names_the_second_way(self) -> None:
        for command in ("reload", "drain"):
            errors = io.StringIO()
            with redirect_stderr(errors):
                status = cli.main([command, "--admin", self.place])
            self.assertEqual(status, 1)
            self.assertIn(actions.PID_HINT, errors.getvalue())

    def test_command_with_pid_sends_a_signal(self) -> None:
        relay = self.serve(self.admin)
        status, lines = self.command(
            "reload", "--config", self.asked, "--pid", str(relay.pid)
        )
        told = f"sent SIGHUP to process {relay.pid}; the log of the relay has the"
        self.assertEqual(status, 0)
        self.assertIn(told, lines[-1])
        relay.wait_for("reloaded, changed: nothing")


class ExampleTests(BesideTestCase):
    """Examples in the help."""

    def examples(self) -> dict[str, list[str]]:
        """The words of each example, by the name of the command."""
        found: dict[str, list[str]] = {}
        parsers = [cli._parser()]
        while parsers:
            parser = parsers.pop()
            inner = [
                each
                for action in parser._actions
                if isinstance(action, argparse._SubParsersAction)
                for each in action.choices.values()
            ]
            parsers += inner
            if not inner:
                head, _, example = (parser.epilog or "").partition("\n")
                self.assertEqual(head, "example:", parser.prog)
                self.assertTrue(example.startswith(f"  {parser.prog} "), example)
                line, _, _ = example.partition(" <")
                line, _, _ = line.partition(" >")
                found[parser.prog.partition(" ")[2]] = shlex.split(line)[1:]
        return found

    def test_each_command_has_an_example_that_parses(self) -> None:
        parser = cli._parser()
        for name, words in self.examples().items():
            self.assertTrue(callable(parser.parse_args(words).command), name)

    def test_examples_for_a_running_relay_work(self) -> None:
        relay = self.serve(self.admin)
        self.registered(relay.url, uuid=A)
        self.asked.rename(self.folder / "relay.toml")
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        examples = self.examples()
        for name in ("check", "live", "status", "clients", "reload", "disconnect"):
            words = [word for word in examples[name] if word != "--watch"]
            status, lines = self.command(*words)
            self.assertEqual(status, int(name == "disconnect"), (name, lines))
        self.assertIn("is not registered", lines[-1])
        status, lines = self.command(*examples["stop"])
        self.assertEqual(status, 0, lines)
        self.assertIn("has ended", lines[-1])
        self.assertEqual(relay.wait(), 0)

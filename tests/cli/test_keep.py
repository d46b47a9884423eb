"""``proxyrelay keep``: real processes; a stand-in for twistd does what a test asks."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.cli import keep
from tests.support.processes import (
    HAND_OVER,
    PATIENCE,
    PAUSE,
    SCRIPTS,
    SERVES,
    Process,
    ProcessTestCase,
    environment,
)

TWISTD = f"""#!{sys.executable} -IS
import os
open_at_start = []
for number in map(int, os.listdir("/proc/self/fd")):
    try:
        os.fstat(number)
        open_at_start.append(number)
    except OSError:
        pass  # that of the listing
import signal, socket, sys

def connect(kind, address):
    made = socket.socket(socket.AF_UNIX, kind)
    made.connect(chr(0) + address.removeprefix("@"))
    return made

def send(*lines, fds=()):
    text = "\\n".join(lines).encode("utf-8", "surrogateescape")
    socket.send_fds(notify, [text], fds)

def barrier(*lines):
    # Returns when all messages until now have been read.
    reading, writing = os.pipe()
    send(*lines, "BARRIER=1", fds=[writing])
    os.close(writing)
    ended = os.read(reading, 1) == b""
    os.close(reading)
    return ended

def store(*names):
    # Store a file for each name, that holds the name.
    for name in names:
        number = os.memfd_create("kept")
        os.write(number, name.encode())
        send("FDSTORE=1", "FDNAME=" + name, fds=[number])
        os.close(number)
    return barrier()

def offer(*lines):
    # Whether the descriptor of a message is kept.
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    send(*lines, fds=[writing])
    os.close(writing)
    barrier()
    try:
        return os.read(reading, 1) != b""
    except BlockingIOError:
        return True

def kept():
    numbers = range(3, 3 + int(os.environ.get("LISTEN_FDS", "0")))
    return [os.pread(number, 300, 0).decode() for number in numbers]

def inode(number):
    return os.fstat(number).st_ino

def block(*numbers):
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

def orphan():
    # A process whose parent has ended, and the descriptor that ends it.
    reading, writing = os.pipe()
    if (middle := os.fork()) == 0:
        if (last := os.fork()) == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os._exit(os.write(2, f"orphan {{last}}\\n".encode()) and 0)
    os.waitpid(middle, 0)
    os.close(reading)
    return writing

notify = connect(socket.SOCK_DGRAM, os.environ["NOTIFY_SOCKET"])
lines = connect(socket.SOCK_STREAM, os.environ["CONTROL"]).makefile("rw")
for line in lines:
    print(repr(eval(line)), file=lines, flush=True)
"""
"""A program for ``twistd`` that evaluates what it reads from the test's socket."""


class Relay:
    """A running stand-in, as the test controls it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        self._connection = connection
        self._lines = connection.makefile("rw", encoding="utf-8")
        self.pid: int = self.ask("os.getpid()")

    def ask(self, expression: str) -> Any:
        """Evaluate an expression there."""
        self.tell(expression)
        return ast.literal_eval(self._lines.readline())

    def tell(self, expression: str) -> None:
        """Evaluate an expression there that may end the process."""
        print(expression, file=self._lines, flush=True)

    def variable(self, name: str) -> str | None:
        """A variable of its environment."""
        value: str | None = self.ask(f"os.environ.get({name!r})")
        return value

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._lines.close()
        self._connection.close()


class KeepTestCase(ProcessTestCase):
    """Runs the program in an environment whose ``twistd`` is the stand-in."""

    def setUp(self) -> None:
        super().setUp()
        scripts = self.folder / "environment/bin"
        scripts.mkdir(parents=True)
        self.python = scripts / "python"
        self.python.symlink_to(sys.executable)
        if sys.prefix != sys.base_prefix:
            shutil.copy(Path(sys.prefix) / "pyvenv.cfg", scripts.parent)
            (scripts.parent / "lib").symlink_to(Path(sys.prefix) / "lib")
        self.twistd = scripts / "twistd"
        self.twistd.write_text(TWISTD)
        self.twistd.chmod(0o755)
        name = f"proxyrelay.test.{os.getpid()}.{id(self)}"
        self.control = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.control.close)
        self.control.bind(f"\0{name}")
        self.control.listen()
        self.control.settimeout(PATIENCE)
        self.variables = environment(CONTROL=name)
        self.program = (self.python, "-I", keep.__file__)

    def keep(
        self, *command: str | Path, variables: dict[str, str] | None = None, **more: Any
    ) -> Process:
        """Run it, by default directly and without options."""
        process = self.start(
            *(command or (*self.program, "")),
            env={**self.variables, **(variables or {})},
            **more,
        )
        # A stand-in ends well when the test hangs up, and with it all else.
        self.addCleanup(process.wait)
        return process

    def accept(self, ready: bool = True) -> Relay:
        """Wait for a stand-in that was started."""
        connection, _ = self.control.accept()
        relay = Relay(connection)
        self.addCleanup(relay.close)
        if ready:
            relay.ask("barrier('READY=1')")
        return relay

    def crash(self, relay: Relay) -> Relay:
        """Kill a stand-in, and wait for the next one."""
        os.kill(relay.pid, signal.SIGKILL)
        return self.accept()

    def limited(self, files: int) -> Process:
        """Run it with so many open files."""
        script = 'ulimit -n "$0"; exec "$@"'
        return self.keep("/bin/sh", "-c", script, str(files), *self.program, "")


class StoreTests(KeepTestCase):
    """Descriptors and their names."""

    def test_descriptors_return_in_order_after_each_end(self) -> None:
        process = self.keep()
        relay = self.accept()
        self.assertEqual(relay.variable("LISTEN_FDS"), None)
        relay.ask("store('m', 'l0', 'zz', '1')")
        for _ in range(3):
            relay = self.crash(relay)
            self.assertEqual(relay.ask("kept()"), ["m", "l0", "zz", "1"])
            self.assertEqual(relay.variable("LISTEN_FDNAMES"), "m:l0:zz:1")
            self.assertEqual(relay.variable("LISTEN_PID"), str(relay.pid))
        relay.tell("os._exit(75)")
        relay = self.accept()
        self.assertEqual(relay.ask("kept()"), ["m", "l0", "zz", "1"])
        self.assertEqual(process.output, [])

    def test_child_has_no_descriptors_but_the_kept_ones(self) -> None:
        self.keep()
        relay = self.accept()
        self.assertEqual(relay.ask("open_at_start"), [0, 1, 2])
        relay.ask("store('a', 'b')")
        relay = self.crash(relay)
        self.assertEqual(sorted(relay.ask("open_at_start")), [0, 1, 2, 3, 4])

    def test_descriptor_sent_right_before_a_crash_is_kept(self) -> None:
        self.keep()
        relay = self.accept()
        sent = "send('FDSTORE=1', fds=[os.memfd_create('late')])"
        for count in range(1, 6):
            relay.tell(f"({sent}, os.kill(os.getpid(), 9))")
            relay = self.accept()
            names = ":".join(["stored"] * count)
            self.assertEqual(relay.variable("LISTEN_FDNAMES"), names)

    def test_removal_closes_all_descriptors_of_the_name(self) -> None:
        self.keep()
        relay = self.accept()
        relay.ask("store('a', 'b', 'a', 'c', 'stored')")
        relay.ask("barrier('FDSTOREREMOVE=1', 'FDNAME=a')")
        relay.ask("barrier('FDSTOREREMOVE=1', 'FDNAME=unknown')")
        relay.ask("barrier('FDSTOREREMOVE=1')")
        relay = self.crash(relay)
        self.assertEqual(relay.ask("kept()"), ["b", "c", "stored"])
        relay.ask("store('a')")
        self.assertEqual(self.crash(relay).ask("kept()"), ["b", "c", "stored", "a"])

    def test_descriptor_of_a_wrong_message_is_closed(self) -> None:
        self.keep()
        relay = self.accept()
        for lines in (
            *(("FDSTORE=1", f"FDNAME={name}") for name in ("", "a:b", "ä", "x" * 256)),
            *(("FDSTORE=1", "STATUS=\udcff"), ("FDSTORE=1", "x" * 5000)),
            *(("FDSTORE=0",), ("STATUS=x",), ("",), ("FDSTORE",)),
        ):
            self.assertIs(relay.ask(f"offer(*{lines!r})"), False, lines)
        for lines in (
            ("FDSTORE=1",),
            ("FDSTORE=1", "FDNAME=a b"),
            ("FDSTORE=1", "FDPOLL=0", "FDNAME=" + "x" * 255),
        ):
            self.assertIs(relay.ask(f"offer(*{lines!r})"), True, lines)

    def test_message_with_most_descriptors_is_kept_whole(self) -> None:
        self.keep()
        relay = self.accept()
        relay.ask("send('FDSTORE=1', 'FDNAME=x', fds=[0] * 253)")
        relay.ask("barrier()")
        self.assertEqual(self.crash(relay).variable("LISTEN_FDS"), "253")

    def test_message_of_another_process_is_dropped(self) -> None:
        process = self.keep()
        relay = self.accept()
        relay.ask("store('a')")
        name = relay.variable("NOTIFY_SOCKET") or ""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.connect(f"\0{name[1:]}")
            for text in (
                b"FDSTORE=1\nFDNAME=b",
                b"FDSTOREREMOVE=1\nFDNAME=a",
                b"BARRIER=1",
            ):
                reading, writing = os.pipe()
                socket.send_fds(other, [text], [writing] * 253)
                os.close(writing)
                self.assertEqual(os.read(reading, 1), b"")
                os.close(reading)
        # Neither may a process of the relay.
        relay.ask("os.waitpid(os.fork() or os._exit(store('c')), 0)[1] * 0")
        self.assertEqual(self.crash(relay).ask("kept()"), ["a"])
        self.assertEqual(len(process.errors), 1)

    def test_lingering_sockets_of_another_process_hold_up_nobody(self) -> None:
        process = self.keep()
        relay = self.accept()
        name = relay.variable("NOTIFY_SOCKET") or ""
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
            socket.create_server(("127.0.0.1", 0)) as listener,
        ):
            other.connect(f"\0{name[1:]}")
            process.send(signal.SIGSTOP)  # It shall have the last references.
            for _ in range(5):
                full = socket.create_connection(listener.getsockname())
                unread, _ = listener.accept()
                self.addCleanup(unread.close)
                linger = struct.pack("ii", 1, int(4 * PATIENCE))
                full.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                full.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while full.send(bytes(1 << 20)):
                        pass
                socket.send_fds(other, [b"FDSTORE=1"], [full.fileno()])
                os.close(full.detach())
            process.send(signal.SIGCONT)
        self.assertIs(relay.ask("barrier()"), True)

    def test_descriptors_over_the_limit_of_open_files_are_closed(self) -> None:
        self.limited(keep.RESERVED_DESCRIPTORS + 20)
        relay = self.accept()
        self.assertEqual(relay.variable("FDSTORE"), "20")
        for number in range(20):
            self.assertIs(relay.ask(f"offer('FDSTORE=1', 'FDNAME={number}')"), True)
        self.assertIs(relay.ask("offer('FDSTORE=1')"), False)
        relay.ask("barrier('FDSTOREREMOVE=1', 'FDNAME=7')")
        self.assertIs(relay.ask("offer('FDSTORE=1')"), True)
        self.assertIs(relay.ask("offer('FDSTORE=1')"), False)
        self.assertEqual(self.crash(relay).variable("LISTEN_FDS"), "20")

    def test_names_never_become_too_long_for_the_environment(self) -> None:
        self.keep()
        relay = self.accept()
        name = "x" * keep.MAX_NAME_CHARACTERS
        for _ in range(3):
            sent = f"send('FDSTORE=1', 'FDNAME={name}', fds=[0] * 253)"
            relay.ask(sent)
        relay.ask("barrier()")
        relay = self.crash(relay)
        count = keep.MAX_NAMES_BYTES // (len(name) + 1)
        self.assertEqual(relay.variable("LISTEN_FDS"), str(count))
        relay.ask(f"barrier('FDSTOREREMOVE=1', 'FDNAME={name}')")
        relay.ask("store('a')")
        self.assertEqual(self.crash(relay).ask("kept()"), ["a"])

    def test_two_thousand_descriptors_stay_the_same_near_the_limit(self) -> None:
        self.limited(2000 + keep.RESERVED_DESCRIPTORS)
        relay = self.accept()
        names = [f"{number}" for number in range(2000)]
        relay.ask("store(*map(str, range(2000)))")
        for step in range(2, 5):
            # Gaps are filled by later ones: numbers are in another order than names.
            gone, names = names[::step], [n for i, n in enumerate(names) if i % step]
            removal = "barrier('FDSTOREREMOVE=1', 'FDNAME=' + name)"
            relay.ask(f"all([{removal} for name in {gone!r}])")
            relay.ask(f"store(*{gone[::-1]!r})")
            names += gone[::-1]
            relay = self.crash(relay)
            self.assertEqual(relay.ask("kept()"), names)
            self.assertEqual(relay.variable("LISTEN_FDNAMES"), ":".join(names))
        self.assertEqual(relay.variable("FDSTORE"), "2000")

    def test_closed_standard_streams_do_not_become_sockets(self) -> None:
        script = 'exec "$@" <&- 2>&-'
        self.keep("/bin/sh", "-c", script, "-", *self.program, "")
        relay = self.accept()
        relay.ask("store('a')")
        relay = self.crash(relay)
        self.assertEqual(relay.ask("kept()"), ["a"])
        self.assertEqual(sorted(relay.ask("open_at_start")), [0, 1, 2, 3])


class EndTests(KeepTestCase):
    """What follows the end of the child."""

    def test_first_child_that_was_not_ready_ends_it_with_its_status(self) -> None:
        for end, status in (
            ("os._exit(3)", 3),
            ("os._exit(1)", 1),
            ("os.kill(os.getpid(), 9)", 137),
        ):
            process = self.keep()
            self.accept(ready=False).tell(end)
            self.assertEqual(process.wait(), status)
            self.assertEqual(process.said, "")

    def test_program_that_is_missing_ends_it_with_127(self) -> None:
        self.twistd.unlink()
        process = self.keep()
        self.assertEqual(process.wait(), 127)
        why = f"proxyrelay keep: cannot run {self.twistd}: No such file or directory"
        self.assertEqual(process.errors, [why])

    def test_child_that_ends_well_ends_it(self) -> None:
        process = self.keep()
        self.crash(self.accept()).tell("os._exit(0)")
        self.assertEqual(process.wait(), 0)
        self.assertEqual(len(process.errors), 1)

    def test_crashes_in_a_row_are_followed_by_longer_delays(self) -> None:
        process = self.keep()
        relay = self.accept()
        relay.ask("store('a', 'b')")
        for number in ("os._exit(2)", "os.kill(os.getpid(), 9)", "os.abort()"):
            relay.tell(number)
            relay = self.accept()
        # One that asks for it is started at once, but not in a loop.
        relay.tell("os._exit(75)")
        self.accept(ready=False).tell("os._exit(75)")
        relay = self.accept()
        relay.tell(f"os.kill(os.getpid(), {signal.SIGRTMIN + 1})")
        self.accept().tell("os._exit(0)")
        self.assertEqual(process.wait(), 0)
        self.assertEqual(
            process.errors,
            [
                f"proxyrelay keep: the relay ended {how}, descriptors kept: 2"
                for how in (
                    "with status 2; it is started again at once",
                    "by SIGKILL; it is started again in 0.1 s",
                    "by SIGABRT; it is started again in 0.2 s",
                    "with status 75; it is started again at once",
                )
            ]
            + [
                f"proxyrelay keep: the relay ended {how}"
                for how in (
                    "with status 75; it is started again in 0.4 s, "
                    f"descriptors kept: 2{keep.WAITS}",
                    "by signal 35; it is started again in 0.8 s, descriptors kept: 2",
                )
            ],
        )

    def test_crash_after_a_long_time_is_followed_by_a_start_at_once(self) -> None:
        script = (
            "import sys; from proxyrelay.cli import keep; "
            "keep.STEADY_SECONDS = 0.0; sys.exit(keep.main(''))"
        )
        process = self.keep(
            *(self.python, "-c", script),
            variables={"PYTHONPATH": str(Path(keep.__file__).parents[2])},
        )
        relay = self.accept()
        for _ in range(3):
            relay = self.crash(relay)
        relay.tell("os._exit(0)")
        self.assertEqual(process.wait(), 0)
        self.assertEqual({"at once" in line for line in process.errors}, {True})

    def test_first_child_that_asks_for_it_is_started_again(self) -> None:
        process = self.keep()
        self.accept(ready=False).tell("os._exit(75)")
        self.accept(ready=False).tell("os._exit(4)")
        self.assertEqual(process.wait(), 4)

    def test_process_of_others_is_collected(self) -> None:
        # A process with this mark inherits as process 1 does; prctl(2).
        script = (
            "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        process = self.keep(sys.executable, "-c", script, *self.program, "")
        relay = self.accept()
        writing = relay.ask("orphan()")
        relay.ask("barrier()")
        deadline = time.monotonic() + PATIENCE
        while not process.errors and time.monotonic() < deadline:
            PAUSE.wait(0.01)
        pid = int(process.errors[0].removeprefix("orphan "))
        relay.ask(f"os.close({writing})")
        while Path(f"/proc/{pid}").exists():
            self.assertLess(time.monotonic(), deadline)
            PAUSE.wait(0.01)
        self.assertEqual(relay.ask("barrier()"), True)
        relay.tell("os._exit(0)")
        self.assertEqual(process.wait(), 0)


class SignalTests(KeepTestCase):
    """Signals to the parent, and what the child gets."""

    def test_stop_is_a_sigint_for_the_child_each_time(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            for end, status in (("0", 0), ("75", 0), ("130", 0), ("5", 5)):
                process = self.keep()
                relay = self.accept()
                relay.ask("block(signal.SIGINT)")
                for _ in range(2):
                    process.send(number)
                    got = relay.ask("int(signal.sigwait([signal.SIGINT]))")
                    self.assertEqual(got, signal.SIGINT)
                relay.tell(f"os._exit({end})")
                self.assertEqual(process.wait(), status)
                self.assertEqual(process.said, "")

    def test_stop_ends_a_child_that_starts(self) -> None:
        process = self.keep()
        relay = self.accept(ready=False)
        relay.ask("signal.signal(signal.SIGINT, signal.SIG_DFL) and None")
        self.assertEqual(process.stop(), 0)

    def test_stop_during_a_delay_ends_it_at_once(self) -> None:
        process = self.keep()
        relay = self.accept()
        for _ in range(5):
            relay = self.crash(relay)
        os.kill(relay.pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while len(process.errors) < 6 and time.monotonic() < deadline:
            PAUSE.wait(0.01)
        self.assertIn("in 1.6 s", process.errors[-1])
        self.assertEqual(process.stop(), 0)
        self.assertEqual(len(process.errors), 6)

    def test_other_signals_are_passed_on_once_the_child_is_ready(self) -> None:
        numbers = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
        process = self.keep()
        relay = self.accept(ready=False)
        for number in numbers:
            process.send(number)
        relay.ask("barrier()")
        relay.ask(f"block(*{[int(n) for n in numbers]})")
        self.assertEqual(relay.ask("len(signal.sigpending())"), 0)
        relay.ask("barrier('READY=1')")
        waiting = "sorted(int(number) for number in signal.sigpending())"
        # The parent may have read the barrier before its own signals.
        deadline = time.monotonic() + PATIENCE
        while (pending := relay.ask(waiting)) != sorted(numbers):
            self.assertLess(time.monotonic(), deadline, pending)
            PAUSE.wait(0.01)
        for number in numbers:
            relay.ask(f"signal.sigwait([{int(number)}]) and None")
            process.send(number)
            got = relay.ask(f"int(signal.sigwait([{int(number)}]))")
            self.assertEqual(got, number)

    def test_child_has_default_handlers_and_an_empty_mask(self) -> None:
        script = (
            "import os, signal, sys; "
            "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); "
            "signal.signal(signal.SIGHUP, signal.SIG_IGN); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        self.keep(sys.executable, "-c", script, *self.program, "")
        relay = self.accept()
        self.assertEqual(relay.ask("len(signal.pthread_sigmask(0, ()))"), 0)
        default = "signal.getsignal(signal.SIGHUP) is signal.SIG_DFL"
        self.assertIs(relay.ask(default), True)
        # Python itself ignores SIGPIPE, and SIGXFSZ where there is one. The C library
        # has 32 and 33 for itself.
        ignored = "[line for line in open('/proc/self/status') if 'SigIgn' in line]"
        numbers = int(relay.ask(ignored)[0].split()[1], 16) & ~(0b11 << 31)
        self.assertEqual(f"{numbers:x}", "1001000")

    def test_interrupt_in_a_terminal_is_for_the_parent_alone(self) -> None:
        terminal, end = os.openpty()
        self.addCleanup(os.close, terminal)
        script = (
            "import fcntl, os, sys, termios; "
            "fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0); "
            "os.dup2(int(sys.argv[1]), 0); os.execv(sys.argv[2], sys.argv[2:])"
        )
        process = self.keep(
            *(sys.executable, "-c", script, str(end), *self.program, ""),
            pass_fds=[end],
            start_new_session=True,
        )
        os.close(end)
        relay = self.accept()
        self.assertEqual(relay.ask("os.getsid(0)"), relay.pid)
        relay.ask("block(signal.SIGINT)")
        front = fcntl.ioctl(terminal, termios.TIOCGPGRP, bytes(4))
        self.assertEqual(struct.unpack("i", front)[0], process.pid)
        for _ in range(2):
            os.write(terminal, b"\x03")
            relay.ask("signal.sigwait([signal.SIGINT]) and None")
        relay.tell("os._exit(0)")
        self.assertEqual(process.wait(), 0)

    def test_child_of_a_killed_parent_is_told_to_drain(self) -> None:
        process = self.keep()
        relay = self.accept()
        relay.ask("block(signal.SIGUSR2)")
        process.send(signal.SIGKILL)
        got = relay.ask("int(signal.sigwait([signal.SIGUSR2]))")
        self.assertEqual(got, signal.SIGUSR2)


class SupervisedTests(KeepTestCase):
    """A parent that has a supervisor itself."""

    def setUp(self) -> None:
        super().setUp()
        self.supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.supervisor.close)
        name = f"proxyrelay.supervisor.{os.getpid()}.{id(self)}"
        self.supervisor.bind(f"\0{name}")
        self.supervisor.settimeout(PATIENCE)
        self.told = {
            "NOTIFY_SOCKET": f"@{name}",
            "WATCHDOG_USEC": "1000000",
            "FDSTORE": "7",
        }

    def test_notifications_but_its_own_are_passed_on(self) -> None:
        process = self.keep(variables=self.told)
        relay = self.accept(ready=False)
        self.assertNotEqual(relay.variable("NOTIFY_SOCKET"), self.told["NOTIFY_SOCKET"])
        self.assertNotEqual(relay.variable("FDSTORE"), "7")
        self.assertIsNone(relay.variable("WATCHDOG_USEC"))
        relay.ask("store('a')")
        relay.ask("barrier('WATCHDOG=1', 'MAINPID=1', 'FDPOLL=0', 'STOPPING=1')")
        relay.ask("barrier('READY=1', 'WATCHDOG=1', 'STATUS=a=b')")
        self.assertEqual(self.supervisor.recv(4096), b"READY=1\nSTATUS=a=b")
        relay.ask("send('RELOADING=1', 'MONOTONIC_USEC=5')")
        self.assertEqual(self.supervisor.recv(4096), b"RELOADING=1\nMONOTONIC_USEC=5")
        relay.ask("block(signal.SIGINT)")
        process.send(signal.SIGTERM)
        relay.ask("signal.sigwait([signal.SIGINT]) and None")
        relay.ask("send('STOPPING=1')")
        self.assertEqual(self.supervisor.recv(4096), b"STOPPING=1")

    def test_supervisor_that_is_gone_does_no_harm(self) -> None:
        self.supervisor.close()
        process = self.keep(variables=self.told)
        relay = self.crash(self.accept())
        relay.tell("os._exit(0)")
        self.assertEqual(process.wait(), 0)

    def test_sockets_of_activation_come_first_each_time(self) -> None:
        for names, first in (("web", "web"), ("", ""), ("a:b", "unknown")):
            listener = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listener.close)
            number = listener.fileno()
            self.keep(
                *(sys.executable, "-c", HAND_OVER, str(number), *self.program, ""),
                pass_fds=[number],
                variables={"LISTEN_FDNAMES": names},
            )
            relay = self.accept()
            for expected in (first, f"{first}:a", f"{first}:a:a"):
                self.assertEqual(relay.variable("LISTEN_FDNAMES"), expected)
                inode = os.fstat(number).st_ino
                self.assertEqual(relay.ask("inode(3)"), inode)
                relay.ask("store('a')")
                relay = self.crash(relay)

    def test_sockets_for_another_process_are_not_taken(self) -> None:
        self.keep(variables={"LISTEN_PID": "1", "LISTEN_FDS": "1"})
        relay = self.accept()
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            self.assertIsNone(relay.variable(name))


class CommandTests(KeepTestCase):
    """The command line."""

    def test_options_reach_the_program_as_they_are(self) -> None:
        command = (self.python, "-m", "proxyrelay.cli.main", "keep")
        path = {"PYTHONPATH": str(Path(keep.__file__).parents[2])}
        for arguments, expected in (
            ((), ["--pidfile=", "proxyrelay", "--survive"]),
            (("--",), ["--pidfile=", "proxyrelay", "--survive"]),
            (
                ("--pidfile", "a b", "--", "--config", "c d", "--pidfile=x", "-h"),
                *(
                    [
                        "--pidfile=a b",
                        "proxyrelay",
                        "--survive",
                        "--config",
                        "c d",
                        "--pidfile=x",
                        "-h",
                    ],
                ),
            ),
        ):
            process = self.keep(*command, *arguments, variables=path)
            relay = self.accept()
            self.assertEqual(relay.ask("sys.argv[1:]"), ["-n", *expected])
            self.assertEqual(relay.ask("os.getppid()"), process.pid)
            relay.tell("os._exit(0)")
            self.assertEqual(process.wait(), 0)

    def test_pid_file_of_a_killed_child_is_removed_before_the_next(self) -> None:
        self.keep(*self.program, "relay.pid")
        path = self.folder / "relay.pid"
        relay = self.accept()
        path.write_text(f"{relay.pid}\n")
        relay = self.crash(relay)
        self.assertFalse(path.exists())
        for other in ("1", "no number", ""):
            path.write_text(other)
            relay = self.crash(relay)
            self.assertEqual(path.read_text(), other)

    def test_pid_file_that_cannot_be_written_is_one_line(self) -> None:
        missing = self.folder / "missing/relay.pid"
        blocked = self.folder / "folder"
        blocked.mkdir()
        for path, why in (
            (missing, "No such file or directory"),
            (blocked, "Is a directory"),
        ):
            process = self.start(SCRIPTS / "proxyrelay", "keep", "--pidfile", path)
            self.assertEqual(process.wait(), 1)
            self.assertEqual(process.errors, [f"proxyrelay keep: {path}: {why}"])
            self.assertEqual(process.output, [])

    def test_file_that_can_be_written_is_left_as_it_was(self) -> None:
        keep.try_file("")
        path = self.folder / "relay.pid"
        keep.try_file(str(path))
        self.assertFalse(path.exists())
        path.write_text("1")
        keep.try_file(str(path))
        self.assertEqual(path.read_text(), "1")

    def test_other_systems_run_the_relay_without_a_parent(self) -> None:
        script = (
            "import sys; from proxyrelay.cli.main import main; "
            "sys.platform = 'darwin'; sys.exit(main(['keep', '--', '-x']))"
        )
        self.twistd.write_text(f"#!{sys.executable}\nimport sys; print(sys.argv[1:])")
        process = self.keep(
            *(self.python, "-c", script),
            variables={"PYTHONPATH": str(Path(keep.__file__).parents[2])},
        )
        self.assertEqual(process.wait(), 0)
        self.assertEqual(process.output, ["['-n', '--pidfile=', 'proxyrelay', '-x']"])
        self.assertEqual(len(process.errors), 1)

    def test_program_imports_nothing_large(self) -> None:
        script = (
            f"import runpy, sys; runpy.run_path({keep.__file__!r}); print(*sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-c", script],
            capture_output=True,
            check=True,
            text=True,
            timeout=PATIENCE,
        )
        loaded = {name.partition(".")[0] for name in done.stdout.split()}
        large = {"argparse", "asyncio", "ctypes", "proxyrelay", "subprocess", "twisted"}
        self.assertEqual(loaded & large, set())


class ServingTests(ProcessTestCase):
    """The real relay."""

    def keep(self, *options: str | Path) -> Process:
        return self.start(SCRIPTS / "proxyrelay", "keep", "--", *options)

    def test_relay_serves_again_after_a_crash_until_sigterm(self) -> None:
        config = self.write_config(f"host = '127.0.0.1'\nport = {self.reserve()}\n")
        process = self.keep("--config", config)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        process.wait_for(SERVES)
        os.kill(int(children.read_text()), signal.SIGKILL)
        process.wait_for_next(SERVES)
        self.assertEqual(process.stop(), 0)
        process.wait_for("stopping on SIGINT, connections to close: 0")
        self.assertEqual(len(process.errors), 1, process.said)

    def test_wrong_configuration_is_shown_once(self) -> None:
        process = self.keep("--config", self.write_config("port = 'x'\n"))
        self.assertEqual(process.wait(), 1)
        self.assertEqual(len(process.errors), 1, process.said)
        self.assertIn("port", process.errors[0])


class SayTests(SynchronousTestCase):
    """The lines of the parent."""

    def test_line_that_nobody_reads_is_dropped(self) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(65536))
        os.set_blocking(writing, True)
        script = "from proxyrelay.cli import keep; keep.say('x'); print('said')"
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=writing,
            timeout=PATIENCE,
            check=True,
        )
        self.assertEqual(done.stdout, b"said\n")

"""The parent of a relay: holds its sockets while it ends and starts again.

It is a descriptor store as systemd has one, for places without systemd. The child
stores by sd_notify(3), and gets everything back by sd_listen_fds(3). The command runs
this file as a program: it imports only small parts of the standard library.
"""

from __future__ import annotations

import os
import resource
import select
import selectors
import signal
import socket
import sys
import time
from array import array
from collections.abc import Iterable, MutableMapping
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:  # Both are large.
    from argparse import Namespace
    from typing import NoReturn

FIRST_DESCRIPTOR = 3
"""Number of the first descriptor that is handed over; sd_listen_fds(3)."""

MAX_KEPT_DESCRIPTORS = 30_000

RESERVED_DESCRIPTORS = 300
"""Left free for own ones, and for those of one message."""

MAX_NAMES_BYTES = 128 * 1024 - len("LISTEN_FDNAMES=") - 1
"""Linux refuses longer variables; execve(2)."""

MAX_NAME_CHARACTERS = 255
"""Longest name of a descriptor; sd_notify(3)."""

MAX_MESSAGE_BYTES = 4096
MAX_MESSAGE_DESCRIPTORS_BYTES = 253 * array("i").itemsize
CREDENTIALS_BYTES = 12
"""Bounds of one message; unix(7)."""

MAX_STEPS_PER_TURN = 1024
"""Messages, and ended processes, handled in one turn. The kernel queues fewer messages
(``net.unix.max_dgram_qlen``; systemd makes that 512)."""

DROP_SECONDS = 0.002
"""Longest wait for a message of another process to be dropped. Its sockets may linger
(SO_LINGER); a signal ends that."""

PASS_ON_SECONDS = 1.0
"""Longest wait for the queue of our own supervisor."""

FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS = 0.1, 10.0
"""Delays from the second crash in a row to the start. Each is twice the one before."""

STEADY_SECONDS = 5.0
"""A crash after so long a time of service is the first in a row."""

EXIT_AGAIN = os.EX_TEMPFAIL
"""The relay asks to be started again."""

EXIT_NO_COMMAND = 127
"""The program of the relay cannot be run, as in a shell."""

WAITS = ". Connections wait for it; their clients give up after 20 to 40 s"
"""End of the line about a relay that has ended before it served."""

STOPPED = (0, EXIT_AGAIN, 128 + signal.SIGINT)
"""Exit statuses of a relay after the signal to stop."""

STOPS = (signal.SIGTERM, signal.SIGINT)
PASSED_ON = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

OWN = {
    *("FDSTORE", "FDSTOREREMOVE", "FDNAME", "FDPOLL", "BARRIER"),
    *("WATCHDOG", "WATCHDOG_USEC", "MAINPID"),
}
"""Assignments that our own supervisor must not see."""

PR_SET_PDEATHSIG = 1
"""See prctl(2)."""


def keep(arguments: Namespace) -> int:
    """Serve a relay, and hold its sockets while it is started again.

    Runs 'twistd proxyrelay --survive' with the options behind '--', and starts it again
    after a crash or a restart. SIGTERM and SIGINT stop the relay. SIGHUP, SIGUSR1 and
    SIGUSR2 are passed on. Exits with the status of a relay that never came to serve.
    Systems other than Linux cannot keep sockets: it becomes 'twistd proxyrelay' there.

    Example:
        proxyrelay keep -- --config relay.toml
    """
    pidfile = arguments.pidfile or ""
    try:
        try_file(pidfile)
    except OSError as error:
        say(f"{pidfile}: {error.strerror}")
        return 1
    if sys.platform == "linux":
        # The process keeps its ID, and loses all that the command has imported.
        words = [sys.executable, "-I", __file__, pidfile, *arguments.options]
    else:
        say("sockets are kept on Linux alone; a crash closes all connections")
        words = relay_command(pidfile, arguments.options)
    return os.execv(words[0], words)  # noqa: S606


def try_file(path: str) -> None:
    """Find out whether a file can be written; leave no new one. No path, no error.

    Raises:
        OSError: It cannot be written.
    """
    if not path:
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.unlink(path)  # noqa: PTH108
    except FileExistsError:
        os.close(os.open(path, os.O_WRONLY))


def relay_command(pidfile: str, options: Iterable[str]) -> list[str]:
    """The program and the arguments of the relay."""
    folder, _, _ = sys.executable.rpartition("/")
    return [f"{folder}/twistd", "-n", f"--pidfile={pidfile}", "proxyrelay", *options]


class Store:
    """Descriptors and their names, in order, with bounds.

    Args:
        capacity: Most descriptors.
        names_bytes: Longest length of all names, with a separator for each.
    """

    def __init__(self, capacity: int, names_bytes: int) -> None:
        self.capacity = capacity
        self.count = 0
        self._names_bytes = names_bytes
        self._kept: dict[str, list[int]] = {}

    def pairs(self) -> list[tuple[str, int]]:
        """Return each name and descriptor."""
        return [(name, one) for name, kept in self._kept.items() for one in kept]

    def add(self, name: str, descriptor: int) -> None:
        """Keep a descriptor; close it if there is no room."""
        if self.count >= self.capacity or len(name) >= self._names_bytes:
            close_all([descriptor])
            return
        self.count += 1
        self._names_bytes -= len(name) + 1
        self._kept.setdefault(name, []).append(descriptor)

    def remove(self, name: str) -> None:
        """Close all descriptors of a name."""
        kept = self._kept.pop(name, [])
        self.count -= len(kept)
        self._names_bytes += len(kept) * (len(name) + 1)
        close_all(kept)


class Keeper:
    """Runs a program, keeps its descriptors, and starts it again.

    Args:
        command: Program and arguments.
        pidfile: File with the program's process ID; empty for none.
        environment: Variables for the program. Those of sd_notify(3) and
            sd_listen_fds(3) are replaced.
    """

    def __init__(
        self, command: list[str], pidfile: str, environment: MutableMapping[str, str]
    ) -> None:
        self._command = command
        self._pidfile = pidfile
        self._environment = environment
        for name in ("FDSTORE", "WATCHDOG_USEC", "WATCHDOG_PID"):
            environment.pop(name, None)
        place = environment.pop("NOTIFY_SOCKET", "")
        self._supervisor = f"\0{place[1:]}" if place[:1] == "@" else place
        self._given = given(environment)
        names = sum(len(name) + 1 for name, _ in self._given)
        room = raise_limit() - RESERVED_DESCRIPTORS - len(self._given)
        capacity = max(0, min(room, MAX_KEPT_DESCRIPTORS))
        self._store = Store(capacity, MAX_NAMES_BYTES - names)
        self._child: int | None = None
        self._ready_at: float | None = None
        self._was_ready = self._is_stopping = False
        self._start_at = self._delay = 0.0
        self._waiting: set[int] = set()
        self._exit_status: int | None = None

        # An abstract name needs no file system, but anybody may send to it.
        self._name = f"proxyrelay.keep.{os.urandom(16).hex()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{self._name}")
        self._wakeup, signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
        for number in (*STOPS, *PASSED_ON, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, lambda _number, _frame: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ, self._receive)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._signalled)

    def run(self) -> int:
        """Run until the relay is to end; return the exit status."""
        while self._exit_status is None:
            rest = max(0.0, self._start_at - time.monotonic())
            for key, _ in self._selector.select(None if self._child else rest):
                key.data()
            is_due = time.monotonic() >= self._start_at
            if is_due and self._child is None and self._exit_status is None:
                self._start()
        return self._exit_status

    # -- starting

    def _start(self) -> None:
        # A signal would call our handler in the child, and be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        parent = os.getpid()
        try:
            self._child = os.fork()
        except OSError as error:
            say(f"a process cannot be started: {error.strerror}")
            self._ended(os.EX_OSERR)
        if self._child == 0:
            self._become(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _become(self, parent: int) -> NoReturn:
        """Turn the child into the program."""
        try:
            os.setsid()  # Ctrl-C in a terminal is for the parent alone.
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            drain_without(parent)
            held = self._given + self._store.pairs()
            self._environment["NOTIFY_SOCKET"] = f"@{self._name}"
            self._environment["FDSTORE"] = str(self._store.capacity)
            if held:
                self._environment["LISTEN_PID"] = str(os.getpid())
                self._environment["LISTEN_FDS"] = str(len(held))
                self._environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in held)
            hand_over([descriptor for _, descriptor in held])
            os.execve(self._command[0], self._command, self._environment)  # noqa: S606
        except Exception as error:
            why = error.strerror if isinstance(error, OSError) else error
            say(f"cannot run {self._command[0]}: {why}")
        finally:  # Nothing may bring the child back into the loop.
            os._exit(EXIT_NO_COMMAND)

    # -- messages

    def _receive(self) -> None:
        """Act on the messages of the child; drop those of others."""
        room = socket.CMSG_SPACE(CREDENTIALS_BYTES)
        room += socket.CMSG_SPACE(MAX_MESSAGE_DESCRIPTORS_BYTES)
        for _ in range(MAX_STEPS_PER_TURN):
            try:
                # Credentials come first: no descriptor of another process gets in.
                _, parts, _, _ = self._socket.recvmsg(
                    1, socket.CMSG_LEN(CREDENTIALS_BYTES), socket.MSG_PEEK
                )
                if self._child is None or opened(parts)[0] != self._child:
                    signal.setitimer(signal.ITIMER_REAL, DROP_SECONDS, DROP_SECONDS)
                    self._socket.recv(1)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    continue
                message, parts, flags, _ = self._socket.recvmsg(
                    MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            lines: list[str] = []
            with suppress(UnicodeDecodeError):
                if not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                    lines = message.decode().split("\n")
            self._act(lines, opened(parts)[1])

    def _act(self, lines: list[str], descriptors: list[int]) -> None:
        said = dict(line.split("=", 1) for line in lines if "=" in line)
        name = said.get("FDNAME", "stored")
        if said.get("FDSTORE") == "1" and is_name(name):
            while descriptors:
                self._store.add(name, descriptors.pop(0))
        if said.get("FDSTOREREMOVE") == "1" and "FDNAME" in said:
            self._store.remove(name)
        if said.get("READY") == "1" and self._ready_at is None:
            self._ready_at = time.monotonic()
            self._was_ready = True
            while self._waiting:
                self._send(self._waiting.pop())
        self._pass_on(lines)
        close_all(descriptors)  # The sender of a barrier waits for this.

    def _pass_on(self, lines: Iterable[str]) -> None:
        # To our own supervisor, a relay that is started again does not stop.
        hidden = OWN if self._is_stopping else {*OWN, "STOPPING"}
        lines = [line for line in lines if line.partition("=")[0] not in hidden]
        if lines and self._supervisor:
            with (
                suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
            ):
                sender.settimeout(PASS_ON_SECONDS)
                sender.sendto("\n".join(lines).encode(), self._supervisor)

    # -- signals

    def _signalled(self) -> None:
        numbers = os.read(self._wakeup, MAX_STEPS_PER_TURN)
        for number in numbers:
            if number in STOPS:
                self._is_stopping = True
                if self._child is None:
                    self._exit_status = 0
                self._send(signal.SIGINT)
            elif number in PASSED_ON and self._ready_at is None:
                self._waiting.add(number)  # It would end a relay that starts.
            elif number in PASSED_ON:
                self._send(number)
        if signal.SIGCHLD in numbers:
            self._reap()

    def _send(self, number: int) -> None:
        if self._child is not None:
            os.kill(self._child, number)

    # -- the end of a child

    def _reap(self) -> None:
        """Collect the processes that have ended: process 1 inherits those of others."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with suppress(ChildProcessError):
            for _ in range(MAX_STEPS_PER_TURN):
                found = os.waitid(os.P_ALL, 0, options)
                if found is None:
                    return
                is_own = found.si_pid == self._child
                if is_own:
                    # Its last messages. Nobody gets its ID before it is collected.
                    self._receive()
                _, status = os.waitpid(found.si_pid, 0)
                if is_own:
                    self._ended(os.waitstatus_to_exitcode(status))
            signal.raise_signal(signal.SIGCHLD)

    def _ended(self, code: int) -> None:
        """Decide what follows an exit status, or the negative number of a signal."""
        now = time.monotonic()
        ready_at, self._ready_at = self._ready_at, None
        self._remove_pidfile()
        self._child = None
        status = code if code >= 0 else 128 - code
        if self._is_stopping:
            self._exit_status = 0 if status in STOPPED else status
        elif status == 0 or not (self._was_ready or status == EXIT_AGAIN):
            self._exit_status = status
        else:
            if ready_at is not None and now - ready_at >= STEADY_SECONDS:
                self._delay = 0.0
            delay = self._delay
            if status == EXIT_AGAIN and ready_at is not None:
                delay = 0.0
            else:
                doubled = max(2 * delay, FIRST_DELAY_SECONDS)
                self._delay = min(doubled, MAX_DELAY_SECONDS)
            self._start_at = now + delay
            names = {int(number): number.name for number in signal.Signals}
            how = f"with status {code}"
            if code < 0:
                how = f"by {names.get(-code, f'signal {-code}')}"
            # An earlier one served, and has left its connections.
            waits = self._was_ready and ready_at is None and self._store.count > 0
            say(
                f"the relay ended {how}; it is started again "
                f"{f'in {delay:.1f} s' if delay else 'at once'}, "
                f"descriptors kept: {self._store.count}{WAITS * waits}"
            )

    def _remove_pidfile(self) -> None:
        # A killed child leaves it, and twistd may refuse to start then.
        with suppress(OSError, ValueError):
            with open(self._pidfile, encoding="ascii") as file:  # noqa: PTH123
                is_own = int(file.read(MAX_NAME_CHARACTERS)) == self._child
            if is_own:
                os.unlink(self._pidfile)  # noqa: PTH108


def given(environment: MutableMapping[str, str]) -> list[tuple[str, int]]:
    """Take the sockets that this process was started with: names and descriptors."""
    pid, count, names = (
        environment.pop(name, "")
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    numbers = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    for number in numbers:
        os.set_inheritable(number, False)
    spelt = names.split(":")
    if len(spelt) != len(numbers):
        spelt = ["unknown"] * len(numbers)
    return list(zip(spelt, numbers, strict=True))


def hand_over(numbers: list[int]) -> None:
    """Move descriptors to 3, 4 and so on, for the program to inherit.

    Only one more is open at a time: the limit may be near.
    """
    places = {number: place for place, number in enumerate(numbers)}
    for place in range(len(numbers)):
        number, target = numbers[place], FIRST_DESCRIPTOR + place
        del places[number]
        if number == target:
            os.set_inheritable(number, True)
            continue
        if target in places:
            other = places.pop(target)
            numbers[other] = os.dup(target)
            places[numbers[other]] = other
        os.dup2(number, target)
        os.close(number)


def drain_without(parent: int) -> None:
    """Let the relay drain when its parent is killed: nobody else looks after it."""
    with suppress(ImportError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415 - large, and for the child alone

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGUSR2))
    if os.getppid() != parent:
        os._exit(EXIT_NO_COMMAND)


def opened(parts: Iterable[tuple[int, int, bytes]]) -> tuple[int | None, list[int]]:
    """The sender's process ID, by the kernel's word, and the descriptors."""
    pid, descriptors = None, array("i")
    for _, kind, content in parts:
        if kind == socket.SCM_CREDENTIALS:
            pid = array("i", content)[0]
        elif kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content)
    return pid, list(descriptors)


def is_name(name: str) -> bool:
    """Whether a descriptor may have a name; sd_notify(3)."""
    is_plain = name.isascii() and name.isprintable() and ":" not in name
    return is_plain and 0 < len(name) <= MAX_NAME_CHARACTERS


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors. Errors are those of an earlier write; close(2)."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


def raise_limit() -> int:
    """Raise the limit of open files to its hard limit; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def say(text: str) -> None:
    """Write a line to standard error, unless nobody reads there: it must not wait."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with suppress(OSError):
        if poll.poll(0):
            os.write(2, f"proxyrelay keep: {text}\n".encode(errors="backslashreplace"))


def main(pidfile: str, *options: str) -> int:
    """Keep the sockets of a relay with options; return the exit status."""
    # A socket must not become anybody's standard error.
    while (number := os.open(os.devnull, os.O_RDWR)) < FIRST_DESCRIPTOR:
        os.set_inheritable(number, True)
    os.close(number)
    command = relay_command(pidfile, ("--survive", *options))
    return Keeper(command, pidfile, dict(os.environ)).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

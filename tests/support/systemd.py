"""A systemd of the tests' own, in namespaces of its own. Needs root and Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from unittest import SkipTest
from uuid import uuid4

from tests.support.processes import PAUSE, Process

T = TypeVar("T")

SECONDS = 20.0
"""Longest wait for a state of systemd."""

PROGRAM = "/lib/systemd/systemd"

COMMANDS = (PROGRAM, "nsenter", "systemctl", "unshare")

APART = """
mount --make-rprivate /
mount -t cgroup2 none /sys/fs/cgroup
mkdir /sys/fs/cgroup/"$1"
echo $$ >/sys/fs/cgroup/"$1"/cgroup.procs
exec unshare --cgroup --ipc --pid --uts --fork --kill-child --mount-proc \
    sh -ec "$2" sh "$3"
"""
"""A shell script: a cgroup and namespaces, in which another script runs."""

MANAGER = """
umount /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -o bind,ro /proc/sys /proc/sys
for folder in /run /var/lib /var/log; do mount -t tmpfs none $folder; done
mkdir -m 1777 /run/lock
mkdir /run/test /run/test/units
case "$1" in /root/*)
    mkdir /run/python
    mount --bind "$1" /run/python
    mount -t tmpfs -o mode=755 none /root
    mkdir -p "$1"
    mount --move /run/python "$1"
esac
for name in test basic sysinit shutdown; do
    printf '[Unit]\\nDefaultDependencies=no\\n' >/run/test/units/$name.target
done
exec env -i PATH="$PATH" container=test SYSTEMD_UNIT_PATH=/run/test/units \
    /lib/systemd/systemd --system --unit=test.target --show-status=no \
    --log-target=console --log-level=notice
"""
"""A shell script: systemd, with no other units than those of the tests.

``/run``, ``/var/lib`` and ``/var/log`` are empty. ``/proc/sys`` cannot be written. A
Python that lies in ``/root`` can be run by other users.
"""

CLEARS = """
mount -t cgroup2 none /sys/fs/cgroup || exit 0
test -d /sys/fs/cgroup/"$1" || exit 0
find /sys/fs/cgroup/"$1" -depth -type d -exec rmdir {} +
"""
"""A shell script: remove the cgroup, which no process is in any more."""


CONF = Path(__file__).parents[2] / "conf"

OUTPUT = """[Service]
StandardOutput=append:/run/test/relay.log
StandardError=inherit
"""
"""There is no journal."""


def shipped_unit(scripts: Path, further: str = "") -> str:
    """conf/proxyrelay.service, made to run here.

    It reads relay.toml in the folder ``/run/test``, and writes relay.log there.

    Args:
        scripts: Where the programs are.
        further: Lines for the service.
    """
    text = (CONF / "proxyrelay.service").read_text()
    for old, new in (
        ("/opt/proxyrelay/bin/", f"{scripts}/"),
        ("/etc/proxyrelay/", "/run/test/"),
        ("[Service]\n", OUTPUT + further),
    ):
        if old not in text:
            raise AssertionError(f"the unit has no {old}")
        text = text.replace(old, new)
    if sys.base_prefix.startswith(("/home/", "/root/")):
        text = text.replace("ProtectHome=yes", "ProtectHome=no")
    return text


class Systemd:
    """A system manager; the network and most files are those of the machine.

    Args:
        folder: Where the manager's own output is written.

    Attributes:
        folder: ``/run/test`` of its own, seen from outside.

    Raises:
        SkipTest: It cannot run here.
    """

    def __init__(self, folder: Path) -> None:
        missing = [name for name in COMMANDS if shutil.which(name) is None]
        if missing:
            raise SkipTest(f"systemd cannot run: no {missing[0]}")
        if os.geteuid() != 0:
            raise SkipTest("systemd cannot run: only root makes namespaces")
        self._cgroup = f"proxyrelay-test-{uuid4().hex}"
        self._process = Process(
            [
                *("unshare", "--mount", "sh", "-ec", APART, "sh"),
                *(self._cgroup, MANAGER, sys.base_prefix),
            ],
            folder,
        )
        try:
            self._pid = self.wait_until("the manager", self._child)
            self.wait_until("the manager", self._is_running)
        except BaseException as error:
            said = self._process.said
            self.end()
            if isinstance(error, AssertionError):
                raise SkipTest(f"systemd cannot run: {error}: {said}") from None
            raise
        self.folder = Path(f"/proc/{self._pid}/root/run/test")

    def _child(self) -> int:
        tasks = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        children = tasks.read_text().split() if tasks.exists() else []
        for pid in map(int, children):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return pid
        return 0

    def wait_until(self, words: str, look: Callable[[], T]) -> T:
        """Wait until something is so; gives what it is.

        Args:
            words: What it is.
            look: Gives it, or something false.

        Raises:
            AssertionError: It does not come.
        """
        deadline = time.monotonic() + SECONDS
        while not (found := look()):
            if self._process.has_ended or time.monotonic() > deadline:
                raise AssertionError(f"{words} does not come")
            PAUSE.wait(0.01)
        return found

    def _is_running(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False)
        return state.strip() == "running"

    def run(self, *command: str | Path, check: bool = True) -> str:
        """Run a command in the namespaces; gives its output.

        Raises:
            AssertionError: It fails, and is checked.
        """
        inside = ("nsenter", "-t", str(self._pid), "-m", "-p", "-u", "-i", "-C")
        done = subprocess.run(
            [*inside, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=3 * SECONDS,
            check=False,
        )
        if check and done.returncode:
            words = " ".join(map(str, command))
            raise AssertionError(f"{words}: {done.stdout}\n{self._process.said}")
        return done.stdout

    def control(self, *arguments: str) -> str:
        """Run ``systemctl``.

        Raises:
            AssertionError: It fails.
        """
        return self.run("systemctl", "--no-pager", *arguments)

    def write_unit(self, name: str, text: str) -> None:
        """Make a unit known."""
        (self.folder / "units" / name).write_text(text)
        self.control("daemon-reload")

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.control("show", "--value", f"--property={name}", unit).strip()

    def kill(self, unit: str, number: int) -> None:
        """Send a signal to the main process of a unit."""
        self.control("kill", "--kill-who=main", f"--signal={number}", unit)

    def wait_for_restart(self, unit: str, count: int) -> None:
        """Wait until a unit has been restarted so often, by itself, and is ready.

        Raises:
            AssertionError: It is not.
        """

        def is_ready() -> bool:
            found = self.control("show", "--property=ActiveState,NRestarts", unit)
            return set(found.split()) == {"ActiveState=active", f"NRestarts={count}"}

        self.wait_until(f"restart {count} of {unit}", is_ready)

    def end(self) -> None:
        """End the manager, and with it all its processes; remove its cgroup."""
        self._process.end()
        deadline = time.monotonic() + SECONDS
        # It is empty once the kernel has let go of the last process.
        while subprocess.run(
            ["unshare", "--mount", "sh", "-ec", CLEARS, "sh", self._cgroup],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode:
            if time.monotonic() > deadline:
                raise AssertionError("a cgroup cannot be removed")
            PAUSE.wait(0.02)

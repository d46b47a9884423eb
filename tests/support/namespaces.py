"""Networks of the tests' own, in network namespaces. Needs root and Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
from unittest import SkipTest

SECONDS = 10.0
"""Longest run of a command that sets up a network."""

HOLDS = (
    "ip link set lo up && echo 0 >/proc/sys/net/ipv4/ip_forward && echo up && exec cat"
)
"""A shell script: a host that forwards nothing, until standard input ends."""


class Namespace:
    """A network namespace. It is gone when all processes in it have ended.

    Attributes:
        prefix: What runs a command in it, when the command follows.

    Raises:
        SkipTest: It may not be made here, or a program is missing.
    """

    def __init__(self) -> None:
        for program in ("ip", "nsenter", "unshare"):
            if shutil.which(program) is None:
                raise SkipTest(f"network namespaces need {program}")
        if os.geteuid() != 0:
            raise SkipTest("only root makes network namespaces")
        # Its standard input ends with this process at the latest.
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-ec", HOLDS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.prefix = ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net")
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "up\n":
            _, errors = self._holder.communicate(timeout=SECONDS)
            raise SkipTest(f"no network namespace may be made here: {errors.strip()}")

    def ip(self, *arguments: str) -> None:
        """Run ``ip`` in it.

        Raises:
            AssertionError: It fails.
        """
        done = subprocess.run(
            [*self.prefix, "ip", *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr}")

    def connect(self, other: Namespace, mine: str, theirs: str) -> None:
        """Lay a cable to another namespace.

        Args:
            other: The namespace of the other end.
            mine: Address of this end, with the length of the network's prefix.
            theirs: Address of the other end.
        """
        name = f"to{other._holder.pid}"
        back = f"to{self._holder.pid}"
        pid = str(other._holder.pid)
        self.ip(
            *("link", "add", name, "type", "veth"),
            *("peer", "name", back, "netns", pid),
        )
        for end, link, address in ((self, name, mine), (other, back, theirs)):
            end.ip("address", "add", address, "dev", link)
            end.ip("link", "set", link, "up")

    def end(self) -> None:
        """Let the namespace go."""
        self._holder.communicate(timeout=SECONDS)

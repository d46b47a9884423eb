"""What the kernel alone takes for a message: one recv and one send.

``python -m benchmarks.floor`` measures it in one process over loopback connections,
with and without the epoll_wait by which a relay learns that something has come.
"""

from __future__ import annotations

import argparse
import select
import socket
import time
from collections.abc import Sequence
from statistics import median

MESSAGE = b"x" * 1921
"""As long as an offer in its frame."""

ROUNDS = 5


def connection() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection over the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def microseconds(count: int, *, waiting: bool) -> float:
    """CPU of the middle for a message from one client to another.

    Args:
        count: Messages.
        waiting: Whether it asks epoll first.
    """
    (sender, source), (receiver, target) = connection(), connection()
    poller = select.epoll()
    poller.register(source, select.EPOLLIN)
    spent = 0
    with sender, source, receiver, target, poller:
        for _ in range(count):
            sender.sendall(MESSAGE)
            begin = time.thread_time_ns()
            if waiting:
                poller.poll(1)
            target.sendall(source.recv(65536))
            spent += time.thread_time_ns() - begin
            receiver.recv(65536)
    return spent / count / 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.floor", description=__doc__
    )
    parser.add_argument("--messages", type=int, default=20_000)
    count = parser.parse_args(arguments).messages
    for words, waiting in (("recv, send", False), ("epoll_wait, recv, send", True)):
        rounds = [microseconds(count, waiting=waiting) for _ in range(ROUNDS)]
        print(f"{words:24}{median(rounds):6.1f} us CPU for a message")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

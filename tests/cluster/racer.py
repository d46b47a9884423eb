"""A process that registers and leaves as fast as it can. It imports little."""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from pathlib import Path
from typing import Any, cast

import hiredis

LUA = Path(__file__).parents[2] / "proxyrelay" / "cluster" / "lua"

PREFIX = "relay:1"


class Connection:
    """A connection to the engine that waits for each reply."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = hiredis.Reader()
        self._hashes = {
            name: self.ask("SCRIPT", "LOAD", (LUA / f"{name}.lua").read_text())
            for name in ("lease", "register", "unregister")
        }

    def ask(self, *command: Any) -> Any:
        self._socket.sendall(hiredis.pack_command(cast(Any, command)))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65536))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def run(self, script: str, *arguments: str | int) -> Any:
        return self.ask("EVALSHA", self._hashes[script], 0, PREFIX, *arguments)


def race(path: str, number: int, calls: int) -> dict[str, int]:
    """Register and leave at random.

    Returns:
        Numbers of registrations accepted and given up.
    """
    engine = Connection(path)
    chance, node = random.Random(number), f"r{number}"
    engine.run("lease", node, 60_000, "info", "epoch")
    held: dict[str, int] = {}
    accepted = left = 0
    for connection in range(calls):
        uuid = chance.choice("abcde")
        if uuid in held:
            # 0 if another node has taken it over meanwhile.
            left += engine.run("unregister", uuid, node, held.pop(uuid), 60_000)
        stamp = time.time_ns() // 1000
        reply = engine.run(
            *("register", uuid, node, connection, "u", stamp, "new", 0, 60_000)
        )
        if reply[0] == b"OK":
            accepted += 1
            held[uuid] = connection
    return {"accepted": accepted, "left": left}


if __name__ == "__main__":
    print(json.dumps(race(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))

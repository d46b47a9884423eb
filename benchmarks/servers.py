"""The relays that are compared, started on the loopback interface."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme

from benchmarks import processes

PATIENCE = 30.0
"""Seconds in which a relay must listen."""

SCRIPTS = Path(sysconfig.get_path("scripts"))
"""Where the commands of this environment are."""


@dataclass(frozen=True)
class Server:
    """A relay that runs.

    Attributes:
        name: What it is called in tables.
        url: Its address.
        pid: Its process ID.
    """

    name: str
    url: str
    pid: int


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate and its key."""

    certfile: Path
    keyfile: Path


Command = Callable[[int, Path, "Certificate | None"], list[str]]
"""From port, settings file and certificate to what is to be run."""


def certificate(folder: Path) -> Certificate:
    """Issue an ECDSA P-256 certificate for the loopback interface."""
    issued = trustme.CA().issue_cert(
        "localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA
    )
    pair = Certificate(folder / "cert.pem", folder / "privkey.pem")
    pair.certfile.write_bytes(b"".join(b.bytes() for b in issued.cert_chain_pems))
    pair.keyfile.write_bytes(issued.private_key_pem.bytes())
    return pair


def settings(
    port: int,
    pair: Certificate | None,
    quiet: bool,
    observed: bool = False,
    engine: Path | None = None,
) -> str:
    """relay.toml: the defaults, but for what is given here."""
    lines = ['host = "127.0.0.1"', f"port = {port}"]
    if pair is not None:
        lines += [f'certfile = "{pair.certfile}"', f'keyfile = "{pair.keyfile}"']
    # What is measured is as fast as can be. The reference knows no such table.
    lines += ["[limits]", "messages_per_client = 1000000"]
    if observed:
        lines += ["[admin]", 'listen = "127.0.0.1:0"']
    if engine is not None:
        lines += ["[cluster]", f'engine = "unix:{engine}"', f'node = "relay-{port}"']
    if quiet:
        lines += ["[logging]", 'default_level = "WARNING"']
    return "\n".join((*lines, ""))


def _ours(_port: int, config: Path, _pair: Certificate | None) -> list[str]:
    return [
        *(str(SCRIPTS / "twistd"), "-n", "--pidfile="),
        *os.environ.get("TWISTD_OPTIONS", "").split(),
        *("proxyrelay", "--config", str(config)),
    ]


def _kept(_port: int, config: Path, _pair: Certificate | None) -> list[str]:
    command = str(SCRIPTS / "proxyrelay")
    return [command, "keep", "--", "--config", str(config)]


def _theirs(_port: int, config: Path, _pair: Certificate | None) -> list[str]:
    # Another environment's, if that has another version.
    command = os.environ.get("REFERENCE", str(SCRIPTS / "proxystore-relay"))
    return [command, "--config", str(config)]


def _ceiling(port: int, _config: Path, pair: Certificate | None) -> list[str]:
    files = [] if pair is None else [str(pair.certfile), str(pair.keyfile)]
    return [sys.executable, "-m", "benchmarks.switchboard", str(port), *files]


OURS, THEIRS, CEILING = "proxyrelay", "proxystore-relay", "switchboard"

OBSERVED = "proxyrelay-observed"
"""Ours, with its private listener on."""

CLUSTERED = "proxyrelay-cluster"
"""Ours, as one of a cluster."""

KEPT = "proxyrelay-kept"
"""Ours, with all connections kept for the next process."""

JOINED = "the link to the engine is ready"
"""What it logs when it is."""

COMMANDS: dict[str, Command] = {
    OURS: _ours,
    CLUSTERED: _ours,
    OBSERVED: _ours,
    KEPT: _kept,
    THEIRS: _theirs,
    CEILING: _ceiling,
}


@contextlib.contextmanager
def running(
    name: str,
    folder: Path,
    pair: Certificate | None = None,
    quiet: bool = False,
    engine: Path | None = None,
) -> Iterator[Server]:
    """Run a relay, and kill it in the end.

    Its log goes to a file, as a service's would.

    Args:
        name: Which one, of `COMMANDS`.
        folder: Where it keeps its files.
        pair: The certificate, for wss://.
        quiet: Whether it logs warnings only, and not what it does by default.
        engine: Socket of the engine of `CLUSTERED`.

    Raises:
        RuntimeError: It does not come to listen.
    """
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(socket.socket())
        # Bound without being listened on: nobody else gets the port.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        config = folder / f"{name}-{port}.toml"
        joins = engine if name == CLUSTERED else None
        config.write_text(settings(port, pair, quiet, name == OBSERVED, joins))
        log = folder / f"{name}-{port}.log"
        output = stack.enter_context(log.open("wb"))
        child = subprocess.Popen(  # noqa: S603
            COMMANDS[name](port, config, pair),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        stack.callback(child.wait, PATIENCE)
        # The parent of a kept relay ends its child, too.
        stack.callback(child.terminate if name == KEPT else child.kill)
        if not _listens(port, child):
            raise RuntimeError(f"{name} does not listen:\n{log.read_text()}")
        deadline = time.monotonic() + PATIENCE
        while joins is not None and JOINED not in log.read_text():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} is alone:\n{log.read_text()}")
            time.sleep(0.05)
        scheme = "ws" if pair is None else "wss"
        pid = processes.child(child.pid) if name == KEPT else child.pid
        yield Server(name, f"{scheme}://127.0.0.1:{port}", pid)


def _listens(port: int, child: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and child.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False

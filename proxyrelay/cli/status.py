"""``proxyrelay live``, ``status``, ``clients``, ``disconnect``: a running relay.

Clients choose some of the words. They are escaped, so that none controls a terminal.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from proxyrelay import config
from proxyrelay.admin.report import (
    Client,
    Clients,
    FarClient,
    FarClients,
    Membership,
    Nodes,
    NodeStatus,
    Pairs,
    PairSide,
    Quantiles,
    Reach,
    Status,
    Survival,
)
from proxyrelay.cli import terminal
from proxyrelay.cli.admin_client import AdminClient
from proxyrelay.errors import ConfigError, Unanswered
from proxyrelay.service.checks import read_token
from proxyrelay.switchboard.messages import canonical_uuid

CURSOR_HOME, ERASE_LINE, ERASE_BELOW = "\x1b[H", "\x1b[K\n", "\x1b[J"
"""ECMA-48 controls of a terminal: go to the upper left corner, erase the rest of a line
and go to the next one, erase everything below."""


def live(arguments: Namespace) -> int:
    """Check that a running relay is alive.

    For health checks: asks the private listener of a running relay for /livez, without
    a token. Reads only admin.listen of the configuration; mistakes elsewhere in it do
    not matter. Exits with 1 if the relay does not answer.

    Example:
        proxyrelay live --config relay.toml
    """
    listen, file = arguments.admin, arguments.config
    try:
        if listen is None and file is not None:
            listen = config.admin_listen(file)
    except OSError as error:
        raise Unanswered(f"{file}: cannot be read: {error.strerror}") from None
    AdminClient(_place(listen, file), None).get("/livez")
    print("alive")
    return 0


def status(arguments: Namespace) -> int:
    """Show the state of a running relay.

    Asks the private listener of a running relay ([admin] in its configuration) for its
    state. With --all, the relay asks all relays of its cluster, and names those that do
    not reply. Exits with 1 if it does not answer.

    Example:
        proxyrelay status --watch --config relay.toml
    """
    relay = client(arguments)
    ask = relay.nodes if arguments.all else relay.status
    if arguments.watch:
        watch(ask, arguments.interval, arguments.json)
    elif arguments.json:
        print(plain_json(relay.get("/cluster" if arguments.all else "/status")))
    else:
        terminal.show(_lines(ask()))
    return 0


def clients(arguments: Namespace) -> int:
    """List the clients of a running relay.

    Asks the private listener of a running relay for its clients. With --all, the relay
    asks all relays of its cluster, and names those that do not reply, or list only some
    of their clients. With --pairs, lists the pairs of clients that exchange offers and
    answers again and again, so that they do not connect. Exits with 1 if it does not
    answer.

    Example:
        proxyrelay clients --config relay.toml
    """
    if arguments.pairs and arguments.all:
        raise Unanswered("--pairs is about one relay: leave out --all")
    relay = client(arguments)
    if arguments.pairs and arguments.json:
        print(plain_json(relay.get("/pairs")))
    elif arguments.pairs:
        print(*pair_lines(relay.pairs(), time.time()), sep="\n")
    elif arguments.json:
        path = "/cluster/clients" if arguments.all else "/clients"
        print(plain_json(relay.get(path)))
    else:
        listed = relay.all_clients() if arguments.all else relay.clients()
        now = time.time()
        head, rows = [*clients_head(listed)], [*client_rows(listed, now)]
        if not terminal.show_table(head, CLIENT_HEADS, rows):
            print(*client_lines(listed, now), sep="\n")
    return 0


def disconnect(arguments: Namespace) -> int:
    """Disconnect a client of a running relay.

    Asks the private listener of a running relay to close the client with 4004, which
    ends the process of a stock endpoint. In a cluster, the client may be at any relay.
    Exits with 1 if there is no such client.

    Example:
        proxyrelay disconnect -c relay.toml 5c1ba1a4-6a1f-4e0c-9d5e-0d2f3a7b8c9d
    """
    relay = client(arguments)
    try:
        uuid = canonical_uuid(arguments.uuid)
    except ValueError:
        raise Unanswered(f"{arguments.uuid!a} is no UUID") from None
    print(plain(relay.disconnect(uuid)))
    return 0


def client(arguments: Namespace) -> AdminClient:
    """Client of the relay on the command line.

    Raises:
        Unanswered: There is no way to it.
    """
    loaded = config.load(arguments.config)
    try:
        if loaded.problems:
            raise ConfigError(loaded.problems)
        admin = loaded.config.admin
        place = _place(arguments.admin or admin.listen, arguments.config)
        file = arguments.token_file or admin.token_file
        return AdminClient(place, None if file is None else read_token(file))
    except ConfigError as error:
        raise Unanswered(str(error)) from None


def _place(listen: str | None, file: Path | None) -> tuple[str, int] | Path:
    """Host and port, or path, of the private listener of a configuration file.

    Raises:
        Unanswered: ``listen`` is missing, or no address to connect to.
    """
    if listen is None and file is None:
        raise Unanswered("name the relay, by its --config or with --admin")
    if listen is None:
        raise Unanswered(
            f"the private listener of this relay is off: set listen in [admin] of "
            f"{file}"
        )
    try:
        place = config.admin_place(listen)
    except ValueError:
        raise Unanswered(
            "the private listener: expected an address and a port, or unix: and an "
            "absolute path"
        ) from None
    if isinstance(place, tuple) and not place[1]:
        raise Unanswered(
            "the port is 0, so the log of the relay names it: pass that with --admin"
        )
    return place


def watch(ask: Callable[[], Status | Nodes], interval: float, as_json: bool) -> None:
    """Print the state repeatedly, in place on a terminal.

    After the first answer the relay may be away, as during a restart.

    Raises:
        Unanswered: The first request fails.
    """
    found: Status | Nodes | Unanswered = ask()
    while True:
        _show(found, as_json)
        time.sleep(interval)
        try:
            found = ask()
        except Unanswered as error:
            found = error


def _lines(found: Status | Nodes) -> list[str]:
    return status_lines(found) if isinstance(found, Status) else node_lines(found)


def _show(found: Status | Nodes | Unanswered, as_json: bool) -> None:
    if isinstance(found, Unanswered):
        line = f"no answer: {found}"
        lines = [line]
    else:
        lines = _lines(found)
        line = "; ".join(lines) if isinstance(found, Nodes) else status_line(found)
    if as_json and isinstance(found, Unanswered):
        print(line, file=sys.stderr)
    elif as_json:
        print(plain_json(msgspec.json.encode(found), indent=None), flush=True)
    elif sys.stdout.isatty():
        text = "".join(each + ERASE_LINE for each in terminal.drawn(lines))
        print(CURSOR_HOME, text, ERASE_BELOW, sep="", end="", flush=True)
    else:
        print(line, flush=True)


def plain_json(body: bytes, indent: int | None = 2) -> str:
    """JSON in ASCII, safe for a terminal.

    Raises:
        Unanswered: The body is no JSON.
    """
    try:
        return json.dumps(json.loads(body), indent=indent)
    except (ValueError, RecursionError):
        raise Unanswered("what answers there is no relay") from None


def status_lines(status: Status) -> list[str]:
    """State of a relay, in lines for people."""
    lag, forwarded, unanswered = status.lag, status.forwarded, status.unanswered
    lines = [
        f"proxyrelay {plain(status.version)}, process {status.pid}, up for "
        f"{_duration(status.uptime)}",
        f"serves: {_listed(status.listening)}",
        f"authentication: {plain(status.authentication)}",
        f"state: {state(status)}",
        f"clients: {status.clients} (connections: {status.connections}, users: "
        f"{status.users})",
        f"registrations: {status.registrations}",
        f"forwarded: offers {forwarded.offer}, answers {forwarded.answer}",
        f"returned: {_counts(status.returned)}",
        f"dropped: {_counts(status.dropped)}",
        f"held: {status.held}",
        f"unanswered: {unanswered.clients} clients, at most {unanswered.most} offers "
        "in a row",
        f"refused: {_counts(status.refused)}",
        f"rejected: {_counts(status.rejected)}",
        f"offer to answer: {_quantiles(status.offer_to_answer)}",
        f"wait of offers: {_quantiles(status.offer_wait)}",
        f"event loop is late by: {_quantiles(lag)}, most {_span(lag.max)}",
    ]
    if status.certificate is not None:
        expiry = _moment(status.certificate.expires)
        lines.append(f"certificate: valid until {expiry}")
    if status.globus is not None:
        asked = status.globus.breaker == "closed"
        lines.append(f"globus: {'answers' if asked else 'does not answer'}")
    if status.reach is not None:
        lines += _reach_lines(status.reach)
    if status.survival is not None:
        lines.append(_survival_line(status.survival))
    lines += (f"degraded: {plain(reason)}" for reason in status.degraded)
    if status.cluster is not None:
        lines += _cluster_lines(status.cluster)
    return lines


def _reach_lines(reach: Reach) -> Iterator[str]:
    found = {kind: count for kind, count in reach.candidates.items() if count}
    yield f"candidates: {_counts(found)}"
    few, pairs = reach.private_only, reach.unconnected_pairs
    offer = "client offers" if few == 1 else "clients offer"
    connect = "pair does not" if pairs == 1 else "pairs do not"
    yield f"reach: {few} {offer} private addresses only, {pairs} {connect} connect"


def _survival_line(survival: Survival) -> str:
    resumed, lost = survival.resumed, survival.lost
    start = f"; at the start {resumed:,} went on, {lost:,} were lost"
    unkept = survival.unkept
    rest = f", {unkept:,} {'is' if unkept == 1 else 'are'} not" if unkept else ""
    return (
        f"survive: {survival.kept:,} of at most {survival.capacity:,} connections are "
        f"kept{rest}{start * bool(resumed or lost)}"
    )


def _cluster_lines(cluster: Membership) -> Iterator[str]:
    age = cluster.lease_age
    renewed = "none yet" if age is None else f"renewed {_duration(age)} ago"
    yield (
        f"cluster: node {plain(cluster.node)}, lease {renewed}, "
        f"unsynced clients {cluster.unsynced}"
    )
    for peer in cluster.peers:
        state = "draining" if peer.draining else "there"
        words = f"{state}, version {plain(peer.version)}" if peer.lease else "gone"
        yield f"other node: {plain(peer.node)}, {words}"


def node_lines(found: Nodes) -> list[str]:
    """State of a cluster, a line for each node."""
    total = sum(node.clients or 0 for node in found.nodes)
    silent = _listed(found.silent)
    return [
        f"nodes: {len(found.nodes)}, clients: {total}, silent: {silent}",
        *(f"degraded: {plain(reason)}" for reason in found.degraded),
        *(f"{plain(node.node)}: {_node(node)}" for node in found.nodes),
    ]


def _node(node: NodeStatus) -> str:
    if node.silent or node.gone:
        return "silent" if node.silent else "gone: its lease has ended"
    state = "draining" if node.draining else "ready" if node.ready else "not ready"
    return (
        f"{state}, clients {node.clients} (unsynced: {node.unsynced}), version "
        f"{plain(node.version or '')}, up for {_duration(node.uptime or 0)}"
    )


def status_line(status: Status) -> str:
    """State in one line, for a file or a pipe."""
    return (
        f"{_moment(status.started + status.uptime)} {state(status)}, "
        f"clients {status.clients}, connections {status.connections}, "
        f"registrations {status.registrations}, "
        f"offers {status.forwarded.offer}, answers {status.forwarded.answer}, "
        f"late by {_span(status.lag.p99)}"
    )


def client_lines(listed: Clients | FarClients, now: float) -> Iterator[str]:
    """Clients, one a line, the oldest first; ``now`` in seconds since 1970."""
    yield from clients_head(listed)
    for client in sorted(listed.clients, key=lambda client: client.since):
        marks = f": {', '.join(map(plain, client.marks))}" if client.marks else ""
        found = ""
        if client.candidates is not None:
            found = f"; candidates: {_kinds(client.candidates)}"
        yield (
            f"{plain(client.uuid)} {_whose(client)} for "
            f"{_duration(now - client.since)} (messages: {client.sent} sent, "
            f"{client.received} received; last offer: {_last_offer(client, now)}; "
            f"unanswered: {client.unanswered}{found}){marks}"
        )


def clients_head(listed: Clients | FarClients) -> Iterator[str]:
    """Number of clients, and what is missing among them."""
    yield f"clients: {listed.total}"
    if isinstance(listed, FarClients):
        yield from (f"degraded: {plain(reason)}" for reason in listed.degraded)
        yield from (f"silent: {plain(node)}" for node in listed.silent)
        yield from (f"not all are listed: {plain(node)}" for node in listed.cut)


CLIENT_HEADS = (
    *("UUID", "name", "user", "from", "for", "sent", "received"),
    *("last offer", "unanswered", "candidates", "marks"),
)


def client_rows(listed: Clients | FarClients, now: float) -> Iterator[list[str]]:
    """Clients as rows below `CLIENT_HEADS`, the oldest first."""
    for client in sorted(listed.clients, key=lambda client: client.since):
        place = plain(client.address)
        if isinstance(client, FarClient):
            place = f"{place} at {plain(client.node)}".strip()
        yield [
            *(plain(client.uuid), plain(client.name), plain(client.user), place),
            *(_duration(now - client.since), f"{client.sent:,}"),
            *(f"{client.received:,}", _last_offer(client, now)),
            *(f"{client.unanswered:,}", " ".join(map(plain, client.candidates or ()))),
            ", ".join(map(plain, client.marks)),
        ]


def _last_offer(client: Client, now: float) -> str:
    if client.last_offer is None:
        return "never"
    return f"{_duration(now - client.last_offer)} ago"


def _kinds(words: list[str] | None) -> str:
    return "unknown" if words is None else _listed(words)


def pair_lines(listed: Pairs, now: float) -> Iterator[str]:
    """Pairs that do not connect; ``now`` in seconds since 1970."""
    yield f"pairs that do not connect: {listed.total}"
    for pair in listed.pairs:
        yield (
            f"{_side(pair.source)} and {_side(pair.target)} user={pair.user!a}: "
            f"{pair.exchanges} answered offers in {_duration(pair.last - pair.since)}, "
            f"the last {_duration(now - pair.last)} ago; "
            f"cause: {plain(pair.cause)} ({plain(pair.text)})"
        )


def _side(side: PairSide) -> str:
    name = "away" if side.name is None else f"name={side.name!a}"
    return f"{plain(side.uuid)} {name} ({_kinds(side.candidates)})"


def _whose(client: Client) -> str:
    """Name, user and place; another node may keep all but its own name to itself."""
    words = f"name={client.name!a} user={client.user!a} from {plain(client.address)}"
    if not isinstance(client, FarClient):
        return words
    at = f"at {plain(client.node)}"
    return f"{words} {at}" if client.address else at


def plain(text: str) -> str:
    """Text that others chose, with escapes for all but printable ASCII."""
    return ascii(text)[1:-1]


def state(status: Status) -> str:
    """Whether a relay is ready, or why not."""
    return "ready" if status.ready else f"not ready ({_listed(status.reasons, '; ')})"


def _listed(words: Iterable[str], comma: str = ", ") -> str:
    return comma.join(map(plain, words)) or "none"


def _counts(counts: Mapping[str, int]) -> str:
    return _listed(f"{name} {count}" for name, count in sorted(counts.items()))


def _quantiles(durations: Quantiles) -> str:
    return f"median {_span(durations.median)}, 99 % within {_span(durations.p99)}"


def _span(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{1000 * seconds:.1f} ms"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _duration(seconds: float) -> str:
    """Duration in its two largest units."""
    parts: list[str] = []
    left = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"

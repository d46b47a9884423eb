"""The cluster of a relay, as the private listener shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from proxyrelay.admin.report import (
    FarClient,
    FarClients,
    Membership,
    Nodes,
    NodeStatus,
    Peer,
)
from proxyrelay.switchboard import candidates

if TYPE_CHECKING:
    from proxyrelay.cluster.member import Member
    from proxyrelay.cluster.queries import Answers

ROWS_PER_BATCH = 500


def degraded(member: Member) -> list[str]:
    """Why clients of other nodes cannot be reached, or not all of them."""
    if member.is_excluded:
        return ["cluster: other settings than those of other nodes; see the log"]
    if not member.link.ready:
        return ["cluster: the engine cannot be reached"]
    return [
        f"cluster: {what} of node {node!a} differs"
        for node, what in sorted(member.strangers.items())
    ]


def lease_age(member: Member) -> float | None:
    """Seconds since the lease was renewed; None before the first one."""
    return member.link.lease_age if member.link.connects else None


def state(member: Member) -> Membership:
    """This relay in its cluster."""
    peers = [
        Peer(name, "", False, False)
        if info is None
        else Peer(name, info.version, info.is_draining, True)
        for name, info in sorted(member.peers.items())
    ]
    unsynced = len(member.claims.unsynced)
    return Membership(
        member.name, member.link.ready, lease_age(member), unsynced, peers
    )


def nodes(member: Member, answers: Answers) -> Nodes:
    """All nodes, this one first."""
    found = [
        NodeStatus(
            report.node,
            version=report.version,
            uptime=report.uptime,
            clients=report.clients,
            unsynced=report.unsynced,
            ready=report.is_ready,
            draining=report.is_draining,
        )
        for report in answers.reports
    ]
    known = {*answers.silent, *(node.node for node in found)}
    found += (NodeStatus(name, silent=True) for name in answers.silent)
    found += (
        NodeStatus(name, gone=True) for name in sorted(member.peers.keys() - known)
    )
    return Nodes(member.name, found, answers.silent, degraded(member))


def clients(member: Member, answers: Answers) -> FarClients:
    """What is known of the clients of all nodes; `rows` has the clients."""
    reports = answers.reports
    return FarClients(
        sum(report.clients for report in reports),
        answers.silent,
        [report.node for report in reports if len(report.rows) < report.clients],
        degraded(member),
        [],
    )


def rows(answers: Answers, now: float) -> Iterator[list[FarClient]]:
    """The clients of all nodes in batches; ``now`` in seconds since 1970."""
    for report in answers.reports:
        for start in range(0, len(report.rows), ROWS_PER_BATCH):
            yield [
                FarClient(
                    row.uuid,
                    *(row.name, row.user, row.address, now - row.age),
                    None if row.idle is None else now - row.idle,
                    *(row.sent, row.received, row.unanswered, row.marks),
                    candidates=candidates.words(row.candidates),
                    node=report.node,
                )
                for row in report.rows[start : start + ROWS_PER_BATCH]
            ]

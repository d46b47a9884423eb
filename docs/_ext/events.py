"""The lines of the log and of the audit log.

Names, levels and fields come from the table of events, and from the calls that log all
else. The words stand here. The tests hold one against the other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import proxyrelay
from proxyrelay.switchboard import events as table_of_events
from proxyrelay.switchboard.events import Event

CODE = Path(proxyrelay.__file__).parent

LEVELS: Mapping[str, str] = {
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARNING",
    "error": "ERROR",
    "critical": "CRITICAL",
    "failure": "CRITICAL",
}
"""Levels by the methods of a logger. The last one is for exceptions."""

COMMON: Mapping[str, str] = {
    "time": "When, as RFC 3339 spells it, in UTC and with milliseconds.",
    "level": "How severe it is, by the names that the settings use.",
    "event": "What has happened: one of the names below.",
    "message": "The line of the text log. Its words may change.",
    "logger": "Which part of the program says so.",
    "pid": "The process: two relays may write to one log while one takes over.",
}
"""Fields of every line of the log. The audit log has the first and the third."""

EVENTS: Mapping[str, str] = {
    "serving": "The relay accepts connections.",
    "address_skipped": "A host name stands for an address that this machine lacks.",
    "admin_serving": "The private listener accepts connections.",
    "admin_unauthorized": "A caller of the private listener has brought a wrong token.",
    "operator": "A caller of the private listener has the relay do something.",
    "stopping": "The relay was told to stop. ``count`` connections are closed.",
    "stopped": "The relay has stopped.",
    "no_store": "No supervisor keeps connections, so they end with the process.",
    "store_full": "There is no room, or soon none, to keep further connections.",
    "store_lost": "The supervisor has gone, with all that it kept.",
    "store_silent": "The supervisor does not read: connections may be lost.",
    "not_stored": "A connection is not kept: no file descriptor was left.",
    "not_resumed": "Connections of the process before are closed, as this one serves "
    "TLS.",
    "state_unreadable": "The process before has left its connections in a format of "
    "another version. They are closed.",
    "suspended": "Connections are left to the next process.",
    "resumed": "Connections of the process before go on.",
    "draining": "Another relay takes over; this one serves the clients that it has.",
    "no_successor": "No other relay listens where this one did when it began to drain.",
    "drain_overdue": "They have not left in time, and are being closed.",
    "drained": "The last of them has left.",
    "full": "There is no room for further connections.",
    "problem": "Something is wrong with the settings or with a certificate.",
    "reloaded": "The settings were read anew.",
    "reload_refused": "They were, but have problems: nothing has changed.",
    "reload_waits": "Some that have changed need a new start.",
    "certificate_renewed": "Another certificate is served.",
    "certificate_kept": "The files hold none that could be: the old one still is.",
    "globus_tried": "Globus Auth knows the relay's application.",
    "globus_untried": "It could not be asked about it.",
    "globus_refuses": "It does not take the credentials of the relay's application.",
    "globus_fails": "It cannot be asked about tokens.",
    "globus_stale": "It cannot; clients that it knew are let in on an older answer.",
    "globus_answers": "It can again.",
    "log_fails": "The log cannot be written to one of its places.",
    "log_resumed": "It can again. The line ``gap`` there says what it lacks.",
    "gap": "Lines are missing here, as they could not be written.",
    "reopened": "Log files are opened anew, after a SIGUSR1.",
    "audit_fails": "The audit log cannot be written.",
    "audit_resumed": "It can again, and says itself what it lacks.",
    "cluster_ready": "The relay has joined its cluster.",
    "cluster_lost": "The link to the engine has failed; it is made again.",
    "cluster_unreachable": "The engine cannot be reached; the relay goes on trying.",
    "cluster_refused": "The engine does not let the relay do something.",
    "cluster_alone": "The relay stays alone, as its settings do not fit the others'.",
    "cluster_stranger": "Another node does not fit since a reload.",
    "cluster_differs": "Another relay has other settings, which should be the same.",
    "sentinel_silent": "A sentinel does not answer; the next one is asked.",
    "defect": "An error of the relay's own, which it has survived.",
    "registered": "A client holds a UUID, or says once more that it does.",
    "replaced": "Another connection of the same user has taken over a UUID.",
    "fight": "Two take it over from each other, again and again.",
    "left": "A client no longer holds its UUID.",
    "refused": "A client is closed for what it did or is.",
    "failed": "A client broke the WebSocket protocol, and is closed.",
    "rejected": "A request was answered with an HTTP error.",
    "dropped": "A connection that held no UUID has ended without a close handshake.",
    "probed": "A connection was closed by its client, which had sent nothing.",
    "slowed": "A client sends faster than it may, and is read from more slowly.",
    "deaf": "A client came back, and answers no offers since.",
    "private_only": "A client offers private addresses only. Each registration has one "
    "line at most.",
    "unconnected": "Two clients exchange offers and answers again and again: they do "
    "not connect. There is one line when it begins.",
    "forwarded": "An offer or answer was handed to its receiver.",
    "returned": "An offer or answer went back to its sender with an error.",
    "held": "An offer waits for its receiver to come back.",
    "shielded": "A message was dropped that would have ended its receiver.",
    "skipped": "A message of an old client could not be read.",
    "clients": "How many clients there are, from time to time.",
    "client": "One of them.",
}

AUDIT_EVENTS: Mapping[str, str] = {
    "started": "The relay serves. Nobody who was here before is here any more, unless "
    "another relay writes to the same file while it is replaced.",
    "stopped": "The relay has stopped, and this is its last line.",
    "registered": "A client holds a UUID from now on, or has another name.",
    "left": "A client no longer holds its UUID.",
    "refused": "A client is closed for what it did or is. ``user`` is ``anonymous`` if "
    "it has not shown who it is.",
    "failed": "A client broke the WebSocket protocol, and is closed.",
    "rejected": "A request was answered with an HTTP error.",
    "operator": "A caller of the private listener has had the relay do something.",
    "offer": "What became of an offer of ``source`` to ``target``.",
    "answer": "What became of an answer, if it was not passed on.",
    "gap": "Lines are missing here, as they could not be written.",
}

FIELDS: Mapping[str, str] = {
    "action": "``drain``, ``reload`` or ``disconnect``.",
    "address": "Where the client is, the sender or the caller: address and port. "
    "``local`` if it has no IP address.",
    "back": "Connections that go on.",
    "capacity": "Most connections that are kept.",
    "cause": "The likely cause, as in :doc:`../guides/no-connection`.",
    "code": "The close code: :doc:`close-codes`.",
    "count": "How many.",
    "deaf": "Whether it answers no offers since it came back.",
    "detail": "What was wrong, in the relay's own words.",
    "end": "The last day of the certificate.",
    "error": "The type of the exception.",
    "kept": "Connections that are kept for the next process.",
    "kind": "``offer`` or ``answer``.",
    "lost": "Connections that do not go on.",
    "method": "How clients prove who they are.",
    "name": "What the client, or the application at Globus, calls itself.",
    "names": "A list of settings.",
    "node": "Another relay of the cluster, with its incarnation.",
    "offers": "Outstanding offers that go on.",
    "old_address": "Where the client is that held the UUID before.",
    "outcome": "``answered``; ``returned`` to its sender with an error; ``dropped``, "
    "as it would have ended its receiver (the first of each client has a line); "
    "``held`` until its receiver comes back (there will be another outcome); ``left``: "
    "its sender left before there was an answer; ``forwarded``: it was passed on, and "
    "what becomes of it is not followed (only without :confval:`offers.shield`).",
    "outlet": "Where lines go: ``standard output``, or the path of a file.",
    "problem": "The setting, and what is wrong with it.",
    "reason": "Why, in the words that the log or the client gets.",
    "received": "Messages of others that reached the client.",
    "seconds": "How long it was connected, how long the offer waited for its outcome, "
    "how long the relay drains, or in which time a pair has exchanged its offers.",
    "sent": "Messages of the client that reached their receivers.",
    "shielded": "Messages of the client that were dropped.",
    "signal": "The name of the signal.",
    "source": "UUID of the client that sent it.",
    "status": "The HTTP status.",
    "target": "UUID of the client that it is for.",
    "target_address": "Where that is, if it is connected.",
    "unanswered": "Offers in a row that the client left unanswered.",
    "unkept": "Registered clients whose connections are not kept.",
    "untold": "How many such lines were left out before; those about other clients do "
    "not count.",
    "traceback": "The traceback, in one text with ends of lines.",
    "trouble": "What happened, in a sentence.",
    "urls": "A list of what is served.",
    "user": "ID of the client's user; ``anonymous`` without authentication. Both ends "
    "of an offer that is passed on are of one user.",
    "uuid": "UUID of the client.",
    "version": "Version of the relay.",
    "what": "What was being done.",
}


@dataclass(frozen=True)
class Line:
    """A line that is written.

    Attributes:
        event: Its name; empty if the call gives none.
        level: Its level.
        format: The text, with its fields.
        fields: The fields, also those that are only for the text.
        place: Module and line, or the class of the event.
    """

    event: str
    level: str
    format: str
    fields: tuple[str, ...]
    place: str


def table() -> Iterator[type[Event]]:
    """Every event of the table."""
    for kind in vars(table_of_events).values():
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event:
            yield kind


def logged() -> Iterator[Line]:
    """Every line that the package logs."""
    for kind in table():
        if kind.format:
            fields = (*kind.fields, *(f"_{name}" for name in kind.optional))
            if kind.burst is not None:
                fields += ("untold", "_untold")
            level = LEVELS[kind.level]
            yield Line(kind.event, level, kind.format, fields, kind.__name__)
    for path in sorted(CODE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            level = _level(node)
            if level and isinstance(node, ast.Call):
                named = {k.arg or "": k.value for k in node.keywords}
                event = _constant(named.pop("event", None))
                if level == LEVELS["failure"]:
                    event = event or "defect"
                    named["traceback"] = node
                yield Line(
                    event,
                    level,
                    _constant(node.args[0]) if node.args else "",
                    tuple(named),
                    f"{path.name}:{node.lineno}",
                )


def _level(node: ast.AST) -> str:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return ""
    logger = node.func.value
    name = logger.attr if isinstance(logger, ast.Attribute) else None
    name = logger.id if isinstance(logger, ast.Name) else name
    return LEVELS.get(node.func.attr, "") if name in {"log", "_log"} else ""


def _constant(node: ast.expr | None) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def audited() -> Iterator[Line]:
    """Every line that the audit log may have."""
    for kind in table():
        if kind.audited:
            is_message = issubclass(kind, table_of_events.MessageEvent)
            for event in ("offer", "answer") if is_message else (kind.event,):
                yield Line(event, "", "", kind.audited, kind.__name__)
    path = CODE / "observe" / "audit.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        event = _constant(node.args[0])
        if called == "_line" and event:
            fields = tuple(keyword.arg or "" for keyword in node.keywords)
            yield Line(event, "", "", fields, f"{path.name}:{node.lineno}")


def log_events() -> list[str]:
    """The events of the log, each with its levels and fields."""
    return list(_described(EVENTS, list(logged())))


def audit_events() -> list[str]:
    """The events of the audit log, each with its fields."""
    return list(_described(AUDIT_EVENTS, list(audited())))


def _described(words: Mapping[str, str], lines: list[Line]) -> Iterator[str]:
    for event, meaning in words.items():
        mine = [line for line in lines if line.event == event]
        yield f"``{event}``"
        levels = dict.fromkeys(line.level for line in mine if line.level)
        shown = f" ({', '.join(levels)})" if levels else ""
        yield f"   {meaning}{shown}"
        fields = dict.fromkeys(
            name for line in mine for name in line.fields if not name.startswith("_")
        )
        if fields:
            yield ""
            yield f"   Fields: {', '.join(f'``{name}``' for name in fields)}."
        yield ""


def common_fields() -> list[str]:
    """What every line of the log has."""
    return list(_fields(COMMON))


def event_fields() -> list[str]:
    """What the fields of single events mean, in both logs."""
    return list(_fields(FIELDS))


def _fields(words: Mapping[str, str]) -> Iterator[str]:
    for name, meaning in words.items():
        yield from (f"``{name}``", f"   {meaning}", "")

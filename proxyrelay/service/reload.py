"""Settings and certificates that change while the relay serves.

A new file is looked at with the eyes of ``proxyrelay check``. What they find fault with
changes nothing; anything else is applied as a whole, and no connection is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay import auth, config
from proxyrelay.admin.control import Reloaded, ReloadOutcome
from proxyrelay.auth import Authenticator
from proxyrelay.auth.credentials import Credentials
from proxyrelay.config import Config, Secret
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net import certificates
from proxyrelay.observe.log import Log
from proxyrelay.service.checks import Inspection

FIXED = (
    ("host",),
    ("port",),
    ("reuse_port",),
    ("auth", "method"),
    ("logging", "log_dir"),
    ("logging", "audit_log"),
    ("logging", "privacy"),
    ("logging", "privacy_key_file"),
    ("admin", "listen"),
)
"""What stays as it is until a relay is started anew. Of these, the method of
authentication could change, but not who the clients are that are connected: one that
comes back would find its UUID in the hands of another user, and end."""


class Served(Protocol):
    """A relay whose settings can change.

    Attributes:
        config: What it serves with.
        pair: Certificate and key; None without TLS.
        authenticator: Tells whom a new connection belongs to.
    """

    config: Config

    @property
    def pair(self) -> certificates.KeyPair | None:
        """Certificate and key."""

    @property
    def authenticator(self) -> Authenticator:
        """Tells whom a new connection belongs to."""

    def change(
        self,
        settings: Config,
        pair: certificates.KeyPair | None,
        authenticator: Authenticator,
    ) -> None:
        """Serve with all of these from now on.

        Raises:
            ConfigError: OpenSSL refuses the pair. Nothing has changed.
        """


def _nobody(_: object) -> None:
    """Tell nobody."""


class Reload(Service):
    """Applies what the settings and the certificate files have become.

    Args:
        relay: Serves.
        credentials: What its authenticator was built with.
        inspected: Reads the settings and looks at them.
        levels: Where log lines go; None if that has no levels.
        reactor: Runs the look at the certificate files, and what authenticators ask.
        token: What callers of the private listener have to say.

    Attributes:
        reloaded: Told of what has come of each reload. It may be set.
        renewed: Told of each certificate that is served from now on. It may be set.
    """

    _log = Logger()

    def __init__(
        self,
        relay: Served,
        credentials: Credentials | None,
        inspected: Callable[[], Inspection],
        levels: Log | None,
        reactor: Any,
        token: Secret | None = None,
    ) -> None:
        self.reloaded: Callable[[Reloaded], None] = _nobody
        self.renewed: Callable[[str], None] = _nobody
        self._token = token
        self._relay = relay
        self._credentials = credentials
        self._inspected = inspected
        self._levels = levels
        self._reactor = reactor
        self._stamp: certificates.Stamp = ()
        self._trouble: tuple[Problem, ...] = ()
        self._told = True
        self._watch = LoopingCall(self.look)
        self._watch.clock = reactor

    def startService(self) -> None:
        """Look at the certificate files from time to time."""
        super().startService()
        self._watch_on()

    def stopService(self) -> None:
        """No longer look."""
        super().stopService()
        if self._watch.running:
            self._watch.stop()

    def _watch_on(self) -> None:
        interval = self._relay.config.certificate_interval
        if self._watch.running and self._watch.interval != interval:
            self._watch.stop()
        if interval and self.running and not self._watch.running:
            watched = self._watch.start(interval, now=False)
            watched.addErrback(self._watch_failed)

    def _watch_failed(self, failure: Failure) -> None:
        self._log.failure("the certificate files are no longer watched", failure)

    def reload(self) -> Reloaded:
        """Apply the settings, or log why not.

        Returns:
            What has come of it.
        """
        done = self._reload()
        self.reloaded(done)
        return done

    def _reload(self) -> Reloaded:
        found = self._inspected()
        wrong = [*found.problems, *found.faults]
        if wrong:
            self._complain(wrong)
            self._log.error(
                "nothing is reloaded; problems: {count}",
                event="reload_refused",
                count=len(wrong),
            )
            return Reloaded(
                ReloadOutcome.REFUSED, "\n".join(map(str, wrong)), self._token
            )
        before, pair = self._relay.config, self._relay.pair
        settings, waiting = applicable(before, found.config)
        names = [".".join(path) for path in differences(before, settings)]
        credentials = self._credentials
        if ("auth", "method") not in waiting:
            credentials = found.credentials
            if credentials != self._credentials and settings.auth == before.auth:
                names.append("credentials")
        if found.pair is not None and pair is not None:
            if found.pair.chain != pair.chain:
                names.append("certificate")
            pair = found.pair
        if ("admin", "listen") not in waiting and found.token != self._token:
            self._token = found.token
            names.append("token")
        authenticator = auth.changed(
            self._relay.authenticator,
            (before.auth.kwargs, self._credentials),
            (settings.auth.kwargs, credentials),
            self._reactor,
        )
        self._relay.change(settings, pair, authenticator)
        self._credentials = credentials
        if self._levels is not None:
            self._levels.change(settings.logging)
        self._watch_on()
        problem: Problem
        for problem in found.warnings:
            self._log.warn("{problem}", event="problem", problem=str(problem))
        self._log.info(
            "reloaded, changed: {_names}",
            event="reloaded",
            names=names,
            _names=_listed(names),
        )
        if waiting:
            self._log.warn(
                "changed as well, but only for a relay that is started anew: {_names}",
                event="reload_waits",
                names=[".".join(path) for path in waiting],
                _names=_listed(map(".".join, waiting)),
            )
        return Reloaded(
            ReloadOutcome.CHANGED if names else ReloadOutcome.UNCHANGED,
            _summary(names, list(map(".".join, waiting))),
            self._token,
        )

    def look(self) -> None:
        """Serve the certificate that is in the files now, if it is another one.

        Certificate and key are two files, and may be looked at when only one of them
        is new. So what is wrong is looked at again, and logged if it is still wrong.
        """
        settings, served = self._relay.config, self._relay.pair
        if settings.certfile is None or served is None:
            return
        stamp = certificates.stamp(settings.certfile, settings.keyfile)
        if stamp == self._stamp:
            return
        try:
            pair = certificates.load(settings.certfile, settings.keyfile)
            wrong = tuple(pair.problems(certificates.now()))
            if pair.chain == served.chain:
                wrong = ()  # the start, or a reload, has told
            if not wrong and pair.chain != served.chain:
                self._relay.change(settings, pair, self._relay.authenticator)
        except ConfigError as error:
            wrong = error.problems
        except Exception:
            # There is a next time, with other files.
            self._log.failure("the certificate files cannot be looked at")
            self._stamp = stamp
            return
        if wrong:
            self._look_again(wrong)
            return
        self._stamp, self._trouble = stamp, ()
        if pair.chain != served.chain:
            end = pair.chain[0].not_valid_after_utc.date().isoformat()
            self._log.info(
                "serving a renewed certificate, valid until {end}",
                event="certificate_renewed",
                end=end,
            )
            self.renewed(f"serving a renewed certificate, valid until {end}")

    def _look_again(self, wrong: tuple[Problem, ...]) -> None:
        if wrong != self._trouble:
            self._trouble, self._told = wrong, False
        elif not self._told:
            self._told = True
            self._complain(wrong)
            self._log.error(
                "the certificate that was read before is served on",
                event="certificate_kept",
            )

    def _complain(self, wrong: Iterable[Problem]) -> None:
        problem: Problem
        for problem in wrong:
            self._log.error("{problem}", event="problem", problem=str(problem))


def applicable(before: Config, after: Config) -> tuple[Config, list[tuple[str, ...]]]:
    """What of new settings can be served with in place of others.

    Returns:
        The settings, and the names of those that have to wait for a new start.
    """
    fixed = list(FIXED)
    if (before.certfile is None) != (after.certfile is None):
        fixed += [("certfile",), ("keyfile",)]
    if before.auth.method != after.auth.method:
        after = msgspec.structs.replace(
            after,
            auth=msgspec.structs.replace(before.auth, method=after.auth.method),
        )
    if before.admin.listen != after.admin.listen:
        # Who may come in there depends on where that is.
        listen = after.admin.listen
        admin = msgspec.structs.replace(before.admin, listen=listen)
        after = msgspec.structs.replace(after, admin=admin)
    waiting = [path for path in differences(before, after) if path in fixed]
    for path in waiting:
        after = _with(after, path, _value(before, path))
    return after, waiting


def differences(one: Config, other: Config) -> Iterator[tuple[str, ...]]:
    """The settings that are not the same in both, as paths of names."""
    for path in config.settings():
        value = _value(one, path)
        if not isinstance(value, Struct) and value != _value(other, path):
            yield path


def _value(settings: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        settings = getattr(settings, name)
    return settings


def _with(settings: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *inner = path
    if inner:
        value = _with(getattr(settings, name), tuple(inner), value)
    return msgspec.structs.replace(settings, **{name: value})


def _summary(changed: Iterable[str], waiting: Iterable[str]) -> str:
    names = ", ".join(changed)
    text = f"changed: {names}" if names else "nothing has changed"
    later = ", ".join(waiting)
    return f"{text}; only when it is started anew: {later}" if later else text


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"

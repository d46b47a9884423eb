"""New settings and renewed certificates for a relay that serves.

`Reload` inspects a new file as ``proxyrelay check`` does. With a problem nothing
changes; otherwise all of it is applied, and no connection is closed. `CertificateWatch`
serves renewed certificate files by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any

from msgspec import Struct, structs
from twisted.application.service import Service
from twisted.logger import Logger

from proxyrelay import auth
from proxyrelay.admin.control import Reloaded, ReloadOutcome
from proxyrelay.auth.credentials import Credentials
from proxyrelay.config import Config, Secret, settings
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net import certificates
from proxyrelay.net.repeat import Repeat
from proxyrelay.service.checks import Inspection
from proxyrelay.service.relay_service import RelayService

FIXED = (
    *("host", "port", "reuse_port", "auth.method", "logging.log_dir"),
    *("logging.audit_log", "logging.privacy", "logging.privacy_key_file"),
    *("admin.listen", "cluster.engine", "cluster.sentinels", "cluster.master"),
    *("cluster.database", "cluster.prefix", "cluster.node", "cluster.lease"),
    *("cluster.ca_file", "cluster.client_certfile", "cluster.client_keyfile"),
    *("cluster.username", "survive.enabled", "survive.capacity"),
)
"""Settings that need a restart. The method of authentication is among them, since the
connected clients would keep their users: one that comes back would find its UUID in the
hands of another user, and its process would end."""

LOGGED_LOOK = 2
"""Look at which a problem is logged: one of two files may be old at the first."""


def applicable(before: Config, after: Config) -> tuple[Config, list[str]]:
    """Split new settings into those for now and the names of those for a restart."""
    fixed = [*FIXED]
    if (before.certfile is None) != (after.certfile is None):
        fixed += ["certfile", "keyfile"]
    names = [*differences(before, after)]
    # The rest of this table belongs to the engine, such as a key for one far away.
    cluster = [name for name in names if name.startswith("cluster.")]
    if not {*cluster}.isdisjoint(fixed):
        fixed += cluster
    waiting = [name for name in names if name in fixed]
    for name in waiting:
        after = _with(after, name.split("."), before)
    # The rest of these tables belongs to the method and to the place.
    if "auth.method" in waiting:
        after = structs.replace(after, auth=before.auth)
    if "admin.listen" in waiting:
        after = structs.replace(after, admin=before.admin)
    return after, waiting


def differences(one: Config, other: Config) -> Iterator[str]:
    """Yield the dotted names of the settings that differ."""
    for path in settings():
        value = reduce(getattr, path, one)
        if not isinstance(value, Struct) and value != reduce(getattr, path, other):
            yield ".".join(path)


def _with(table: Any, path: list[str], source: Any) -> Any:
    """Take one setting of a table over from another table."""
    name, *inner = path
    value = getattr(source, name)
    if inner:
        value = _with(getattr(table, name), inner, value)
    return structs.replace(table, **{name: value})


class CertificateWatch:
    """Serves renewed certificate files, and calls ``renewed`` with a text then."""

    _log = Logger()

    def __init__(self, relay: RelayService, renewed: Callable[[str], None]) -> None:
        self._relay = relay
        self._renewed = renewed
        self._fingerprint: certificates.FileFingerprint = ()
        self._trouble: tuple[Problem, ...] = ()
        self._looks_with_trouble = 0

    def look(self) -> None:
        """Serve the certificate in the files, if it is another one."""
        config, served = self._relay.config, self._relay.pair
        if config.certfile is None or served is None:
            return
        fingerprint = certificates.file_fingerprint(config.certfile, config.keyfile)
        if fingerprint == self._fingerprint:
            return
        try:
            pair = certificates.load(config.certfile, config.keyfile)
            is_new = pair.chain != served.chain
            # The start or a reload has logged the problems of the served one.
            wrong = tuple(pair.problems(certificates.now())) if is_new else ()
            if is_new and not wrong:
                self._relay.use_certificate(pair)
        except ConfigError as error:
            wrong = error.problems
        except Exception:
            # The next files may be better.
            self._log.failure("the certificate files cannot be looked at")
            self._fingerprint = fingerprint
            return
        if wrong != self._trouble:
            self._trouble, self._looks_with_trouble = wrong, 0
        self._looks_with_trouble += 1
        if not wrong:
            self._fingerprint = fingerprint
            if is_new:
                self._report(pair)
        elif self._looks_with_trouble == LOGGED_LOOK:
            log_problems(self._log, wrong)
            self._log.error(
                "the certificate that was read before is served on",
                event="certificate_kept",
            )

    def _report(self, pair: certificates.KeyPair) -> None:
        end = pair.chain[0].not_valid_after_utc.date().isoformat()
        self._log.info(
            "serving a renewed certificate, valid until {end}",
            event="certificate_renewed",
            end=end,
        )
        self._renewed(f"serving a renewed certificate, valid until {end}")


class Reload(Service):
    """Applies new settings to a relay and to further parts.

    Args:
        credentials: Those of the relay's authenticator.
        inspected: Reads and inspects the settings.
        token: Token of the private listener.

    Attributes:
        parts: Called with the settings of each reload. A new part is one more entry.
        reloaded: Called with the outcome of each reload. It may be set.
        renewed: Called with a text for each renewed certificate. It may be set.
    """

    _log = Logger()

    def __init__(
        self,
        relay: RelayService,
        credentials: Credentials | None,
        inspected: Callable[[], Inspection],
        reactor: Any,
        token: Secret | None = None,
    ) -> None:
        self.reloaded: Callable[[Reloaded], None] = lambda _: None
        self.renewed: Callable[[str], None] = lambda _: None
        self._token = token
        self._relay = relay
        self._credentials = credentials
        self._inspected = inspected
        self._reactor = reactor
        watch = CertificateWatch(relay, self._certificate_renewed)
        text = "the certificate files are no longer watched"
        self._looks = Repeat(watch.look, reactor, text)
        self.parts: list[Callable[[Config], None]] = [relay.apply, self._watch]

    def _watch(self, config: Config) -> None:
        self._looks.every(config.certificate_interval if self.running else 0)

    def _certificate_renewed(self, text: str) -> None:
        self.renewed(text)

    def startService(self) -> None:
        """Watch the certificate files."""
        super().startService()
        self._watch(self._relay.config)

    def stopService(self) -> None:
        """Watch the certificate files no more."""
        super().stopService()
        self._looks.every(0)

    def reload(self) -> Reloaded:
        """Apply the settings, or log why not."""
        outcome, detail = self._reload()
        done = Reloaded(outcome, detail, self._token)
        self.reloaded(done)
        return done

    def _reload(self) -> tuple[ReloadOutcome, str]:
        found = self._inspected()
        wrong = [*found.problems, *found.faults]
        if wrong:
            log_problems(self._log, wrong)
            self._log.error(
                "nothing is reloaded; problems: {count}",
                event="reload_refused",
                count=len(wrong),
            )
            return ReloadOutcome.REFUSED, "\n".join(map(str, wrong))
        before = self._relay.config
        config, waiting = applicable(before, found.config)
        changed = [*differences(before, config)]
        changed += self._apply(before, config, found, waiting)
        log_problems(self._log, (), found.warnings)
        names, later = ", ".join(changed), ", ".join(waiting)
        self._log.info(
            "reloaded, changed: {_names}",
            event="reloaded",
            names=changed,
            _names=names or "nothing",
        )
        detail = f"changed: {names}" if names else "nothing has changed"
        if waiting:
            self._log.warn(
                "changed as well, but only for a relay that is started anew: {_names}",
                event="reload_waits",
                names=waiting,
                _names=later,
            )
            detail += f"; waits for a new start: {later}"
        return ReloadOutcome.CHANGED if names else ReloadOutcome.UNCHANGED, detail

    def _apply(
        self, before: Config, config: Config, found: Inspection, waiting: Iterable[str]
    ) -> list[str]:
        """Serve with new settings, and with new contents of the files that they name.

        Returns:
            Names of the files with new contents.
        """
        names = []
        credentials = self._credentials
        if "auth.method" not in waiting:
            credentials = found.credentials
            if credentials != self._credentials and config.auth == before.auth:
                names.append("credentials")
        served = self._relay.pair
        if found.pair is not None and served is not None:
            if found.pair.chain != served.chain:
                names.append("certificate")
            # First, as OpenSSL may refuse it: then nothing has changed.
            self._relay.use_certificate(found.pair)
        if "admin.listen" not in waiting and found.token != self._token:
            self._token = found.token
            names.append("token")
        member, is_same = self._relay.member, found.config.cluster == config.cluster
        if member is not None and is_same and member.keys != found.cluster_keys:
            names.append("cluster keys")
        authenticator = auth.changed(
            self._relay.authenticator,
            (before.auth.kwargs, self._credentials),
            (config.auth.kwargs, credentials),
            self._reactor,
        )
        self._credentials = credentials
        for apply in self.parts:
            apply(config)
        self._relay.use_authenticator(authenticator)
        return names


def log_problems(
    log: Logger, errors: Iterable[Problem], warnings: Iterable[Problem] = ()
) -> None:
    """Log each problem."""
    for problem in errors:
        log.error("{problem}", event="problem", problem=str(problem))
    for problem in warnings:
        log.warn("{problem}", event="problem", problem=str(problem))

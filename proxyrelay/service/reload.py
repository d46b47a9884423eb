"""New settings for a relay that serves.

A new file is inspected as ``proxyrelay check`` does. With a problem nothing changes;
otherwise all of it is applied, and no connection is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any

from msgspec import Struct, structs
from twisted.application.service import MultiService
from twisted.logger import Logger

from proxyrelay import auth
from proxyrelay.admin.control import Reloaded, ReloadOutcome
from proxyrelay.auth.credentials import Credentials
from proxyrelay.config import Config, Secret, settings
from proxyrelay.service.certificate_watch import CertificateWatch, log_problems
from proxyrelay.service.checks import Inspection
from proxyrelay.service.relay_service import RelayService

FIXED = (
    *("host", "port", "reuse_port", "auth.method", "logging.log_dir"),
    *("logging.audit_log", "logging.privacy", "logging.privacy_key_file"),
    "admin.listen",
)
"""Settings that need a restart. The method of authentication is among them, since the
connected clients would keep their users: one that comes back would find its UUID in the
hands of another user, and its process would end."""


def applicable(before: Config, after: Config) -> tuple[Config, list[str]]:
    """Split new settings into those for now and the names of those for a restart."""
    fixed = [*FIXED]
    if (before.certfile is None) != (after.certfile is None):
        fixed += ["certfile", "keyfile"]
    # The rest of these tables belongs to the method and to the place.
    if before.auth.method != after.auth.method:
        auth = structs.replace(before.auth, method=after.auth.method)
        after = structs.replace(after, auth=auth)
    if before.admin.listen != after.admin.listen:
        admin = structs.replace(before.admin, listen=after.admin.listen)
        after = structs.replace(after, admin=admin)
    waiting = [name for name in differences(before, after) if name in fixed]
    for name in waiting:
        after = _with(after, name.split("."), before)
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


class Reload(MultiService):
    """Applies new settings to a relay and to further parts.

    Args:
        relay: Serves.
        credentials: Those of its authenticator.
        inspected: Reads and inspects the settings.
        reactor: Runs the look at the certificate files, and the authenticators.
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
        super().__init__()
        self.reloaded: Callable[[Reloaded], None] = lambda _: None
        self.renewed: Callable[[str], None] = lambda _: None
        self._token = token
        self._relay = relay
        self._credentials = credentials
        self._inspected = inspected
        self._reactor = reactor
        watch = CertificateWatch(relay, self._certificate_renewed, reactor)
        watch.setServiceParent(self)
        self.parts: list[Callable[[Config], None]] = [relay.apply, watch.apply]

    def _certificate_renewed(self, text: str) -> None:
        self.renewed(text)

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
        for problem in found.warnings:
            self._log.warn("{problem}", event="problem", problem=str(problem))
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
            detail += f"; only when it is started anew: {later}"
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

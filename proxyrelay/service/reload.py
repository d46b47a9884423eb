"""New settings for a relay that serves.

A new file is inspected as ``proxyrelay check`` does. With a problem nothing changes;
otherwise all of it is applied, and no connection is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import MultiService
from twisted.logger import Logger

from proxyrelay import auth
from proxyrelay.admin.control import Reloaded, ReloadOutcome
from proxyrelay.auth.credentials import Credentials
from proxyrelay.config import Config, Secret
from proxyrelay.errors import Problem
from proxyrelay.service.certificate_watch import CertificateWatch, log_problems
from proxyrelay.service.changes import applicable, differences
from proxyrelay.service.checks import Inspection
from proxyrelay.service.relay_service import RelayService


def _ignore(_: object) -> None:
    """Do nothing."""


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
        self.reloaded: Callable[[Reloaded], None] = _ignore
        self.renewed: Callable[[str], None] = _ignore
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
        done = self._reload()
        self.reloaded(done)
        return done

    def _reload(self) -> Reloaded:
        found = self._inspected()
        wrong = [*found.problems, *found.faults]
        if wrong:
            log_problems(self._log, wrong)
            self._log.error(
                "nothing is reloaded; problems: {count}",
                event="reload_refused",
                count=len(wrong),
            )
            return Reloaded(
                ReloadOutcome.REFUSED, "\n".join(map(str, wrong)), self._token
            )
        before = self._relay.config
        settings, waiting = applicable(before, found.config)
        names = [".".join(path) for path in differences(before, settings)]
        names += self._apply(before, settings, found, waiting)
        later = [".".join(path) for path in waiting]
        self._log_changes(found, names, later)
        return Reloaded(
            ReloadOutcome.CHANGED if names else ReloadOutcome.UNCHANGED,
            _summary(names, later),
            self._token,
        )

    def _apply(
        self,
        before: Config,
        settings: Config,
        found: Inspection,
        waiting: list[tuple[str, ...]],
    ) -> list[str]:
        """Serve with new settings, and with new contents of the files that they name.

        Returns:
            Names of the files with new contents.
        """
        names = []
        credentials = self._credentials
        if ("auth", "method") not in waiting:
            credentials = found.credentials
            if credentials != self._credentials and settings.auth == before.auth:
                names.append("credentials")
        served = self._relay.pair
        if found.pair is not None and served is not None:
            if found.pair.chain != served.chain:
                names.append("certificate")
            # First, as OpenSSL may refuse it: then nothing has changed.
            self._relay.use_certificate(found.pair)
        if ("admin", "listen") not in waiting and found.token != self._token:
            self._token = found.token
            names.append("token")
        authenticator = auth.changed(
            self._relay.authenticator,
            (before.auth.kwargs, self._credentials),
            (settings.auth.kwargs, credentials),
            self._reactor,
        )
        self._credentials = credentials
        for apply in self.parts:
            apply(settings)
        self._relay.use_authenticator(authenticator)
        return names

    def _log_changes(
        self, found: Inspection, names: list[str], later: list[str]
    ) -> None:
        problem: Problem
        for problem in found.warnings:
            self._log.warn("{problem}", event="problem", problem=str(problem))
        self._log.info(
            "reloaded, changed: {_names}",
            event="reloaded",
            names=names,
            _names=_listed(names),
        )
        if later:
            self._log.warn(
                "changed as well, but only for a relay that is started anew: {_names}",
                event="reload_waits",
                names=later,
                _names=_listed(later),
            )


def _summary(changed: Iterable[str], waiting: Iterable[str]) -> str:
    names = ", ".join(changed)
    text = f"changed: {names}" if names else "nothing has changed"
    later = ", ".join(waiting)
    return f"{text}; only when it is started anew: {later}" if later else text


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"

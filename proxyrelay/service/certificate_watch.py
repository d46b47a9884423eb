"""Renewed certificate files are served without a reload."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from proxyrelay.config import Config
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.net import certificates
from proxyrelay.service.relay_service import RelayService

LOGGED_LOOK = 2
"""Look at which a problem is logged: one of two files may be old at the first."""


class CertificateWatch(Service):
    """Looks at the certificate files at an interval.

    Args:
        relay: Serves the certificate.
        renewed: Called with a text when a renewed certificate is served.
        reactor: Runs the interval.
    """

    _log = Logger()

    def __init__(
        self, relay: RelayService, renewed: Callable[[str], None], reactor: Any
    ) -> None:
        self._relay = relay
        self._renewed = renewed
        self._fingerprint: certificates.FileFingerprint = ()
        self._trouble: tuple[Problem, ...] = ()
        self._looks_with_trouble = 0
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor

    def startService(self) -> None:
        """Start to look at the files."""
        super().startService()
        self.apply(self._relay.config)

    def stopService(self) -> None:
        """Stop to look at the files."""
        super().stopService()
        if self._looking.running:
            self._looking.stop()

    def apply(self, config: Config) -> None:
        """Look at another interval from now on."""
        interval = config.certificate_interval
        if self._looking.running and self._looking.interval != interval:
            self._looking.stop()
        if interval and self.running and not self._looking.running:
            self._looking.start(interval, now=False).addErrback(
                lambda failure: self._log.failure(
                    "the certificate files are no longer watched", failure
                )
            )

    def _look(self) -> None:
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


def log_problems(log: Logger, wrong: Iterable[Problem]) -> None:
    """Log each problem at ERROR."""
    for problem in wrong:
        log.error("{problem}", event="problem", problem=str(problem))

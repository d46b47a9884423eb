"""The last hour in samples. Pure."""

from __future__ import annotations

from collections import deque

from proxyrelay.net.timing import Timing, quantile
from proxyrelay.observe.counters import RelayCounters
from proxyrelay.switchboard import events

INTERVAL = 2
"""Seconds from one sample to the next."""

KEPT = 3600 // INTERVAL
"""Kept samples: one hour."""

FIELDS = (
    "time",
    "clients",
    "registrations",
    "messages",
    "refusals",
    "lag_p99",
    "offer_to_answer_median",
    "offer_to_answer_p99",
    "handshake_p99",
)
"""Fields of a sample: seconds since 1970, a number, three rates per second, and four
durations in seconds."""

Sample = tuple[float | None, ...]


class _Lately:
    """The new part of a timing since the last sample."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._seen = timing.count

    def quantiles(self, *shares: float) -> list[float | None]:
        new = self._timing.last(self._timing.count - self._seen)
        self._seen = self._timing.count
        return [quantile(new, share) for share in shares]


class History:
    """Takes samples, and keeps them for an hour.

    Args:
        counts: The counters.
        lag: Lag of the event loop.
        now: The time, in seconds of a monotonic clock.
    """

    def __init__(self, counts: RelayCounters, lag: Timing, now: float) -> None:
        self._counts = counts
        self._lag = _Lately(lag)
        self._answering = _Lately(counts.answering)
        self._handshakes = _Lately(counts.handshakes)
        self._before = now, *self._totals()
        self._samples: deque[Sample] = deque(maxlen=KEPT)

    def take(self, now: float, wall: float, clients: int) -> None:
        """Take a sample.

        Samples are in the order of their times. After the wall clock was set back,
        samples with a later time are forgotten.

        Args:
            now: The time, in seconds of the monotonic clock.
            wall: The time, in seconds since 1970.
            clients: Registered clients.
        """
        then, *before = self._before
        totals = self._totals()
        self._before = now, *totals
        seconds = now - then or float(INTERVAL)
        rates = [
            (after - earlier) / seconds
            for earlier, after in zip(before, totals, strict=True)
        ]
        while self._samples and (self._samples[-1][0] or 0.0) >= wall:
            self._samples.pop()
        self._samples.append(
            (
                wall,
                clients,
                *rates,
                *self._lag.quantiles(0.99),
                *self._answering.quantiles(0.5, 0.99),
                *self._handshakes.quantiles(0.99),
            )
        )

    def since(self, time: float) -> list[Sample]:
        """The samples after a time, the oldest first.

        All, if the time is later than the last one: the wall clock was set back.
        """
        if self._samples and (self._samples[-1][0] or 0.0) < time:
            return list(self._samples)
        return [sample for sample in self._samples if (sample[0] or 0.0) > time]

    def _totals(self) -> tuple[float, ...]:
        counts = self._counts
        return (
            counts.total(events.Registered),
            counts.offers + counts.answers,
            counts.total(events.Refused),
        )

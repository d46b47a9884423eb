"""The last hour in samples. Pure."""

from __future__ import annotations

from collections import deque

from proxyrelay.net.timing import Timing, quantile
from proxyrelay.observe.counters import RelayCounters
from proxyrelay.switchboard import events

SAMPLE_INTERVAL_SECONDS = 2

KEPT_SAMPLES = 3600 // SAMPLE_INTERVAL_SECONDS

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


class History:
    """Takes samples, and keeps them for an hour.

    ``now`` is the time in seconds of a monotonic clock.
    """

    def __init__(self, counts: RelayCounters, lag: Timing, now: float) -> None:
        self._counts = counts
        self._lag = lag
        self._before = now, *self._totals()
        timings = (lag, counts.answering, counts.handshakes)
        self._seen = {timing: timing.count for timing in timings}
        self._samples: deque[Sample] = deque(maxlen=KEPT_SAMPLES)

    def take(self, now: float, wall: float, clients: int) -> None:
        """Take a sample, with the number of clients.

        Samples are in the order of ``wall``, in seconds since 1970. After the wall
        clock was set back, samples with a later time are forgotten.
        """
        then, *before = self._before
        totals = self._totals()
        self._before = now, *totals
        seconds = now - then or float(SAMPLE_INTERVAL_SECONDS)
        rates = [
            (after - earlier) / seconds
            for earlier, after in zip(before, totals, strict=True)
        ]
        lags = self._new(self._lag)
        answers = self._new(self._counts.answering)
        handshakes = self._new(self._counts.handshakes)
        while self._samples and (self._samples[-1][0] or 0.0) >= wall:
            self._samples.pop()
        self._samples.append(
            (
                wall,
                clients,
                *rates,
                quantile(lags, 0.99),
                quantile(answers, 0.5),
                quantile(answers, 0.99),
                quantile(handshakes, 0.99),
            )
        )

    def since(self, time: float) -> list[Sample]:
        """The samples after a time, the oldest first.

        All, if the time is later than the last one: the wall clock was set back.
        """
        if self._samples and (self._samples[-1][0] or 0.0) < time:
            return list(self._samples)
        return [sample for sample in self._samples if (sample[0] or 0.0) > time]

    def _new(self, timing: Timing) -> list[float]:
        """The durations since the last sample, in ascending order."""
        seen, self._seen[timing] = self._seen[timing], timing.count
        return timing.last(timing.count - seen)

    def _totals(self) -> tuple[float, ...]:
        counts = self._counts
        return (
            counts.total(events.Registered),
            counts.offers + counts.answers,
            counts.total(events.Refused),
        )

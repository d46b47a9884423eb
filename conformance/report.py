"""What the suite reports, what is expected of each run, and where they differ.

Pure: texts come in, texts go out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

OK = "OK"
INFORMATIONAL = "INFORMATIONAL"
FAILED = "FAILED"
"""The suite's verdicts, as ``index.json`` spells them."""


class ReportError(Exception):
    """The suite has left no report that can be read."""


class Outcome(NamedTuple):
    """How a case ended.

    Attributes:
        behavior: The verdict on what was received.
        close: The verdict on how the connection ended.
        code: The relay's close code; None if it sent none.
    """

    behavior: str
    close: str
    code: int | None = None

    def __str__(self) -> str:
        return f"{self.verdict} with {self.code}"

    @property
    def verdict(self) -> str:
        """Both verdicts in one."""
        if self.close in {self.behavior, OK}:
            return self.behavior
        return f"{self.behavior}/{self.close}"


@dataclass(frozen=True)
class Exempt:
    """Cases that end otherwise than OK, and are right to.

    Attributes:
        cases: Patterns of their numbers.
        verdict: How they end.
        code: With which close code; None for any.
    """

    cases: tuple[str, ...]
    verdict: str
    code: int | None = None

    def matches(self, case: str) -> bool:
        """Whether a case is one of these."""
        return any(fnmatchcase(case, pattern) for pattern in self.cases)

    def admits(self, outcome: Outcome) -> bool:
        """Whether a case of these may end so."""
        return outcome.verdict == self.verdict and self.code in {None, outcome.code}

    def __str__(self) -> str:
        return self.verdict if self.code is None else f"{self.verdict} with {self.code}"


EVERY_OTHER = Exempt(("*",), OK)


@dataclass(frozen=True)
class Expectation:
    """What one run of the suite has to give.

    Attributes:
        cases: Patterns of the cases that are run.
        counts: How many these are in each section. The suite leaves out what it could
            not run.
        exempt: Which are not to end OK; the first that matches counts.
    """

    cases: tuple[str, ...]
    counts: Mapping[int, int]
    exempt: tuple[Exempt, ...] = ()

    def of(self, case: str) -> Exempt:
        """What is expected of a case."""
        return next((e for e in self.exempt if e.matches(case)), EVERY_OTHER)

    def differences(self, found: Mapping[str, Outcome]) -> list[str]:
        """Say what is not as expected, a line each.

        Args:
            found: Each case with its outcome.
        """
        return [*self._missing(found), *self._differing(found)]

    def _missing(self, found: Mapping[str, Outcome]) -> Iterator[str]:
        ran = Counter(map(section, found))
        for number in sorted({*self.counts, *ran}):
            wanted = self.counts.get(number, 0)
            if ran[number] != wanted:
                yield f"section {number}: {ran[number]} cases ran instead of {wanted}"

    def _differing(self, found: Mapping[str, Outcome]) -> Iterator[str]:
        for case in sorted(found, key=place):
            wanted = self.of(case)
            if not wanted.admits(found[case]):
                yield f"{case}: {found[case]} instead of {wanted}"


def place(case: str) -> tuple[int, ...]:
    """Where a case stands in the suite: 9.2 before 9.10."""
    return tuple(map(int, case.split(".")))


def section(case: str) -> int:
    """The section that a case belongs to."""
    return place(case)[0]


def read(text: str, agent: str) -> dict[str, Outcome]:
    """Read an ``index.json``.

    Args:
        text: Its content.
        agent: What the suite was told to call the relay.

    Returns:
        Each case with its outcome.

    Raises:
        ReportError: It is not what the suite writes.
    """
    try:
        cases: dict[str, dict[str, Any]] = json.loads(text)[agent]
        found = {
            case: Outcome(
                result["behavior"], result["behaviorClose"], result["remoteCloseCode"]
            )
            for case, result in cases.items()
        }
        sorted(found, key=place)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ReportError(f"no report of the suite: {error!r}") from None
    return found


def summary(found: Mapping[str, Outcome]) -> list[str]:
    """How many cases of each section ended how, a line each, and of all.

    Args:
        found: Each case with its outcome.
    """
    sections: dict[int, Counter[str]] = {}
    for case in sorted(found, key=place):
        sections.setdefault(section(case), Counter())[found[case].verdict] += 1
    total = sum(sections.values(), Counter[str]())
    lines = [f"section {number:2}: {_spelt(n)}" for number, n in sections.items()]
    return [*lines, f"together:   {_spelt(total)}"]


def _spelt(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())


_INFORMATIONAL = Exempt(("7.1.6", "7.13.*"), INFORMATIONAL)
"""The suite does not judge these."""

_SECTIONS = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1}
"""All but 12 and 13, which are about compression. There is no section 8 any more, nor
one 11."""

ECHO = Expectation(
    cases=tuple(f"{number}.*" for number in _SECTIONS),
    counts=_SECTIONS,
    exempt=(
        _INFORMATIONAL,
        # No message is longer than 1 MiB, or comes in more than 1,024 frames.
        Exempt(("9.[34].[123]",), FAILED, 1008),
        Exempt(("9.[12].[456]", "9.[34].*"), FAILED, 1009),
    ),
)
"""Of the relay's protocol with an echo in the place of its rules."""

RELAY = Expectation(
    # In the rest a message becomes whole, or too long. It is none that a client may
    # send, so the relay closes with a code of its own.
    cases=(
        "2.*",
        *("3.1", "3.5", "3.6", "3.7"),
        *("4.1.1", "4.1.2", "4.2.1", "4.2.2"),
        *("5.1", "5.2", "5.9", "5.10", "5.11", "5.12", "5.13", "5.14"),
        *("5.16", "5.17", "5.18"),
        *("7.1.2", "7.1.3", "7.1.4", "7.1.5", "7.3.*", "7.5.*", "7.7.*", "7.9.*"),
        "7.13.*",
    ),
    counts={2: 11, 3: 4, 4: 4, 5: 11, 7: 35},
    exempt=(_INFORMATIONAL,),
)
"""Of the relay as it is, in the cases that need no echo."""

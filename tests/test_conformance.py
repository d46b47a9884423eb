"""The reading of the conformance suite's reports, and the search for its Python."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from unittest import mock

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from conformance import __main__ as conformance
from conformance.report import (
    ECHO,
    FAILED,
    INFORMATIONAL,
    OK,
    RELAY,
    Exempt,
    Expectation,
    Outcome,
    ReportError,
    read,
    summary,
)
from conformance.suite import SUITE, SuiteError, candidates, find_python, install
from proxyrelay.websocket.protocol import RelayProtocol
from tests.support.processes import write_command

FINE = Outcome(OK, OK, 1000)

SMALL = Expectation(
    ("1.*", "9.*"),
    {1: 2, 9: 2},
    (Exempt(("9.10",), FAILED, 1009), Exempt(("9.*",), INFORMATIONAL)),
)

AS_EXPECTED = {
    "9.10": Outcome(FAILED, FAILED, 1009),
    "9.2": Outcome(INFORMATIONAL, OK, 1000),
    "1.1": FINE,
    "1.2": FINE,
}


def index(**result: object) -> str:
    """The report of one case."""
    fine = {"behavior": "OK", "behaviorClose": "OK", "remoteCloseCode": 1000}
    return json.dumps({"relay": {"1.1.1": fine | {"duration": 3} | result}})


class ReadingTests(SynchronousTestCase):
    def test_case_has_its_outcome_with_or_without_a_close_code(self) -> None:
        self.assertEqual(read(index(), "relay"), {"1.1.1": FINE})
        found = read(index(remoteCloseCode=None), "relay")
        self.assertIsNone(found["1.1.1"].code)

    def test_text_that_is_no_report_is_refused(self) -> None:
        for text in (
            "",
            "{}",
            "[]",
            '{"relay": []}',
            '{"relay": {"1.1": {}}}',
            '{"relay": {"1.1": 1}}',
            index().replace("1.1.1", "one"),
        ):
            with self.assertRaises(ReportError):
                read(text, "relay")

    def test_verdict_is_of_behaviour_and_close(self) -> None:
        for outcome, verdict in (
            (FINE, OK),
            (Outcome(INFORMATIONAL, OK), INFORMATIONAL),
            (Outcome(INFORMATIONAL, INFORMATIONAL), INFORMATIONAL),
            (Outcome(FAILED, OK), FAILED),
            (Outcome(OK, "WRONG CODE"), "OK/WRONG CODE"),
        ):
            self.assertEqual(outcome.verdict, verdict)


class ExpectationTests(SynchronousTestCase):
    def test_differences_stand_in_the_order_of_the_suite(self) -> None:
        self.assertEqual(SMALL.differences(AS_EXPECTED), [])
        found = {
            "9.10": Outcome(FAILED, FAILED, 1002),
            "9.2": FINE,
            "1.1": Outcome(OK, "WRONG CODE", None),
            "1.2": FINE,
        }
        self.assertEqual(
            SMALL.differences(found),
            [
                "1.1: OK/WRONG CODE with None instead of OK",
                "9.2: OK with 1000 instead of INFORMATIONAL",
                "9.10: FAILED with 1002 instead of FAILED with 1009",
            ],
        )
        # A failure is expected with one verdict only.
        found = AS_EXPECTED | {"9.10": Outcome(OK, FAILED, 1009)}
        self.assertEqual(len(SMALL.differences(found)), 1)
        self.assertEqual(
            SMALL.differences({"1.1": FINE, "1.2": FINE, "2.1": FINE}),
            [
                "section 2: 1 cases ran instead of 0",
                "section 9: 0 cases ran instead of 2",
            ],
        )

    def test_summary_counts_verdicts(self) -> None:
        self.assertEqual(
            summary(AS_EXPECTED),
            [
                "section  1: 2 OK",
                "section  9: 1 INFORMATIONAL, 1 FAILED",
                "together:   2 OK, 1 INFORMATIONAL, 1 FAILED",
            ],
        )

    def test_long_messages_end_with_codes_of_the_relay(self) -> None:
        for case, code in (("9.1.4", 1009), ("9.3.1", 1008), ("9.4.4", 1009)):
            self.assertEqual(ECHO.of(case).code, code, case)
        for case in ("9.1.3", "9.5.1", "9.7.4", "6.3.1", "7.1.5"):
            self.assertEqual(ECHO.of(case).verdict, OK, case)

    def test_all_else_is_ok_and_without_compression(self) -> None:
        verdicts = {e.verdict for e in ECHO.exempt if not e.matches("9.1.4")}
        self.assertEqual(verdicts - {FAILED}, {INFORMATIONAL})
        self.assertEqual(sum(ECHO.counts.values()) - ECHO.counts[9], 247)
        self.assertEqual(sum(ECHO.counts.values()), 301)
        for run in (ECHO, RELAY):
            self.assertFalse({12, 13} & set(run.counts))
            for pattern in run.cases:
                self.assertIn(int(pattern.split(".")[0]), run.counts, pattern)


class PythonTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def command(self, name: str, says: str = "", status: int = 0) -> Path:
        return write_command(self.folder / name, says, status)

    def test_python_that_is_found_is_the_first_of_version_2_7(self) -> None:
        others = (
            self.folder / "missing",
            self.folder,
            self.command("pypy", "PyPy2.7.18"),
            self.command("new", "CPython3.11.7"),
            self.command("shim", "CPython2.7.18", status=127),
        )
        self.assertIsNone(find_python(others))
        right = self.command("right", "CPython2.7.18")
        later = self.command("later", "CPython2.7.9")
        self.assertEqual(find_python([*others, right, later]), right)

    def test_candidates_are_those_of_path_and_pyenv(self) -> None:
        first, second = map(self.command, ("bin/python2.7", "bin/python2"))
        third = self.command("pyenv/versions/2.7.18/bin/python2.7")
        newer = [
            self.command(f"pyenv/versions/{name}/bin/python3.11")
            for name in ("3.11.12", "3.11.7", "3.11-dev")
        ]
        self.command("pyenv/versions/3.12.1/bin/python3.12")
        environ = {
            "PATH": str(self.folder / "bin"),
            "PYENV_ROOT": str(self.folder / "pyenv"),
        }
        self.assertEqual(list(candidates(environ)), [first, second, third])
        self.assertEqual(list(candidates(environ, "3.11")), newer)
        there = self.command(".pyenv/versions/2.7.18/bin/python2.7")
        environ = {"PATH": "", "HOME": str(self.folder)}
        self.assertEqual(list(candidates(environ)), [there])

    def test_installed_suite_stays(self) -> None:
        python = self.command("python", "CPython2.7.18")
        mark = self.folder / "suite" / "installed"
        mark.parent.mkdir()
        mark.write_text(f"{SUITE} {python}", encoding="utf-8")
        with mock.patch("sys.executable", "/missing"):
            wstest = install(python, mark.parent)
            self.assertRaises(SuiteError, install, Path("another"), mark.parent)
        self.assertEqual(wstest.name, "wstest")
        self.assertFalse(mark.exists())

    def test_failed_step_says_what_went_wrong(self) -> None:
        python = self.command("python", "CPython2.7.18")
        broken = str(self.command("broken", "no network", status=1))
        folder = self.folder / "suite"
        with mock.patch("sys.executable", broken):
            error = self.assertRaises(SuiteError, install, python, folder)
        self.assertIn("no network", str(error))
        self.assertFalse((folder / "installed").exists())


class CommandTests(SynchronousTestCase):
    def test_command_without_python_is_no_failure(self) -> None:
        said = io.StringIO()
        with (
            mock.patch.dict("os.environ", {"PATH": "", "HOME": "/", "PYENV_ROOT": "/"}),
            contextlib.redirect_stdout(said),
        ):
            conformance.main([self.mktemp()])
        self.assertIn("SKIPPED", said.getvalue())

    def test_named_python_must_be_one(self) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            error = self.assertRaises(
                SystemExit, conformance.main, [self.mktemp(), "--python27=/missing"]
            )
        self.assertEqual(error.code, 2)
        self.assertIn("/missing is no CPython 2.7", said.getvalue())

    def test_echo_treats_only_messages_otherwise(self) -> None:
        service = conformance.echo_relay(MemoryReactorClock())
        self.addCleanup(service.stopService)
        protocol = service.factory.buildProtocol(mock.sentinel.address)
        added, served, *_ = type(protocol).__mro__
        self.assertEqual(
            {name for name in vars(added) if not name.startswith("__")}, {"onMessage"}
        )
        self.assertEqual(served.__mro__[1], RelayProtocol)

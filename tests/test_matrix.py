"""On what the unit tests are run. Nothing here runs them."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from packaging.specifiers import SpecifierSet
from twisted.trial.unittest import SynchronousTestCase

from tests import matrix
from tests.matrix import Metadata
from tests.support.processes import write_command

PROMISED = Metadata(["3.11", "3.12", "3.13", "3.14"], SpecifierSet(">=3.11,!=3.14.0"))


class FindTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.environ = {
            "PATH": str(self.folder / "bin"),
            "PYENV_ROOT": str(self.folder / "pyenv"),
        }

    def python(self, name: str, says: str, status: int = 0) -> Path:
        return write_command(self.folder / name, says, status)

    def test_version_is_taken_from_the_path_or_from_pyenv(self) -> None:
        first = self.python("bin/python3.11", "CPython 3.11.2")
        self.python("pyenv/versions/3.11.9/bin/python3.11", "CPython 3.11.9")
        last = self.python("pyenv/versions/3.13.1/bin/python3.13", "CPython 3.13.1")
        wanted = {"3.11": first, "3.13": last}
        self.assertEqual(matrix.found(PROMISED, self.environ), wanted)

    def test_interpreter_that_cannot_be_used_is_passed_over(self) -> None:
        self.python("bin/python3.11", "CPython 3.11.2", status=127)
        self.python("bin/python3.12", "PyPy 3.12.1")
        self.python("bin/python3.13", "")
        self.python("pyenv/versions/3.14.0/bin/python3.14", "CPython 3.14.0")
        self.python("bin/python3", "CPython 3.10.1")
        self.assertEqual(matrix.found(PROMISED, self.environ), {})
        wanted = {"3.14": self.python("bin/python3.14", "CPython 3.14.5")}
        self.assertEqual(matrix.found(PROMISED, self.environ), wanted)

    def test_real_interpreter_tells_its_release(self) -> None:
        path = Path(sys.executable)
        release = "{}.{}.{}".format(*sys.version_info)
        self.assertEqual(matrix._release(path), release)


class ChoiceTests(SynchronousTestCase):
    def test_metadata_names_this_version(self) -> None:
        promised = matrix.metadata((matrix.ROOT / "setup.cfg").read_text())
        self.assertIn("{}.{}".format(*sys.version_info), promised.versions)
        self.assertIn("{}.{}.{}".format(*sys.version_info), promised.requires)
        oldest = promised.versions[0]
        self.assertIn(f"{oldest}.0", promised.requires)
        self.assertNotIn(f"3.{int(oldest[2:]) - 1}.99", promised.requires)

    def test_ends_are_the_oldest_and_the_newest_of_the_others(self) -> None:
        for versions, default, wanted in (
            ([], "3.11", []),
            (["3.11"], "3.11", []),
            (["3.11", "3.12"], "3.11", ["3.12"]),
            (["3.11", "3.12", "3.13"], "3.11", ["3.12", "3.13"]),
            (["3.11", "3.12", "3.13", "3.14"], "3.13", ["3.11", "3.14"]),
        ):
            self.assertEqual(matrix.ends(versions, default), wanted)

    def test_unit_tests_are_those_without_real_processes(self) -> None:
        modules = list(matrix.unit_tests())
        for name in (
            "tests.switchboard.test_relay",
            "tests.auth.test_cache",
            "tests.test_matrix",
        ):
            self.assertIn(name, modules)
        for module in modules:
            self.assertFalse(module.startswith("tests.integration"), module)
            self.assertIsNotNone(importlib.util.find_spec(module), module)
        for path in matrix.REAL:
            self.assertTrue(path.exists(), path)

    def test_version_that_cannot_be_installed_is_told(self) -> None:
        folder = Path(self.mktemp()).absolute()
        make = write_command(folder / "make", "", 2)
        self.patch(os, "environ", {**os.environ, "PATH": str(folder)})
        self.assertEqual(matrix.run("3.11", make, 1), "not installed")

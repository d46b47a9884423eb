"""Processes whose wall clock is shifted, forth or back, while they run.

A small library is preloaded into the process (``clock_shift.c``). It needs a C compiler
and the GNU C library.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from unittest import SkipTest

SOURCE = Path(__file__).with_name("clock_shift.c")

_SHIFT = struct.Struct("=q")


def build(folder: Path) -> Path:
    """Compile the library; returns its absolute path.

    Raises:
        SkipTest: There is no C compiler.
        subprocess.CalledProcessError: The compiler fails.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SkipTest("there is no C compiler, which the shifted clock needs")
    library = folder.absolute() / "clock_shift.so"
    options = ["-O2", "-Wall", "-Wextra", "-shared", "-fPIC"]
    subprocess.run(
        [compiler, *options, "-o", library, SOURCE, "-ldl", "-pthread"], check=True
    )
    return library


def environment(library: Path, file: Path) -> dict[str, str]:
    """Variables that shift the clock of a process as a file says; see `shift`."""
    shift(file, 0)
    others = os.environ.get("LD_PRELOAD", "")
    return {
        "LD_PRELOAD": f"{library} {others}".rstrip(),
        "CLOCK_SHIFT_FILE": str(file.absolute()),
    }


def shift(file: Path, seconds: float) -> None:
    """Set the seconds by which the clock is ahead of the machine's, from now on."""
    number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(number, _SHIFT.pack(round(seconds * 1e9)), 0)
    finally:
        os.close(number)

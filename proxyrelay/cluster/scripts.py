"""The scripts of the engine, in ``lua/``. Each one runs as a whole (EVALSHA)."""

from __future__ import annotations

import hashlib
from importlib.resources import files

SCRIPTS = (
    *("lease", "register", "again", "unregister", "forward", "forwards"),
    *("reap", "nodes", "leave", "held"),
)

MANY = {"register": "again", "forward": "forwards"}
"""Scripts that are run for many at once by another one."""


def scripts() -> dict[str, bytes]:
    """Texts of the scripts by their names."""
    folder = files(__package__) / "lua"
    texts = {name: (folder / f"{name}.lua").read_bytes() for name in SCRIPTS}
    for one, many in MANY.items():
        head = b"local function %s(ARGV)\n%s\nend\n" % (one.encode(), texts[one])
        texts[many] = head + texts[many]
    return texts


def script_hash(text: bytes) -> str:
    """Name of a script for EVALSHA."""
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()

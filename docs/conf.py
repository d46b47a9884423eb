"""How Sphinx builds the documentation: ``make docs``."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from proxyrelay import __version__  # noqa: E402

project = "proxyrelay"
author = "The proxyrelay maintainers"
copyright = author  # noqa: A001
version = release = __version__

extensions = ["docs._ext.reference"]
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"proxyrelay {release}"
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

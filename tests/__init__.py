"""The tests mirror proxyrelay/; integration/ starts real processes."""

from hypothesis import settings

# Found examples belong into a test, not into a folder beside it; and machines
# under load are slow.
settings.register_profile("tests", database=None, deadline=None)
settings.load_profile("tests")

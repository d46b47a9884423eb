"""Tests of ``proxyrelay/cli``."""

"""Tests of ``proxyrelay/net``."""

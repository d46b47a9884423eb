"""Tests of ``proxyrelay/auth``."""

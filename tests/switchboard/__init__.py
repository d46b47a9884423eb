"""Tests of ``proxyrelay/switchboard``."""

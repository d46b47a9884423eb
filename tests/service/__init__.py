"""Tests of ``proxyrelay/service``."""

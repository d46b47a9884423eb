"""Tests of ``proxyrelay/websocket``."""

"""Tests of proxyrelay.auth."""

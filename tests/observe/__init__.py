"""Tests of proxyrelay.observe."""

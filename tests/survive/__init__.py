"""Tests of `proxyrelay.survive`."""

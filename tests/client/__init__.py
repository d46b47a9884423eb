"""Tests of `proxyrelay.client`."""

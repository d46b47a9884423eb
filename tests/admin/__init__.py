"""Tests of proxyrelay.admin."""

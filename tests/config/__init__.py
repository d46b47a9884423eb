"""Tests of proxyrelay/config/."""

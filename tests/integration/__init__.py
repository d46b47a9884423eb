"""Tests with real processes: twistd, and the real proxystore package."""

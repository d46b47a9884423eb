"""The ``proxyrelay`` command."""

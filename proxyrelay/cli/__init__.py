"""The ``proxyrelay`` command, a module a subcommand."""

"""The ``proxyrelay`` command. `main` parses it, other modules run its subcommands."""

"""The rules: register, forward, leave. No Twisted."""

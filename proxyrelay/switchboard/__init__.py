"""The rules: register, forward, leave. Pure."""

"""The rules: register, forward, leave. Nothing here imports Twisted."""

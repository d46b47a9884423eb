"""The official WebSocket test suite against the relay; see README.rst."""

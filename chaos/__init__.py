"""The relay among clients of all kinds, for a while; see README.rst."""

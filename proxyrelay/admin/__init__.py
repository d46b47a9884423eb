"""The private listener: what those who look after a relay see of it, and can do.

Nothing of this is loaded on a relay without ``[admin]``.
"""

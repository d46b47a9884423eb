"""The private listener: status, metrics, the live page and commands for operators.

A relay without ``[admin]`` loads only `proxyrelay.admin.control`.
"""

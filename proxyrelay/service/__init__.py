"""The relay as a service of twistd: options, wiring, signals, reload, drain.

The state of a relay (serving, draining) is `RelayFactory.state` in ``websocket/``.
"""

"""The relay as a service of twistd: options, wiring, signals, reload, drain.

`reload` has `CertificateWatch` as well, which serves renewed certificates. The state of
a relay (serving, draining) is `RelayFactory.state` in ``websocket/``.
"""

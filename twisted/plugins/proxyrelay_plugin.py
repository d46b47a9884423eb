"""Makes ``twistd proxyrelay`` known to Twisted."""

from twisted.application.service import ServiceMaker

relay = ServiceMaker(
    "proxyrelay",
    "proxyrelay.service",
    "A relay server for ProxyStore endpoints",
    "proxyrelay",
)

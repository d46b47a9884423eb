"""Makes ``twistd proxyrelay`` known to Twisted."""

from twisted.application.service import ServiceMaker

relay = ServiceMaker(
    "proxyrelay",
    "proxyrelay.service.app",
    "A relay server for ProxyStore endpoints",
    "proxyrelay",
)

"""Sockets and time. Nothing here knows WebSocket or ProxyStore."""

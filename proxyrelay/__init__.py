"""A relay server for ProxyStore endpoints.

Endpoints register their UUID over a WebSocket and pass each other the offers
and answers that open a peer-to-peer connection.
"""

__version__ = "0.1.0"

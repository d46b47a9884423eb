"""A relay client for Twisted programs.

``RelayClient`` stays registered with a relay; its errors are in `proxyrelay.errors`.
"""

from proxyrelay.client.client import RelayClient as RelayClient
from proxyrelay.client.connection import RelayConnection as RelayConnection
from proxyrelay.client.connection import connect as connect
from proxyrelay.client.endpoint import relay_endpoint as relay_endpoint
from proxyrelay.client.url import ProxyUrl as ProxyUrl
from proxyrelay.client.url import RelayUrl as RelayUrl
from proxyrelay.errors import Closed as Closed
from proxyrelay.errors import NotConnected as NotConnected
from proxyrelay.errors import NotRegistered as NotRegistered
from proxyrelay.errors import NotUpgraded as NotUpgraded
from proxyrelay.errors import Rejected as Rejected
from proxyrelay.errors import RelayClientError as RelayClientError
from proxyrelay.switchboard.messages import PeerConnection as PeerConnection

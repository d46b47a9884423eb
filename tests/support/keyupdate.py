"""A TLS client that changes its keys as often as it likes (RFC 8446, section 4.6.3).

Python's ``ssl`` cannot do it, so OpenSSL's own library is called.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import socket
from unittest import SkipTest


class KeyUpdater:
    """Speaks TLS 1.3 on a connected socket of the caller's, and verifies nothing.

    Raises:
        SkipTest: There is no OpenSSL to be loaded.
    """

    def __init__(self, connection: socket.socket) -> None:
        name = ctypes.util.find_library("ssl")
        if name is None:
            raise SkipTest("there is no libssl")
        self._lib = ctypes.CDLL(name)
        for function in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
            getattr(self._lib, function).restype = ctypes.c_void_p
        connection.setblocking(True)
        method = ctypes.c_void_p(self._lib.TLS_client_method())
        self._context = ctypes.c_void_p(self._lib.SSL_CTX_new(method))
        self._ssl = ctypes.c_void_p(self._lib.SSL_new(self._context))
        self._lib.SSL_set_fd(self._ssl, connection.fileno())
        self._check(self._lib.SSL_connect(self._ssl))

    def _check(self, result: int) -> int:
        if result < 1:
            raise ConnectionError
        return result

    def send(self, data: bytes) -> None:
        self._check(self._lib.SSL_write(self._ssl, data, len(data)))

    def recv(self, size: int = 4096) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        length = self._check(self._lib.SSL_read(self._ssl, buffer, size))
        return buffer.raw[:length]

    def change_keys(self, times: int, *, both: bool = False) -> None:
        """Change the own keys, again and again, or those of both sides."""
        for _ in range(times):
            self._check(self._lib.SSL_key_update(self._ssl, int(both)))
            self._check(self._lib.SSL_do_handshake(self._ssl))

    def free(self) -> None:
        self._lib.SSL_free(self._ssl)
        self._lib.SSL_CTX_free(self._context)

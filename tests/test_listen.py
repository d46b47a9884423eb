"""The listening sockets: which are opened, and what stops them."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay import listen
from proxyrelay.errors import StartError


def without_ipv6() -> str | None:
    """Why the loopback interface cannot be bound over IPv6, if it cannot."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return f"this machine has no IPv6: {error}"
    return None


NO_IPV6 = without_ipv6()


class ListenTestCase(SynchronousTestCase):
    """Closes what it opens, and can count what is open."""

    def bind(self, host: str | None, port: int = 0) -> list[socket.socket]:
        sockets = listen.bind(host, port)
        for bound in sockets:
            self.addCleanup(bound.close)
        return sockets

    def need_ipv6(self) -> None:
        if NO_IPV6 is not None:
            self.skipTest(NO_IPV6)

    def refused(self, host: str | None, port: int = 0) -> str:
        with self.assertRaises(StartError) as caught:
            self.bind(host, port)
        return str(caught.exception)

    def resolve(self, *addresses: tuple[socket.AddressFamily, str]) -> None:
        """Let every name stand for some addresses."""

        def getaddrinfo(host: object, port: int, **_: Any) -> list[Any]:
            return [
                (
                    family,
                    socket.SOCK_STREAM,
                    6,
                    "",
                    (address, port)
                    if family == socket.AF_INET
                    else (address, port, 0, 0),
                )
                for family, address in addresses
            ]

        self.patch(socket, "getaddrinfo", getaddrinfo)

    def count_sockets(self) -> list[Any]:
        """Keep every socket that is made from now on."""
        made: list[Any] = []

        class Kept(socket.socket):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                made.append(self)

        self.patch(socket, "socket", Kept)
        return made


class BoundTests(ListenTestCase):
    """What is opened."""

    def test_one_address_is_one_socket(self) -> None:
        (bound,) = self.bind("127.0.0.1")
        self.assertEqual(bound.family, socket.AF_INET)
        self.assertEqual(bound.getsockname()[0], "127.0.0.1")
        self.assertNotEqual(bound.getsockname()[1], 0)

    def test_connections_are_accepted(self) -> None:
        (bound,) = self.bind("127.0.0.1")
        with socket.create_connection(bound.getsockname(), 20):
            pass

    def test_a_port_can_be_had_again_at_once(self) -> None:
        (bound,) = self.bind("127.0.0.1")
        address = bound.getsockname()
        with socket.create_connection(address, 20) as client:
            bound.setblocking(True)
            accepted, _ = bound.accept()
            # The side that closes first keeps the address for a while.
            accepted.close()
            self.assertEqual(client.recv(1), b"")
        bound.close()
        self.assertEqual(self.bind(*address)[0].getsockname(), address)

    def test_accepting_does_not_block(self) -> None:
        (bound,) = self.bind("127.0.0.1")
        with self.assertRaises(BlockingIOError):
            bound.accept()

    def test_ipv6(self) -> None:
        self.need_ipv6()
        (bound,) = self.bind("::1")
        self.assertEqual(bound.family, socket.AF_INET6)
        self.assertEqual(bound.getsockname()[0], "::1")

    def test_all_addresses_of_a_name_share_a_free_port(self) -> None:
        self.need_ipv6()
        self.resolve((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
        six, four = self.bind("localhost")
        self.assertEqual((six.family, four.family), (socket.AF_INET6, socket.AF_INET))
        self.assertEqual(six.getsockname()[1], four.getsockname()[1])
        self.assertNotEqual(six.getsockname()[1], 0)

    def test_an_address_that_a_name_has_twice_is_bound_once(self) -> None:
        self.resolve((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.1"))
        self.assertEqual(len(self.bind("localhost")), 1)

    def test_localhost_is_the_loopback_interface(self) -> None:
        sockets = self.bind("localhost")
        self.assertEqual(len({bound.getsockname()[1] for bound in sockets}), 1)
        for bound in sockets:
            self.assertIn(bound.getsockname()[0], ("127.0.0.1", "::1"))

    def test_no_host_means_all_interfaces(self) -> None:
        sockets = self.bind(None)
        addresses = {bound.getsockname()[0] for bound in sockets}
        ports = {bound.getsockname()[1] for bound in sockets}
        for bound in sockets:
            bound.close()
        self.assertEqual(addresses, {"0.0.0.0"} if NO_IPV6 else {"0.0.0.0", "::"})
        self.assertEqual(len(ports), 1)

    def test_addresses_of_a_kernel_without_ipv6_are_passed_over(self) -> None:
        class FourOnly(socket.socket):
            def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
                if family == socket.AF_INET6:
                    raise OSError(errno.EAFNOSUPPORT, "not supported")
                super().__init__(family, *args, **kwargs)

        self.resolve((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
        self.patch(socket, "socket", FourOnly)
        (bound,) = self.bind("localhost")
        self.assertEqual(bound.family, socket.AF_INET)

    def test_a_name_without_a_usable_address_is_refused(self) -> None:
        self.resolve()
        self.assertIn("localhost", self.refused("localhost"))


class RefusedTests(ListenTestCase):
    """What cannot be opened, said in one line."""

    def test_a_taken_port(self) -> None:
        (taken,) = self.bind("127.0.0.1")
        port = taken.getsockname()[1]
        self.assertEqual(
            self.refused("127.0.0.1", port),
            f"cannot listen on 127.0.0.1 port {port}: address already in use "
            "(another process listens there; stop it or set another port)",
        )

    def test_a_port_taken_on_all_interfaces(self) -> None:
        (taken,) = self.bind("127.0.0.1")
        port = taken.getsockname()[1]
        self.assertTrue(
            self.refused(None, port).startswith(f"cannot listen on port {port}: ")
        )

    def test_a_name_of_nobody(self) -> None:
        text = self.refused("nowhere.invalid")
        self.assertTrue(text.startswith("cannot listen on nowhere.invalid: "), text)
        self.assertIn("must be an address or a name of this machine", text)
        self.assertNotIn("\n", text)

    def test_a_name_that_is_none(self) -> None:
        for host in ("", "a..b", "a" * 70, "relay.example:8700", "wss://localhost"):
            self.assertIn("must be an address or a name", self.refused(host), host)

    def test_an_address_of_another_machine(self) -> None:
        text = self.refused("192.0.2.1", 4711)
        self.assertEqual(
            text,
            "cannot listen on 192.0.2.1 port 4711: cannot assign requested address "
            "(host must be an address of this machine)",
        )

    def test_leaves_no_socket_open(self) -> None:
        (taken,) = self.bind("127.0.0.1")
        port = taken.getsockname()[1]
        made = self.count_sockets()
        self.resolve((socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1"))
        self.refused("localhost", port)
        self.assertGreater(len(made), 1)
        self.assertEqual({bound.fileno() for bound in made}, {-1})

    def test_leaves_no_socket_open_if_interrupted(self) -> None:
        made = self.count_sockets()

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        self.patch(socket.socket, "listen", interrupted)
        with self.assertRaises(KeyboardInterrupt):
            listen.bind("127.0.0.1", 0)
        self.assertEqual({bound.fileno() for bound in made}, {-1})


class ExplanationTests(SynchronousTestCase):
    """What a failure means to an operator."""

    def explain(self, number: int, host: str | None = "127.0.0.1") -> str:
        return listen._explain(host, 80, OSError(number, "odd"))

    def test_a_privileged_port(self) -> None:
        self.assertEqual(
            self.explain(errno.EACCES),
            "cannot listen on 127.0.0.1 port 80: permission denied (ports below 1024 "
            "are privileged; set a higher one, or give the service "
            "CAP_NET_BIND_SERVICE)",
        )

    def test_all_interfaces(self) -> None:
        self.assertTrue(
            self.explain(errno.EADDRINUSE, None).startswith(
                "cannot listen on port 80: "
            )
        )

    def test_anything_else_is_named(self) -> None:
        self.assertEqual(
            self.explain(errno.EMFILE),
            f"cannot listen on 127.0.0.1 port 80: {os.strerror(errno.EMFILE).lower()}",
        )

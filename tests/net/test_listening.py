"""The listening sockets: bound, taken over, refused, and retired."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.errors import StartError
from proxyrelay.net import listening

reactor: Any = _reactor


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
    """Closes its sockets, and can count them."""

    def bind(self, host: str | None, port: int = 0) -> list[socket.socket]:
        sockets = listening.bind(host, port)
        for bound in sockets:
            self.addCleanup(bound.close)
        return sockets

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
    """Bound sockets."""

    def test_bind_of_one_address_opens_one_socket(self) -> None:
        self.resolve((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.1"))
        (bound,) = self.bind("localhost")
        self.assertEqual(bound.family, socket.AF_INET)
        self.assertEqual(bound.getsockname()[0], "127.0.0.1")
        self.assertNotEqual(bound.getsockname()[1], 0)
        with self.assertRaises(BlockingIOError):
            bound.accept()

    def test_bind_after_a_close_succeeds_at_once(self) -> None:
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

    def test_bind_of_a_name_shares_a_free_port(self) -> None:
        if NO_IPV6 is not None:
            self.skipTest(NO_IPV6)
        self.resolve((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
        six, four = self.bind("localhost")
        self.assertEqual((six.family, four.family), (socket.AF_INET6, socket.AF_INET))
        self.assertEqual(six.getsockname()[1], four.getsockname()[1])
        self.assertNotEqual(six.getsockname()[1], 0)

    def test_bind_without_a_host_opens_all_interfaces(self) -> None:
        sockets = self.bind(None)
        addresses = {bound.getsockname()[0] for bound in sockets}
        ports = {bound.getsockname()[1] for bound in sockets}
        for bound in sockets:
            bound.close()
        self.assertEqual(addresses, {"0.0.0.0"} if NO_IPV6 else {"0.0.0.0", "::"})
        self.assertEqual(len(ports), 1)

    def test_bind_without_ipv6_skips_its_addresses(self) -> None:
        class FourOnly(socket.socket):
            def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
                if family == socket.AF_INET6:
                    raise OSError(errno.EAFNOSUPPORT, "not supported")
                super().__init__(family, *args, **kwargs)

        self.resolve((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
        self.patch(socket, "socket", FourOnly)
        (bound,) = self.bind("localhost")
        self.assertEqual(bound.family, socket.AF_INET)

    def test_bind_skips_an_absent_address_of_a_name(self) -> None:
        for absent in (
            (socket.AF_INET, "192.0.2.1"),
            (socket.AF_INET6, "2001:db8::1"),
        ):
            for addresses in (
                (absent, (socket.AF_INET, "127.0.0.1")),
                ((socket.AF_INET, "127.0.0.1"), absent),
            ):
                with capturedLogs() as logged:
                    self.resolve(*addresses)
                    (bound,) = self.bind("localhost")
                self.assertEqual(bound.getsockname()[0], "127.0.0.1")
                if NO_IPV6 is None or absent[0] == socket.AF_INET:
                    (event,) = logged
                    self.assertEqual(event["event"], "address_skipped")
                    self.assertIn(absent[1], formatEvent(event))

    def test_bind_refused_in_part_leaves_no_socket_open(self) -> None:
        (taken,) = self.bind("127.0.0.1")
        port = taken.getsockname()[1]
        made = self.count_sockets()
        for addresses in (("192.0.2.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.1")):
            self.resolve(*((socket.AF_INET, address) for address in addresses))
            self.assertIn("already in use", self.refused("localhost", port))
        self.assertEqual({bound.fileno() for bound in made}, {-1})


class SharedTests(ListenTestCase):
    """Sockets of several processes."""

    def keep(self, sockets: list[socket.socket]) -> socket.socket:
        (bound,) = sockets
        self.addCleanup(bound.close)
        return bound

    def test_bind_with_reuse_shares_a_port(self) -> None:
        one = self.keep(listening.bind("127.0.0.1", 0, reuse=True))
        port = one.getsockname()[1]
        self.keep(listening.bind("127.0.0.1", port, reuse=True))
        self.assertIn("address already in use", self.refused("127.0.0.1", port))

    def test_inherited_socket_is_prepared_as_a_bound_one(self) -> None:
        given = socket.create_server(("127.0.0.1", 0))
        address = given.getsockname()
        taken = self.keep(listening.inherited([given.detach()]))
        (bound,) = self.bind("127.0.0.1")
        self.assertEqual(taken.getsockname(), address)
        self.assertFalse(taken.getblocking())
        self.assertFalse(taken.get_inheritable())
        for level, option in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY),
            (socket.SOL_SOCKET, socket.SO_SNDBUF),
        ):
            self.assertEqual(
                taken.getsockopt(level, option), bound.getsockopt(level, option)
            )

    def test_handed_over_sockets_are_those_of_this_process(self) -> None:
        given, pid = Path(self.mktemp()), os.getpid()
        self.assertEqual(listening.handed_over(given), {})
        two = f"LISTEN_FDS=2\0LISTEN_PID={pid}\0"
        for text, descriptors in (
            (f"A=1\0{two}B=x=y\0", {3: "", 4: ""}),
            (f"LISTEN_FDS=0\0LISTEN_PID={pid}\0", {}),
            (f"LISTEN_FDS=x\0LISTEN_PID={pid}\0", {}),
            (f"LISTEN_PID={pid}\0", {}),
            ("LISTEN_FDS=2\0LISTEN_PID=1\0", {}),
            ("LISTEN_FDS=2\0", {}),
            ("", {}),
            (
                f"LISTEN_FDNAMES=relay.socket:admin\0{two}",
                {3: "relay.socket", 4: "admin"},
            ),
            (f"LISTEN_FDNAMES=:admin\0{two}", {3: "", 4: "admin"}),
            (f"LISTEN_FDNAMES=admin\0{two}", {3: "admin", 4: ""}),
            (f"LISTEN_FDNAMES=a:b:c\0{two}", {3: "a", 4: "b"}),
        ):
            given.write_text(text)
            self.assertEqual(listening.handed_over(given), descriptors)
        self.assertEqual(listening.handed_over(), {})

    def test_inherited_other_descriptor_is_refused(self) -> None:
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        made = self.count_sockets()
        no_listener = "no listening TCP socket"
        for other, why in (
            (socket.socket(socket.AF_INET).detach(), no_listener),
            (socket.socket(type=socket.SOCK_DGRAM).detach(), no_listener),
            (socket.socket(socket.AF_UNIX).detach(), no_listener),
            (reading, "socket operation on non-socket"),
        ):
            listener = socket.create_server(("127.0.0.1", 0)).detach()
            with self.assertRaises(StartError) as caught:
                listening.inherited([listener, other])
            self.assertEqual(
                str(caught.exception),
                f"cannot listen on descriptor {other} of LISTEN_FDS: {why}",
            )
        self.assertEqual({taken.fileno() for taken in made}, {-1})


class RetiredTests(ListenTestCase):
    """A port that stops accepting."""

    def setUp(self) -> None:
        self.accepted: list[Protocol] = []
        case = self

        class Accepted(Protocol):
            def connectionMade(self) -> None:
                case.accepted.append(self)

        factory = Factory.forProtocol(Accepted)
        (self.bound,) = self.bind("127.0.0.1")
        self.port = reactor.adoptStreamPort(
            self.bound.fileno(), self.bound.family, factory
        )
        self.addCleanup(self.end)
        self.clients = [
            socket.create_connection(self.bound.getsockname()) for _ in range(9)
        ]
        for client in self.clients:
            self.addCleanup(client.close)

    def end(self) -> None:
        for protocol in self.accepted:
            transport: Any = protocol.transport
            transport.stopReading()
            transport.connectionLost(Failure(ConnectionDone()))

    def test_retire_accepts_the_waiting_connections(self) -> None:
        self.bound.close()
        address = self.clients[0].getpeername()
        listening.retire(self.port, shared=False)
        self.assertEqual(len(self.accepted), len(self.clients))
        self.assertFalse(self.port.connected)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(address)

    def test_retire_of_a_shared_socket_leaves_them_to_others(self) -> None:
        listening.retire(self.port, shared=True)
        self.assertEqual(self.accepted, [])
        for _ in self.clients:
            self.bound.accept()[0].close()


class RefusedTests(ListenTestCase):
    """Errors, in one line."""

    def test_bind_refused_names_the_reason(self) -> None:
        (taken,) = self.bind("127.0.0.1")
        port = taken.getsockname()[1]
        self.assertEqual(
            self.refused("127.0.0.1", port),
            f"cannot listen on 127.0.0.1 port {port}: address already in use "
            "(another process listens there: set another port)",
        )
        self.assertIn(f"cannot listen on port {port}: ", self.refused(None, port))
        self.assertEqual(
            self.refused("192.0.2.1", 4711),
            "cannot listen on 192.0.2.1 port 4711: cannot assign requested address "
            "(host must be an address of this machine)",
        )
        for host in ("", "a..b", "a" * 70, "nowhere.invalid", "wss://localhost"):
            text = self.refused(host)
            self.assertTrue(text.startswith(f"cannot listen on {host}: "), text)
            self.assertIn("must be an address or a name of this machine", text)
            self.assertNotIn("\n", text)
        self.resolve((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
        self.assertIn("cannot assign requested address", self.refused("localhost"))

    def test_bind_interrupted_leaves_no_socket_open(self) -> None:
        made = self.count_sockets()

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        self.patch(socket.socket, "listen", interrupted)
        with self.assertRaises(KeyboardInterrupt):
            listening.bind("127.0.0.1", 0)
        self.assertEqual({bound.fileno() for bound in made}, {-1})


class FreeTests(ListenTestCase):
    """Whether a process listens."""

    def test_port_is_free_unless_a_process_listens(self) -> None:
        (taken,) = listening.bind("127.0.0.1", 0, reuse=True)
        port = taken.getsockname()[1]
        self.assertFalse(listening.is_free("127.0.0.1", port))
        taken.close()
        self.resolve((socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1"))
        with capturedLogs() as logged:
            for _ in range(2):
                self.assertTrue(listening.is_free("localhost", port))
        self.assertEqual(logged, [])
        self.resolve((socket.AF_INET, "192.0.2.1"))
        self.assertFalse(listening.is_free("localhost", 1))


class ExplanationTests(SynchronousTestCase):
    """Errors in the operator's words."""

    def test_explanation_names_the_errno(self) -> None:
        for number, why in (
            (
                errno.EACCES,
                "permission denied (ports below 1024 are privileged; set a higher one, "
                "or give the service CAP_NET_BIND_SERVICE)",
            ),
            (errno.EMFILE, os.strerror(errno.EMFILE).lower()),
        ):
            self.assertEqual(
                listening._explain("::1", 80, OSError(number, "odd"), reuse=False),
                f"cannot listen on ::1 port 80: {why}",
            )

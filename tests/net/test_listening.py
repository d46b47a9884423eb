"""The listening sockets: which are opened, and what stops them."""

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
    """Closes what it opens, and can count what is open."""

    def bind(self, host: str | None, port: int = 0) -> list[socket.socket]:
        sockets = listening.bind(host, port)
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

    def test_an_address_of_a_name_that_this_machine_lacks_is_skipped(self) -> None:
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

    def test_nothing_is_logged_of_a_trial(self) -> None:
        self.resolve((socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1"))
        with capturedLogs() as logged:
            for bound in listening.bind("localhost", 0, accepting=False):
                bound.close()
        self.assertEqual(logged, [])

    def test_a_name_of_which_no_address_is_here_is_refused(self) -> None:
        self.resolve((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
        self.assertIn("cannot assign requested address", self.refused("localhost"))

    def test_a_taken_port_of_a_name_is_refused_beside_an_absent_address(self) -> None:
        (taken,) = self.bind("127.0.0.1")
        port = taken.getsockname()[1]
        made = self.count_sockets()
        for addresses in (("192.0.2.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.1")):
            self.resolve(*((socket.AF_INET, address) for address in addresses))
            self.assertIn("already in use", self.refused("localhost", port))
        self.assertEqual({bound.fileno() for bound in made}, {-1})

    def test_a_name_without_a_usable_address_is_refused(self) -> None:
        self.resolve()
        self.assertIn("localhost", self.refused("localhost"))


class SharedTests(ListenTestCase):
    """Sockets that are not for one process alone."""

    def keep(self, sockets: list[socket.socket]) -> socket.socket:
        (bound,) = sockets
        self.addCleanup(bound.close)
        return bound

    def test_two_may_listen_on_a_port_if_both_want_to(self) -> None:
        one = self.keep(listening.bind("127.0.0.1", 0, reuse=True))
        port = one.getsockname()[1]
        self.keep(listening.bind("127.0.0.1", port, reuse=True))
        self.assertIn("address already in use", self.refused("127.0.0.1", port))

    def test_a_port_is_tried_without_listening(self) -> None:
        one = self.keep(listening.bind("127.0.0.1", 0, accepting=False))
        self.assertEqual(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 0)

    def test_one_that_is_handed_over_is_as_if_it_had_been_bound(self) -> None:
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

    def test_those_of_this_very_process_are_handed_over(self) -> None:
        given, pid = Path(self.mktemp()), os.getpid()
        self.assertEqual(listening.handed_over(given), {})
        for text, descriptors in (
            (f"A=1\0LISTEN_FDS=2\0LISTEN_PID={pid}\0B=x=y\0", {3: "", 4: ""}),
            (f"LISTEN_FDS=0\0LISTEN_PID={pid}\0", {}),
            (f"LISTEN_FDS=x\0LISTEN_PID={pid}\0", {}),
            (f"LISTEN_PID={pid}\0", {}),
            ("LISTEN_FDS=2\0LISTEN_PID=1\0", {}),
            ("LISTEN_FDS=2\0", {}),
            ("", {}),
        ):
            given.write_text(text)
            self.assertEqual(listening.handed_over(given), descriptors)
        self.assertEqual(listening.handed_over(), {})

    def test_those_that_are_handed_over_have_names(self) -> None:
        given = Path(self.mktemp())
        for names, descriptors in (
            ("relay.socket:admin", {3: "relay.socket", 4: "admin"}),
            (":admin", {3: "", 4: "admin"}),
            ("admin", {3: "admin", 4: ""}),
            ("a:b:c", {3: "a", 4: "b"}),
        ):
            given.write_text(
                f"LISTEN_FDNAMES={names}\0LISTEN_FDS=2\0LISTEN_PID={os.getpid()}\0"
            )
            self.assertEqual(listening.handed_over(given), descriptors)

    def test_what_is_no_listening_socket_is_refused(self) -> None:
        made = self.count_sockets()
        for family, kind in (
            (socket.AF_INET, socket.SOCK_STREAM),
            (socket.AF_INET, socket.SOCK_DGRAM),
            (socket.AF_UNIX, socket.SOCK_STREAM),
        ):
            listener = socket.create_server(("127.0.0.1", 0)).detach()
            other = socket.socket(family, kind).detach()
            with self.assertRaises(StartError) as caught:
                listening.inherited([listener, other])
            self.assertEqual(
                str(caught.exception),
                f"cannot listen on descriptor {other} of LISTEN_FDS: no listening TCP "
                "socket",
            )
        self.assertEqual({taken.fileno() for taken in made}, {-1})

    def test_what_is_no_socket_is_refused(self) -> None:
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        self.addCleanup(os.close, reading)
        with self.assertRaises(StartError) as caught:
            listening.inherited([reading])
        self.assertIn("socket operation on non-socket", str(caught.exception))


class RetiredTests(ListenTestCase):
    """A socket from which nobody is accepted any more."""

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

    def test_lets_in_who_waits(self) -> None:
        self.bound.close()
        address = self.clients[0].getpeername()
        listening.retire(self.port, shared=False)
        self.assertEqual(len(self.accepted), len(self.clients))
        self.assertFalse(self.port.connected)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(address)

    def test_leaves_who_waits_to_others(self) -> None:
        listening.retire(self.port, shared=True)
        self.assertEqual(self.accepted, [])
        for _ in self.clients:
            self.bound.accept()[0].close()


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
            listening.bind("127.0.0.1", 0)
        self.assertEqual({bound.fileno() for bound in made}, {-1})


class FreeTests(SynchronousTestCase):
    """Whether somebody listens."""

    def test_is_free_until_somebody_does_and_then_again(self) -> None:
        (taken,) = listening.bind("127.0.0.1", 0, reuse=True)
        port = taken.getsockname()[1]
        self.assertFalse(listening.is_free("127.0.0.1", port))
        taken.close()
        for _ in range(2):
            self.assertTrue(listening.is_free("127.0.0.1", port))

    def test_an_address_of_nobody_is_not_said_to_be_free(self) -> None:
        self.assertFalse(listening.is_free("192.0.2.1", 1))


class ExplanationTests(SynchronousTestCase):
    """What a failure means to an operator."""

    def explain(self, number: int, host: str | None = "127.0.0.1") -> str:
        return listening._explain(host, 80, OSError(number, "odd"), reuse=False)

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

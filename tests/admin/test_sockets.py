"""The sockets that the private listener listens on."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin import sockets
from proxyrelay.errors import StartError, Taken


class SocketTestCase(SynchronousTestCase):
    """Has a short path: that of a socket may have no more than 107 bytes."""

    def setUp(self) -> None:
        # From the folder of the tests, whose own path may be long.
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        self.path = folder / "s"

    def listen(self, shared: bool = False) -> socket.socket:
        (bound,) = sockets.listen(self.path, shared)
        self.addCleanup(bound.close)
        return bound

    def refused(self) -> str:
        with self.assertRaises(StartError) as caught:
            self.listen()
        self.assertEqual(caught.exception.setting, "admin.listen")
        return str(caught.exception)

    def call(self) -> None:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(self.path))


class FileTests(SocketTestCase):
    """A socket in the file system."""

    def test_file_is_for_the_user_and_group(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.listen()
        mode = self.path.stat().st_mode
        self.assertTrue(stat.S_ISSOCK(mode))
        self.assertEqual(stat.S_IMODE(mode), 0o660)
        self.assertEqual(os.umask(0), 0)

    def test_file_that_is_left_behind_is_replaced(self) -> None:
        self.listen().close()
        self.listen()
        self.call()

    def test_file_of_a_listener_is_refused(self) -> None:
        self.listen()
        self.assertIn("another process listens there", self.refused())

    def test_file_that_is_shared_is_taken_over(self) -> None:
        first, second = self.listen(), self.listen(shared=True)
        self.call()
        second.accept()[0].close()
        with self.assertRaises(BlockingIOError):
            first.accept()

    def test_file_while_taken_over_always_exists(self) -> None:
        self.listen()
        seen = []

        def rename(passing: Path, path: Path) -> None:
            seen.append(sockets.identity(path))
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(passing))
            passing.replace(path)

        before = sockets.identity(self.path)
        self.patch(Path, "rename", rename)
        self.listen(shared=True)
        self.assertEqual(seen, [before])
        self.assertEqual(list(self.path.parent.iterdir()), [self.path])

    def test_file_after_failure_leaves_nothing(self) -> None:
        def rename(passing: Path, path: Path) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        self.patch(Path, "rename", rename)
        self.assertIn("operation not permitted", self.refused())
        self.assertEqual(list(self.path.parent.iterdir()), [])

    def test_file_that_is_no_socket_is_kept(self) -> None:
        self.path.write_text("precious")
        self.assertIn("something is there that is no socket", self.refused())
        self.assertEqual(self.path.read_text(), "precious")
        self.path.rename(self.path.with_name("t"))
        self.path.symlink_to("t")
        self.assertIn("no socket", self.refused())

    def test_file_without_folder_is_refused(self) -> None:
        self.path = self.path.parent / "none" / "s"
        self.assertIn("no such file or directory", self.refused())

    def test_identity_of_another_file_differs(self) -> None:
        self.assertIsNone(sockets.identity(self.path))
        self.listen()
        before = sockets.identity(self.path)
        self.assertEqual(before, sockets.identity(self.path))
        # The inode of a file that is gone may be given away again.
        self.path.rename(self.path.with_name("kept"))
        self.listen()
        self.assertNotEqual(before, sockets.identity(self.path))


class ProbeTests(SocketTestCase):
    """A place that is only tried."""

    def test_probe_of_free_place_changes_nothing(self) -> None:
        sockets.probe(self.path, False)
        self.assertFalse(self.path.exists())
        self.listen()
        sockets.probe(self.path, True)
        # systemd makes this folder later.
        sockets.probe(Path("/run/proxyrelay-that-systemd-makes/s"), False)
        sockets.probe(("127.0.0.1", 0), False)

    def test_probe_of_impossible_place_fails(self) -> None:
        self.listen()
        with self.assertRaises(Taken):
            sockets.probe(self.path, False)
        self.path.unlink()
        self.path.touch()
        for path, why in (
            (self.path / "s", "not a directory"),
            (self.path, "something is there that is no socket"),
            (self.path.with_name("missing") / "s", "no such file or directory"),
        ):
            with self.assertRaises(StartError) as caught:
                sockets.probe(path, False)
            self.assertIn(why, str(caught.exception))

    def test_probe_of_folder_that_cannot_be_written_fails(self) -> None:
        # Root may write everywhere.
        self.patch(os, "access", lambda *_: False)
        with self.assertRaises(StartError) as caught:
            sockets.probe(self.path, False)
        self.assertIn("cannot be written", str(caught.exception))


class PortTests(SynchronousTestCase):
    """A port."""

    def listen(self, place: tuple[str, int], shared: bool) -> tuple[str, int]:
        (bound,) = sockets.listen(place, shared)
        self.addCleanup(bound.close)
        host, port = bound.getsockname()
        return host, port

    def test_port_that_is_taken_is_refused(self) -> None:
        place = self.listen(("127.0.0.1", 0), False)
        with self.assertRaises(StartError) as caught:
            sockets.listen(place, False)
        self.assertIn("another process listens there", str(caught.exception))
        self.assertEqual(caught.exception.setting, "admin.listen")

    def test_port_that_is_shared_is_taken_over(self) -> None:
        place = self.listen(("127.0.0.1", 0), True)
        self.assertEqual(self.listen(place, True), place)


class AdoptTests(SocketTestCase):
    """A socket that the process was started with."""

    def given(self, bound: socket.socket) -> int:
        """A descriptor of a socket, for the listener alone."""
        self.addCleanup(bound.close)
        return bound.dup().detach()

    def check_refused(self, bound: socket.socket, place: sockets.Place) -> str:
        number = self.given(bound)
        with self.assertRaises(StartError) as caught:
            sockets.adopt([number], place)
        self.assertEqual(caught.exception.setting, "admin.listen")
        with self.assertRaises(OSError):
            os.fstat(number)
        return str(caught.exception)

    def test_socket_that_listens_is_adopted(self) -> None:
        file = socket.socket(socket.AF_UNIX)
        file.bind(str(self.path))
        file.listen()
        port = socket.create_server(("127.0.0.1", 0))
        for bound, place in ((file, self.path), (port, port.getsockname())):
            (taken,) = sockets.adopt([self.given(bound)], place)
            self.addCleanup(taken.close)
            self.assertEqual(taken.getsockname(), bound.getsockname())
            self.assertFalse(taken.getblocking())
            self.assertFalse(taken.get_inheritable())

    def test_socket_at_another_place_is_refused(self) -> None:
        """The need for a token depends on the place."""
        everywhere = socket.create_server(("0.0.0.0", 0))
        here = socket.create_server(("127.0.0.1", 0))
        port = here.getsockname()[1]
        for bound, place in (
            (everywhere, ("127.0.0.1", everywhere.getsockname()[1])),
            (here, ("127.0.0.1", port ^ 1)),
            (here, self.path),
            (self.listen(), Path("another")),
            (self.listen(True), ("127.0.0.1", port)),
        ):
            self.assertIn("elsewhere", self.check_refused(bound, place))

    def test_socket_that_does_not_listen_is_refused(self) -> None:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            bound = socket.socket(socket.AF_INET, kind)
            bound.bind(("127.0.0.1", 0))
            why = self.check_refused(bound, bound.getsockname())
            self.assertIn("no listening", why)

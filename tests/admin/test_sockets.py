"""The sockets that the private listener listens on."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.admin import sockets
from proxyrelay.errors import StartError


class SocketTestCase(SynchronousTestCase):
    """Has a short path: that of a socket may have no more than 107 bytes."""

    def setUp(self) -> None:
        # From the folder of the tests, whose own path may be long.
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        self.path = folder / "s"

    def bind(self, shared: bool = False) -> socket.socket:
        (bound,) = sockets.listen(self.path, shared)
        self.addCleanup(bound.close)
        return bound

    def refused(self) -> str:
        with self.assertRaises(StartError) as caught:
            self.bind()
        self.assertEqual(caught.exception.setting, "admin.listen")
        return str(caught.exception)


class FileTests(SocketTestCase):
    """A socket in the file system."""

    def test_is_for_the_user_and_group(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.bind()
        mode = self.path.stat().st_mode
        self.assertTrue(stat.S_ISSOCK(mode))
        self.assertEqual(stat.S_IMODE(mode), 0o660)
        self.assertEqual(os.umask(0), 0)

    def test_takes_the_place_of_what_is_left_behind(self) -> None:
        self.bind().close()
        before = sockets.identity(self.path)
        self.assertIsNotNone(before)
        self.bind()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(self.path))

    def test_not_of_one_who_listens(self) -> None:
        self.bind()
        self.assertIn("another process listens there", self.refused())

    def test_unless_that_is_to_be_taken_over_from(self) -> None:
        first = self.bind()
        second = self.bind(shared=True)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(self.path))
            second.accept()[0].close()
            with self.assertRaises(BlockingIOError):
                first.accept()

    def test_there_is_one_at_any_time(self) -> None:
        first = self.bind()
        seen = []

        def rename(passing: Path, path: Path) -> None:
            seen.append(sockets.identity(path))
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(passing))
            passing.replace(path)

        before = sockets.identity(self.path)
        self.patch(Path, "rename", rename)
        self.bind(shared=True)
        self.assertEqual(seen, [before])
        self.assertEqual(list(self.path.parent.iterdir()), [self.path])
        first.close()

    def test_leaves_nothing_behind_that_failed(self) -> None:
        def rename(passing: Path, path: Path) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        self.patch(Path, "rename", rename)
        self.assertIn("operation not permitted", self.refused())
        self.assertEqual(list(self.path.parent.iterdir()), [])

    def test_not_of_something_else(self) -> None:
        self.path.write_text("precious")
        self.assertIn("something is there that is no socket", self.refused())
        self.assertEqual(self.path.read_text(), "precious")

    def test_not_of_a_link(self) -> None:
        target = self.path.with_name("t")
        target.write_text("precious")
        self.path.symlink_to(target.name)
        self.assertIn("no socket", self.refused())

    def test_needs_its_folder(self) -> None:
        self.path = self.path.parent / "none" / "s"
        self.assertIn("no such file or directory", self.refused())

    def test_place_that_is_only_tried_is_left_as_it_is(self) -> None:
        sockets.probe(self.path, False)
        self.assertFalse(self.path.exists())
        self.bind()
        sockets.probe(self.path, False)
        made_later = Path("/run/proxyrelay-that-systemd-makes/s")
        sockets.probe(made_later, False)

    def test_place_that_cannot_be_had_is_refused_when_it_is_tried(self) -> None:
        self.path.touch()
        for path, why in (
            (self.path, "something is there that is no socket"),
            (self.path.with_name("missing") / "s", "no such file or directory"),
        ):
            with self.assertRaises(StartError) as caught:
                sockets.probe(path, False)
            self.assertIn(why, str(caught.exception))


class PortTests(SynchronousTestCase):
    """A port."""

    def test_one_that_is_taken(self) -> None:
        (bound,) = sockets.listen(("127.0.0.1", 0), False)
        self.addCleanup(bound.close)
        with self.assertRaises(StartError) as caught:
            sockets.listen(bound.getsockname(), False)
        self.assertIn("another process listens there", str(caught.exception))
        self.assertEqual(caught.exception.setting, "admin.listen")

    def test_one_that_is_taken_over(self) -> None:
        (first,) = sockets.listen(("127.0.0.1", 0), True)
        self.addCleanup(first.close)
        (second,) = sockets.listen(first.getsockname(), True)
        self.addCleanup(second.close)
        self.assertEqual(first.getsockname(), second.getsockname())


class AdoptedTests(SocketTestCase):
    """A socket that the process was started with."""

    def given(self, bound: socket.socket) -> int:
        """A descriptor of a socket, for the listener alone."""
        self.addCleanup(bound.close)
        return bound.dup().detach()

    def wrong(self, bound: socket.socket, place: tuple[str, int] | Path) -> str:
        """Why it is not taken; it is closed then."""
        number = self.given(bound)
        with self.assertRaises(StartError) as caught:
            sockets.adopt([number], place)
        self.assertEqual(caught.exception.setting, "admin.listen")
        with self.assertRaises(OSError):
            os.fstat(number)
        return str(caught.exception)

    def test_is_taken_as_it_is(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
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

    def test_must_be_where_the_settings_say(self) -> None:
        """Who may come in there without a token depends on that."""
        everywhere = socket.create_server(("0.0.0.0", 0))
        port = everywhere.getsockname()[1]
        self.assertIn("elsewhere", self.wrong(everywhere, ("127.0.0.1", port)))
        here = socket.create_server(("127.0.0.1", 0))
        port = here.getsockname()[1]
        self.assertIn("elsewhere", self.wrong(here, ("127.0.0.1", port ^ 1)))
        self.assertIn("elsewhere", self.wrong(here, self.path))
        self.assertIn("elsewhere", self.wrong(self.bind(), Path("another")))
        self.assertIn("elsewhere", self.wrong(self.bind(True), ("127.0.0.1", port)))

    def test_must_listen(self) -> None:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            bound = socket.socket(socket.AF_INET, kind)
            bound.bind(("127.0.0.1", 0))
            self.assertIn("no listening", self.wrong(bound, bound.getsockname()))


class IdentityTests(SocketTestCase):
    """Whether a file is still the same."""

    def test_none_without_one(self) -> None:
        self.assertIsNone(sockets.identity(self.path))

    def test_another_one_in_its_place(self) -> None:
        first = self.bind()
        before = sockets.identity(self.path)
        self.assertEqual(before, sockets.identity(self.path))
        # The inode of a file that is gone may be given away again.
        kept = self.path.with_name("kept")
        self.path.rename(kept)
        self.bind()
        self.assertNotEqual(before, sockets.identity(self.path))
        first.close()

    def test_an_address_of_a_name_that_this_machine_lacks_is_skipped(self) -> None:
        def getaddrinfo(*_: object, **__: object) -> list[object]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
                for address in ("192.0.2.1", "127.0.0.1")
            ]

        self.patch(socket, "getaddrinfo", getaddrinfo)
        (bound,) = sockets.listen(("localhost", 0), False)
        self.addCleanup(bound.close)
        self.assertEqual(bound.getsockname()[0], "127.0.0.1")

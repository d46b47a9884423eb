"""The next process goes on."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Config, Offers
from proxyrelay.config import Survive as Settings
from proxyrelay.net.descriptor_store import PROBE_NAME
from proxyrelay.survive import memory
from proxyrelay.survive.handed import LISTENER, Handed
from proxyrelay.survive.survival import MAX_FAILURES, open_survival
from tests.support.capture import Capture
from tests.support.frames import PING, TEXT, frame
from tests.support.recording import A, B, C, answer, offer
from tests.support.supervisor import Supervisor
from tests.survive.case import SurviveTestCase
from tests.survive.lives import Reactor, server_frames


class ResumeTestCase(SurviveTestCase):
    """Has clients that read."""

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Two registered clients."""
        self.start()
        found = []
        for uuid in (A, B):
            protocol, client = self.connect()
            client.settimeout(5)
            self.register(protocol, uuid)
            found.append(client)
        return found[0], found[1]

    def peer(self, uuid: str) -> Any:
        assert self.process is not None
        return self.process.relay.registry.get(uuid)

    def says(self, uuid: str, text: bytes) -> None:
        self.peer(uuid).dataReceived(frame(TEXT, text))

    def heard(self, client: socket.socket, count: int) -> list[str]:
        """All frames of a client once there are so many, but for pings."""
        data = b""
        while True:
            _, _, rest = data.partition(b"\r\n\r\n")
            found = server_frames(rest)
            if len(found) >= count:
                return found
            piece = client.recv(65536)
            self.assertNotEqual(piece, b"", found)
            data += piece


class ResumeTests(ResumeTestCase):
    """After a crash, and after an orderly end."""

    def test_clients_go_on_after_crash_and_end(self) -> None:
        one, other = self.pair()
        for end in (self.crash, self.end, self.end, self.crash):
            end()
            process = self.start()
            self.assertEqual(process.survival.outcome.back, 2)
            self.assertEqual(process.survival.outcome.lost, 0)
            self.assertEqual(process.survival.outcome.was_orderly, end == self.end)
            self.assertEqual(self.supervisor.names, ["0", "1", memory.NAME])
            self.says(A, offer(A, B))
            self.says(B, answer(B, A))
        self.assertEqual(self.heard(one, 5), ["accepted", *[f"answer {B} {A}"] * 4])
        self.assertEqual(self.heard(other, 5), ["accepted", *[f"offer {A} {B}"] * 4])

    def test_store_that_is_full_gives_back_what_it_has(self) -> None:
        self.supervisor.capacity = 2  # the memory file, and one connection
        self.pair()
        self.crash()
        outcome = self.start().survival.outcome
        self.assertEqual((outcome.back, outcome.lost), (1, 1))

    def test_state_that_ended_three_processes_is_given_up(self) -> None:
        self.pair()
        assert self.process is not None
        self.process.survival._memory.failures = MAX_FAILURES - 1
        self.crash()
        process = self.start()
        self.assertEqual(process.survival.outcome.back, 2)
        self.assertEqual(process.survival._memory.failures, 0)
        process.survival._memory.failures = MAX_FAILURES
        self.crash()
        process = self.start()
        self.assertEqual(process.survival.outcome.back, 0)
        self.assertEqual(self.supervisor.names, [memory.NAME])
        self.assertIn("3 processes in a row", "".join(self.captured.lines()))
        self.assertEqual(process.survival._memory.failures, 0)

    def test_offer_answered_after_the_crash_is_answered(self) -> None:
        one, _ = self.pair()
        self.says(A, offer(A, B))
        self.assertEqual(self.start().survival.outcome.offers, 1)
        self.says(B, answer(B, A))
        self.says(B, answer(B, A))
        self.says(A, offer(A, A))
        self.assertEqual(
            self.heard(one, 3),
            ["accepted", f"answer {B} {A}", f"error offer {A} {A}"],
        )

    def test_offer_to_a_client_that_was_lost_comes_back_once(self) -> None:
        one, _ = self.pair()
        self.says(A, offer(A, B))
        lost = [pair for pair in self.supervisor.pairs if pair[0] == "1"]
        self.supervisor.pairs.remove(lost[0])
        os.close(lost[0][1])
        process = self.start()
        self.assertEqual(process.survival.outcome.lost, 1)
        self.assertEqual(self.start().survival.outcome.lost, 0)
        self.says(A, offer(A, A))
        self.assertEqual(
            self.heard(one, 3),
            ["accepted", f"error offer {A} {B}", f"error offer {A} {A}"],
        )

    def test_waiting_offer_keeps_its_text_over_an_end_alone(self) -> None:
        one, _ = self.pair()
        self.peer(B).close(1000, "")
        self.says(A, offer(A, B))
        self.end()
        process = self.start()
        (waiting,) = process.relay.undelivered.table.waiting()
        self.assertEqual(waiting.text, offer(A, B))
        self.start()
        self.says(A, offer(A, A))
        self.assertEqual(
            self.heard(one, 3),
            ["accepted", f"error offer {A} {B}", f"error offer {A} {A}"],
        )

    def test_no_slot_of_an_offer_is_left(self) -> None:
        self.offers = Offers(crossing=0)
        self.pair()
        self.says(A, offer(A, B))
        for _ in range(3):
            process = self.start()
            self.assertEqual(len(process.memory.offers.entries()), 1)
        self.says(B, answer(B, A))
        self.assertEqual(process.memory.offers.entries(), [])

    def test_ping_before_the_crash_is_answered(self) -> None:
        one, _ = self.pair()
        self.peer(A).dataReceived(frame(PING, b"abcd"))
        self.start()
        self.assertEqual(self.heard(one, 3), ["accepted", "pong abcd", "pong abcd"])

    def test_client_with_a_part_of_a_frame_is_dropped_after_a_crash_alone(self) -> None:
        for end, stays in ((self.end, True), (self.crash, False)):
            one, _ = self.pair()
            self.peer(A).transport.write(b"\x81\x7f" + (8_000_000).to_bytes(8, "big"))
            self.peer(A).transport.write(bytes(8_000_000))
            end()
            process = self.start()
            self.assertEqual(self.peer(A) is not None, stays)
            self.assertEqual(process.survival.outcome.lost, 0 if stays else 1)
            if stays:
                # The next process may crash, too.
                (slot, _) = process.memory.connections.entries()
                self.assertTrue(slot.is_marked)
            else:
                self.assertEqual(self.supervisor.names, ["1", memory.NAME])
            for uuid in (A, B):
                if self.peer(uuid) is not None:
                    self.peer(uuid).drop("test")
            one.close()

    def test_client_that_read_all_meanwhile_is_not_marked(self) -> None:
        one, _ = self.pair()
        while not self.peer(A).transport.has_unwritten:
            self.peer(A).transport.write(bytes(65536))
        self.end()
        one.settimeout(0.05)
        with self.assertRaises(TimeoutError):
            while one.recv(1 << 20):
                pass
        process = self.start()
        self.assertFalse(self.peer(A).transport.has_unwritten)
        slot, _ = process.memory.connections.entries()
        self.assertFalse(slot.is_marked)

    def test_number_of_a_lost_connection_is_used_again(self) -> None:
        self.pair()
        for pair in [pair for pair in self.supervisor.pairs if pair[0] == "0"]:
            self.supervisor.pairs.remove(pair)
            os.close(pair[1])
        self.start()
        self.registered(C)
        self.assertEqual(self.supervisor.names, ["0", "1", memory.NAME])

    def test_descriptors_without_an_entry_are_closed_and_removed(self) -> None:
        self.pair()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            self.addCleanup(client.close)
            stray, _ = listener.accept()
        self.supervisor.pairs += [
            ("web", stray.detach()),
            ("0", os.dup(self.peer(A).transport.fileno())),
            (PROBE_NAME, os.dup(2)),
        ]
        process = self.start()
        self.assertEqual(self.supervisor.names, ["0", "1", memory.NAME])
        self.assertEqual(process.survival.outcome.back, 2)
        client.settimeout(5)
        self.assertEqual(client.recv(1), b"")

    def test_part_of_a_frame_read_survives_an_end_and_drops_after_a_crash(self) -> None:
        one, _ = self.pair()
        whole = frame(TEXT, offer(A, A))
        self.peer(A).dataReceived(whole[:50])
        self.end()
        self.start()
        self.peer(A).dataReceived(whole[50:])
        self.assertEqual(self.heard(one, 2), ["accepted", f"error offer {A} {A}"])
        self.peer(A).dataReceived(whole[:50])
        self.end()
        (number,) = [n for name, n in self.supervisor.pairs if name == memory.NAME]
        opened = memory.Memory(os.dup(number))
        opened.take_snapshot()  # a crash right after
        opened.close()
        self.start()
        self.assertIsNone(self.peer(A))


class DefectTests(ResumeTestCase):
    """A connection on which the relay fails."""

    def test_defect_of_one_connection_spares_the_others(self) -> None:
        for is_late in (False, True):
            one, _ = self.pair()
            process = self.start(resume=False)
            revive = process.ports.revive

            def fail(
                *arguments: Any, revive: Any = revive, late: bool = is_late
            ) -> Any:
                if arguments[1].uuid == A:
                    if late:
                        revive(*arguments)
                    raise ValueError("defect")
                return revive(*arguments)

            failing: Any = fail
            process.survival.resume(process.factory, failing)
            self.supervisor.read()
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
            self.assertIsNone(self.peer(A))
            self.assertEqual(self.supervisor.names, ["1", memory.NAME])
            self.assertEqual(len(process.memory.connections.entries()), 1)
            for _ in range(10):
                if not (piece := one.recv(65536)):
                    break
            self.assertEqual(piece, b"")
            self.peer(B).drop("test")


class StateTests(ResumeTestCase):
    """Files that cannot be read, and other settings."""

    def spoil(self, data: bytes, offset: int) -> None:
        (number,) = [n for name, n in self.supervisor.pairs if name == memory.NAME]
        os.pwrite(number, data, offset)

    def test_unreadable_state_starts_empty_with_one_line(self) -> None:
        for data in (b"something", memory._HEADER.pack(memory._MAGIC, 2, 0)):
            one, _ = self.pair()
            self.crash()
            self.spoil(data, 0)
            self.captured.events.clear()
            process = self.start()
            self.assertEqual(len(self.captured.lines()), 1)
            self.assertIn("cannot be read", self.captured.lines()[0])
            self.assertEqual(self.supervisor.names, [memory.NAME])
            self.assertEqual(len(process.factory.connections), 0)
            while one.recv(65536):
                pass
            self.registered(A)

    def test_garbage_in_slots_loses_the_connections_and_goes_on(self) -> None:
        self.pair()
        self.crash()
        self.spoil(os.urandom(512 * 2 - 1), memory.HEADER_BYTES + 1)
        process = self.start()
        self.assertEqual(process.survival.outcome.back, 0)
        self.assertEqual(self.supervisor.names, [memory.NAME])
        self.registered(A)
        self.assertEqual(self.start().survival.outcome.back, 1)

    def test_bad_snapshot_counts_as_crash(self) -> None:
        self.pair()
        self.end()
        (number,) = [n for name, n in self.supervisor.pairs if name == memory.NAME]
        os.pwrite(number, b"\xc1" * 10, os.fstat(number).st_size - 10)
        process = self.start()
        self.assertFalse(process.survival.outcome.was_orderly)
        self.assertEqual(process.survival.outcome.back, 2)

    def test_listeners_go_on_unless_others_are_set(self) -> None:
        process = self.start()
        bound = [socket.create_server((host, 0)) for host in ("127.0.0.1", "127.0.0.2")]
        place = bound[0].getsockname()
        process.survival.note("")
        process.survival.keep_listeners([each.fileno() for each in bound])
        self.supervisor.read()
        for each in bound:
            each.close()
        names = [f"{LISTENER}0", f"{LISTENER}1", memory.NAME]
        self.assertEqual(self.supervisor.names, names)
        process = self.start()
        found = process.survival.listeners()
        self.assertEqual(found[0].getsockname(), place)
        self.assertEqual(len(found), 2)
        for each in found:
            each.close()
        self.listening = 4711
        process = self.start()
        self.assertEqual(process.survival.listeners(), [])
        process.survival.keep_listeners([])
        self.supervisor.read()
        self.assertEqual(self.supervisor.names, [memory.NAME])

    def test_kept_listener_that_is_none_is_bound_anew(self) -> None:
        process = self.start()
        process.survival.note("")
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        process.survival.keep_listeners([udp.fileno()])
        self.supervisor.read()
        udp.close()
        self.assertEqual(self.start().survival.listeners(), [])


class OpenTests(SynchronousTestCase):
    """Whether there is anything to keep with."""

    def setUp(self) -> None:
        self.supervisor = Supervisor()
        self.addCleanup(self.supervisor.close)
        self.reactor = Reactor(0.0)
        self.captured = Capture(self)

    def test_no_supervisor_is_told_only_if_it_is_wanted(self) -> None:
        for enabled, lines in ((False, 0), (True, 1)):
            config = Config(survive=Settings(enabled=enabled))
            for environment in ({}, {"NOTIFY_SOCKET": "vsock:1"}):
                self.captured.events.clear()
                handed = Handed()
                found = open_survival(config, handed, environment, self.reactor)
                self.assertIsNone(found)
                self.assertEqual(len(self.captured.lines()), lines)

    def test_store_that_is_full_is_no_store_that_is_off(self) -> None:
        file = memory.Memory.create()
        self.supervisor.pairs.append((memory.NAME, os.dup(file.descriptor)))
        file.close()
        self.supervisor.capacity = 1
        handed = Handed.sort({os.dup(n): name for name, n in self.supervisor.pairs})
        config = Config(survive=Settings(enabled=True))
        environment = {"NOTIFY_SOCKET": self.supervisor.address}
        found = open_survival(config, handed, environment, self.reactor)
        assert found is not None
        self.addCleanup(found.close)
        self.assertEqual(self.captured.lines(), [])

    def test_survive_off_gives_all_up_also_with_a_full_queue(self) -> None:
        names = [str(number) for number in range(40)]
        clients = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for name in names:
                clients.append(socket.create_connection(listener.getsockname()))
                accepted, _ = listener.accept()
                self.supervisor.pairs.append((name, accepted.detach()))
        file = memory.Memory.create()
        self.supervisor.pairs.append((memory.NAME, os.dup(file.descriptor)))
        file.close()
        handed = Handed.sort({os.dup(n): name for name, n in self.supervisor.pairs})
        environment = {"NOTIFY_SOCKET": self.supervisor.address}
        found = open_survival(Config(), handed, environment, self.reactor)
        self.assertIsNone(found)
        for client in clients:  # before the supervisor has read anything
            client.settimeout(5)
            self.assertEqual(client.recv(1), b"")
            client.close()
        for _ in range(len(names)):
            self.supervisor.read()
            for writer in list(self.reactor.writers):
                writer.doWrite()
        self.supervisor.read()
        self.assertEqual(self.supervisor.pairs, [])
        self.assertEqual(self.reactor.writers, [])

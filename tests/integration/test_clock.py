"""A relay whose wall clock is set while it serves: nobody notices."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from signal import SIGCONT, SIGSTOP
from time import monotonic, time
from typing import Any
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect

from proxyrelay.net.timers import LATE_SECONDS
from tests.integration.test_twistd import TwistdTestCase
from tests.support import shifted
from tests.support.certificates import SETTINGS, Authority
from tests.support.processes import PATIENCE, RelayProcess, environment
from tests.support.recording import A, B, answer, offer, registration

STEPS = (-3600.0, -60.0, -1.5, 1.5, 60.0, 3600.0)
"""Seconds by which the clock is set, one after the other."""

DELAY_CEILING = 0.3
"""Seconds by which a step may delay anything, beside the noise of the machine."""

QUIET_SECONDS = 1.2
"""Seconds with nothing but pings, after which the relay naps."""

TURN_SECONDS = 0.05
"""Seconds from one ping or connect to the next."""

WATCHDOG_SECONDS = 0.2

CLOCKS = """
import datetime, sys, threading, time
for line in sys.stdin:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=0.001)
    today = datetime.datetime.now().timestamp()
    print(time.time(), today, time.monotonic(), flush=True)
"""
"""Tells the clocks of its process when it is asked."""


class ShiftedTestCase(TwistdTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.folder / "shift"
        self.seconds = 0.0
        shifts = shifted.environment(shifted.build(self.folder), self.file)
        self.shifts = environment(**shifts)

    def set_clock(self, step: float) -> None:
        self.seconds += step
        shifted.shift(self.file, self.seconds)


class ProcessClockTests(ShiftedTestCase):
    def test_clock_of_a_process_follows_each_shift(self) -> None:
        child = subprocess.Popen(
            [sys.executable, "-c", CLOCKS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
            env=self.shifts,
        )
        self.addCleanup(child.communicate)
        assert child.stdin is not None
        assert child.stdout is not None
        for step in (0, *STEPS, -sum(STEPS)):
            self.set_clock(step)
            before = time(), monotonic()
            print("look", file=child.stdin, flush=True)
            wall, date, steady = map(float, child.stdout.readline().split())
            after = time(), monotonic()
            for found, clock, ahead in (
                (wall, 0, self.seconds),
                (date, 0, self.seconds),
                (steady, 1, 0.0),
            ):
                self.assertGreater(found - ahead, before[clock] - 0.01)
                self.assertLess(found - ahead, after[clock] + 0.01)


class SteppedClockTests(ShiftedTestCase):
    """Two relays with one clock: over ws, and over wss."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        self.authority.write(self.folder)
        self.supervisors: list[socket.socket] = []
        self.relays: list[RelayProcess] = []
        for text in ("", SETTINGS):
            name = f"proxyrelay.test.{os.getpid()}.{id(self)}.{len(text)}"
            supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.addCleanup(supervisor.close)
            supervisor.bind(f"\0{name}")
            supervisor.setblocking(False)
            self.supervisors.append(supervisor)
            variables = {
                "NOTIFY_SOCKET": f"@{name}",
                "WATCHDOG_USEC": str(round(WATCHDOG_SECONDS * 1e6)),
            }
            config = self.write_config(text)
            relay = self.relay("--config", config, env=self.shifts | variables)
            self.relays.append(relay)

    def connecting(self, relay: RelayProcess) -> Any:
        secure = relay.url.startswith("wss:")
        return connect(
            relay.url,
            ssl=self.authority.client_context() if secure else None,
            compression=None,
            ping_interval=None,
            open_timeout=PATIENCE,
        )

    async def register(self, client: ClientConnection, uuid: str | None = None) -> None:
        await client.send(registration(uuid or uuid4()).decode())
        self.assertIn('"success": true', str(await client.recv()))

    async def enter(
        self, relay: RelayProcess, uuid: str | None = None
    ) -> ClientConnection:
        client: ClientConnection = await self.connecting(relay)
        await self.register(client, uuid)
        return client

    async def leave(self, client: ClientConnection) -> None:
        await client.close()
        self.assertEqual(client.close_code, 1000)

    async def longest(
        self, work: Callable[[], Awaitable[None]], seconds: float
    ) -> float:
        """Seconds that the slowest of a row of pieces of work takes."""
        end, slowest = monotonic() + seconds, 0.0
        while (began := monotonic()) < end:
            await asyncio.wait_for(work(), PATIENCE)
            slowest = max(slowest, monotonic() - began)
            await asyncio.sleep(TURN_SECONDS)
        return slowest

    async def longest_silence(self, supervisor: socket.socket) -> float:
        """Seconds without a sign of life, at most, until this is cancelled."""
        loop, last, longest = asyncio.get_running_loop(), monotonic(), 0.0
        try:
            while True:
                heard = await loop.sock_recv(supervisor, 4096)
                if b"WATCHDOG=1" in heard:
                    longest, last = max(longest, monotonic() - last), monotonic()
        except asyncio.CancelledError:
            return max(longest, monotonic() - last)

    def check(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Play, and see that nobody was called too fast or late, nor lost."""

        async def watched() -> None:
            watches = [
                asyncio.create_task(self.longest_silence(supervisor))
                for supervisor in self.supervisors
            ]
            try:
                await scenario
            finally:
                await asyncio.sleep(0)
                for watch in watches:
                    watch.cancel()
                silence = max(await asyncio.gather(*watches))
            self.assertLess(silence, WATCHDOG_SECONDS + DELAY_CEILING)

        self.play(watched())
        for relay in self.relays:
            self.assertEqual(relay.stop(), 0)
            for word in ("slowed", "dropped", "took too long", "Traceback", "defect"):
                self.assertNotIn(word, relay.said)

    def test_relay_under_idle_pings_answers_after_each_step(self) -> None:
        async def scenario() -> None:
            clients = [
                await self.enter(relay) for relay in self.relays for _ in range(3)
            ]

            async def ping() -> None:
                for client in clients:
                    await (await client.ping())

            noise = await self.longest(ping, QUIET_SECONDS)
            for step in STEPS:
                self.set_clock(step)
                slowest = await self.longest(ping, 3 * DELAY_CEILING)
                self.assertLess(slowest, noise + DELAY_CEILING, step)
                await self.longest(ping, QUIET_SECONDS - 3 * DELAY_CEILING)
            for client in clients:
                await self.leave(client)

        self.check(scenario())

    def test_relay_under_connects_accepts_after_each_step(self) -> None:
        async def come_and_go() -> None:
            for relay in self.relays:
                await self.leave(await self.enter(relay))

        async def scenario() -> None:
            noise = await self.longest(come_and_go, 2 * DELAY_CEILING)
            for step in STEPS:
                self.set_clock(step)
                slowest = await self.longest(come_and_go, 2 * DELAY_CEILING)
                self.assertLess(slowest, noise + DELAY_CEILING, step)

        self.check(scenario())

    def test_offer_under_way_is_answered_after_each_step(self) -> None:
        async def offering(relay: RelayProcess, stepped: asyncio.Barrier) -> None:
            one, other = await self.enter(relay, A), await self.enter(relay, B)
            half = socket.create_connection(("127.0.0.1", relay.port))
            with half:
                # A request, or a ClientHello, of which the rest comes later.
                secure = relay.url.startswith("wss:")
                half.sendall(b"\x16\x03\x01" if secure else b"GET / HTTP/1.1\r\n")
                for step in STEPS:
                    await one.send(offer(A, B).decode())
                    await asyncio.wait_for(other.recv(), PATIENCE)
                    waiting = await self.connecting(relay)
                    if await stepped.wait() == 0:
                        self.set_clock(step)
                    # Long enough for each regular look of the relay.
                    await asyncio.sleep(2 * DELAY_CEILING)
                    await other.send(answer(B, A).decode())
                    said = str(await asyncio.wait_for(one.recv(), PATIENCE))
                    self.assertEqual(said, answer(B, A).decode(), step)
                    await self.register(waiting)
                    await waiting.close()
                half.setblocking(False)
                with self.assertRaises(BlockingIOError):
                    half.recv(1)
            await self.leave(one)
            await self.leave(other)

        async def scenario() -> None:
            stepped = asyncio.Barrier(len(self.relays))
            await asyncio.gather(*(offering(each, stepped) for each in self.relays))

        self.play(scenario())


class StandstillTests(TwistdTestCase):
    """The process stands still for longer than its deadlines."""

    def test_answer_sent_during_a_standstill_reaches_its_offer(self) -> None:
        text = "[offers]\nanswer_timeout = 1\n[timeouts]\nregistration = 1\n"
        relay = self.relay("--config", self.write_config(text))

        async def scenario() -> None:
            async with (
                connect(relay.url, compression=None) as one,
                connect(relay.url, compression=None) as other,
                connect(relay.url, compression=None) as late,
            ):
                for client, uuid in ((one, A), (other, B)):
                    await client.send(registration(uuid).decode())
                    await client.recv()
                await one.send(offer(A, B).decode())
                await other.recv()
                relay.send(SIGSTOP)
                await other.send(answer(B, A).decode())
                await late.send(registration(str(uuid4())).decode())
                await asyncio.sleep(1 + 2 * LATE_SECONDS)
                relay.send(SIGCONT)
                self.assertEqual(await one.recv(), answer(B, A).decode())
                self.assertIn('"success": true', str(await late.recv()))

        self.play(scenario())
        self.assertEqual(relay.stop(), 0)

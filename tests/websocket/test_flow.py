"""The way of a message through the relay."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType

from twisted.trial.unittest import SynchronousTestCase

import proxyrelay
from proxyrelay.errors import PeerBusy, PeerGone
from tests.support.frames import TEXT, frame
from tests.support.recording import A, B, offer
from tests.websocket.test_fastpath import UNREAD_LIMIT, Side

PACKAGE = str(Path(proxyrelay.__file__).parent)


class DeliveryTests(SynchronousTestCase):
    """Messages between clients in memory."""

    def setUp(self) -> None:
        self.side = Side()
        self.one, self.other = self.side.peers

    def test_deliver_to_a_client_that_does_not_read_is_bounded(self) -> None:
        flow = self.other.flow
        flow.pauseProducing()
        flow.deliver(b"x" * (UNREAD_LIMIT - 10))
        self.assertRaises(PeerBusy, flow.deliver, b"x" * 10)
        flow.resumeProducing()
        flow.deliver(b"x" * 10)

    def test_deliver_to_a_closed_or_lost_connection_finds_nobody(self) -> None:
        self.one.close(1000, "")
        self.assertRaises(PeerGone, self.one.deliver, b"x")
        self.side.wires[1].connected = False
        self.assertRaises(PeerGone, self.other.deliver, b"x")

    def test_message_from_read_to_write_takes_few_calls(self) -> None:
        text, outbox = frame(TEXT, offer(A, B, sdp="x" * 300)), self.side.factory.outbox
        self.side.read(self.one, text)
        files: list[str] = []

        def called(at: FrameType, event: str, _: object) -> None:
            if event == "call" and at.f_code.co_filename.startswith(PACKAGE):
                files.append(at.f_code.co_filename)

        outbox.open()
        sys.setprofile(called)
        try:
            self.one.dataReceived(text)
            outbox.close()
        finally:
            sys.setprofile(None)
        changes = sum(one != other for one, other in pairwise(files))
        self.assertLessEqual(len(files), 30)
        self.assertLessEqual(len(set(files)), 8)
        self.assertLessEqual(changes, 12)
        self.assertEqual(len(self.side.wires[1].value()), 2 * len(text) - 8)

"""What the fast path takes for granted of Autobahn. A new version may break it."""

from __future__ import annotations

from typing import Any

from _nvx_xormasker import ffi, lib
from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.websocket.protocol import RelayProtocol
from tests.support.frames import CONTINUATION, PING, PONG, TEXT, frame
from tests.websocket.test_fastpath import (
    HEADER_CEILING,
    LONG_LIMIT,
    Echo,
    Side,
    spelt,
)


class AutobahnTests(SynchronousTestCase):
    """Frames in Autobahn, and its routines."""

    def setUp(self) -> None:
        self.side = Side(Echo)
        self.peer: Any = self.side.peers[0]

    def test_autobahn_options_leave_nothing_to_do_around_a_frame(self) -> None:
        expected = {
            "applyMask": True,
            "autoPingInterval": 0,
            "autoPingPending": None,
            "autoPingTimeoutCall": None,
            "failByDrop": False,
            "logFrames": False,
            "logOctets": False,
            "maxFramePayloadSize": 0,
            "maxMessagePayloadSize": LONG_LIMIT,
            "requireMaskedClientFrames": True,
            "trackedTimings": None,
            "utf8validateIncoming": True,
            "_perMessageCompress": None,
        }
        found = {name: getattr(self.peer, name) for name in expected}
        self.assertEqual(found, expected)
        self.assertTrue(self.side.factory.isServer)

    def test_autobahn_partial_frame_sets_the_read_attributes(self) -> None:
        for peer, mask in zip(self.side.peers, (b"mask", None), strict=True):
            at: Any = peer
            at._dataReceived(spelt(TEXT, b"x" * 300, mask, 0)[:100])
            self.assertTrue(at.inside_message)
            self.assertEqual(at.current_frame.length, 300)
            read = 100 - (8 if mask else 4)
            self.assertEqual(at.current_frame_masker.pointer(), read)
            self.assertEqual(at.data, b"")

    def test_autobahn_partial_header_stays_in_data(self) -> None:
        whole = spelt(0x80 | TEXT, b"x" * 65536, b"mask", 0)
        for length in range(1, HEADER_CEILING):
            self.peer._dataReceived(whole[:length])
            self.assertIsNone(self.peer.current_frame)
            self.assertFalse(self.peer.inside_message)
            self.assertEqual(self.peer.data, whole[:length])
            self.peer.data = b""

    def test_autobahn_between_frames_resets_its_state(self) -> None:
        self.assertIsNone(self.peer.current_frame)
        self.assertFalse(self.peer.inside_message)
        self.peer._dataReceived(frame(TEXT, b"x", fin=False) + frame(PING))
        self.assertIsNone(self.peer.current_frame)
        self.assertTrue(self.peer.inside_message)
        self.peer._dataReceived(frame(CONTINUATION))
        self.assertIsNone(self.peer.current_frame)
        self.assertFalse(self.peer.inside_message)
        self.assertEqual(self.peer.data, b"")

    def test_autobahn_frames_go_where_the_fast_path_takes_them(self) -> None:
        met: list[tuple[str, object]] = []
        self.peer.onMessage = lambda payload, isBinary: met.append((payload, isBinary))
        self.peer.onPing = lambda payload: met.append(("ping", payload))
        self.peer.onPong = lambda payload: met.append(("pong", payload))
        sent = frame(TEXT, b"x") + frame(PING, b"y") + frame(PONG, b"z")
        self.peer._dataReceived(sent)
        self.peer.dataReceived(sent)
        whole = [(b"x", False), ("ping", b"y"), ("pong", b"z")]
        self.assertEqual(met, whole * 2)

    def test_autobahn_has_the_methods_of_its_parser(self) -> None:
        for name in ("_dataReceived", "consumeData", "processData", "onFrameBegin"):
            self.assertTrue(callable(getattr(WebSocketServerProtocol, name)))
            self.assertNotIn(name, vars(RelayProtocol))

    def test_autobahn_has_the_routines_behind_its_masker(self) -> None:
        masker = lib.nvx_xormask_new(b"mask")
        plain = bytearray(b"\0" * 8)
        lib.nvx_xormask_process(masker, ffi.from_buffer(plain), 8)
        self.assertEqual(lib.nvx_xormask_pointer(masker), 8)
        lib.nvx_xormask_free(masker)
        self.assertEqual(plain, b"maskmask")

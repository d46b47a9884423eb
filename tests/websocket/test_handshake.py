"""What a request must look like."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress as suppressed
from http import HTTPStatus
from typing import Any
from unittest import mock

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.config import Config, Limits
from proxyrelay.errors import BadRequest, Unauthorized
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import User
from proxyrelay.websocket import upstream
from proxyrelay.websocket.factory import RelayFactory
from proxyrelay.websocket.handshake import (
    MAX_HEAD_BYTES,
    MAX_HEADER_LINES,
    SHOWN_NAME_BYTES,
    acceptance,
    autobahn_head,
    head_complete,
    header_fields,
    origin_matcher,
    plain_upgrade,
)
from proxyrelay.websocket.protocol import RelayProtocol
from tests.support.clock import EagerClock
from tests.support.frames import PING, TEXT, frame
from tests.support.recording import (
    A,
    RecordingJournal,
    RecordingWaiting,
    registration,
)
from tests.support.served import upgrade


class HeadTests(SynchronousTestCase):
    """Looking at the bytes before anybody parses them."""

    def refused(self, data: bytes) -> HTTPStatus:
        error: BadRequest = self.assertRaises(BadRequest, head_complete, data)
        return error.status

    def test_takes_a_whole_head(self) -> None:
        self.assertTrue(head_complete(upgrade("Authorization: Bearer x")))

    def test_waits_for_every_prefix_of_a_head(self) -> None:
        head = upgrade("X-A:\tb c")
        for length in range(len(head)):
            self.assertFalse(head_complete(head[:length]))

    def test_a_head_that_was_looked_at_is_not_read_anew(self) -> None:
        head = upgrade("X-A: b")
        for seen in range(len(head)):
            self.assertTrue(head_complete(head, seen))
        self.assertEqual(self.refused(head[:-4] + b"\x0b\r\n\r\n"), 400)

    def test_counts_headers(self) -> None:
        room = MAX_HEADER_LINES - upgrade().count(b"\r\n") + 2
        self.assertTrue(head_complete(upgrade(*["A: b"] * room)))
        self.assertEqual(self.refused(upgrade(*["A: b"] * (room + 1))), 431)

    def test_measures_heads(self) -> None:
        room = MAX_HEAD_BYTES - len(upgrade("A: "))
        self.assertTrue(head_complete(upgrade("A: " + "b" * room)))
        self.assertEqual(self.refused(upgrade("A: " + "b" * (room + 1))), 431)
        self.assertFalse(head_complete(b"G" * (MAX_HEAD_BYTES - 1)))
        self.assertEqual(self.refused(b"G" * MAX_HEAD_BYTES), 431)

    @given(st.binary(min_size=1))
    def test_whatever_is_added_to_a_header_stays_in_it(self, strange: bytes) -> None:
        head = upgrade("X-A: ").replace(b"X-A: ", b"X-A: " + strange)
        try:
            whole = head_complete(head)
        except BadRequest:
            return
        fields = header_fields(head)
        if whole and strange.count(b"\r\n") == 0:
            self.assertEqual(fields.keys(), header_fields(upgrade("X-A: ")).keys())
            self.assertEqual(fields["x-a"].encode("latin-1"), strange.strip(b" \t"))

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_head_or_refused(self, data: bytes) -> None:
        for head in (data, data + b"\r\n\r\n", upgrade()[:-2] + data + b"\r\n\r\n"):
            with suppressed(BadRequest):
                head_complete(head)

    def test_a_refusal_names_the_header_and_not_its_value(self) -> None:
        long = "N" * (SHOWN_NAME_BYTES + 1)
        for lines, detail in (
            (("A: b", "X-A: s3cret\0"), "header X-A: byte 0x00"),
            (("X-\0A: s3cret",), "header X-\0A: byte 0x00"),
            (("X-A: s3cret\nB: c",), "header X-A: malformed"),
            (("X-A: s3cret\rB: c",), "header X-A: malformed"),
            (("X-\xe9: s3cret",), "header X-\xe9: malformed"),
            (("X-A : s3cret",), "header X-A: malformed"),
            (("X-A s3cret: s3cret",), "header X-A: malformed"),
            (("X-A: b", " s3cret: s3cret"), "a header line without a name: malformed"),
            (("X-A: b", "s3cret"), "a header line without a name: malformed"),
            (("\r: s3cret",), "a header line without a name: malformed"),
            (("s3cret\0",), "a header line without a name: byte 0x00"),
            ((f"{long}\xe9: s3cret",), f"header {long[:-1]}...: malformed"),
            (("TE: x", "Transfer-Encoding: s3cret"), "header Transfer-Encoding: "),
            (("transfer-encoding:",), "header transfer-encoding: no body is taken"),
            (("Content-Length: 5",), "header Content-Length: no body is taken"),
            (("Content-Length: 0, 0",), "header Content-Length: no body is taken"),
        ):
            error: BadRequest = self.assertRaises(
                BadRequest, head_complete, upgrade(*lines)
            )
            self.assertIn(detail, str(error))
            self.assertNotIn("s3cret", str(error))
            self.assertEqual(error.status, 400)
        for line in (b"GET /\xe9 HTTP/1.1", b"GET /\0 HTTP/1.1", b"GET / s3cret x"):
            head = upgrade().replace(b"GET / HTTP/1.1", line)
            error = self.assertRaises(BadRequest, head_complete, head)
            self.assertIn("the request line: ", str(error))
            self.assertNotIn("s3cret", str(error))

    def test_an_empty_body_may_be_announced(self) -> None:
        for line in ("Content-Length: 0", "content-length:0\t", "X-Content-Length: 5"):
            self.assertTrue(head_complete(upgrade(line)))

    def test_counts_authorization_in_any_case(self) -> None:
        self.assertEqual(
            self.refused(upgrade("AUTHORIZATION: a", "authorization:")), 400
        )
        self.assertTrue(
            head_complete(upgrade("Proxy-Authorization: a", "authorization:"))
        )


class FieldTests(SynchronousTestCase):
    """Reading the header fields, and copying them for Autobahn."""

    def test_only_crlf_ends_a_value(self) -> None:
        breaks = "\x85\xa0\xe2\x80\xa8\xe2\x80\xa9"
        head = upgrade(f"X-A: 1{breaks}Authorization: Bearer x")
        self.assertEqual(
            header_fields(head)["x-a"], f"1{breaks}Authorization: Bearer x"
        )
        self.assertNotIn("authorization", header_fields(head))

    def test_only_spaces_and_tabs_are_cut_off(self) -> None:
        self.assertEqual(
            header_fields(upgrade("X-A: \t\xa0b\x85 "))["x-a"], "\xa0b\x85"
        )

    def test_values_of_one_name_are_joined(self) -> None:
        self.assertEqual(header_fields(upgrade("X-A: b", "x-a:c"))["x-a"], "b, c")

    def test_the_copy_holds_what_autobahn_checks_and_nothing_else(self) -> None:
        head = upgrade("Authorization: x", "Origin: y", "X-A: \x85Upgrade: z")
        head = head.replace(b"GET /", b"GET //[::1/relay#f")
        self.assertEqual(autobahn_head(head), upgrade().replace(b"Host", b"host"))

    def test_the_copy_is_plain_text_without_quotes(self) -> None:
        head = upgrade('Upgrade: "s\x85\xe9"').replace(b"GET", b'"GET"')
        copy = autobahn_head(head)
        self.assertIn(b"\r\nUpgrade: ?s???\r\n", copy)
        self.assertTrue(copy.startswith(b"?GET? / HTTP/1.1\r\n"))

    def test_an_empty_port_is_left_out(self) -> None:
        for host, copied in (
            *(("h:", "h"), ("h: ", "h"), ("[::1]:", "[::1]"), ("h:80", "h:80")),
            *(("h::", "h:"), ("h", "h"), ("", "")),
        ):
            head = upgrade().replace(b"relay.example", host.encode())
            self.assertIn(f"\r\nhost: {copied}\r\n".encode(), autobahn_head(head))


class OriginTests(SynchronousTestCase):
    """Which pages may connect."""

    def test_a_star_lets_everything_in(self) -> None:
        allowed = origin_matcher(["https://a.example", "*"])
        self.assertTrue(allowed("null"))
        self.assertTrue(allowed("https://b.example"))

    def test_an_empty_list_lets_no_page_in(self) -> None:
        self.assertFalse(origin_matcher([])("https://a.example"))

    def test_patterns_match_whole_origins(self) -> None:
        allowed = origin_matcher(["https://*.Good.example", "http://localhost:*"])
        for origin in ("https://WWW.good.example", "http://localhost:8080"):
            self.assertTrue(allowed(origin), origin)
        for origin in (
            "https://good.example",
            "https://www.good.example.evil.example",
            "https://wwwXgoodXexample",
            "https://evil.example/.good.example",
            "http://localhost",
        ):
            self.assertFalse(allowed(origin), origin)


OFFERS = (
    *("origin", "sec-websocket-origin"),
    *("sec-websocket-extensions", "sec-websocket-protocol"),
)
"""Header fields that the relay does not take up, and does not show to Autobahn."""

PROXY = "192.168.1.1"
"""Where the connections in memory come from."""

LINES = st.one_of(
    st.just("GET / HTTP/1.1"),
    st.builds(
        "{} {} {}".format,
        st.sampled_from(["GET"] * 9 + ["POST", "get", "GET/"]),
        st.one_of(
            st.sampled_from(["/", "/a/b.c-d_e~f", "//host/x", "///", "/a..b/", "/:80"]),
            st.sampled_from(["/?a=b", "/?", "/#f", "/#", "/;p", "/%41", "/[", "/a:b"]),
            st.sampled_from(["*", "a", "http://h/", "ws://h:1/x?y", "//[", "/\\"]),
            st.text("/.a:[]?#%~", min_size=1, max_size=6),
        ),
        st.sampled_from(["HTTP/1.1"] * 9 + ["HTTP/1.0", "HTTP/2.0", "HTTP/0.9"]),
    ),
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

FIELDS: dict[str, list[str]] = {
    "Host": [
        *("relay.example", "relay.example:443", "10.0.0.1:8700", "[::1]", "[::1]:8700"),
        *("h:", "h:99999", "h:999999", "h: 80", "h:-1", "h:+80", "h:8_0", "::1", ""),
        *("a b", "u@h", "h,h", "h/x", "[::1", "[h]:80", "h:80:80", "_h", "*", ":80"),
    ],
    "Upgrade": [
        *("websocket", "WebSocket", "h2c, websocket", "websocket,", "", "websocket/13"),
        *("web socket", "websocket;q=1", "websockets"),
    ],
    "Connection": [
        *("Upgrade", "upgrade", "keep-alive, Upgrade", "Upgrade,", "close", "", "up"),
        *("Upgrade, close", "keep-alive"),
    ],
    "Sec-WebSocket-Key": [
        *(KEY, "AAAAAAAAAAAAAAAAAAAAAA==", "////++++////++++////++=="),
        *(KEY[1:], f"A{KEY}", KEY[:-1] + "A", KEY[:-2] + "AA", KEY.replace("G", "=")),
        *(KEY.replace("G", "_"), KEY.replace("G", " "), f"{KEY},{KEY}", "", "=="),
    ],
    "Sec-WebSocket-Version": [
        *("13", "8", "7", "0", "013", "+13", "1_3", "13, 8", "13,13", "x", "", "-13"),
        *("13.0", "99999999999999999999"),
    ],
}
"""Header fields that matter, each with one of its usual values in front."""

EXTRAS = st.one_of(
    st.sampled_from(
        [
            *("X-Forwarded-For: 192.0.2.7", "X-Forwarded-For: 192.0.2.7, 192.168.1.1"),
            *("X-Forwarded-For: junk", "X-Forwarded-For:", "x-forwarded-for: [::2]:9"),
            *(
                "Origin: https://good.example",
                "Origin: null",
                "Origin: junk",
                "origin:",
            ),
            *("origin:", "Origin: https://bad.example", "Sec-WebSocket-Origin: //x"),
            *("Authorization: Bearer x", "AUTHORIZATION: no", "authorization:"),
            *("X-City: Orl\xe9ans", "X-A: b\x85Host: h", "Cookie:\xa0\xc2\x85\xa0"),
            *("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",),
            *("Sec-WebSocket-Extensions: x;;,y=", "Sec-WebSocket-Extensions: a"),
            *("Sec-WebSocket-Protocol: a, a", "Sec-WebSocket-Protocol: a"),
            *("User-Agent: websockets", "Cookie: a=b; c", "Content-Length: 5", "X:"),
            *(
                "Transfer-Encoding: chunked",
                "Expect: 100-continue",
                "X-A: b:c",
                "X: \t",
            ),
        ]
    ),
    st.builds(
        "{}:{}".format,
        st.text("aB-_!#$%&'*+.^`|~", min_size=1, max_size=4),
        st.text(' \t!:,;="~aZ', max_size=6),
    ),
)


VALUE_BYTES = [0x09, *range(0x20, 0x7F), *range(0x80, 0x100)]
"""Bytes that the value of a header may have (RFC 9110, section 5.5)."""


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Heads of requests: most of them good but for something."""
    lines = []
    for name, values in FIELDS.items():
        odd = draw(st.integers(0, 9)) == 0
        value = draw(st.sampled_from(values)) if odd else values[0]
        if odd and draw(st.integers(0, 5)) == 0:
            continue
        spelt = draw(st.sampled_from([name] * 4 + [name.lower(), name.upper()]))
        before = draw(st.sampled_from([" "] * 4 + ["", "\t", "  ", " \t "]))
        lines.append(spelt + ":" + before + value + draw(st.sampled_from(["", " "])))
        if odd and draw(st.integers(0, 3)) == 0:
            lines.append(f"{name}: {draw(st.sampled_from(values))}")
    lines += draw(st.lists(EXTRAS, max_size=3))
    if draw(st.booleans()):
        lines = draw(st.permutations(lines))
    line = draw(LINES)
    return "\r\n".join([line, *lines, "", ""]).encode("latin-1")


class Asked:
    """An authenticator that remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[dict[str, str], str]] = []

    def start(self) -> None:
        """Find nothing out."""

    def stop(self) -> None:
        """Give nothing up."""

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        kept = {name: headers[name] for name in headers if name not in OFFERS}
        self.shown.append((kept, source))
        if headers.get("authorization") == "no":
            return fail(Unauthorized("No."))
        return succeed(User("jo"))


class Answer:
    """What Autobahn answers by itself."""

    def succeedHandshake(self, res: object) -> None:
        served: Any = self
        WebSocketServerProtocol.succeedHandshake(served, res)


def outcome(
    request: bytes,
    *mixins: type,
    lane: bool,
    origins_allowed: tuple[str, ...] = ("https://good.example", "junk"),
) -> dict[str, object]:
    """All that comes of a request.

    Args:
        request: Its head.
        mixins: Put before the class that is served.
        lane: Whether the relay may read it by itself; else Autobahn does.
        origins_allowed: The setting ``allowed_origins``.
    """
    clock, journal, asked = EagerClock(), RecordingJournal(), Asked()
    factory = RelayFactory(
        Relay(journal, clock.seconds, RecordingWaiting()),
        asked,
        journal,
        clock,
        Config(
            allowed_origins=origins_allowed,
            limits=Limits(trusted_proxies=(PROXY,)),
        ),
        kind=RelayProtocol,
    )
    served: Any = factory.protocol
    tested: Any = type("Tested", (*mixins, served), {})
    factory.protocol = tested
    transport = StringTransport()
    peer: Any = factory.buildProtocol(transport.getPeer())
    peer.makeConnection(transport)
    read = plain_upgrade if lane else lambda head: None
    with mock.patch.object(upstream, "plain_upgrade", read):
        peer.dataReceived(request)
    answered = transport.value()
    opened = vars(peer).copy()
    for data in (registration(A), b""):
        peer.dataReceived(frame(TEXT, data) if data else frame(PING, b"x"))
    return {
        "answer": answered,
        "after it": transport.value()[len(answered) :],
        "ends": transport.disconnecting,
        "shown": asked.shown,
        "journal": journal.events,
        "state": (peer.state, peer.phase, peer.user, peer.registration),
        "from": (peer.address, factory.getConnectionCount()),
        "kept": {
            name: value
            for name, value in opened.items()
            if isinstance(value, str | bytes | int | float | type(None))
        }
        if opened["state"] == RelayProtocol.STATE_OPEN
        else None,
        "names": opened.keys() if opened["state"] == RelayProtocol.STATE_OPEN else None,
    }


class LaneTests(SynchronousTestCase):
    """Requests beside plain Autobahn: nothing that comes out may differ."""

    @settings(max_examples=400, deadline=None)
    @given(requests())
    @example(upgrade())
    @example(upgrade("Origin: https://good.example", "Authorization: no"))
    @example(upgrade("X-Forwarded-For: 192.0.2.7").replace(b" / ", b" //h/x "))
    def test_the_outcome_is_the_same(self, request: bytes) -> None:
        expected = outcome(request, lane=False)
        self.assertEqual(outcome(request, lane=True), expected)
        self.assertEqual(outcome(request, Answer, lane=False), expected)

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.sampled_from(VALUE_BYTES), max_size=40).map(bytes),
        st.sampled_from(["X-A", "Cookie", "User-Agent", "Origin", "Authorization"]),
        st.booleans(),
    )
    @example(b"1\x85Authorization: Bearer x\x85Host: h", "X-A", True)
    @example(b"\xe2\x80\xa8Authorization: no", "X-A", False)
    @example(b"\xa0\xc2\x85", "X-A", False)
    def test_any_value_is_taken_and_adds_no_header(
        self, value: bytes, name: str, odd: bool
    ) -> None:
        """RFC 9110, section 5.5."""
        request = upgrade(f"{name}: ")
        request = request[:-4] + value + b"\r\n\r\n"
        if odd:
            request = request.replace(b"Connection: ", b"Connection: keep-alive, ")
        found = outcome(request, lane=not odd, origins_allowed=("*",))
        answer, shown = found["answer"], found["shown"]
        assert isinstance(answer, bytes)
        assert isinstance(shown, list)
        self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), answer)
        [(headers, _)] = shown
        expected = header_fields(upgrade(f"{name}: ")).keys() - set(OFFERS)
        self.assertEqual(headers.keys(), expected)
        if name != "Origin":
            self.assertEqual(
                headers[name.lower()], value.decode("latin-1").strip(" \t")
            )

    def test_whatever_the_reference_lets_in_is_opened(self) -> None:
        """Any other status than 101 ends a stock endpoint."""
        for odd in (
            *(upgrade().replace(b"relay.example", b"h:"),),
            *(upgrade().replace(b"relay.example", b"[::1]:"),),
            *(
                upgrade().replace(b"GET /", b"GET " + target)
                for target in (
                    *(b"//[::1/relay", b"/#f", b"/a?b#c", b"http://[::1/", b"//["),
                    *(
                        b"*",
                        b"[",
                        b"a",
                        b"http://h:x/",
                        b"/\\",
                        b"/%zz",
                        b"/[]",
                        b"#",
                        b'"',
                    ),
                )
            ),
            upgrade("X-Cert: " + "x" * 18 * 1024),
            upgrade(*["X-A: b"] * 100),
            upgrade("Content-Length: 0"),
        ):
            for lane in (False, True):
                answer = outcome(odd, lane=lane)["answer"]
                assert isinstance(answer, bytes)
                self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), (odd, answer))

    @settings(max_examples=200, deadline=None)
    @given(requests())
    def test_what_is_read_here_is_opened(self, request: bytes) -> None:
        """The lane says nothing of what is wrong, so nothing may be."""
        try:
            if not head_complete(request) or plain_upgrade(request) is None:
                return
        except BadRequest:
            return
        answer = outcome(request, lane=False)["answer"]
        assert isinstance(answer, bytes)
        self.assertIn(answer[:13], {b"HTTP/1.1 101 ", b"HTTP/1.1 403 "})

    def test_each_odd_value(self) -> None:
        whole = {name: values[0] for name, values in FIELDS.items()}
        for name, values in FIELDS.items():
            for value in values:
                fields = {**whole, name: value}
                lines = [f"{name}: {value}" for name, value in fields.items()]
                request = "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode()
                expected = outcome(request, lane=False)
                found = outcome(request, lane=True)
                self.assertEqual((name, value, found), (name, value, expected))

    def test_every_upgrade_goes_through_on_connect(self) -> None:
        met: list[object] = []

        class Door:
            def onConnect(self, request: ConnectionRequest) -> object:
                answer = super().onConnect(request)  # type: ignore[misc]
                met.append((request.headers, request.path, request.version))
                return answer

        for lane in (True, False):
            outcome(upgrade("X-Own: \xe9"), Door, lane=lane)
        headers = header_fields(upgrade("X-Own: \xe9"))
        self.assertEqual(met, [(headers, "/", 13)] * 2)

    def test_stock_requests_are_read_here(self) -> None:
        for request in (
            upgrade(),
            upgrade("Authorization: Bearer x", "User-Agent: Python/3.11 websockets/15"),
            upgrade("Sec-WebSocket-Extensions: permessage-deflate"),
            upgrade().replace(b"relay.example", b"[::1]:8700"),
            upgrade().replace(b" / ", b" /some/path "),
        ):
            self.assertIsNotNone(plain_upgrade(request))

    def test_odd_ones_are_not(self) -> None:
        for name, values in FIELDS.items():
            self.assertIsNone(plain_upgrade(upgrade(f"{name}: {values[0]}")))
            head = upgrade().decode().split("\r\n")
            rest = [line for line in head if not line.startswith(f"{name}:")]
            self.assertIsNone(plain_upgrade("\r\n".join(rest).encode()))
        self.assertIsNone(plain_upgrade(upgrade("X: y", "x: z")))

    def test_the_answer_is_that_of_the_standard(self) -> None:
        """The example of RFC 6455, section 1.3."""
        answer = acceptance("relay", KEY)
        self.assertIn(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", answer)


class AutobahnTests(SynchronousTestCase):
    """What is taken for granted of its handshake. A new Autobahn may break it."""

    USED = (
        *("factory", "headers", "items", "server", "_wskey", "sendData", "state"),
        *("inside_message", "current_frame", "_onOpen", "data", "consumeData"),
        *("is_open", "websocket_protocols", "websocket_protocol_in_use"),
        *("websocket_extensions", "websocket_extensions_in_use", "http_response_data"),
        *("openHandshakeTimeoutCall", "autoPingInterval", "trackedTimings"),
        *("perMessageCompressionAccept", "_perMessageCompress", "autoPingPendingCall"),
    )
    """Attributes with which it completes an upgrade: known, and done here or idle."""

    def test_an_upgrade_is_completed_as_before(self) -> None:
        complete: Any = WebSocketServerProtocol.succeedHandshake
        self.assertEqual(list(inspect.signature(complete).parameters), ["self", "res"])
        names = set(complete.__code__.co_names)
        self.assertLessEqual(set(self.USED), names)
        # What it sets or calls on itself is known, all of it.
        source = inspect.getsource(complete)
        of_self = {
            word.split("self.")[1]
            for word in source.replace("(", " ").replace("[", " ").split()
            if word.startswith("self.")
        }
        known = {*self.USED, "log", "_sendAutoPing", "failHandshake"}
        strange = {word.split(".")[0].strip(",:)]") for word in of_self} - known
        self.assertEqual(strange, set())

    def test_nothing_is_idle_that_should_not_be(self) -> None:
        clock, journal = EagerClock(), RecordingJournal()
        relay = Relay(journal, clock.seconds, RecordingWaiting())
        factory = RelayFactory(
            relay, Asked(), journal, clock, Config(), kind=RelayProtocol
        )
        served: Any = factory.protocol
        self.assertEqual(dict(factory.headers), {})
        self.assertEqual(factory.server, "proxyrelay")
        self.assertEqual(
            factory.versions, WebSocketServerProtocol.SUPPORTED_PROTOCOL_VERSIONS
        )
        for name in ("autoPingInterval", "maxConnections", "serveFlashSocketPolicy"):
            self.assertFalse(getattr(served, name, 0), name)
        self.assertIsNone(served.openHandshakeTimeoutCall)
        self.assertIsNone(served.trackedTimings)
        self.assertFalse(factory.trustXForwardedFor)
        self.assertIsNone(factory.externalPort)

    def test_it_calls_what_is_overridden(self) -> None:
        opened: Any = WebSocketServerProtocol._onOpen
        self.assertIn("onOpen", opened.__code__.co_names)
        requested: Any = WebSocketServerProtocol.processHandshake
        for name in ("onConnect", "succeedHandshake", "failHandshake", "_wskey"):
            self.assertIn(name, str(inspect.getsource(requested)), name)

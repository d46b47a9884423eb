"""Checks of requests, and the requests that the relay reads itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress as suppressed
from typing import Any
from unittest import mock

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.anonymous import AnonymousAuthenticator
from proxyrelay.config import Config, Limits
from proxyrelay.errors import BadRequest, Unauthorized
from proxyrelay.switchboard.relay import Relay
from proxyrelay.switchboard.user import User
from proxyrelay.websocket import handshake
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
    RecordingObserver,
    RecordingWaiting,
    registration,
)
from tests.support.served import upgrade


class HeadTests(SynchronousTestCase):
    """`head_complete`."""

    def refused(self, data: bytes) -> BadRequest:
        error: BadRequest = self.assertRaises(BadRequest, head_complete, data)
        return error

    def test_head_whole_is_complete(self) -> None:
        head = upgrade("Authorization: Bearer x")
        for seen in range(len(head)):
            self.assertTrue(head_complete(head, seen))

    def test_head_prefix_is_incomplete(self) -> None:
        head = upgrade("X-A:\tb c")
        for length in range(len(head)):
            self.assertFalse(head_complete(head[:length]))

    def test_head_over_bounds_is_refused(self) -> None:
        lines = MAX_HEADER_LINES - upgrade().count(b"\r\n") + 2
        room = MAX_HEAD_BYTES - len(upgrade("A: "))
        self.assertTrue(head_complete(upgrade(*["A: b"] * lines)))
        self.assertTrue(head_complete(upgrade("A: " + "b" * room)))
        self.assertFalse(head_complete(b"G" * (MAX_HEAD_BYTES - 1)))
        for head in (
            upgrade(*["A: b"] * (lines + 1)),
            upgrade("A: " + "b" * (room + 1)),
            b"G" * MAX_HEAD_BYTES,
        ):
            self.assertEqual(self.refused(head).status, 431)

    @given(st.binary(min_size=1))
    def test_head_with_any_value_has_the_same_fields(self, strange: bytes) -> None:
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
    def test_head_of_any_bytes_raises_nothing_else(self, data: bytes) -> None:
        for head in (data, data + b"\r\n\r\n", upgrade()[:-2] + data + b"\r\n\r\n"):
            with suppressed(BadRequest):
                head_complete(head)

    def test_head_malformed_is_refused_without_its_secret(self) -> None:
        long = "N" * (SHOWN_NAME_BYTES + 1)
        nameless = "a header line without a name: "
        for lines, detail in (
            (("A: b", "X-A: s3cret\0"), "header X-A: byte 0x00"),
            (("X-\0A: s3cret",), "header X-\0A: byte 0x00"),
            (("X-A: s3cret\nB: c",), "header X-A: malformed"),
            (("X-A: s3cret\rB: c",), "header X-A: malformed"),
            (("X-\xe9: s3cret",), "header X-\xe9: malformed"),
            (("X-A : s3cret",), "header X-A: malformed"),
            (("X-A s3cret: s3cret",), "header X-A: malformed"),
            (("X-A: b", " s3cret: s3cret"), f"{nameless}malformed"),
            (("X-A: b", "s3cret"), f"{nameless}malformed"),
            (("\r: s3cret",), f"{nameless}malformed"),
            (("s3cret\0",), f"{nameless}byte 0x00"),
            ((f"{long}\xe9: s3cret",), f"header {long[:-1]}...: malformed"),
            (("TE: x", "Transfer-Encoding: s3cret"), "header Transfer-Encoding: "),
            (("transfer-encoding:",), "header transfer-encoding: no body is taken"),
            (("Content-Length: 5",), "header Content-Length: no body is taken"),
            (("Content-Length: 0, 0",), "header Content-Length: no body is taken"),
            (("AUTHORIZATION: a", "authorization:"), "more than one Authorization"),
        ):
            self.assert_refused(upgrade(*lines), detail)
        for line in (b"GET /\xe9 HTTP/1.1", b"GET /\0 HTTP/1.1", b"GET / s3cret x"):
            head = upgrade().replace(b"GET / HTTP/1.1", line)
            self.assert_refused(head, "the request line: ")
        self.assert_refused(upgrade()[:-4] + b"\x0b\r\n\r\n", "byte 0x0b")

    def assert_refused(self, head: bytes, detail: str) -> None:
        error = self.refused(head)
        self.assertIn(detail, str(error))
        self.assertNotIn("s3cret", str(error))
        self.assertEqual(error.status, 400)

    def test_head_with_harmless_fields_is_complete(self) -> None:
        for lines in (
            *(["Content-Length: 0"], ["content-length:0\t"], ["X-Content-Length: 5"]),
            ["Proxy-Authorization: a", "authorization:"],
        ):
            self.assertTrue(head_complete(upgrade(*lines)))


class FieldTests(SynchronousTestCase):
    """`header_fields`, and the copy for Autobahn."""

    def test_fields_end_at_crlf_alone(self) -> None:
        value = "1\x85\xa0\xe2\x80\xa8\xe2\x80\xa9Authorization: Bearer x"
        fields = header_fields(upgrade(f"X-A: {value}"))
        self.assertEqual(fields["x-a"], value)
        self.assertNotIn("authorization", fields)

    def test_fields_lose_spaces_and_tabs_alone(self) -> None:
        fields = header_fields(upgrade("X-A: \t\xa0b\x85 "))
        self.assertEqual(fields["x-a"], "\xa0b\x85")

    def test_fields_of_one_name_are_joined(self) -> None:
        self.assertEqual(header_fields(upgrade("X-A: b", "x-a:c"))["x-a"], "b, c")

    def test_copy_holds_checked_fields_alone(self) -> None:
        head = upgrade("Authorization: x", "Origin: y", "X-A: \x85Upgrade: z")
        head = head.replace(b"GET /", b"GET //[::1/relay#f")
        self.assertEqual(autobahn_head(head), upgrade().replace(b"Host", b"host"))

    def test_copy_is_ascii_without_quotes(self) -> None:
        head = upgrade('Upgrade: "s\x85\xe9"').replace(b"GET", b'"GET"')
        copy = autobahn_head(head)
        self.assertIn(b"\r\nUpgrade: ?s???\r\n", copy)
        self.assertTrue(copy.startswith(b"?GET? / HTTP/1.1\r\n"))

    def test_copy_has_no_empty_port(self) -> None:
        for host, copied in (
            *(("h:", "h"), ("h: ", "h"), ("[::1]:", "[::1]"), ("h:80", "h:80")),
            *(("h::", "h:"), ("h", "h"), ("", "")),
        ):
            head = upgrade().replace(b"relay.example", host.encode())
            self.assertIn(f"\r\nhost: {copied}\r\n".encode(), autobahn_head(head))


class OriginTests(SynchronousTestCase):
    """`origin_matcher`."""

    def test_origins_match_as_a_whole(self) -> None:
        patterns = ("https://*.Good.example", "http://localhost:*")
        for allowed, origin, expected in (
            (("https://a.example", "*"), "null", True),
            (("https://a.example", "*"), "https://b.example", True),
            ((), "https://a.example", False),
            (patterns, "https://WWW.good.example", True),
            (patterns, "http://localhost:8080", True),
            (patterns, "https://good.example", False),
            (patterns, "https://www.good.example.evil.example", False),
            (patterns, "https://wwwXgoodXexample", False),
            (patterns, "https://evil.example/.good.example", False),
            (patterns, "http://localhost", False),
        ):
            self.assertIs(origin_matcher(allowed)(origin), expected, origin)


EXTENSION = "Sec-WebSocket-Extensions: permessage-deflate"

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
            *("Origin: https://good.example", "Origin: null", "Origin: junk"),
            *("origin:", "Origin: https://bad.example", "Sec-WebSocket-Origin: //x"),
            *("Authorization: Bearer x", "AUTHORIZATION: no", "authorization:"),
            *("X-City: Orl\xe9ans", "X-A: b\x85Host: h", "Cookie:\xa0\xc2\x85\xa0"),
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            *("Sec-WebSocket-Extensions: x;;,y=", "Sec-WebSocket-Extensions: a"),
            *("Sec-WebSocket-Protocol: a, a", "Sec-WebSocket-Protocol: a"),
            *("User-Agent: websockets", "Cookie: a=b; c", "Content-Length: 5", "X:"),
            *("Transfer-Encoding: chunked", "Expect: 100-continue", "X-A: b:c"),
            "X: \t",
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


class RecordingAuthenticator(AnonymousAuthenticator):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[dict[str, str], str]] = []

    def authenticate(self, headers: Mapping[str, str], source: str) -> Deferred[User]:
        kept = {name: headers[name] for name in headers if name not in OFFERS}
        self.shown.append((kept, source))
        if headers.get("authorization") == "no":
            return fail(Unauthorized("No."))
        return succeed(User("jo"))


class Answer:
    """Autobahn's own answer."""

    is_open = property(lambda self: Deferred())

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
    clock, journal, asked = EagerClock(), RecordingObserver(), RecordingAuthenticator()
    relay = Relay(journal, clock.seconds, RecordingWaiting())
    limits = Limits(trusted_proxies=(PROXY,))
    config = Config(allowed_origins=origins_allowed, limits=limits)
    factory = RelayFactory(relay, asked, journal, clock, config, kind=RelayProtocol)
    served: Any = factory.protocol
    tested: Any = type("Tested", (*mixins, served), {})
    factory.protocol = tested
    transport = StringTransport()
    peer: Any = factory.buildProtocol(transport.getPeer())
    peer.makeConnection(transport)
    read = plain_upgrade if lane else lambda head: None
    with mock.patch.object(handshake, "plain_upgrade", read):
        peer.dataReceived(request)
    answered = transport.value()
    kept = vars(peer).copy() if peer.state == RelayProtocol.STATE_OPEN else {}
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
            name: value if isinstance(value, str | bytes | int | float) else None
            for name, value in kept.items()
        },
    }


class PlainTests(SynchronousTestCase):
    """Plain requests beside Autobahn: nothing that comes out may differ."""

    def assert_upgraded(self, request: bytes, lane: bool, **options: Any) -> Any:
        """The outcome of a request is an upgrade; give what the authenticator saw."""
        found = outcome(request, lane=lane, **options)
        answer: Any = found["answer"]
        self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), (request, answer))
        return found["shown"]

    @settings(max_examples=400, deadline=None)
    @given(requests())
    @example(upgrade())
    @example(upgrade("Origin: https://good.example", "Authorization: no"))
    @example(upgrade("X-Forwarded-For: 192.0.2.7").replace(b" / ", b" //h/x "))
    def test_request_has_the_outcome_of_autobahn(self, request: bytes) -> None:
        expected = outcome(request, lane=False)
        self.assertEqual(outcome(request, lane=True), expected)
        self.assertEqual(outcome(request, Answer, lane=False), expected)

    def test_request_with_odd_value_has_the_outcome_of_autobahn(self) -> None:
        whole = {name: values[0] for name, values in FIELDS.items()}
        for name, values in FIELDS.items():
            for value in values:
                fields = {**whole, name: value}
                lines = [f"{name}: {value}" for name, value in fields.items()]
                request = "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode()
                expected = outcome(request, lane=False)
                found = outcome(request, lane=True)
                self.assertEqual((name, value, found), (name, value, expected))

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.sampled_from(VALUE_BYTES), max_size=40).map(bytes),
        st.sampled_from(["X-A", "Cookie", "User-Agent", "Origin", "Authorization"]),
        st.booleans(),
    )
    @example(b"1\x85Authorization: Bearer x\x85Host: h", "X-A", True)
    @example(b"\xe2\x80\xa8Authorization: no", "X-A", False)
    @example(b"\xa0\xc2\x85", "X-A", False)
    def test_request_with_any_value_adds_no_header(
        self, value: bytes, name: str, odd: bool
    ) -> None:
        request = upgrade(f"{name}: ")[:-4] + value + b"\r\n\r\n"
        if odd:
            request = request.replace(b"Connection: ", b"Connection: keep-alive, ")
        shown = self.assert_upgraded(request, lane=not odd, origins_allowed=("*",))
        [(headers, _)] = shown
        expected = header_fields(upgrade(f"{name}: ")).keys() - set(OFFERS)
        self.assertEqual(headers.keys(), expected)
        if name != "Origin":
            self.assertEqual(
                headers[name.lower()], value.decode("latin-1").strip(" \t")
            )

    def test_request_that_the_reference_takes_is_upgraded(self) -> None:
        """Any other status than 101 ends a stock endpoint."""
        targets = "//[::1/relay /#f /a?b#c http://[::1/ //[ * [ a http://h:x/ /\\ /%zz"
        for request in (
            *(upgrade().replace(b"relay.example", host) for host in (b"h:", b"[::1]:")),
            *(
                upgrade().replace(b"GET /", b"GET " + target)
                for target in (*targets.encode().split(), b"/[]", b"#", b'"')
            ),
            upgrade("X-Cert: " + "x" * 18 * 1024),
            upgrade("X-A: " + "a" * (MAX_HEAD_BYTES - len(upgrade("X-A: ")))),
            upgrade("X-City: Orl\xc3\xa9ans", "X-A: \x85", "x-a: \xff"),
            upgrade(f'{EXTENSION}; server_max_window_bits="x"; y, ;;, x; z=1'),
            upgrade(EXTENSION, EXTENSION),
            upgrade("Sec-WebSocket-Protocol: a, a, ,", "sec-websocket-protocol: a"),
            upgrade(*["X-A: b"] * 100),
            upgrade("Content-Length: 0"),
            upgrade("ORIGIN: about:blank", "Sec-WebSocket-Origin: https://x:99999"),
        ):
            for lane in (False, True):
                self.assert_upgraded(request, lane=lane, origins_allowed=("*",))

    @settings(max_examples=200, deadline=None)
    @given(requests())
    def test_request_that_is_plain_is_without_error(self, request: bytes) -> None:
        try:
            if not head_complete(request) or plain_upgrade(request) is None:
                return
        except BadRequest:
            return
        answer: Any = outcome(request, lane=False)["answer"]
        self.assertIn(answer[:13], {b"HTTP/1.1 101 ", b"HTTP/1.1 403 "})

    def test_upgrade_goes_through_on_connect(self) -> None:
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

    def test_stock_request_is_plain(self) -> None:
        for request in (
            upgrade(),
            upgrade("Authorization: Bearer x", "User-Agent: Python/3.11 websockets/15"),
            upgrade("Sec-WebSocket-Extensions: permessage-deflate"),
            upgrade().replace(b"relay.example", b"[::1]:8700"),
            upgrade().replace(b" / ", b" /some/path "),
        ):
            self.assertEqual(plain_upgrade(request), header_fields(request))

    def test_request_with_missing_or_repeated_field_is_not_plain(self) -> None:
        for name, values in FIELDS.items():
            self.assertIsNone(plain_upgrade(upgrade(f"{name}: {values[0]}")))
            head = upgrade().decode().split("\r\n")
            rest = [line for line in head if not line.startswith(f"{name}:")]
            self.assertIsNone(plain_upgrade("\r\n".join(rest).encode()))
        self.assertIsNone(plain_upgrade(upgrade("X: y", "x: z")))

    def test_acceptance_is_that_of_rfc_6455(self) -> None:
        """Section 1.3."""
        answer = acceptance("relay", KEY)
        self.assertIn(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", answer)

"""Which kinds of ICE candidates a session description carries. Pure.

A candidate (RFC 8839, section 5.1) is an address at which a client may be reached, and
the way in which the client has learnt it. Only kinds leave this module, as bits of one
number: no address does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network

MAX_SDP_CHARACTERS = 16 * 1024
"""Characters of a session description that are read. Stock clients send 1 to 2 kB."""

MAX_CANDIDATES = 32
"""Candidates of a session description that are read."""

MAX_ADDRESS_CHARACTERS = 64
"""Characters of the longest address that is read."""

MAX_CAUSES = 4096
"""Causes that are remembered: all pairs are counted for each scrape of the metrics."""

IPV4_MAPPED = 0xFFFF
"""The upper 96 bits of an IPv6 address that stands for one of IPv4 (RFC 4291)."""

Kinds = int
"""A set of the bits below; 0 if no description for ICE was read."""

ICE, HOST, SRFLX, RELAY = 1, 2, 4, 8
"""The description is one for ICE. Types of its candidates: an address of the machine
itself, one that a STUN server has seen (server reflexive), one of a TURN server."""

PRIVATE_IPV4, PUBLIC_IPV4, PRIVATE_IPV6, PUBLIC_IPV6, MDNS = 16, 32, 64, 128, 256
"""Addresses of the candidates. MDNS stands for names that end in ``.local``."""

WORDS: Mapping[Kinds, str] = {
    HOST: "host",
    SRFLX: "srflx",
    RELAY: "relay",
    PRIVATE_IPV4: "private_ipv4",
    PUBLIC_IPV4: "public_ipv4",
    PRIVATE_IPV6: "private_ipv6",
    PUBLIC_IPV6: "public_ipv6",
    MDNS: "mdns",
}
"""Words for people and programs."""

_TYPES = {WORDS[kind]: kind for kind in (HOST, SRFLX, RELAY)}

_PUBLIC = PUBLIC_IPV4 | PUBLIC_IPV6

_PRIVATE_NETWORKS = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),  # RFC 1918
    *("100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8"),  # RFC 6598, 3927, 1122
    *("fc00::/7", "fe80::/10", "::1/128"),  # RFC 4193, 4291
)


def _ranges(version: int) -> tuple[tuple[int, int], ...]:
    """First and last address of each private network, as numbers."""
    networks = map(ip_network, _PRIVATE_NETWORKS)
    return tuple((int(n[0]), int(n[-1])) for n in networks if n.version == version)


_RANGES_4, _RANGES_6 = _ranges(4), _ranges(6)


def kinds_of(sdp: str) -> Kinds:
    """Which candidates a session description carries.

    Returns:
        0 if the description is none for ICE: without ``ice-ufrag`` (RFC 8839, section
        5.4) nobody can connect by it.
    """
    text = sdp[:MAX_SDP_CHARACTERS]
    if "\na=ice-ufrag:" not in text:
        return 0
    found = ICE
    for part in text.split("\na=candidate:", MAX_CANDIDATES + 1)[
        1 : MAX_CANDIDATES + 1
    ]:
        match part.partition("\n")[0].split(None, 8):
            # foundation, component, transport, priority; the port follows the address
            case [_, _, _, _, address, _, "typ", learnt, *_]:
                kind, place = _TYPES.get(learnt, 0), _address_kind(address)
                if kind and place:
                    found |= kind | place
    return found


def _address_kind(text: str) -> Kinds:
    """Kind of an address; 0 if it leads nowhere."""
    if len(text) > MAX_ADDRESS_CHARACTERS:
        return 0
    if text.lower().endswith(".local"):
        return MDNS
    try:
        number = int(IPv6Address(text) if ":" in text else IPv4Address(text))
    except ValueError:
        return 0
    is_ipv4 = ":" not in text
    if number >> 32 == IPV4_MAPPED:
        number, is_ipv4 = number & 0xFFFFFFFF, True
    if not number:
        return 0
    # `is_private` is also true for networks of documentation, and takes longer.
    if is_ipv4:
        return PRIVATE_IPV4 if _is_within(number, _RANGES_4) else PUBLIC_IPV4
    return PRIVATE_IPV6 if _is_within(number, _RANGES_6) else PUBLIC_IPV6


def _is_within(number: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(first <= number <= last for first, last in ranges)


def words(kinds: Kinds) -> list[str] | None:
    """Words for some kinds; None if no description for ICE was read."""
    return [word for bit, word in WORDS.items() if kinds & bit] if kinds else None


def is_private_only(kinds: Kinds) -> bool:
    """Whether peers on other networks cannot reach the client by its candidates."""
    return kinds > ICE and not kinds & (_PUBLIC | RELAY)


def count(all_kinds: Iterable[Kinds]) -> tuple[dict[str, int], int]:
    """Number of clients by the words of `WORDS`, and of those with private addresses.

    Returns:
        The numbers by words, and the number of those that are `is_private_only`.
    """
    sets = Counter(all_kinds)
    return (
        {
            word: sum(number for kinds, number in sets.items() if kinds & bit)
            for bit, word in WORDS.items()
        },
        sum(number for kinds, number in sets.items() if is_private_only(kinds)),
    )


class Cause(Enum):
    """The likely cause why two clients do not connect, for people."""

    UNKNOWN = "the candidates do not tell why"
    NO_ADDRESS = "one side offers no address at all"
    PRIVATE = (
        "both sides offer private addresses only: they connect only within one network "
        "(is STUN blocked?)"
    )
    STUN = "one side offers private addresses only: is STUN blocked there?"
    FAMILY = "one side is reachable by IPv4 only, and the other by IPv6 only"
    TURN = "a TURN server is in use already: can both sides reach it?"
    NAT = (
        "both sides have public addresses: symmetric NAT or a firewall on one side? "
        "a TURN server helps: docs/guides/turn.rst"
    )


@lru_cache(MAX_CAUSES)
def cause_of(one: Kinds, other: Kinds) -> Cause:
    """The likely cause, from the candidates of both sides."""
    publics = [kinds & _PUBLIC for kinds in (one, other)]
    rules = (
        (not one or not other, Cause.UNKNOWN),
        (ICE in (one, other), Cause.NO_ADDRESS),
        ((one | other) & RELAY, Cause.TURN),
        (not _share_a_version(one, other), Cause.FAMILY),
        (not any(publics), Cause.PRIVATE),
        (not all(publics), Cause.STUN),
        (not publics[0] & publics[1], Cause.FAMILY),
    )
    return next((cause for applies, cause in rules if applies), Cause.NAT)


def _share_a_version(one: Kinds, other: Kinds) -> bool:
    """Whether both sides have addresses of the same version of IP, or may have."""
    versions = (PRIVATE_IPV4 | PUBLIC_IPV4 | MDNS, PRIVATE_IPV6 | PUBLIC_IPV6 | MDNS)
    return any(one & version and other & version for version in versions)

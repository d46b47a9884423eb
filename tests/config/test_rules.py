"""Rules for the value of each setting, and for several values together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from proxyrelay.config import Config, Secret, Timeouts, load, settings
from tests.config.case import ConfigTestCase

LEVELS = "DEBUG, INFO, WARNING, ERROR or CRITICAL"
TEXT = "a text"
WHOLE = "a whole number"
NUMBER = "a number"
BOOL = "true or false"
LIST = "a list"
TABLE = "a table"
EMPTY = "empty"
APPLICATION = "the client ID of an application"
HTTPS = "starts with https://"
PLACE = "an address and a port"

IDENTITY = "a3bb189e-8bf9-3888-9912-ace4e6543002"

ENGINE = '"unix:/path", "tcp:host:port" or "tls:host:port"'
NAME = "a name of up to 64 letters, digits"

LISTS = ("allowed_users", "allowed_domains", "denied_users", "denied_domains")

COUNTS = (
    *("connections", "connections_per_user", "connections_per_address"),
    *("unregistered", "unregistered_per_address"),
)

RATES = (
    *("registrations_per_address", "registrations_per_client"),
    *("messages_per_address", "messages_per_client"),
)

WRONG_URLS = (
    *("''", "'http://auth.example.org'", "'auth.example.org'", "'https:///'"),
    *("'https://x:99999'", "'https://x:65536'", "'https://x:0'", "'https://x:abc'"),
    *("'https://x:'", "'https://x:-1'", "'https://:443'", "'https://?a'", "1"),
    *("'https://ä.example'", "'https://x.example/ä'", "'https://jo@x.example'"),
    *("'https://jo:pw@x.example'", "'https://x.example?a=b'", "'https://x.example#a'"),
    *("'https://x.example/a?b'", "' https://x.example'", "'https://x.example '"),
    *("'https://x .example'", "'https://x.example/a b'", '"https://x.example\\n"'),
    *('"https://x\\t.example"', '"https://x.example/\\u0000"', "'https://[::1'"),
    *("'https://[::1]'", "'https://::1'", "'https://x..example'", "'https://.'"),
    *("'https://-x.example'", "'https://x_y.example'", "'https://xn--zz.example'"),
    *(f"'https://{'x' * 64}.example'", f"'https://{'x.' * 127}example'"),
)

WRONG_PLACES = (
    *("8701", "''", "'8701'", "'127.0.0.1'", "'127.0.0.1:'", "'127.0.0.1:65536'"),
    *("'::1:8701'", "'[::1]'", "'[x]:1'", "'a b:1'", "'unix:'", "'unix:admin.sock'"),
    *(f"'unix:/{'a' * 107}'", "'http://127.0.0.1:1'", "'[1.2.3.4]:1'"),
)

WRONG_ENGINES = (
    *("6379", "''", "'redis'", "'redis://a'", "'tcp:a'", "'tcp:a:'", "'tcp:a:0'"),
    *("'tcp:a:65536'", "'tcp:a..b:1'", "'tcp:-a:1'", "'tcp:a_b:1'", "'tcp:::1:1'"),
    *("'tcp:[a]:1'", "'tcp:[1::2::3]:1'", "'udp:a:1'", "'unix:a.sock'", "'unix:'"),
    *(f"'unix:/{'a' * 107}'", "'tcp:jo@a:1'", "'tls:a:1 '", '"tcp:a:1\\n"'),
)

CLUSTER_FILES = (
    *("password_file", "ca_file", "client_certfile", "client_keyfile", "key_file"),
)

Hints = Mapping[str, Iterable[str]]
"""Wrong values as TOML, by a part of the message."""


def outside(
    least: str, below: str, most: str, above: str, kind: str = "", *others: str
) -> Hints:
    """Values out of a range, and values of other types than ``kind``."""
    return {f">= {least}": (below,), f"<= {most}": (above,), kind: others}


WRONG: Mapping[str, Hints] = {
    "host": {TEXT: ("1", "true", "[]", "''")},
    "port": {
        WHOLE: ("true", "'8700'", "8700.5", "nan", "inf"),
        "from 0 to 65535": ("-1", "65536", "1" * 40),
    },
    "certfile": {TEXT: ("1", "['a']", "{a = 1}"), EMPTY: ("''",)},
    "keyfile": {TEXT: ("1",), EMPTY: ("''",)},
    "max_message_bytes": {">= 1": ("0",), WHOLE: ("true", "'1'", "nan")},
    "certificate_interval": outside("0", "-1", "86400", "86401", NUMBER, "'1'"),
    "reuse_port": {BOOL: ("1", "'yes'")},
    "drain_max": outside("0", "-1", "31536000", "31_536_001", NUMBER, "true"),
    "max_unread_bytes": {">= 65536": ("65535",), WHOLE: ("1e6",)},
    "allowed_origins": {"a list of origins": ("'*'", "[1]")},
    "auth": {TABLE: ("1", "'globus'", "[]")},
    "auth.method": {'"globus"': ("'Globus'", "true", "''")},
    "auth.kwargs": {TABLE: ("1", "'a'")},
    "auth.kwargs.client_id": {TEXT: ("1", "true")},
    "auth.kwargs.client_secret": {TEXT: ("1", "true"), EMPTY: ("''",)},
    "auth.kwargs.client_secret_file": {TEXT: ("1",), EMPTY: ("''",)},
    "auth.kwargs.audience": {
        TEXT: ("1", "[]"),
        APPLICATION: ("''", "'relay'", f"' {IDENTITY}'", f"'{IDENTITY}0'"),
    },
    "auth.kwargs.required_scopes": {LIST: ("'a'",), TEXT: ("[1]",)},
    "auth.kwargs.service_url": {HTTPS: WRONG_URLS},
    "auth.kwargs.timeout": outside("0.1", "0", "7.5", "7.6", NUMBER, "'7'", "nan"),
    "auth.kwargs.cache_ttl": outside("0", "-1", "3600", "3601", NUMBER, "true"),
    "auth.kwargs.cache_size": outside("1", "0", "1000000", "1000001", WHOLE, "1.5"),
    "auth.kwargs.stale_if_error": outside("0", "-1", "86400", "86401", NUMBER, "nan"),
    **{f"auth.kwargs.{n}": {LIST: ("'a'", "{a = 1}"), TEXT: ("[1]",)} for n in LISTS},
    "logging": {TABLE: ("1", "'DEBUG'")},
    "logging.log_dir": {TEXT: ("1", "true"), EMPTY: ("''",)},
    "logging.default_level": {
        LEVELS: ("'LOUD'", "''", "0", "15", "10.0", "true", "['INFO']", "'10'"),
    },
    "logging.websockets_level": {LEVELS: ("'LOUD'", "5", "false", "{a = 1}")},
    "logging.current_client_interval": outside(
        *("0", "-1", "86400", "86401"), *(NUMBER, "'60'", "true", "nan", "inf", "-inf")
    ),
    "logging.current_client_limit": {">= 0": ("-1",), WHOLE: ("true", "1.5")},
    "logging.format": {'"text" or "json"': ("'JSON'", "'xml'", "1")},
    "logging.audit_log": {TEXT: ("1",), EMPTY: ("''",)},
    "logging.privacy": {BOOL: ("'yes'", "1")},
    "logging.privacy_key_file": {TEXT: ("true",), EMPTY: ("''",)},
    "timeouts": {TABLE: ("10",)},
    **{
        f"timeouts.{name}": outside(
            *("0.1", "0", "86400", "86401"), *(NUMBER, "'1'", "true", "nan", "inf")
        )
        for name in Timeouts.__struct_fields__
    },
    "timeouts.authentication": outside("0.1", "0", "8.0", "8.1", NUMBER, "inf"),
    "timeouts.stop": outside("0", "-1", "86400", "86401", NUMBER, "inf"),
    "limits": {TABLE: ("10",)},
    **{
        f"limits.{name}": outside("1", "0", "10000000", "10000001", WHOLE, "1.5")
        for name in COUNTS
    },
    **{
        f"limits.{name}": outside("0.01", "0", "1000000", "1000001", NUMBER, "nan")
        for name in RATES
    },
    "limits.burst": outside("1", "0", "3600", "3601", NUMBER, "inf"),
    "limits.trusted_proxies": {
        "a list of networks": ("'192.0.2.1'", "[1]", "['a']", "['']", "['1.2.3.4/24']"),
    },
    "limits.proxy_protocol": {BOOL: ("1", "'true'")},
    "offers": {TABLE: ("10",)},
    "offers.shield": {BOOL: ("1",)},
    "offers.answer_timeout": outside("1", "0", "24", "25"),
    "offers.hold": outside("0", "-1", "20", "20.5"),
    "offers.recent": outside("0", "-1", "3600", "3601"),
    "offers.crossing": outside("0", "-1", "5", "6"),
    "offers.held_per_user": outside("0", "-1", "65536", "65537", WHOLE, "1.5"),
    "offers.held_total": outside("0", "-1", "65536", "65537", WHOLE, "1.5"),
    "offers.close_deaf": {BOOL: ("0",)},
    "admin": {TABLE: ("'127.0.0.1:8701'",)},
    "admin.listen": {PLACE: WRONG_PLACES},
    "admin.token_file": {TEXT: ("1",), EMPTY: ("''",)},
    "admin.allowed_hosts": {"a list of names": ("'a'", "[1]")},
    "survive": {TABLE: ("true",)},
    "survive.enabled": {BOOL: ("1", "'true'")},
    "survive.capacity": outside("1", "0", "30000", "30001", WHOLE, "1.5"),
    "cluster": {TABLE: ("'unix:/a'", "true")},
    "cluster.engine": {ENGINE: WRONG_ENGINES},
    "cluster.sentinels": {
        'a list of "tls:host:port"': (
            *("'tls:a:1'", "[1]", "['']", "['unix:/a']", "['tls:a:1', 'tcp:b:1']"),
            *(f"[{engine}]" for engine in WRONG_ENGINES),
        ),
    },
    **{
        f"cluster.{name}": {NAME: ("1", "'a b'", "'a*'", "'a:b'", f"'{'a' * 65}'")}
        for name in ("master", "prefix", "node")
    },
    "cluster.username": {
        "a name of an ACL user": ("1", "'a b'", '"a\\r\\n"', f"'{'a' * 129}'"),
    },
    **{f"cluster.{n}": {TEXT: ("1", "[]"), EMPTY: ("''",)} for n in CLUSTER_FILES},
    "cluster.database": outside("0", "-1", "1023", "1024", WHOLE, "'1'", "0.5"),
    "cluster.lease": outside("5", "4.9", "60", "61", NUMBER, "'15'", "nan"),
    "cluster.call_timeout": outside("0.5", "0.4", "5", "5.1", NUMBER, "true", "inf"),
    "cluster.without_engine": {'"serve" or "refuse"': ("'Serve'", "true", "''")},
    "cluster.users_everywhere": {BOOL: ("1", "'no'")},
}
"""Wrong values of each setting."""

RIGHT: Mapping[str, Mapping[str, Any]] = {
    "host": {"'::1'": "::1", "'relay.example'": "relay.example"},
    "port": {"0": 0, "65535": 65535, "0x1F": 31},
    "max_message_bytes": {"1": 1, "2_000_000": 2_000_000},
    "certificate_interval": {"0": 0, "86400": 86400, "0.5": 0.5},
    "reuse_port": {"true": True, "false": False},
    "drain_max": {"0": 0, "31_536_000": 31_536_000, "0.5": 0.5},
    "max_unread_bytes": {"65536": 65536},
    "allowed_origins": {
        "[]": (),
        "['https://a.example', '*']": ("https://a.example", "*"),
    },
    "auth.method": {"'globus'": "globus"},
    "auth.kwargs.client_id": {"'a'": "a"},
    "auth.kwargs.client_secret": {"'a'": Secret("a")},
    "auth.kwargs.audience": dict.fromkeys(
        (f"'{IDENTITY}'", f"'{IDENTITY.upper()}'"), IDENTITY
    ),
    "auth.kwargs.required_scopes": {
        "[]": (),
        "['https://a.example/b', 'urn:c:all']": ("https://a.example/b", "urn:c:all"),
    },
    "auth.kwargs.service_url": {
        f"'{url}'": url
        for url in (
            *("https://auth.example.org/", "https://Localhost:8443"),
            *("https://192.0.2.1:65535/globus/", "https://a-1.example/~globus/%20;a=b"),
        )
    },
    "auth.kwargs.timeout": {"0.1": 0.1, "7.5": 7.5},
    "auth.kwargs.cache_ttl": {"0": 0, "3600": 3600},
    "auth.kwargs.cache_size": {"1": 1, "1_000_000": 1_000_000},
    "auth.kwargs.stale_if_error": {"0": 0, "86400": 86400},
    "auth.kwargs.allowed_users": {"[]": (), f"['{IDENTITY}']": (IDENTITY,)},
    "auth.kwargs.denied_users": {"[]": (), f"['{IDENTITY}']": (IDENTITY,)},
    "auth.kwargs.allowed_domains": {"[]": (), "['a.example']": ("a.example",)},
    "auth.kwargs.denied_domains": {"[]": (), "['Bad.example']": ("Bad.example",)},
    "logging.default_level": {
        **dict.fromkeys(("'debug'", "10"), "DEBUG"),
        **dict.fromkeys(("'Info'", "20"), "INFO"),
        **dict.fromkeys(("'Warn'", "'WARN'", "30"), "WARNING"),
        **dict.fromkeys(("'ERROR'", "40"), "ERROR"),
        **dict.fromkeys(("'fatal'", "50"), "CRITICAL"),
    },
    "logging.websockets_level": {"'critical'": "CRITICAL", "10": "DEBUG"},
    "logging.current_client_interval": {"0": 0, "0.5": 0.5, "86400": 86400},
    "logging.current_client_limit": {"0": 0, "1000000": 1_000_000},
    "logging.format": {"'text'": "text", "'json'": "json"},
    "logging.privacy": {"true": True, "false": False},
    **{
        f"timeouts.{name}": {"0.1": 0.1, "86400": 86400, "30": 30}
        for name in Timeouts.__struct_fields__
    },
    "timeouts.authentication": {"0.1": 0.1, "8": 8},
    "timeouts.stop": {"0": 0, "86400": 86400},
    **{f"limits.{name}": {"1": 1, "10_000_000": 10_000_000} for name in COUNTS},
    **{f"limits.{name}": {"0.01": 0.01, "1_000_000": 1_000_000} for name in RATES},
    "survive.enabled": {"true": True, "false": False},
    "survive.capacity": {"1": 1, "30000": 30_000},
    "limits.burst": {"1": 1, "3600": 3600},
    "limits.trusted_proxies": {
        "[]": (),
        "['192.0.2.0/24', '2001:db8::1']": ("192.0.2.0/24", "2001:db8::1"),
    },
    "limits.proxy_protocol": {"false": False},
    "offers.shield": {"false": False},
    "offers.answer_timeout": {"1": 1, "24": 24},
    "offers.hold": {"0": 0, "20": 20},
    "offers.recent": {"0": 0, "3600": 3600},
    "offers.crossing": {"0": 0, "5": 5},
    **{f"offers.held_{of}": {"0": 0, "65536": 65536} for of in ("per_user", "total")},
    "offers.close_deaf": {"true": True},
    "admin.listen": {
        f"'{place}'": place
        for place in (
            *("127.0.0.1:8701", "localhost:0", "[::1]:65535"),
            *("unix:/run/proxyrelay/admin.sock", f"unix:/{'a' * 106}"),
        )
    },
    "admin.allowed_hosts": {"[]": (), "['a.example']": ("a.example",)},
}
"""Right values of each setting but paths as TOML, and as loaded."""

RIGHT_CLUSTER: Mapping[str, Mapping[str, Any]] = {
    "cluster.engine": {
        f"'{engine}'": engine
        for engine in (
            *("unix:/run/redis/relay.sock", f"unix:/{'a' * 106}", "tcp:localhost:1"),
            *("tcp:[::1]:65535", "tls:redis.example.org:6380", "tls:192.0.2.1:6380"),
        )
    },
    "cluster.sentinels": {
        "['tls:a.example:1', 'tls:[::1]:2']": ("tls:a.example:1", "tls:[::1]:2"),
        "['tcp:127.0.0.1:26379']": ("tcp:127.0.0.1:26379",),
    },
    **{
        f"cluster.{name}": {"'a-1_b.c'": "a-1_b.c", f"'{'a' * 64}'": "a" * 64}
        for name in ("master", "prefix", "node")
    },
    "cluster.username": {"'relay'": "relay", "'a@b'": "a@b"},
    "cluster.database": {"0": 0, "1023": 1023},
    "cluster.lease": {"6": 6, "60": 60},
    "cluster.call_timeout": {"0.5": 0.5, "5": 5},
    "cluster.without_engine": {"'serve'": "serve", "'refuse'": "refuse"},
    "cluster.users_everywhere": {"false": False},
}
"""The same of the cluster."""

PATHS = (
    *(f"cluster.{name}" for name in CLUSTER_FILES),
    *("certfile", "keyfile", "auth.kwargs.client_secret_file", "admin.token_file"),
    *("logging.log_dir", "logging.audit_log", "logging.privacy_key_file"),
)
TABLES = (
    *("auth", "auth.kwargs", "logging", "timeouts", "limits", "offers", "admin"),
    *("cluster", "survive"),
)


def written(key: str, value: str) -> str:
    """A document with one setting, on its second line if it is in a table."""
    table, _, name = key.rpartition(".")
    return f"[{table}]\n{name} = {value}\n" if table else f"{name} = {value}\n"


def setting(config: Config, key: str) -> object:
    """The value of a setting by its dotted name."""
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


class OneValueTests(ConfigTestCase):
    """Every setting by itself."""

    def test_value_right_is_taken(self) -> None:
        for key, values in RIGHT.items():
            for value, meant in values.items():
                config = self.sound(written(key, value))
                self.assertEqual(setting(config, key), meant, key)

    def test_value_of_the_cluster_right_is_taken(self) -> None:
        for key, values in RIGHT_CLUSTER.items():
            for value, meant in values.items():
                loaded = self.load(written(key, value))
                self.assertEqual(loaded.problems, [], (key, value))
                self.assertEqual(setting(loaded.config, key), meant, key)

    def test_tables_of_these_tests_have_every_setting(self) -> None:
        keys = {".".join(path) for path in settings()}
        self.assertEqual(set(WRONG), keys)
        self.assertEqual({*RIGHT, *RIGHT_CLUSTER, *PATHS, *TABLES}, keys)

    def test_path_starts_from_folder_or_home(self) -> None:
        nested = self.folder / "conf"
        nested.mkdir()
        path = nested / "relay.toml"
        path.write_text(
            "certfile = 'tls/cert.pem'\nkeyfile = '/etc/key.pem'\n"
            "logging.log_dir = '../logs'\nauth.kwargs.client_secret_file = 'secret'\n"
            "logging.audit_log = '~/audit.log'\nadmin.token_file = '~'\n"
            "cluster.key_file = 'cluster.key'\n"
        )
        config = load(Path(os.path.relpath(path))).config
        for key, expected in {
            "certfile": nested / "tls/cert.pem",
            "keyfile": Path("/etc/key.pem"),
            "logging.log_dir": nested / "../logs",
            "auth.kwargs.client_secret_file": nested / "secret",
            "cluster.key_file": nested / "cluster.key",
            "logging.audit_log": Path.home() / "audit.log",
            "admin.token_file": Path.home(),
        }.items():
            self.assertEqual(setting(config, key), expected)

    def test_value_wrong_is_refused_with_hint(self) -> None:
        for key, hints in WRONG.items():
            for hint, values in hints.items():
                for value in values:
                    text = written(key, value)
                    loaded = self.load(text)
                    problem = loaded.problems[0]
                    self.assertEqual(
                        (problem.key, problem.line, problem.file),
                        (key, text.count("\n"), str(self.path)),
                        text,
                    )
                    self.assertIn(hint, problem.message, text)
                    self.assertNotRegex(problem.message, "`|null")
                    # The default stands in for it.
                    default = setting(Config(), key)
                    self.assertEqual(setting(loaded.config, key), default)

    def test_path_wrong_is_refused(self) -> None:
        for key in ("certfile", "logging.log_dir", "auth.kwargs.client_secret_file"):
            for value in ('"a\\u0000b"', "'~no-such-user/a'"):
                text = written(key, value)
                self.assert_problem(text, key, text.count("\n"))

    def test_date_is_named_plainly(self) -> None:
        for value in ("2020-01-01", "10:00:00", "2020-01-01T00:00:00Z"):
            self.assertNotIn("`", self.only(f"host = {value}\n").message)


class SeveralValuesTests(ConfigTestCase):
    """Settings that do not go together."""

    def test_census_incessant_is_refused(self) -> None:
        text = "[logging]\ncurrent_client_interval = 0.05\n"
        key, words = "logging.current_client_interval", "0 or a number >= 0.1"
        self.assert_problem(text, key, 2, words)

    def test_authentication_timeout_exceeds_that_of_globus(self) -> None:
        globus = "[auth]\nmethod = 'globus'\n"
        for timeouts, kwargs, sound in (
            ("", "", True),
            ("", "timeout = 7.5", True),
            ("authentication = 7.5", "", True),
            ("authentication = 7.4", "", False),
            ("authentication = 7", "", False),
            ("authentication = 1.1", "timeout = 0.6", True),
            ("authentication = 0.689", "timeout = 0.189", True),
            ("authentication = 1", "timeout = 0.6", False),
            ("authentication = 0.1", "timeout = 7", False),
        ):
            text = f"[timeouts]\n{timeouts}\n{globus}[auth.kwargs]\n{kwargs}\n"
            expected = [] if sound else [("timeouts.authentication", 2)]
            self.assertEqual(self.found(text), expected, text)
            self.assertEqual(self.found(text.replace(globus, "")), [])
        message = self.only(f"timeouts.authentication = 7\n{globus}").message
        self.assertEqual(
            message,
            "expected at least 0.5 s more than auth.kwargs.timeout, which is 7 unless "
            "it is set",
        )

    def test_keyfile_without_certfile_is_refused(self) -> None:
        self.assert_problem("port = 1\nkeyfile = 'key.pem'\n", "keyfile", 2, "certfile")
        # A wrong certfile is not a missing one.
        self.assertEqual(self.found("certfile = 1\nkeyfile = 'a'\n"), [("certfile", 1)])

    def test_user_list_with_useless_entry_is_refused(self) -> None:
        upper = IDENTITY.upper()
        for name, words, values in (
            ("denied_users", "IDs of identities", ("eve@bad.example", "", upper)),
            ("allowed_users", "in lower case", ("eve",)),
            (
                *("denied_domains", "without @ and wildcards"),
                ("@bad.example", "", "bad .example", "*.example"),
            ),
            ("allowed_domains", "without @ and wildcards", ("e@bad.example", "*")),
            (
                *("required_scopes", "whole scope strings, such as"),
                (
                    *("", "relay_all", ":relay_all", "urn:a b", "urn:\u00e4", 'urn:"'),
                    *("urn:\\\\", "https://auth.globus.org/scopes/<client_id>/all"),
                ),
            ),
        ):
            for value in values:
                text = f"\n[auth.kwargs]\n{name} = ['{value}']\n"
                self.assert_problem(text, f"auth.kwargs.{name}", 3, words)

    def test_user_allowed_and_denied_is_warned_of(self) -> None:
        for kind, one, two in (
            ("users", f"'{IDENTITY}'", f"'{IDENTITY}'"),
            ("domains", "'a.example', 'b.example'", "'B.Example'"),
        ):
            text = f"[auth.kwargs]\nallowed_{kind} = [{one}]\ndenied_{kind} = [{two}]\n"
            key = f"auth.kwargs.allowed_{kind}"
            self.assert_warning(text, key, 2, f"denied_{kind}")

    def test_proxy_protocol_without_proxies_is_refused(self) -> None:
        text = "[limits]\nproxy_protocol = true\n"
        self.assert_problem(text, "limits.proxy_protocol", 2, "trusted_proxies")
        config = self.sound(f"{text}trusted_proxies = ['192.0.2.1']\n")
        self.assertTrue(config.limits.proxy_protocol)

    def test_proxies_everywhere_are_warned_of(self) -> None:
        for network in ("0.0.0.0/0", "::/0"):
            text = f"[limits]\ntrusted_proxies = ['{network}']\n"
            self.assert_warning(text, "limits.trusted_proxies", 2, "any client may say")

    def test_privacy_key_without_privacy_is_warned_of(self) -> None:
        text = "[logging]\nprivacy_key_file = 'a'\n"
        self.assert_warning(text, "logging.privacy_key_file", 2, "privacy = true")


class ClusterTests(ConfigTestCase):
    """Settings of the cluster that do not go together."""

    def test_engine_far_away_without_tls_needs_a_key_file(self) -> None:
        for name, value in (
            ("engine", "'tcp:redis.example:6379'"),
            ("sentinels", "['tcp:192.0.2.1:26379']"),
        ):
            text = f"[cluster]\n{name} = {value}\n"
            self.assert_problem(text, f"cluster.{name}", 2, "needs a key_file")
            self.sound(f"{text}key_file = 'key'\n")
            self.sound(text.replace("tcp", "tls"))
        for near in ("unix:/a", "tcp:localhost:1", "tcp:127.0.0.1:1", "tcp:[::1]:1"):
            self.sound(f"[cluster]\nengine = '{near}'\n")

    def test_lease_shorter_than_three_calls_is_refused(self) -> None:
        text = "[cluster]\nengine = 'unix:/a'\nlease = 5.9\n"
        self.assert_problem(text, "cluster.lease", 3, "3 times call_timeout")
        self.sound(f"{text}call_timeout = 1.9\n")

    def test_client_certificate_and_key_need_each_other(self) -> None:
        text = "[cluster]\nengine = 'tls:a:1'\nclient_{} = 'a'\n"
        self.assert_problem(
            *(text.format("certfile"), "cluster.client_certfile", 3),
            "needs client_keyfile beside it",
        )
        self.assert_problem(
            *(text.format("keyfile"), "cluster.client_keyfile", 3),
            "needs client_certfile beside it",
        )

    def test_cluster_without_shield_is_refused(self) -> None:
        text = "[offers]\nshield = false\n[cluster]\nengine = 'unix:/a'\n"
        self.assert_problem(text, "offers.shield", 2, "must be true beside [cluster]")

    def test_settings_without_effect_are_warned_of(self) -> None:
        near, far = "engine = 'unix:/a'\n", "sentinels = ['tls:a:1']\n"
        for key, line, words, rest in (
            ("cluster", 1, "without engine or sentinels", "node = 'a'\n"),
            ("cluster.engine", 2, "beside sentinels", near + far),
            ("cluster.username", 3, "without a password_file", f"{near}username='a'\n"),
            ("cluster.ca_file", 3, "without tls:", f"{near}ca_file = 'a'\n"),
        ):
            self.assert_warning(f"[cluster]\n{rest}", key, line, words)

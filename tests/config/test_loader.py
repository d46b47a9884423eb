"""relay.toml and the command line: accepted and refused settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from proxyrelay.config import (
    Auth,
    AuthArguments,
    Config,
    Secret,
    Timeouts,
    load,
    settings,
)
from proxyrelay.errors import ConfigError, Problem
from tests.config.case import ConfigTestCase

LEVELS = "DEBUG, INFO, WARNING, ERROR or CRITICAL"
TEXT = "a text"
WHOLE = "a whole number"
FORMATS = '"text" or "json"'
BOOL = "true or false"

IDENTITY = "a3bb189e-8bf9-3888-9912-ace4e6543002"

LISTS = ("allowed_users", "allowed_domains", "denied_users", "denied_domains")

COUNTS = (
    *("connections", "connections_per_user", "connections_per_address"),
    *("unregistered", "unregistered_per_address"),
)

RATES = (
    *("registrations_per_address", "registrations_per_client"),
    *("messages_per_address", "messages_per_client"),
)

WRONG: Mapping[str, Mapping[str, str]] = {
    "host": {"1": TEXT, "true": TEXT, "[]": TEXT},
    "port": {
        "true": WHOLE,
        "'8700'": WHOLE,
        "8700.5": WHOLE,
        "nan": WHOLE,
        "inf": WHOLE,
        "-1": "from 0 to 65535",
        "65536": "from 0 to 65535",
        "1" * 40: "from 0 to 65535",
    },
    "certfile": {"1": TEXT, "''": "empty", "['a']": TEXT, "{a = 1}": TEXT},
    "keyfile": {"1": TEXT, "''": "empty"},
    "max_message_bytes": {"0": ">= 1", "true": WHOLE, "'1'": WHOLE, "nan": WHOLE},
    "certificate_interval": {"-1": ">= 0", "86401": "<= 86400", "'1'": "a number"},
    "reuse_port": {"1": "true or false", "'yes'": "true or false"},
    "drain_max": {"-1": ">= 0", "31_536_001": "<= 31536000", "true": "a number"},
    "max_unread_bytes": {"65535": ">= 65536", "1e6": WHOLE},
    "allowed_origins": {"'*'": "a list of origins", "[1]": "a list of origins"},
    "auth": {"1": "a table", "'globus'": "a table", "[]": "a table"},
    "auth.method": {"'Globus'": '"globus"', "true": '"globus"', "''": '"globus"'},
    "auth.kwargs": {"1": "a table", "'a'": "a table"},
    "auth.kwargs.client_id": {"1": TEXT, "true": TEXT},
    "auth.kwargs.client_secret": {"1": TEXT, "true": TEXT, "''": "empty"},
    "auth.kwargs.client_secret_file": {"1": TEXT, "''": "empty"},
    "auth.kwargs.audience": {
        **dict.fromkeys(("1", "[]"), TEXT),
        **dict.fromkeys(
            ("''", "'relay'", f"' {IDENTITY}'", f"'{IDENTITY}0'"),
            "the client ID of an application",
        ),
    },
    "auth.kwargs.required_scopes": {"'a'": "a list", "[1]": TEXT},
    "auth.kwargs.service_url": {
        "1": "starts with https://",
        "'http://auth.example.org'": "starts with https://",
        "'auth.example.org'": "starts with https://",
        "'https:///'": "starts with https://",
        **dict.fromkeys(
            (
                "''",
                "'https://x:99999'",
                "'https://x:65536'",
                "'https://x:0'",
                "'https://x:abc'",
                "'https://x:'",
                "'https://x:-1'",
                "'https://:443'",
                "'https://?a'",
                "'https://ä.example'",
                "'https://x.example/ä'",
                "'https://jo@x.example'",
                "'https://jo:pw@x.example'",
                "'https://x.example?a=b'",
                "'https://x.example/a?b'",
                "'https://x.example#a'",
                "' https://x.example'",
                "'https://x.example '",
                "'https://x .example'",
                "'https://x.example/a b'",
                '"https://x.example\\n"',
                '"https://x\\t.example"',
                '"https://x.example/\\u0000"',
                "'https://[::1'",
                "'https://[::1]'",
                "'https://::1'",
                "'https://x..example'",
                "'https://.'",
                "'https://-x.example'",
                "'https://x_y.example'",
                "'https://xn--zz.example'",
                f"'https://{'x' * 64}.example'",
                f"'https://{'x.' * 127}example'",
            ),
            "starts with https://",
        ),
    },
    "auth.kwargs.timeout": {
        "0": ">= 0.1",
        "7.6": "<= 7.5",
        "'7'": "a number",
        "nan": "a number",
    },
    "auth.kwargs.cache_ttl": {"-1": ">= 0", "3601": "<= 3600", "true": "a number"},
    "auth.kwargs.cache_size": {"0": ">= 1", "1000001": "<= 1000000", "1.5": WHOLE},
    "auth.kwargs.stale_if_error": {
        "-1": ">= 0",
        "86401": "<= 86400",
        "nan": "a number",
    },
    **{
        f"auth.kwargs.{name}": {"'a'": "a list", "[1]": TEXT, "{a = 1}": "a list"}
        for name in LISTS
    },
    "logging": {"1": "a table", "'DEBUG'": "a table"},
    "logging.log_dir": {"1": TEXT, "true": TEXT, "''": "empty"},
    "logging.default_level": {
        "'LOUD'": LEVELS,
        "''": LEVELS,
        "0": LEVELS,
        "15": LEVELS,
        "10.0": LEVELS,
        "true": LEVELS,
        "['INFO']": LEVELS,
    },
    "logging.websockets_level": {"'LOUD'": LEVELS, "5": LEVELS, "false": LEVELS},
    "logging.current_client_interval": {
        "-1": ">= 0",
        "86401": "<= 86400",
        "'60'": "a number",
        "true": "a number",
        "nan": "a number",
        "inf": "a number",
        "-inf": "a number",
    },
    "logging.current_client_limit": {"-1": ">= 0", "true": WHOLE, "1.5": WHOLE},
    "logging.format": {"'JSON'": FORMATS, "'xml'": FORMATS, "1": FORMATS},
    "logging.audit_log": {"1": TEXT, "''": "empty"},
    "logging.privacy": {"'yes'": BOOL, "1": BOOL},
    "logging.privacy_key_file": {"true": TEXT, "''": "empty"},
    "timeouts": {"10": "a table"},
    **{
        f"timeouts.{name}": {
            "-1": ">= 0",
            "86401": "<= 8.0" if name == "authentication" else "<= 86400",
            "'1'": "a number",
            "true": "a number",
            "nan": "a number",
            "inf": "a number",
        }
        for name in Timeouts.__struct_fields__
    },
    "limits": {"10": "a table"},
    **{
        f"limits.{name}": {"0": ">= 1", "10000001": "<= 10000000", "1.5": WHOLE}
        for name in COUNTS
    },
    **{
        f"limits.{name}": {"0": ">= 0.01", "1000001": "<= 1000000", "nan": "a number"}
        for name in RATES
    },
    "offers": {"10": "a table"},
    "offers.shield": {"1": "true or false"},
    "offers.answer_timeout": {"0": ">= 1", "25": "<= 24"},
    "offers.hold": {"-1": ">= 0", "20.5": "<= 20"},
    "offers.recent": {"-1": ">= 0", "3601": "<= 3600"},
    "offers.crossing": {"-1": ">= 0", "6": "<= 5"},
    **{
        f"offers.held_{of}": {"-1": ">= 0", "65537": "<= 65536", "1.5": WHOLE}
        for of in ("per_user", "total")
    },
    "offers.close_deaf": {"0": "true or false"},
    "limits.burst": {"0": ">= 1", "3601": "<= 3600", "inf": "a number"},
    "limits.trusted_proxies": {
        "'192.0.2.1'": "a list",
        "[1]": "a list of networks",
        **dict.fromkeys(("['a']", "['']", "['192.0.2.1/24']"), "a list of networks"),
    },
    "limits.proxy_protocol": {"1": "true or false", "'true'": "true or false"},
    "admin": {"'127.0.0.1:8701'": "a table"},
    "admin.listen": {
        "8701": "an address and a port",
        "''": "an address and a port",
        **{
            f"'{place}'": "an address and a port"
            for place in (
                *("8701", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:8701"),
                *("[::1]", "[x]:1", "a b:1", "unix:", "unix:admin.sock"),
                *(f"unix:/{'a' * 107}", "http://127.0.0.1:1", "[1.2.3.4]:1"),
            )
        },
    },
    "admin.token_file": {"1": TEXT, "''": "empty"},
    "admin.allowed_hosts": {"'a'": "a list of names", "[1]": "a list of names"},
}
"""Wrong values of each setting as TOML, with a part of the message."""

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
    "auth.kwargs.audience": {
        f"'{IDENTITY}'": IDENTITY,
        f"'{IDENTITY.upper()}'": IDENTITY,
    },
    "auth.kwargs.required_scopes": {
        "[]": (),
        "['https://a.example/b', 'urn:c:all']": ("https://a.example/b", "urn:c:all"),
    },
    "auth.kwargs.service_url": {
        f"'{url}'": url
        for url in (
            "https://auth.example.org/",
            "https://Localhost:8443",
            "https://192.0.2.1:65535/globus/",
            "https://a-1.example/~globus/%20;a=b",
        )
    },
    "auth.kwargs.timeout": {"0.1": 0.1, "7.5": 7.5},
    "auth.kwargs.cache_ttl": {"0": 0, "3600": 3600},
    "auth.kwargs.cache_size": {"1": 1, "1_000_000": 1_000_000},
    "auth.kwargs.stale_if_error": {"0": 0, "86400": 86400},
    **{
        f"auth.kwargs.{name}": {"[]": (), f"['{IDENTITY}']": (IDENTITY,)}
        for name in LISTS
    },
    "logging.default_level": {
        "'ERROR'": "ERROR",
        "'debug'": "DEBUG",
        "'Warn'": "WARNING",
        "'WARN'": "WARNING",
        "'fatal'": "CRITICAL",
        "10": "DEBUG",
        "20": "INFO",
        "30": "WARNING",
        "40": "ERROR",
        "50": "CRITICAL",
    },
    "logging.websockets_level": {"'critical'": "CRITICAL", "10": "DEBUG"},
    "logging.current_client_interval": {"0": 0, "0.5": 0.5, "86400": 86400},
    "logging.current_client_limit": {"0": 0, "1000000": 1_000_000},
    "logging.format": {"'text'": "text", "'json'": "json"},
    "logging.privacy": {"true": True, "false": False},
    "timeouts.authentication": {"0.1": 0.1, "8": 8},
    "timeouts.stop": {"0": 0, "86400": 86400},
    **{
        f"timeouts.{name}": {"0.1": 0.1, "86400": 86400, "30": 30}
        for name in Timeouts.__struct_fields__
        if name not in {"authentication", "stop"}
    },
    **{f"limits.{name}": {"1": 1, "10_000_000": 10_000_000} for name in COUNTS},
    **{f"limits.{name}": {"0.01": 0.01, "1_000_000": 1_000_000} for name in RATES},
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

PATHS = (
    *("certfile", "keyfile", "auth.kwargs.client_secret_file", "admin.token_file"),
    *("logging.log_dir", "logging.audit_log", "logging.privacy_key_file"),
)
TABLES = ("auth", "auth.kwargs", "logging", "timeouts", "limits", "offers", "admin")


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


class AcceptedTests(ConfigTestCase):
    """Accepted settings."""

    def test_the_defaults_need_no_file(self) -> None:
        loaded = load(None)
        self.assertEqual(loaded.config, Config())
        self.assertEqual((loaded.problems, loaded.warnings), ([], []))
        self.assertEqual((loaded.file, loaded.text), (None, ""))

    def test_an_empty_file_means_the_defaults(self) -> None:
        for text in ("", "\n", "# nothing\n", "[auth]\n[auth.kwargs]\n[logging]\n"):
            loaded = self.load(text)
            self.assertEqual((loaded.config, loaded.problems), (Config(), []), text)

    def test_takes_every_setting(self) -> None:
        for key, values in RIGHT.items():
            for value, meant in values.items():
                loaded = self.load(written(key, value))
                self.assertEqual((key, loaded.problems), (key, []), value)
                self.assertEqual(setting(loaded.config, key), meant, key)

    def test_the_tables_of_these_tests_have_every_setting(self) -> None:
        keys = {".".join(path) for path in settings()}
        self.assertEqual(set(WRONG), keys)
        self.assertEqual({*RIGHT, *PATHS, *TABLES}, keys)

    def test_paths_start_from_the_folder_of_the_file(self) -> None:
        nested = self.folder / "conf"
        nested.mkdir()
        path = nested / "relay.toml"
        path.write_text(
            "certfile = 'tls/cert.pem'\nkeyfile = '/etc/key.pem'\n"
            "logging.log_dir = '../logs'\nauth.kwargs.client_secret_file = 'secret'\n"
        )
        config = load(Path(os.path.relpath(path))).config
        self.assertEqual(config.certfile, nested / "tls/cert.pem")
        self.assertEqual(config.keyfile, Path("/etc/key.pem"))
        self.assertEqual(config.logging.log_dir, nested / "../logs")
        self.assertEqual(config.auth.kwargs.client_secret_file, nested / "secret")

    def test_a_tilde_is_the_home(self) -> None:
        config = self.load("certfile = '~/cert.pem'\nlogging.log_dir = '~'\n").config
        self.assertEqual(config.certfile, Path.home() / "cert.pem")
        self.assertEqual(config.logging.log_dir, Path.home())

    def test_the_home_of_nobody_is_a_problem(self) -> None:
        problem = self.only("\ncertfile = '~no-such-user/cert.pem'\n")
        self.assertEqual((problem.key, problem.line), ("certfile", 2))

    def test_a_path_with_a_null_character_is_a_problem(self) -> None:
        for key in ("certfile", "logging.log_dir", "auth.kwargs.client_secret_file"):
            problem = self.only(written(key, '"a\\u0000b"'))
            self.assertEqual(problem.key, key)

    def test_tables_in_any_spelling(self) -> None:
        meant = Config(auth=Auth("globus", AuthArguments("a", Secret("b"))))
        for text in (
            "[auth.kwargs]\nclient_id='a'\nclient_secret='b'\n[auth]\nmethod='globus'",
            "auth.method='globus'\nauth.kwargs.client_id='a'\n"
            "auth.kwargs.client_secret='b'",
            "auth={method='globus', kwargs={client_id='a', client_secret='b'}}",
            "[auth]\nmethod='globus'\n[logging]\n[auth.kwargs]\nclient_id='a'\n"
            "client_secret='b'",
        ):
            loaded = self.load(text)
            self.assertEqual((loaded.config, loaded.problems), (meant, []), text)

    def test_settings_are_frozen(self) -> None:
        with self.assertRaises(AttributeError):
            Config().port = 1  # type: ignore[misc]

    def test_the_scheme_tells_tls(self) -> None:
        self.assertEqual(Config().scheme, "ws")
        self.assertEqual(Config(certfile=Path("cert.pem")).scheme, "wss")


class RefusedTests(ConfigTestCase):
    """Refused settings: key, line, and the expected value."""

    def test_refuses_wrong_types_and_ranges(self) -> None:
        for key, values in WRONG.items():
            for value, hint in values.items():
                text = written(key, value)
                loaded = self.load(text)
                problem = loaded.problems[0]
                self.assertEqual(
                    (problem.key, problem.line, problem.file),
                    (key, text.count("\n"), str(self.path)),
                    text,
                )
                self.assertIn(hint, problem.message, text)
                self.assertNotIn("`", problem.message, text)
                self.assertNotIn("null", problem.message, text)
                # The default stands in for it.
                self.assertEqual(setting(loaded.config, key), setting(Config(), key))

    def test_the_list_of_clients_may_be_off_but_not_incessant(self) -> None:
        problem = self.only("[logging]\ncurrent_client_interval = 0.05\n")
        self.assertEqual(
            (problem.key, problem.line), ("logging.current_client_interval", 2)
        )
        self.assertIn("0 or a number >= 0.1", problem.message)

    def test_an_answer_of_globus_is_waited_for(self) -> None:
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
            found = self.found(text)
            self.assertEqual(
                found, [] if sound else [("timeouts.authentication", 2)], text
            )
            self.assertEqual(self.found(text.replace(globus, "")), [])
        message = self.only(f"timeouts.authentication = 7\n{globus}").message
        self.assertEqual(
            message,
            "expected at least 0.5 s more than auth.kwargs.timeout, which is 7 unless "
            "it is set",
        )

    def test_every_phase_but_the_stop_takes_time(self) -> None:
        for name in Timeouts.__struct_fields__:
            text = written(f"timeouts.{name}", "0")
            if name == "stop":
                self.assertEqual(self.found(text), [])
            else:
                self.assertIn(">= 0.1", self.only(text).message)

    def test_refuses_an_empty_host(self) -> None:
        self.assertEqual(self.found("host = ''\n"), [("host", 1)])

    def test_names_the_type_of_dates_plainly(self) -> None:
        for value in ("2020-01-01", "10:00:00", "2020-01-01T00:00:00Z"):
            self.assertNotIn("`", self.only(f"host = {value}\n").message)

    def test_reports_all_problems_at_once_in_the_order_of_the_file(self) -> None:
        found = self.found(
            "port = 'x'\nunknown = 1\n[auth]\nmethod = 1\n[auth.kwargs]\n"
            "client_secret = 1\n[logging]\ndefault_level = 'x'\nlog_dir = 1\n"
        )
        self.assertEqual(
            found,
            [
                ("port", 1),
                ("unknown", 2),
                ("auth.method", 4),
                ("auth.kwargs.client_secret", 6),
                ("logging.default_level", 8),
                ("logging.log_dir", 9),
            ],
        )

    def test_a_problem_reads_as_place_key_and_message(self) -> None:
        problem = self.only("\nport = -1\n")
        self.assertEqual(
            str(problem),
            f"{self.path}:2: port: expected a whole number from 0 to 65535",
        )
        self.assertEqual(
            str(ConfigError([problem, Problem("--port", "is odd")])),
            f"{problem}\n--port: is odd",
        )

    def test_sound_tells_which_settings_have_no_problem(self) -> None:
        loaded = self.load("port = 'x'\n")
        self.assertFalse(loaded.sound("port"))
        self.assertFalse(loaded.sound("host", "port"))
        self.assertTrue(loaded.sound("host", "certfile"))

    def test_locates_a_problem_that_was_found_elsewhere(self) -> None:
        loaded = self.load("\n\ncertfile = 'a'\n")
        problem = loaded.located(Problem("certfile", "is gone"))
        self.assertEqual(problem, Problem("certfile", "is gone", 3, str(self.path)))
        absent = loaded.located(Problem("host", "is odd"))
        self.assertEqual(absent, Problem("host", "is odd", None, str(self.path)))
        absent = Problem("host", "is odd")
        self.assertEqual(load(None).located(absent), absent)

    def test_locates_a_table_without_a_header(self) -> None:
        for text, key, line in (
            ("\nauth.method = 'globus'\n", "auth", 2),
            ("\n\nauth.kwargs.client_id = 'a'\n", "auth.kwargs", 3),
            ("\n[auth.kwargs]\nclient_id = 'a'\n", "auth.kwargs", 2),
            ("\n[auth]\nmethod = 'globus'\n", "auth", 2),
            ("\nauth = {method = 'globus'}\n", "auth", 2),
        ):
            located = self.load(text).located(Problem(key, "is odd"))
            self.assertEqual(located.line, line, text)

    def test_locates_an_outer_table_in_its_inner_one(self) -> None:
        loaded = self.load("\n[auth.kwargs]\nclient_id = 'a'\n")
        self.assertIn(loaded.located(Problem("auth", "is odd")).line, (2, 3))

    def test_locates_a_problem_below_what_is_no_table(self) -> None:
        for text in ("logging = 5\n", "logging = 'log_dir'\n", "logging = []\n"):
            loaded = self.load(text, {"--log-dir": "/dev/null/logs"})
            located = loaded.located(Problem("logging.log_dir", "cannot be made"))
            self.assertEqual(located.message, "cannot be made", text)

    def test_a_keyfile_needs_a_certfile(self) -> None:
        problem = self.only("port = 1\nkeyfile = 'key.pem'\n")
        self.assertEqual((problem.key, problem.line), ("keyfile", 2))
        self.assertIn("certfile", problem.message)

    def test_a_wrong_certfile_is_not_a_missing_one(self) -> None:
        self.assertEqual(self.found("certfile = 1\nkeyfile = 'a'\n"), [("certfile", 1)])

    def test_an_unreadable_file(self) -> None:
        for path, why in (
            (self.folder / "missing.toml", "No such file"),
            (self.folder, "Is a directory"),
            (self.folder / "relay.toml" / "x", "No such file"),
        ):
            loaded = load(path)
            self.assertEqual(loaded.config, Config())
            (problem,) = loaded.problems
            self.assertEqual((problem.key, problem.file), ("", str(path)))
            self.assertIn("cannot be read", problem.message)
            self.assertIn(why, problem.message)

    def test_a_file_without_permission(self) -> None:
        self.path.write_text("")
        self.path.chmod(0)
        if os.access(self.path, os.R_OK):
            self.skipTest("this user may read everything")
        self.assertIn("Permission denied", load(self.path).problems[0].message)

    def test_a_file_that_is_not_utf_8(self) -> None:
        problem = self.only("host = 'é'".encode("latin-1"))
        self.assertEqual(str(problem), f"{self.path}: is not UTF-8 text")

    def test_broken_toml_has_its_line(self) -> None:
        for text, line in (
            ("port = 1\nhost = \n", 2),
            ("port = 1\n\n[auth\nmethod = 'globus'", 3),
            ("port = 1\nport = 2\n", 2),
            ("[auth]\n[auth]\n", 2),
            ("a b = 1\n", 1),
            ("\nhost = 'a\n", 2),
        ):
            problem = self.only(text)
            self.assertEqual((problem.key, problem.line), ("", line), text)
            self.assertIn("is not valid TOML", problem.message)

    def test_a_text_without_quotes_is_told_of_them(self) -> None:
        for text in ("\nhost = 127.0.0.1\n", "certfile = /etc/cert.pem", "x.y=abc\r\n"):
            self.assertIn('; a text needs quotes: "..."', self.only(text).message)
        for text in ("host = 'a\n", "a b = 1\n", "x = [1,\n2\n", "[auth\n", "host =\n"):
            self.assertNotIn("quotes", self.only(text).message, text)

    def test_a_setting_that_stands_twice_has_its_line(self) -> None:
        problem = self.only("[auth.kwargs]\n\nclient_id = 'a'\nclient_id = 'b'\n")
        self.assertIn("client_id", problem.message)
        self.assertEqual(problem.line, 4)

    def test_broken_toml_shows_no_nul(self) -> None:
        for text in ("host =", "host = ", "x = [1,\n2\n", "[auth"):
            self.assertNotIn("x00", self.only(text).message, text)

    @given_settings(max_examples=60, deadline=None, database=None)
    @given(st.text(alphabet="a=[]{}'\"\\#.,\n\r \t-1:T\x00é", max_size=40))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        self.assertIsInstance(self.load(text).config, Config)

    def test_lists_hold_nothing_that_could_match_nobody(self) -> None:
        for name, values in {
            "denied_users": (
                "eve@bad.example",
                "",
                "A3BB189E-8BF9-3888-9912-ACE4E6543002",
            ),
            "allowed_users": ("eve",),
            "denied_domains": ("@bad.example", "", "bad .example", "*.example"),
            "required_scopes": (
                *("", "relay_all", ":relay_all", "urn:a b", "urn:\u00e4", 'urn:"'),
                *("urn:\\\\", "https://auth.globus.org/scopes/<client_id>/relay_all"),
            ),
            "allowed_domains": ("eve@bad.example",),
        }.items():
            for value in values:
                problem = self.only(f"\n[auth.kwargs]\n{name} = ['{value}']\n")
                self.assertEqual(
                    (problem.key, problem.line), (f"auth.kwargs.{name}", 3)
                )
        for name, words in (
            ("allowed_domains = ['*']", "without @ and wildcards"),
            ("required_scopes = ['relay_all']", "whole scope strings, such as"),
        ):
            self.assertIn(words, self.only(f"[auth.kwargs]\n{name}\n").message)
        loaded = self.load(
            "[auth.kwargs]\ndenied_domains = ['Bad.example']\n"
            "denied_users = ['a3bb189e-8bf9-3888-9912-ace4e6543002']\n"
        )
        self.assertEqual(loaded.problems, [])

    def test_warns_of_who_is_both_allowed_and_denied(self) -> None:
        for kind, one, two in (
            ("users", f"'{IDENTITY}'", f"'{IDENTITY}'"),
            ("domains", "'a.example', 'b.example'", "'B.Example'"),
        ):
            text = f"[auth.kwargs]\nallowed_{kind} = [{one}]\ndenied_{kind} = [{two}]\n"
            loaded = self.load(text)
            self.assertEqual(loaded.problems, [])
            (warning,) = loaded.warnings
            self.assertEqual(
                (warning.key, warning.line), (f"auth.kwargs.allowed_{kind}", 2)
            )
            self.assertIn(f"denied_{kind}", warning.message)


class ProxyTests(ConfigTestCase):
    """Trusted proxies."""

    def test_a_protocol_needs_somebody_who_may_speak_it(self) -> None:
        text = "[limits]\nproxy_protocol = true\n"
        problem = self.only(text)
        self.assertEqual(problem.key, "limits.proxy_protocol")
        self.assertIn("trusted_proxies", problem.message)
        loaded = self.load(text + "trusted_proxies = ['192.0.2.1']\n")
        self.assertEqual((loaded.problems, loaded.warnings), ([], []))
        self.assertTrue(loaded.config.limits.proxy_protocol)

    def test_warns_of_believing_everybody(self) -> None:
        for network in ("0.0.0.0/0", "::/0"):
            loaded = self.load(f"[limits]\ntrusted_proxies = ['{network}']\n")
            self.assertEqual(loaded.problems, [])
            (warning,) = loaded.warnings
            self.assertEqual((warning.key, warning.line), ("limits.trusted_proxies", 2))


class OverrideTests(ConfigTestCase):
    """The command line wins over the file."""

    def test_overrides_the_file(self) -> None:
        loaded = self.load(
            "host = 'a'\nport = 1\n[logging]\nlog_dir = 'a'\ndefault_level = 'INFO'\n",
            {
                "--host": "b",
                "--port": "2",
                "--log-dir": "/b",
                "--log-level": "debug",
            },
        )
        self.assertEqual(loaded.problems, [])
        config = loaded.config
        self.assertEqual((config.host, config.port), ("b", 2))
        self.assertEqual(config.logging.log_dir, Path("/b"))
        self.assertEqual(config.logging.default_level, "DEBUG")

    def test_overrides_the_defaults(self) -> None:
        loaded = load(None, {"--host": "::1", "--port": "0", "--log-level": "warn"})
        self.assertEqual(loaded.problems, [])
        self.assertEqual((loaded.config.host, loaded.config.port), ("::1", 0))
        self.assertEqual(loaded.config.logging.default_level, "WARNING")

    def test_overrides_what_is_wrong(self) -> None:
        loaded = self.load("port = 'x'\n", {"--port": "2"})
        self.assertEqual((loaded.problems, loaded.config.port), ([], 2))

    def test_says_nothing_with_none(self) -> None:
        loaded = self.load("port = 1\n", {"--port": None, "--host": None})
        self.assertEqual((loaded.problems, loaded.config), ([], Config(port=1)))

    def test_log_dir_starts_from_the_working_directory(self) -> None:
        loaded = self.load("", {"--log-dir": "logs"})
        self.assertEqual(loaded.config.logging.log_dir, Path.cwd() / "logs")
        loaded = self.load("", {"--log-dir": "~/logs"})
        self.assertEqual(loaded.config.logging.log_dir, Path.home() / "logs")

    def test_problems_have_the_name_of_the_option(self) -> None:
        for option, wrong in {
            "--port": ["x", "-1", "65536", "", "1.5", "²", "9" * 5000],
            "--log-dir": [""],
            "--log-level": ["loud", ""],
        }.items():
            for value in wrong:
                loaded = self.load("host = 'a'\nport = 1\n", {option: value})
                self.assertEqual(
                    [(p.key, p.line, p.file) for p in loaded.problems],
                    [(option, None, None)],
                    value,
                )

    def test_a_port_out_of_range_is_told_so(self) -> None:
        for value in ("65536", "-1"):
            (problem,) = load(None, {"--port": value}).problems
            self.assertIn("from 0 to 65535", problem.message)

    def test_an_empty_host_is_a_problem(self) -> None:
        (problem,) = load(None, {"--host": ""}).problems
        self.assertEqual(problem.key, "--host")

    def test_the_home_of_nobody_is_a_problem(self) -> None:
        (problem,) = load(None, {"--log-dir": "~no-such-user/logs"}).problems
        self.assertEqual(problem.key, "--log-dir")

    def test_levels_are_spelt_as_in_the_file(self) -> None:
        for value, level in (
            ("warn", "WARNING"),
            ("Info", "INFO"),
            ("fatal", "CRITICAL"),
        ):
            loaded = load(None, {"--log-level": value})
            self.assertEqual(loaded.problems, [], value)
            self.assertEqual(loaded.config.logging.default_level, level)

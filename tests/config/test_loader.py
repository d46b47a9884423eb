"""relay.toml and the command line: accepted and refused files."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from proxyrelay.config import Auth, AuthArguments, Config, Secret, load
from proxyrelay.config.loader import MAX_FILE_BYTES, MAX_LOCATED_PROBLEMS
from proxyrelay.errors import ConfigError, Problem
from tests.config.case import ConfigTestCase


class AcceptedTests(ConfigTestCase):
    """Accepted settings."""

    def test_load_nothing_gives_defaults(self) -> None:
        loaded = load(None)
        self.assertEqual((loaded.config, loaded.problems), (Config(), []))
        self.assertEqual((loaded.file, loaded.text, loaded.warnings), (None, "", []))
        for text in ("", "\n", "# nothing\n", "[auth]\n[auth.kwargs]\n[logging]\n"):
            self.assertEqual(self.sound(text), Config(), text)

    def test_load_table_in_any_spelling_is_the_same(self) -> None:
        meant = Config(auth=Auth("globus", AuthArguments("a", Secret("b"))))
        for text in (
            "[auth.kwargs]\nclient_id='a'\nclient_secret='b'\n[auth]\nmethod='globus'",
            "auth.method='globus'\nauth.kwargs.client_id='a'\n"
            "auth.kwargs.client_secret='b'",
            "auth={method='globus', kwargs={client_id='a', client_secret='b'}}",
            "[auth]\nmethod='globus'\n[logging]\n[auth.kwargs]\nclient_id='a'\n"
            "client_secret='b'",
        ):
            self.assertEqual(self.sound(text), meant, text)


class RefusedTests(ConfigTestCase):
    """Refused settings: key, line, and the expected value."""

    def test_load_many_problems_are_in_order_of_file(self) -> None:
        found = self.found(
            "port = 'x'\nunknown = 1\n[auth]\nmethod = 1\n[auth.kwargs]\n"
            "client_secret = 1\n[logging]\ndefault_level = 'x'\nlog_dir = 1\n"
        )
        self.assertEqual(
            found,
            [
                *(("port", 1), ("unknown", 2), ("auth.method", 4)),
                *(("auth.kwargs.client_secret", 6), ("logging.default_level", 8)),
                ("logging.log_dir", 9),
            ],
        )

    def test_load_text_in_the_place_of_a_number_says_so(self) -> None:
        for text, key, line in (
            ('port = "8700"\n', "port", 1),
            ('[limits]\nconnections = "5"\n', "limits.connections", 2),
            ('[timeouts]\nstop = "5.5"\n', "timeouts.stop", 2),
            ('reuse_port = "true"\n', "reuse_port", 1),
        ):
            value = text.partition('"')[2].partition('"')[0]
            words = f'; "{value}" is a text: remove the quotes'
            self.assert_problem(text, key, line, words)
        for text in ('port = "x"\n', "port = [8700]\n", f'port = "{"1" * 50}"\n'):
            self.assertNotIn("quotes", self.only(text).message)
        (problem,) = load(None, {"--port": "-1"}).problems
        self.assertNotIn("quotes", problem.message)

    def test_load_repeated_name_has_no_hint_at_quotes(self) -> None:
        for text, line in (
            ("port = 1\nport = 2\n", 2),
            ("[logging]\nprivacy = true\nprivacy = false\n", 3),
            ("logging.privacy = true\n[logging]\nformat = 'json'\n", 3),
        ):
            problem = self.assert_problem(text, "", line, "exist")
            self.assertNotIn("quotes", problem.message)

    def test_load_anything_but_a_small_regular_file_is_refused_at_once(self) -> None:
        whole = b"#" * (MAX_FILE_BYTES - 1) + b"\n"
        self.assertEqual(self.load(whole).problems, [])
        why = "cannot be read: it has over 1,000,000 bytes"
        self.assertEqual(self.only(whole + b"\n").message, why)
        self.path.unlink()
        os.mkfifo(self.path)
        for path in (self.path, Path("/dev/zero")):
            (problem,) = load(path).problems
            self.assertEqual(problem.message, "cannot be read: it is no regular file")

    def test_load_many_problems_have_lines_up_to_a_number(self) -> None:
        text = "".join(f"unknown_{number} = 1\n" for number in range(100))
        lines = [line for _, line in self.found(text)]
        self.assertEqual(len(lines), 100)
        located = [line for line in lines if line is not None]
        self.assertEqual(located, [*range(1, MAX_LOCATED_PROBLEMS + 1)])

    def test_problem_reads_as_place_key_and_message(self) -> None:
        problem = self.only("\nport = -1\n")
        expected = f"{self.path}:2: port: expected a whole number from 0 to 65535"
        self.assertEqual(str(problem), expected)
        error = ConfigError([problem, Problem("--port", "is odd")])
        self.assertEqual(str(error), f"{problem}\n--port: is odd")

    def test_sound_tells_settings_without_problem(self) -> None:
        loaded = self.load("port = 'x'\n", {"--log-level": "loud"})
        for keys, is_sound in (
            (("port",), False),
            (("host", "port"), False),
            (("logging.default_level",), False),
            (("host", "certfile"), True),
        ):
            self.assertIs(loaded.sound(*keys), is_sound)

    def test_located_adds_line_and_file(self) -> None:
        for text, key, line in (
            ("\n\ncertfile = 'a'\n", "certfile", 3),
            ("\n\ncertfile = 'a'\n", "host", None),
            ("\nauth.method = 'globus'\n", "auth", 2),
            ("\n\nauth.kwargs.client_id = 'a'\n", "auth.kwargs", 3),
            ("\n[auth.kwargs]\nclient_id = 'a'\n", "auth.kwargs", 2),
            ("\n[auth.kwargs]\nclient_id = 'a'\n", "auth", 2),
            ("\n[auth]\nmethod = 'globus'\n", "auth", 2),
            ("\nauth = {method = 'globus'}\n", "auth", 2),
            ("\n[auth]\nmethod = 1\n[logging]\n[auth.kwargs]\na = 1\n", "auth", 3),
            # Below what is no table:
            *(("logging = " + x, "logging.log_dir", None) for x in ("5", "'a'", "[]")),
        ):
            located = self.load(text).located(Problem(key, "is odd"))
            self.assertEqual(located, Problem(key, "is odd", line, str(self.path)))
        problem = Problem("certfile", "is gone")
        self.assertEqual(load(None).located(problem), problem)

    def test_load_unreadable_file_is_only_problem(self) -> None:
        for path, why in (
            (self.folder / "missing.toml", "No such file"),
            (self.folder, "Is a directory"),
            (self.folder / "relay.toml" / "x", "No such file"),
        ):
            loaded = load(path)
            self.assertEqual(loaded.config, Config())
            (problem,) = loaded.problems
            self.assertEqual((problem.key, problem.file), ("", str(path)))
            self.assertIn(f"cannot be read: {why}", problem.message)

    def test_load_file_without_permission_is_refused(self) -> None:
        self.path.write_text("")
        self.path.chmod(0)
        if os.access(self.path, os.R_OK):
            self.skipTest("this user may read everything")
        self.assertIn("Permission denied", load(self.path).problems[0].message)

    def test_load_other_encoding_is_refused(self) -> None:
        problem = self.only("host = 'é'".encode("latin-1"))
        self.assertEqual(str(problem), f"{self.path}: is not UTF-8 text")

    def test_load_broken_toml_is_refused_with_line(self) -> None:
        for text, line in (
            ("port = 1\nhost = \n", 2),
            ("port = 1\n\n[auth\nmethod = 'globus'", 3),
            ("port = 1\nport = 2\n", 2),
            ("[auth]\n[auth]\n", 2),
            ("[auth.kwargs]\n\nclient_id = 'a'\nclient_id = 'b'\n", 4),
            ("a b = 1\n", 1),
            ("\nhost = 'a\n", 2),
        ):
            self.assert_problem(text, "", line, "is not valid TOML")
        for text in ("host =", "host = ", "x = [1,\n2\n", "[auth"):
            self.assertNotIn("x00", self.only(text).message, text)

    def test_load_text_without_quotes_is_told_of_them(self) -> None:
        for text in ("\nhost = 127.0.0.1\n", "certfile = /etc/cert.pem", "x.y=abc\r\n"):
            self.assertIn('; a text needs quotes: "..."', self.only(text).message)
        for text in ("host = 'a\n", "a b = 1\n", "x = [1,\n2\n", "[auth\n", "host =\n"):
            self.assertNotIn("quotes", self.only(text).message, text)

    @given_settings(max_examples=60, deadline=None, database=None)
    @given(st.text(alphabet="a=[]{}'\"\\#.,\n\r \t-1:T\x00é", max_size=40))
    def test_load_any_text_does_not_raise(self, text: str) -> None:
        self.assertIsInstance(self.load(text).config, Config)


class OverrideTests(ConfigTestCase):
    """The command line wins over the file."""

    def test_option_overrides_file_and_its_mistakes(self) -> None:
        loaded = self.load(
            "host = 'a'\nport = 'x'\n[logging]\nlog_dir = 'a'\ndefault_level = 'X'\n",
            {"--host": "b", "--port": "2", "--log-dir": "/b", "--log-level": "debug"},
        )
        self.assertEqual(loaded.problems, [])
        config = loaded.config
        self.assertEqual((config.host, config.port), ("b", 2))
        self.assertEqual(config.logging.log_dir, Path("/b"))
        self.assertEqual(config.logging.default_level, "DEBUG")

    def test_option_without_file_overrides_defaults(self) -> None:
        loaded = load(None, {"--host": "::1", "--port": "0", "--log-level": "warn"})
        self.assertEqual(loaded.problems, [])
        self.assertEqual((loaded.config.host, loaded.config.port), ("::1", 0))
        self.assertEqual(loaded.config.logging.default_level, "WARNING")

    def test_option_absent_overrides_nothing(self) -> None:
        loaded = self.load("port = 1\n", {"--port": None, "--host": None})
        self.assertEqual((loaded.problems, loaded.config), ([], Config(port=1)))

    def test_option_log_dir_starts_from_working_folder_or_home(self) -> None:
        for given_path, expected in (
            ("logs", Path.cwd() / "logs"),
            ("~/logs", Path.home() / "logs"),
        ):
            loaded = self.load("", {"--log-dir": given_path})
            self.assertEqual(loaded.config.logging.log_dir, expected)

    def test_option_wrong_is_named_without_line(self) -> None:
        for option, hint, values in (
            ("--host", "a text", ("",)),
            ("--port", "a whole number", ("x", "", "1.5", "²")),
            ("--port", "from 0 to 65535", ("-1", "65536", "9" * 5000)),
            ("--log-dir", "expected a", ("", "~no-such-user/logs")),
            ("--log-level", "DEBUG, INFO, WARNING", ("loud", "")),
        ):
            for value in values:
                text = "host = 'a'\nport = 1\nlogging.default_log_level = 'INFO'\n"
                loaded = self.load(text, {option: value})
                (problem,) = loaded.problems
                expected = Problem(option, problem.message)
                self.assertEqual(problem, expected, value)
                self.assertIn(hint, problem.message)

"""Deprecated and unknown names of settings."""

from __future__ import annotations

from collections.abc import Mapping

from proxyrelay.config import settings
from tests.config.case import ConfigTestCase


class AliasTests(ConfigTestCase):
    """Spellings that ProxyStore's documentation uses."""

    ALIASES: Mapping[str, tuple[str, str, object]] = {
        "default_log_level": ("default_level", "'DEBUG'", "DEBUG"),
        "websockets_log_level": ("websockets_level", "'ERROR'", "ERROR"),
        "connected_client_logging_interval": ("current_client_interval", "7", 7),
        "connected_client_logging_limit": ("current_client_limit", "7", 7),
    }

    def test_an_alias_counts_and_is_warned_of(self) -> None:
        for alias, (name, value, meant) in self.ALIASES.items():
            loaded = self.load(f"[logging]\n\n{alias} = {value}\n")
            self.assertEqual(loaded.problems, [])
            self.assertEqual(getattr(loaded.config.logging, name), meant)
            (warning,) = loaded.warnings
            self.assertEqual((warning.key, warning.line), (f"logging.{alias}", 3))
            self.assertIn(f"write {name}", warning.message)

    def test_both_spellings_are_a_problem(self) -> None:
        for alias, (name, value, meant) in self.ALIASES.items():
            loaded = self.load(f"[logging]\n{alias} = 'x'\n{name} = {value}\n")
            (problem,) = loaded.problems
            self.assertEqual((problem.key, problem.line), (f"logging.{alias}", 2))
            self.assertIn(name, problem.message)
            self.assertEqual(getattr(loaded.config.logging, name), meant)
            self.assertEqual(loaded.warnings, [])

    def test_a_wrong_value_has_the_line_and_the_key_that_stand_in_the_file(
        self,
    ) -> None:
        for alias in self.ALIASES:
            problem = self.only(f"[logging]\n\n{alias} = []\n")
            self.assertEqual(problem.line, 3)
            self.assertIn(alias, str(problem))

    def test_an_alias_counts_only_in_its_table(self) -> None:
        problem = self.only("default_log_level = 'DEBUG'\n")
        self.assertEqual(problem.key, "default_log_level")
        self.assertIn("default_level in [logging]", problem.message)


class UnknownTests(ConfigTestCase):
    """Settings that there are not are refused, with the nearest that there is."""

    def test_names_what_was_probably_meant(self) -> None:
        for text, key, hint in (
            ("prot = 1\n", "prot", "port at the top of the file"),
            ("Port = 1\n", "Port", "port at the top of the file"),
            ("log_dir = 'a'\n", "log_dir", "log_dir in [logging]"),
            ("client_id = 'a'\n", "client_id", "client_id in [auth.kwargs]"),
            ("[serving]\ncertfile = 'a'\n", "serving.certfile", "certfile at the top"),
            ("[auth]\ncertfile = 'a'\n", "auth.certfile", "certfile at the top"),
            ("[auth.kwargs]\nport = 1\n", "auth.kwargs.port", "port at the top"),
            ("[auth]\naudience = 'a'\n", "auth.audience", "audience in [auth.kwargs]"),
            ("[logging]\ndefault_levl=1\n", "logging.default_levl", "default_level in"),
            (
                "[timeouts]\npingtimeout = 1\n",
                "timeouts.pingtimeout",
                "ping_timeout in",
            ),
        ):
            problem = self.only(text)
            self.assertEqual((problem.key, problem.line), (key, text.count("\n")))
            self.assertTrue(problem.message.startswith("unknown setting; did you mean"))
            self.assertIn(hint, problem.message, text)

    def test_admits_that_nothing_is_near(self) -> None:
        for text in ("zzz = 1\n", "[zzz]\nqqq = 1\n", "[zzz]\n", "'' = 1\n"):
            self.assertEqual(self.only(text).message, "unknown setting", text)

    def test_refuses_each_setting_of_an_unknown_table(self) -> None:
        self.assertEqual(
            self.found("[serving]\ncertfile = 'a'\n\nport = 1\n[serving.x]\ny = 1\n"),
            [("serving.certfile", 2), ("serving.port", 4), ("serving.x.y", 6)],
        )

    def test_names_the_table_that_was_probably_meant(self) -> None:
        for text, key, hint in (
            ("[loging]\n", "loging", "[logging]"),
            ("[Timeout]\nstop = 1\nx = 1\n", "Timeout", "[timeouts]"),
            ("[auth.kwarg]\naudience = 'a'\nb = 1\n", "auth.kwarg", "[auth.kwargs]"),
        ):
            problem = self.only(text)
            self.assertEqual((problem.key, problem.line), (key, 1))
            self.assertEqual(problem.message, f"unknown table; did you mean {hint}?")
        for text in ("loging = 1\n", "[auth]\nkwarg = 1\n"):
            self.assertIn("unknown setting", self.only(text).message)

    def test_finds_the_line_of_a_list_of_tables(self) -> None:
        self.assertEqual(
            self.found("port = 1\n[[logging]]\nlog_dir = 'x'\n"), [("logging", 2)]
        )
        self.assertEqual(self.found("port = 1\n[[serving]]\n"), [("serving", 2)])

    def test_suggests_only_what_there_is(self) -> None:
        known = {path[-1] for path in settings()}
        for name in known:
            for wrong in (name.upper(), f"{name}x", name[1:], f"x_{name}"):
                message = self.only(f"[serving]\n{wrong} = 1\n").message
                if "did you mean" in message:
                    hinted = message.split("did you mean ")[1].split()[0]
                    self.assertIn(hinted, known)

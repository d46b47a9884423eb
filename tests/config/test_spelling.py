"""Deprecated and unknown names of settings."""

from __future__ import annotations

from collections.abc import Mapping

from proxyrelay.config import settings
from tests.config.case import ConfigTestCase

ALIASES: Mapping[str, tuple[str, str, object]] = {
    "default_log_level": ("default_level", "'DEBUG'", "DEBUG"),
    "websockets_log_level": ("websockets_level", "'ERROR'", "ERROR"),
    "connected_client_logging_interval": ("current_client_interval", "7", 7),
    "connected_client_logging_limit": ("current_client_limit", "7", 7),
}


class AliasTests(ConfigTestCase):
    """Spellings that ProxyStore's documentation uses."""

    def test_alias_counts_and_is_warned_of(self) -> None:
        for alias, (name, value, meant) in ALIASES.items():
            text = f"[logging]\n\n{alias} = {value}\n"
            self.assert_warning(text, f"logging.{alias}", 3, f"write {name}")
            self.assertEqual(getattr(self.load(text).config.logging, name), meant)

    def test_alias_beside_name_is_problem(self) -> None:
        for alias, (name, value, meant) in ALIASES.items():
            text = f"[logging]\n{alias} = 'x'\n{name} = {value}\n"
            self.assert_problem(text, f"logging.{alias}", 2, name)
            loaded = self.load(text)
            self.assertEqual(getattr(loaded.config.logging, name), meant)
            self.assertEqual(loaded.warnings, [])

    def test_alias_with_wrong_value_is_named_as_written(self) -> None:
        for alias in ALIASES:
            self.assert_problem(f"[logging]\n\n{alias} = []\n", f"logging.{alias}", 3)

    def test_alias_outside_its_table_is_unknown(self) -> None:
        text = "default_log_level = 'DEBUG'\n"
        hint = "default_level in [logging]"
        self.assert_problem(text, "default_log_level", 1, hint)


class UnknownTests(ConfigTestCase):
    """Unknown settings are refused, with a hint."""

    def test_unknown_setting_near_a_known_one_names_it(self) -> None:
        top = "at the top of the file"
        for text, key, hint in (
            ("prot = 1\n", "prot", f"port {top}"),
            ("Port = 1\n", "Port", f"port {top}"),
            ("log_dir = 'a'\n", "log_dir", "log_dir in [logging]"),
            ("client_id = 'a'\n", "client_id", "client_id in [auth.kwargs]"),
            ("[serving]\ncertfile = 'a'\n", "serving.certfile", f"certfile {top}"),
            ("[auth]\ncertfile = 'a'\n", "auth.certfile", f"certfile {top}"),
            ("[auth.kwargs]\nport = 1\n", "auth.kwargs.port", f"port {top}"),
            ("[auth]\naudience = 'a'\n", "auth.audience", "audience in [auth.kwargs]"),
            ("[logging]\ndefault_levl=1\n", "logging.default_levl", "default_level in"),
            ("[timeouts]\npingtimeout=1\n", "timeouts.pingtimeout", "ping_timeout in"),
        ):
            words = f"unknown setting; did you mean {hint}"
            self.assert_problem(text, key, text.count("\n"), words)

    def test_unknown_setting_near_nothing_has_no_hint(self) -> None:
        for text in ("zzz = 1\n", "[zzz]\nqqq = 1\n", "[zzz]\n", "'' = 1\n"):
            self.assertEqual(self.only(text).message, "unknown setting", text)
        # A dot in a name is no table.
        self.assert_problem("\n'port.x' = 1\n", "port.x", 2)

    def test_unknown_table_names_each_setting_or_near_table(self) -> None:
        self.assertEqual(
            self.found("[serving]\ncertfile = 'a'\n\nport = 1\n[serving.x]\ny = 1\n"),
            [("serving.certfile", 2), ("serving.port", 4), ("serving.x.y", 6)],
        )
        for text, key, hint in (
            ("[loging]\n", "loging", "[logging]"),
            ("[Timeout]\nstop = 1\nx = 1\n", "Timeout", "[timeouts]"),
            ("[auth.kwarg]\naudience = 'a'\nb = 1\n", "auth.kwarg", "[auth.kwargs]"),
        ):
            self.assert_problem(text, key, 1, f"unknown table; did you mean {hint}?")
        for text in ("loging = 1\n", "[auth]\nkwarg = 1\n"):
            self.assertIn("unknown setting", self.only(text).message)

    def test_unknown_list_of_tables_has_its_line(self) -> None:
        for text, key in (
            ("port = 1\n[[logging]]\nlog_dir = 'x'\n", "logging"),
            ("port = 1\n[[serving]]\n", "serving"),
        ):
            self.assertEqual(self.found(text), [(key, 2)])

    def test_unknown_setting_hint_is_a_known_name(self) -> None:
        known = {path[-1] for path in settings()}
        for name in known:
            for wrong in (name.upper(), f"{name}x", name[1:], f"x_{name}"):
                message = self.only(f"[serving]\n{wrong} = 1\n").message
                if "did you mean" in message:
                    hinted = message.split("did you mean ")[1].split()[0]
                    self.assertIn(hinted, known)

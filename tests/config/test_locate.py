"""Lines of settings in a TOML text."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from tests.config.case import ConfigTestCase


class LineTests(ConfigTestCase):
    """The line of a setting, however the document is laid out."""

    def test_line_of_each_setting_is_found(self) -> None:
        for text, expected in (
            (  # tables out of order
                "[auth]\nmethod = 1\n\n[logging]\nlog_dir = 2\n\n[auth.kwargs]\n"
                "# a comment\nclient_id = 3\n[timeouts]\nstop = 'x'\n",
                {
                    "auth.method": 2,
                    "logging.log_dir": 5,
                    "auth.kwargs.client_id": 9,
                    "timeouts.stop": 11,
                },
            ),
            (  # a table after its inner table
                "[auth.kwargs]\nclient_id = 1\n[logging]\nlog_dir = 1\n[auth]\n"
                "method = 1\n",
                {"auth.kwargs.client_id": 2, "logging.log_dir": 4, "auth.method": 6},
            ),
            (  # dotted keys
                "logging.log_dir = 1\nauth.kwargs.client_id = 1\nport = 'x'\n"
                "auth.method = 1\nlogging.default_level = 1\n",
                {
                    "logging.log_dir": 1,
                    "auth.kwargs.client_id": 2,
                    "port": 3,
                    "auth.method": 4,
                    "logging.default_level": 5,
                },
            ),
            (  # dotted and quoted keys in a table
                "[auth]\n'method' = 1\nkwargs . \"client_id\" = 1\n",
                {"auth.method": 2, "auth.kwargs.client_id": 3},
            ),
            (  # inline tables
                "port = 1\nauth = {method = 1, kwargs = {client_id = 1}}\n"
                "logging = {log_dir = 1} # a comment\n",
                {"auth.method": 2, "auth.kwargs.client_id": 2, "logging.log_dir": 3},
            ),
            (  # values of several lines
                'host = """\na\nb"""\nport = """\nx\n"""\n'
                "allowed_origins = [\n  1,\n  2,\n]\nmax_message_bytes = ''\n",
                {"port": 4, "allowed_origins": 7, "max_message_bytes": 11},
            ),
            ("# port = 1\n\n  port = 'x' # y\n", {"port": 3}),
            ("#\n[logging] # port\n\n# a\nx=1", {"logging.x": 5}),
            (
                "# a\r\nport = 'x'\r\n\r\n[logging]\r\nlog_dir = 1\r\n",
                {"port": 2, "logging.log_dir": 5},
            ),
            ("\nport = 'x'", {"port": 2}),
        ):
            self.assertEqual(dict(self.found(text)), expected, text)

    WRONG_VALUES: Mapping[str, Mapping[str, str]] = {
        "": {
            "host": "1",
            "port": "'x'",
            "certfile": "[\n1,\n]",
            "max_message_bytes": '"""\na\n"""',
            "max_unread_bytes": "nan",
            "allowed_origins": "[\n  1, # one\n\n  2\n]",
        },
        "auth": {"method": "5"},
        "auth.kwargs": {"client_id": "1", "client_secret": "1979-05-27"},
        "logging": {"log_dir": "1", "default_level": "'x'", "typo": "[[1], {a = 1}]"},
        "timeouts": {"stop": "-1", "ping_timeout": "''"},
    }

    FILLERS = ("", "# a comment", "   # port = 1", "\t")

    @st.composite
    @staticmethod
    def documents(draw: st.DrawFn) -> tuple[str, dict[str, int]]:
        """A document full of wrong values, and the line of each."""
        lines: list[str] = []
        expected: dict[str, int] = {}
        values = LineTests.WRONG_VALUES

        def fill() -> None:
            lines.extend(draw(st.lists(st.sampled_from(LineTests.FILLERS), max_size=2)))

        def put(name: str, key: str, value: str) -> None:
            fill()
            indent = draw(st.sampled_from(("", "  ")))
            comment = draw(st.sampled_from(("", " # why", "#")))
            expected[key] = len(lines) + 1
            lines.extend(f"{indent}{name} = {value}{comment}".split("\n"))

        tables = draw(st.permutations(sorted(set(values) - {""})))
        dotted = draw(st.sets(st.sampled_from(["logging", "timeouts"])))
        inline = draw(st.sets(st.sampled_from(["timeouts"]))) - dotted
        top = [(name, name, value) for name, value in values[""].items()]
        top += [
            (f"{table}.{name}", f"{table}.{name}", value)
            for table in sorted(dotted)
            for name, value in values[table].items()
        ]
        for name, key, value in draw(st.permutations(top)):
            put(name, key, value)
        for table in sorted(inline):
            inner = draw(st.permutations(sorted(values[table].items())))
            text = ", ".join(f"{name} = {value}" for name, value in inner)
            fill()
            lines.append(f"{table} = {{{text}}}")
            expected |= {f"{table}.{name}": len(lines) for name, _ in inner}
        for table in tables:
            if table in dotted | inline:
                continue
            fill()
            lines.append(f"[{table}]" + draw(st.sampled_from(("", " # table"))))
            for name, value in draw(st.permutations(sorted(values[table].items()))):
                put(name, f"{table}.{name}", value)
        end = draw(st.sampled_from(("\n", "\r\n")))
        return end.join(lines) + draw(st.sampled_from(("", end))), expected

    @given_settings(max_examples=60, deadline=None, database=None)
    @given(st.data())
    def test_line_of_setting_in_any_layout_is_found(self, data: st.DataObject) -> None:
        text, expected = data.draw(LineTests.documents())
        self.assertEqual(dict(self.found(text)), expected, text)

"""Places of the credentials, and errors about them."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.credentials import (
    CREDENTIAL,
    ID_VARIABLE,
    MAX_SECRET_BYTES,
    SECRET_VARIABLE,
    Credentials,
    find,
)
from proxyrelay.config import AuthArguments, Secret
from proxyrelay.errors import ConfigError
from tests.support.globus import CLIENT_ID

OTHER_ID = "0b0f8a9e-5d3a-4a5e-9a58-0c7d4e1f2a3b"

ENVIRONMENT = {ID_VARIABLE: OTHER_ID, SECRET_VARIABLE: "its-secret"}

KEYS = ("auth.kwargs.client_id", "auth.kwargs.client_secret")


class FindTests(SynchronousTestCase):
    """Settings, files, the environment, systemd."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def written(self, data: bytes, name: str = "secret") -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def problems(
        self, arguments: AuthArguments, environment: dict[str, str]
    ) -> dict[str, str]:
        with self.assertRaises(ConfigError) as caught:
            find(arguments, environment)
        return {problem.key: problem.message for problem in caught.exception.problems}

    def test_the_settings_win(self) -> None:
        found = find(
            AuthArguments(client_id=CLIENT_ID, client_secret=Secret("b")), ENVIRONMENT
        )
        self.assertEqual(found, Credentials(CLIENT_ID, Secret("b")))

    def test_the_environment_stands_in(self) -> None:
        found = find(AuthArguments(), ENVIRONMENT)
        self.assertEqual(found, Credentials(OTHER_ID, Secret("its-secret")))

    def test_a_file_holds_the_secret(self) -> None:
        path = self.written(b"\xef\xbb\xbf  from-the-file\r\n")
        found = find(AuthArguments(client_secret_file=path), ENVIRONMENT)
        self.assertEqual(found.secret, Secret("from-the-file"))

    def test_systemd_hands_the_secret_over(self) -> None:
        self.written(b"from-systemd\n", CREDENTIAL)
        environment = {
            ID_VARIABLE: CLIENT_ID,
            "CREDENTIALS_DIRECTORY": str(self.folder),
        }
        found = find(AuthArguments(), environment)
        self.assertEqual(found, Credentials(CLIENT_ID, Secret("from-systemd")))
        found = find(AuthArguments(), environment | ENVIRONMENT)
        self.assertEqual(found.secret, Secret("its-secret"))

    def test_names_all_that_is_missing(self) -> None:
        for environment in (
            {},
            {ID_VARIABLE: "", SECRET_VARIABLE: "", "CREDENTIALS_DIRECTORY": ""},
            {"CREDENTIALS_DIRECTORY": str(self.folder)},
            {"CREDENTIALS_DIRECTORY": str(self.folder / "missing")},
        ):
            found = self.problems(AuthArguments(), environment)
            self.assertEqual(
                list(found), ["auth.kwargs.client_id", "auth.kwargs.client_secret"]
            )
            self.assertIn(ID_VARIABLE, found["auth.kwargs.client_id"])
            for way in (SECRET_VARIABLE, CREDENTIAL, "client_secret_file"):
                self.assertIn(way, found["auth.kwargs.client_secret"])

    def test_one_may_be_missing(self) -> None:
        self.assertEqual(
            list(self.problems(AuthArguments(), {SECRET_VARIABLE: "b"})),
            ["auth.kwargs.client_id"],
        )
        self.assertEqual(
            list(self.problems(AuthArguments(client_id=CLIENT_ID), {})),
            ["auth.kwargs.client_secret"],
        )

    def test_a_secret_stands_once(self) -> None:
        arguments = AuthArguments(
            client_id=CLIENT_ID,
            client_secret=Secret("hunter2"),
            client_secret_file=self.written(b"hunter3"),
        )
        found = self.problems(arguments, {})
        self.assertEqual(
            found,
            {
                "auth.kwargs.client_secret_file": "set only one of client_secret and "
                "client_secret_file"
            },
        )

    def test_a_file_that_cannot_be_used(self) -> None:
        (self.folder / "folder").mkdir()
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)  # a read would block
        for path, word in (
            (self.folder / "missing", "No such file"),
            (self.folder / "folder", "Is a directory"),
            (self.written(b" \n", "blank"), "is empty"),
            (self.written(b"hunter2\nhunter3", "two"), "has spaces or other"),
            (self.written(b"hunter2 # ours", "comment"), "has spaces or other"),
            (self.written(b"hunter2\xff", "binary"), "it is not UTF-8"),
            (self.written(b"h" * (MAX_SECRET_BYTES + 1), "long"), "expected a secret"),
            (Path("/dev/zero"), "is not a regular file"),
            (fifo, "is not a regular file"),
        ):
            arguments = AuthArguments(client_id=CLIENT_ID, client_secret_file=path)
            (message,) = self.problems(arguments, ENVIRONMENT).values()
            self.assertIn(str(path), message)
            self.assertIn(word, message)
            self.assertNotIn("hunter", message)

    def test_a_credential_that_is_empty(self) -> None:
        self.written(b"", CREDENTIAL)
        environment = {"CREDENTIALS_DIRECTORY": str(self.folder)}
        found = self.problems(AuthArguments(client_id=CLIENT_ID), environment)
        self.assertIn("is empty", found["auth.kwargs.client_secret"])

    def test_a_folder_of_credentials_that_cannot_be_entered(self) -> None:
        self.written(b"x", CREDENTIAL)
        self.folder.chmod(0)
        self.addCleanup(self.folder.chmod, 0o700)
        if os.access(self.folder, os.X_OK):
            self.skipTest("this user may enter everywhere")
        environment = {"CREDENTIALS_DIRECTORY": str(self.folder)}
        found = self.problems(AuthArguments(client_id=CLIENT_ID), environment)
        self.assertEqual(list(found), ["auth.kwargs.client_secret"])

    def test_a_secret_shows_nowhere(self) -> None:
        found = find(
            AuthArguments(client_id=CLIENT_ID, client_secret=Secret("hunter2")), {}
        )
        self.assertNotIn("hunter2", f"{found!r} {found}")

    def test_white_space_around_them_is_not_part_of_them(self) -> None:
        spaced = {ID_VARIABLE: f" {CLIENT_ID}\r\n", SECRET_VARIABLE: "\tb\n"}
        self.assertEqual(
            find(AuthArguments(), spaced), Credentials(CLIENT_ID, Secret("b"))
        )
        arguments = AuthArguments(
            client_id=f" {CLIENT_ID} ", client_secret=Secret(" b\n")
        )
        self.assertEqual(find(arguments, {}), Credentials(CLIENT_ID, Secret("b")))
        blank = {ID_VARIABLE: " ", SECRET_VARIABLE: "\n"}
        self.assertEqual(len(self.problems(AuthArguments(), blank)), 2)
        arguments = AuthArguments(client_id=CLIENT_ID, client_secret=Secret(" "))
        self.assertIn("is empty", *self.problems(arguments, {}).values())

    def test_refuses_what_neither_can_be(self) -> None:
        for wrong in (
            "hunter 2",
            "hunter\n2",
            "hunter\x1b2",
            "hunter\u200b2",
            "huntér2",
        ):
            environment = {ID_VARIABLE: wrong, SECRET_VARIABLE: wrong}
            arguments = AuthArguments(client_id=wrong, client_secret=Secret(wrong))
            for found, places in (
                (self.problems(AuthArguments(), environment), list(environment)),
                (self.problems(arguments, {}), list(KEYS)),
            ):
                self.assertEqual(list(found), list(KEYS))
                for message, words, place in zip(
                    found.values(),
                    ("expected an ID such as", "has spaces or other characters"),
                    places,
                    strict=True,
                ):
                    self.assertIn(words, message)
                    self.assertIn(f"(it is from {place})", message)
                    self.assertNotIn("hunt", message)
        for wrong in (
            "a",
            "a:b",
            "../a",
            CLIENT_ID[:-1],
            f"{CLIENT_ID}0",
            f"{{{CLIENT_ID}}}",
        ):
            found = self.problems(AuthArguments(), ENVIRONMENT | {ID_VARIABLE: wrong})
            self.assertEqual(list(found), [KEYS[0]])

    def test_says_where_they_come_from(self) -> None:
        folder = {"CREDENTIALS_DIRECTORY": str(self.folder)}
        path = self.written(b"b", CREDENTIAL)
        settings = AuthArguments(client_id=CLIENT_ID, client_secret=Secret("b"))
        file = AuthArguments(client_secret_file=path)
        names = {KEYS[0]: "--client-id"}
        for arguments, environment, origins in (
            (settings, ENVIRONMENT, ("--client-id", KEYS[1])),
            (file, ENVIRONMENT, (ID_VARIABLE, str(path))),
            (AuthArguments(), ENVIRONMENT, (ID_VARIABLE, SECRET_VARIABLE)),
            (
                AuthArguments(client_id=CLIENT_ID),
                folder,
                ("--client-id", f"systemd's credential {path}"),
            ),
        ):
            found = find(arguments, environment, names)
            self.assertEqual((found.id_origin, found.secret_origin), origins)
        self.assertEqual(
            find(settings, {}).origin,
            f"client ID from {KEYS[0]}, secret from {KEYS[1]}",
        )

    def test_the_case_of_a_uuid_does_not_matter(self) -> None:
        client_id = "8D7FDD4C-5F2C-4F43-9D7A-3C1F0A7F2F52"
        for arguments, environment in (
            (AuthArguments(client_id=client_id), ENVIRONMENT),
            (AuthArguments(), ENVIRONMENT | {ID_VARIABLE: client_id}),
        ):
            self.assertEqual(find(arguments, environment).client_id, client_id.lower())

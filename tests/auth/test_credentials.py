"""Where the credentials are looked for, and what is said when they are not there."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.auth.credentials import (
    CREDENTIAL,
    ID_VARIABLE,
    SECRET_VARIABLE,
    Credentials,
    find,
)
from proxyrelay.config import AuthArguments, Secret
from proxyrelay.errors import ConfigError

ENVIRONMENT = {ID_VARIABLE: "id of the environment", SECRET_VARIABLE: "its secret"}


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
            AuthArguments(client_id="a", client_secret=Secret("b")), ENVIRONMENT
        )
        self.assertEqual(found, Credentials("a", Secret("b")))

    def test_the_environment_stands_in(self) -> None:
        found = find(AuthArguments(), ENVIRONMENT)
        self.assertEqual(
            found, Credentials("id of the environment", Secret("its secret"))
        )

    def test_a_file_holds_the_secret(self) -> None:
        path = self.written(b"  from the file\r\n")
        found = find(AuthArguments(client_secret_file=path), ENVIRONMENT)
        self.assertEqual(found.secret, Secret("from the file"))

    def test_systemd_hands_the_secret_over(self) -> None:
        self.written(b"from systemd\n", CREDENTIAL)
        environment = {ID_VARIABLE: "a", "CREDENTIALS_DIRECTORY": str(self.folder)}
        found = find(AuthArguments(), environment)
        self.assertEqual(found, Credentials("a", Secret("from systemd")))
        found = find(AuthArguments(), environment | ENVIRONMENT)
        self.assertEqual(found.secret, Secret("its secret"))

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
            list(self.problems(AuthArguments(client_id="a"), {})),
            ["auth.kwargs.client_secret"],
        )

    def test_a_secret_stands_once(self) -> None:
        arguments = AuthArguments(
            client_id="a",
            client_secret=Secret("hunter2"),
            client_secret_file=self.written(b"hunter3"),
        )
        found = self.problems(arguments, {})
        self.assertEqual(list(found), ["auth.kwargs.client_secret_file"])

    def test_a_file_that_cannot_be_used(self) -> None:
        (self.folder / "folder").mkdir()
        for path, word in (
            (self.folder / "missing", "No such file"),
            (self.folder / "folder", "Is a directory"),
            (self.written(b" \n", "blank"), "is empty"),
            (self.written(b"hunter2\xff", "binary"), "it is not UTF-8"),
        ):
            arguments = AuthArguments(client_id="a", client_secret_file=path)
            (message,) = self.problems(arguments, ENVIRONMENT).values()
            self.assertIn(str(path), message)
            self.assertIn(word, message)
            self.assertNotIn("hunter", message)

    def test_a_credential_that_is_empty(self) -> None:
        self.written(b"", CREDENTIAL)
        environment = {"CREDENTIALS_DIRECTORY": str(self.folder)}
        found = self.problems(AuthArguments(client_id="a"), environment)
        self.assertIn("is empty", found["auth.kwargs.client_secret"])

    def test_a_folder_of_credentials_that_cannot_be_entered(self) -> None:
        self.written(b"x", CREDENTIAL)
        self.folder.chmod(0)
        self.addCleanup(self.folder.chmod, 0o700)
        if os.access(self.folder, os.X_OK):
            self.skipTest("this user may enter everywhere")
        environment = {"CREDENTIALS_DIRECTORY": str(self.folder)}
        found = self.problems(AuthArguments(client_id="a"), environment)
        self.assertEqual(list(found), ["auth.kwargs.client_secret"])

    def test_a_secret_shows_nowhere(self) -> None:
        found = find(AuthArguments(client_id="a", client_secret=Secret("hunter2")), {})
        self.assertNotIn("hunter2", f"{found!r} {found}")

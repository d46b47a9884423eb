"""Places of the credentials, and errors about them."""

from __future__ import annotations

import os
from collections.abc import Mapping
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

ID_KEY, SECRET_KEY = "auth.kwargs.client_id", "auth.kwargs.client_secret"


def settings(secret: str, client_id: str = CLIENT_ID) -> AuthArguments:
    """Settings with both credentials."""
    return AuthArguments(client_id=client_id, client_secret=Secret(secret))


class CredentialsTestCase(SynchronousTestCase):
    """A folder with files of secrets."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.systemd = {"CREDENTIALS_DIRECTORY": str(self.folder)}

    def written(self, data: bytes, name: str = "secret") -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def problems(
        self, arguments: AuthArguments, environment: Mapping[str, str]
    ) -> dict[str, str]:
        with self.assertRaises(ConfigError) as caught:
            find(arguments, environment)
        return {problem.key: problem.message for problem in caught.exception.problems}


class FoundTests(CredentialsTestCase):
    """Settings, files, the environment, systemd."""

    def test_find_each_place_in_order(self) -> None:
        systemd = self.systemd | {ID_VARIABLE: CLIENT_ID}
        self.written(b"from-systemd\n", CREDENTIAL)
        path = self.written(b"\xef\xbb\xbf  from-the-file\r\n")
        file = AuthArguments(client_id=CLIENT_ID, client_secret_file=path)
        for arguments, environment, client_id, secret in (
            (settings("b"), systemd | ENVIRONMENT, CLIENT_ID, "b"),
            (file, systemd | ENVIRONMENT, CLIENT_ID, "from-the-file"),
            (AuthArguments(), systemd | ENVIRONMENT, OTHER_ID, "its-secret"),
            (AuthArguments(), systemd, CLIENT_ID, "from-systemd"),
        ):
            found = find(arguments, environment)
            self.assertEqual(found, Credentials(client_id, Secret(secret)))

    def test_find_names_the_places(self) -> None:
        path = self.written(b"b", CREDENTIAL)
        option = {ID_KEY: "--client-id"}
        for arguments, environment, names, id_place, secret_place in (
            (settings("b"), {}, None, ID_KEY, SECRET_KEY),
            (settings("b"), ENVIRONMENT, option, "--client-id", SECRET_KEY),
            (
                AuthArguments(client_secret_file=path),
                *(ENVIRONMENT, option, ID_VARIABLE, str(path)),
            ),
            (AuthArguments(), ENVIRONMENT, option, ID_VARIABLE, SECRET_VARIABLE),
            (
                AuthArguments(client_id=CLIENT_ID),
                *(self.systemd, option, "--client-id", f"systemd's credential {path}"),
            ),
        ):
            origin = find(arguments, environment, names).origin
            expected = f"client ID from {id_place}, secret from {secret_place}"
            self.assertEqual(origin, expected)

    def test_find_white_space_is_removed(self) -> None:
        spaced = {ID_VARIABLE: f" {CLIENT_ID}\r\n", SECRET_VARIABLE: "\tb\n"}
        for arguments, environment in (
            (AuthArguments(), spaced),
            (settings(" b\n", f" {CLIENT_ID} "), {}),
        ):
            found = find(arguments, environment)
            self.assertEqual(found, Credentials(CLIENT_ID, Secret("b")))

    def test_find_client_id_becomes_lower_case(self) -> None:
        for arguments, environment in (
            (AuthArguments(client_id=CLIENT_ID.upper()), ENVIRONMENT),
            (AuthArguments(), ENVIRONMENT | {ID_VARIABLE: CLIENT_ID.upper()}),
        ):
            self.assertEqual(find(arguments, environment).client_id, CLIENT_ID)

    def test_credentials_show_no_secret(self) -> None:
        found = find(settings("hunter2"), {})
        self.assertNotIn("hunter2", f"{found!r} {found}")


class ProblemTests(CredentialsTestCase):
    """Missing, malformed and unreadable credentials; no secret is quoted."""

    def test_find_nothing_names_every_place(self) -> None:
        blank = {ID_VARIABLE: " ", SECRET_VARIABLE: "\n"}
        for environment in (
            *({}, blank, self.systemd, {"CREDENTIALS_DIRECTORY": ""}),
            {"CREDENTIALS_DIRECTORY": str(self.folder / "missing")},
        ):
            found = self.problems(AuthArguments(), environment)
            self.assertEqual(list(found), [ID_KEY, SECRET_KEY])
            self.assertIn(ID_VARIABLE, found[ID_KEY])
            for place in (SECRET_VARIABLE, CREDENTIAL, "client_secret_file"):
                self.assertIn(place, found[SECRET_KEY])

    def test_find_one_missing_names_it(self) -> None:
        id_alone = self.problems(AuthArguments(client_id=CLIENT_ID), {})
        self.assertEqual(list(id_alone), [SECRET_KEY])
        secret_alone = self.problems(AuthArguments(), {SECRET_VARIABLE: "b"})
        self.assertEqual(list(secret_alone), [ID_KEY])

    def test_find_secret_and_file_is_a_problem(self) -> None:
        arguments = AuthArguments(
            client_id=CLIENT_ID,
            client_secret=Secret("hunter2"),
            client_secret_file=self.written(b"hunter3"),
        )
        text = "set only one of client_secret and client_secret_file"
        key = "auth.kwargs.client_secret_file"
        self.assertEqual(self.problems(arguments, {}), {key: text})

    def test_find_unusable_file_is_a_problem(self) -> None:
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

    def test_find_empty_secret_is_a_problem(self) -> None:
        self.written(b"", CREDENTIAL)
        for arguments, environment in (
            (AuthArguments(client_id=CLIENT_ID), self.systemd),
            (settings(" "), {}),
        ):
            found = self.problems(arguments, environment)
            self.assertIn("is empty", found[SECRET_KEY])

    def test_find_closed_folder_of_systemd_is_a_problem(self) -> None:
        self.written(b"x", CREDENTIAL)
        self.folder.chmod(0)
        self.addCleanup(self.folder.chmod, 0o700)
        if os.access(self.folder, os.X_OK):
            self.skipTest("this user may enter everywhere")
        found = self.problems(AuthArguments(client_id=CLIENT_ID), self.systemd)
        self.assertEqual(list(found), [SECRET_KEY])

    def test_find_malformed_credentials_name_their_places(self) -> None:
        for text in ("hunter 2", "hunter\n2", "hunter\x1b2", "hunter\u200b2", "huntér"):
            environment = {ID_VARIABLE: text, SECRET_VARIABLE: text}
            for found, places in (
                (self.problems(AuthArguments(), environment), list(environment)),
                (self.problems(settings(text, text), {}), [ID_KEY, SECRET_KEY]),
            ):
                self.assertEqual(list(found), [ID_KEY, SECRET_KEY])
                self.assertIn("expected an ID such as", found[ID_KEY])
                self.assertIn("has spaces or other characters", found[SECRET_KEY])
                for message, place in zip(found.values(), places, strict=True):
                    self.assertIn(f"(it is from {place})", message)
                    self.assertNotIn("hunt", message)

    def test_find_client_id_without_uuid_is_a_problem(self) -> None:
        for text in (
            *("a", "a:b", "../a", CLIENT_ID[:-1], f"{CLIENT_ID}0", f"{{{CLIENT_ID}}}"),
        ):
            found = self.problems(AuthArguments(), ENVIRONMENT | {ID_VARIABLE: text})
            self.assertEqual(list(found), [ID_KEY])

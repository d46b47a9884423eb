"""Sealed messages between nodes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.cluster.seal import Seal, Unsealable, keys

ONE, OTHER = b"1" * 32, b"2" * 32


class SealTests(SynchronousTestCase):
    """The seal of a node."""

    def test_seal_opens_with_the_same_key_and_binding(self) -> None:
        sealed = Seal([ONE]).seal(b"text", b"pair")
        self.assertNotIn(b"text", sealed)
        self.assertEqual(Seal([ONE]).open(sealed, b"pair"), b"text")

    def test_seal_with_a_new_key_opens_what_the_old_one_sealed(self) -> None:
        sealed = Seal([ONE]).seal(b"text", b"pair")
        self.assertEqual(Seal([OTHER, ONE]).open(sealed, b"pair"), b"text")

    def test_seal_rejects_other_keys_pairs_and_changed_bytes(self) -> None:
        sealed = Seal([ONE]).seal(b"text", b"pair")
        changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        for seal, message, pair in (
            (Seal([OTHER]), sealed, b"pair"),
            (Seal([ONE]), sealed, b"another"),
            (Seal([ONE]), changed, b"pair"),
            (Seal([ONE]), sealed[:9], b"pair"),
            (Seal([ONE]), b"", b"pair"),
            (Seal([ONE]), b"text", b"pair"),
        ):
            with self.subTest(message=message), self.assertRaises(Unsealable):
                seal.open(message, pair)

    def test_seal_without_keys_leaves_messages_as_they_are(self) -> None:
        self.assertEqual(Seal().seal(b"text", b"pair"), b"text")
        self.assertEqual(Seal().open(b"text", b"pair"), b"text")


class KeyFileTests(SynchronousTestCase):
    """The file of keys."""

    def test_key_file_holds_keys_and_comments(self) -> None:
        text = f"# new\n{ONE.hex()}\n\n{OTHER.hex().upper()}\n"
        self.assertEqual(keys(text), [ONE, OTHER])

    def test_key_file_with_another_line_is_named_by_number(self) -> None:
        for text, problem in (
            ("", "no key"),
            ("00", "key 1"),
            (f"{ONE.hex()}\n{'x' * 64}", "key 2"),
        ):
            with self.subTest(text=text), self.assertRaisesRegex(ValueError, problem):
                keys(text)

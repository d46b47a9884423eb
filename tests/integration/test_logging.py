"""What machines read of a relay under twistd."""

from __future__ import annotations

import json
import stat
from typing import Any

from tests.integration.test_reload import ReloadTestCase
from tests.support.recording import A, B, C, offer

JSON = (
    "offers.hold = 0\n[logging]\nformat = 'json'\nlog_dir = 'logs'\n"
    "audit_log = 'audit/audit.log'\n"
)

HASHED = r"\A[0-9a-f]{16}\Z"


class LoggingTests(ReloadTestCase):
    def records(self, name: str) -> list[dict[str, Any]]:
        text = (self.folder / name).read_bytes().decode("ascii")
        return [json.loads(line) for line in text.splitlines()]

    def talk(self, url: str) -> None:
        """Connect two clients, refuse a third one, and leave."""
        one, other = self.meet(url)
        one.send(offer(peer=C, source_name="\x1b[2J\n").decode())
        one.recv()
        stranger = self.loop.connect(url)
        stranger.send("{")
        self.assert_closed(stranger, 4000)
        for client in (one, other):
            client.close()

    def test_logs_of_clients_are_json_until_a_reload(self) -> None:
        relay = self.serve(JSON)
        self.talk(relay.url)
        relay.wait_for('"event":"left".*')
        self.write_config("offers.hold = 0\n[logging]\nlog_dir = 'logs'\n")
        self.hang_up(relay)
        relay.wait_for(" INFO +reloaded, changed: logging.format$")
        relay.wait_for(" WARNING +changed as well.*: logging.audit_log$")
        before = [line for line in relay.output if line.startswith("{")]
        found = [json.loads(line) for line in before]
        self.assertEqual(found[0]["event"], "serving")
        self.assertEqual(found[0]["urls"], [relay.url])
        events = {line["event"] for line in found}
        self.assertLessEqual({"registered", "returned", "refused", "left"}, events)
        for line in found:
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(relay.stop(), 0)
        written = (self.folder / "logs" / "proxyrelay.log").read_text().splitlines()
        self.assertEqual(written, relay.output)

        found = self.records("audit/audit.log")
        self.assertEqual(
            [(line["event"], line.get("outcome")) for line in found[:6]],
            [
                ("started", None),
                ("registered", None),
                ("registered", None),
                ("offer", "answered"),
                ("offer", "returned"),
                ("refused", None),
            ],
        )
        connected = found[3]
        self.assertEqual((connected["source"], connected["target"]), (A, B))
        self.assertEqual(
            (connected["address"], connected["target_address"]),
            (found[1]["address"], found[2]["address"]),
        )
        self.assertEqual(
            [line["event"] for line in found[6:]], ["left", "left", "stopped"]
        )
        mode = (self.folder / "audit" / "audit.log").stat().st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o640)

    def test_log_in_privacy_hides_addresses_alike_after_a_restart(self) -> None:
        text = f"{JSON}privacy = true\nprivacy_key_file = 'key'\n"
        shown = set()
        for _ in range(2):
            relay = self.serve(f"{text}default_level = 'DEBUG'\n")
            self.talk(relay.url)
            self.assertEqual(relay.stop(), 0)
            for line in relay.output:
                fields = json.loads(line)
                if fields["event"] in {"serving", "other"}:
                    continue
                self.assertNotIn("127.0.0.1", line)
                shown.add(fields.get("address"))
        audit = (self.folder / "audit" / "audit.log").read_text()
        self.assertNotIn("127.0.0.1", audit)
        shown |= {line.get("address") for line in self.records("audit/audit.log")}
        (address,) = shown - {None}
        self.assertRegex(address, HASHED)
        self.assertEqual(stat.S_IMODE((self.folder / "key").stat().st_mode), 0o600)

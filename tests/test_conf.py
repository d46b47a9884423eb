"""The examples in conf/ say what the code does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from hashlib import sha256
from ipaddress import ip_address
from itertools import takewhile
from pathlib import Path
from socket import AF_UNIX, socket

from prometheus_client import ProcessCollector
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from proxyrelay.admin.metrics import METRICS
from proxyrelay.admin.prometheus import PREFIX
from proxyrelay.auth.credentials import CREDENTIAL
from proxyrelay.cluster.trial import acl, try_engine
from proxyrelay.config import AuthArguments, Config, Survive, load, settings
from proxyrelay.config.cluster import Cluster
from proxyrelay.survive.survival import RESERVED_DESCRIPTORS
from tests.service.case import parsed
from tests.support.processes import PATIENCE, PAUSE
from tests.support.watched import WatchedTestCase

CONF = Path(__file__).parent.parent / "conf"


class ExampleTests(SynchronousTestCase):
    def test_relay_toml_names_every_setting_with_its_default(self) -> None:
        loaded = load(CONF / "relay.toml")
        self.assertEqual(loaded.problems + loaded.warnings, [])
        self.assertEqual(loaded.config, Config())
        text = (CONF / "relay.toml").read_text()
        for path in settings():
            if path[:2] == ("auth", "kwargs"):
                continue  # these stand in relay-globus.toml
            name = re.escape(path[-1])
            pattern = rf"^(# )?{name} = |^\[{re.escape('.'.join(path))}\]"
            self.assertTrue(re.search(pattern, text, re.MULTILINE), path)

    def test_relay_globus_toml_names_every_argument_with_its_default(self) -> None:
        text = (CONF / "relay-globus.toml").read_text()
        loaded = load(CONF / "relay-globus.toml")
        self.assertEqual(loaded.problems + loaded.warnings, [])
        for name in AuthArguments.__struct_fields__:
            self.assertTrue(re.search(rf"^(# )?{name} = ", text, re.MULTILINE), name)
        shown = re.sub(r"^# (\w+ = (?!\"\"|.*<))", r"\1", text, flags=re.MULTILINE)
        document = Path(self.mktemp())
        document.write_text(shown)
        self.assertEqual(load(document).config, loaded.config)

    def test_relay_tls_toml_is_valid(self) -> None:
        loaded = load(CONF / "relay-tls.toml")
        self.assertEqual(loaded.problems + loaded.warnings, [])
        self.assertEqual(loaded.config.scheme, "wss")


class UnitTests(SynchronousTestCase):
    def test_unit_is_valid_and_hardened_for_systemd(self) -> None:
        """It exits with 0 even on unknown keys, so any word is a complaint."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        names = ("proxyrelay.service", "proxyrelay.socket", "proxyrelay-node@.service")
        for name in names:
            text = (CONF / name).read_text()
            text = re.sub("/opt/proxyrelay/bin/[a-z]+", "/bin/true", text)
            text = text.replace("proxyrelay@1.service", "proxyrelay.service")
            text = re.sub(
                "^# (Sockets|LoadCredential|SupplementaryGroups)=",
                r"\1=",
                text,
                flags=re.MULTILINE,
            )
            (folder / name.replace("@", "@1")).write_text(text)
        done = run("systemd-analyze", "verify", "--man=no", *folder.iterdir())
        lines = done.stderr.splitlines()
        complaints = [line for line in lines if "proxyrelay" in line]
        self.assertEqual((done.returncode, complaints), (0, []))
        # From 0 to 10: what is left is the network, and what TLS needs.
        for service in folder.glob("*.service"):
            done = run(
                *("systemd-analyze", "security", "--offline=yes", "--no-pager"),
                *("--threshold=15", service),
            )
            self.assertEqual(done.returncode, 0, done.stdout)

    def test_units_say_the_size_of_their_store(self) -> None:
        for name in ("proxyrelay.service", "proxyrelay-node@.service"):
            text = (CONF / name).read_text()
            pattern = r"^(?:\w+=)?(?:FileDescriptorStoreMax|FDSTORE)=(\d+)$"
            said = re.findall(pattern, text, re.MULTILINE)
            self.assertEqual(len(said), 2)
            self.assertEqual(len({*said}), 1)
            room = Survive().capacity + RESERVED_DESCRIPTORS
            self.assertGreaterEqual(int(said[0]), room)

    def test_unit_of_a_node_differs_only_in_names(self) -> None:
        """Each node has a name and a private listener; the sandbox is the same."""
        single, node = (
            {
                line
                for line in (CONF / name).read_text().splitlines()
                if line and not line.startswith("#")
            }
            for name in ("proxyrelay.service", "proxyrelay-node@.service")
        )
        command = "ExecStart=/opt/proxyrelay/bin/twistd -n --pidfile= proxyrelay "
        command += "--survive --config /etc/proxyrelay/relay.toml"
        folder = "proxyrelay-node-%i"
        self.assertEqual(
            (single - node, node - single),
            (
                {
                    *("Description=ProxyStore relay", command),
                    *("RuntimeDirectory=proxyrelay", "RuntimeDirectoryPreserve=yes"),
                },
                {
                    "Description=ProxyStore relay, node %i",
                    f"{command} --node %l-%i "
                    f"--admin-listen unix:/run/{folder}/admin.sock",
                    f"RuntimeDirectory={folder}",
                },
            ),
        )
        options = " --node one-1 --admin-listen unix:/run/proxyrelay-node-1/admin.sock"
        config = parsed(*options.split()).load()
        self.assertEqual(config.problems, [])

    def test_unit_has_the_folders_that_examples_name(self) -> None:
        text = (CONF / "proxyrelay.service").read_text()
        example = (CONF / "relay.toml").read_text()
        made = {"Runtime": "/run", "Logs": "/var/log", "State": "/var/lib"}
        self.assertEqual(
            set(re.findall(r'"(?:unix:)?(/(?:run|var)\b.*?)/proxyrelay[/"]', example)),
            {
                made[kind]
                for kind in re.findall(
                    r"^(\w+)Directory=proxyrelay$", text, re.MULTILINE
                )
            },
        )
        self.assertIn("\nStateDirectoryMode=0700\n", text)  # for a key

    def test_unit_waits_for_what_the_relay_tells(self) -> None:
        text = (CONF / "proxyrelay.service").read_text()
        for line in ("Type=notify", "NotifyAccess=main", "WatchdogSec=60"):
            self.assertIn(f"\n{line}\n", text)
        self.assertIn(f"# LoadCredential={CREDENTIAL}:", text)
        self.assertIn("AF_UNIX", text)  # for the notifications


class EngineTests(SynchronousTestCase):
    def test_engine_of_the_example_suffices_for_a_cluster(self) -> None:
        text = (CONF / "redis.conf").read_text()
        temporary = tempfile.TemporaryDirectory(prefix="relay-engine-")
        self.addCleanup(temporary.cleanup)
        folder = Path(temporary.name)
        password, file = folder / "password", folder / "redis.conf"
        password.write_text("correct horse\n")
        password.chmod(0o600)
        for old, new in (
            ("#SHA256", f"#{sha256(b'correct horse').hexdigest()}"),
            ("/run/redis-relay", str(folder)),
        ):
            self.assertIn(old, text)
            text = text.replace(old, new)
        file.write_text(text)
        engine = start("redis-server", file)
        self.addCleanup(engine.wait)
        self.addCleanup(engine.kill)
        place = folder / "redis.sock"
        deadline = time.monotonic() + PATIENCE
        with socket(AF_UNIX) as probe:
            while probe.connect_ex(str(place)) and time.monotonic() < deadline:
                PAUSE.wait(0.01)
        cluster = Cluster(
            engine=f"unix:{place}", username="relay", password_file=password
        )
        report = try_engine(cluster)
        self.assertEqual(report.problems + report.warnings, [])
        self.assertIn(f" {acl(cluster).partition('>PASSWORD ')[2]}\n", text)


class TurnServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        text = (CONF / "turnserver.conf").read_text()
        lines = (line.partition("=") for line in text.splitlines())
        self.values: dict[str, list[str]] = {}
        for name, _, value in lines:
            self.values.setdefault(name, []).append(value)

    def is_denied(self, text: str) -> bool:
        address = ip_address(text)
        for value in self.values["denied-peer-ip"]:
            first, _, last = value.partition("-")
            low, high = ip_address(first), ip_address(last or first)
            # coturn denies all of IPv4 for a range that begins with ::.
            self.assertNotEqual(first, "::")
            if low.version == address.version and int(low) <= int(address) <= int(high):
                return True
        return False

    def test_private_addresses_and_no_public_ones_are_denied(self) -> None:
        for text in (
            *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.255.255"),
            *("127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "240.0.0.1"),
            *("::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"),
            "2002:a00:1::",
        ):
            self.assertTrue(self.is_denied(text), text)
        for text in ("9.9.9.9", "11.0.0.1", "172.32.0.1", "192.169.0.1", "2a00::1"):
            self.assertFalse(self.is_denied(text), text)

    def test_server_has_no_secret_and_lets_nobody_in_without_one(self) -> None:
        for name in ("use-auth-secret", "no-cli", "no-multicast-peers"):
            self.assertEqual(self.values[name], [""])
        self.assertNotIn("static-auth-secret", self.values)
        self.assertEqual(self.values["# static-auth-secret"], [""])

    def test_guide_names_the_ports(self) -> None:
        guide = (CONF.parent / "docs/guides/turn.rst").read_text()
        (first,), (last,) = self.values["min-port"], self.values["max-port"]
        for words in (f"{first} to {last} ", f"{first}-{last} "):
            self.assertIn(words, guide)


class ContainerTests(SynchronousTestCase):
    def test_settings_of_the_container_are_those_of_its_health_check(self) -> None:
        loaded = load(CONF / "relay-container.toml")
        self.assertEqual(loaded.problems, [])
        text = (CONF.parent / "Containerfile").read_text()
        listen = loaded.config.admin.listen
        self.assertIn(f'CMD ["proxyrelay", "live", "--admin", "{listen}"]\n', text)

    def test_files_of_the_container_are_there(self) -> None:
        text = (CONF.parent / "Containerfile").read_text()
        copied = re.findall(r"^COPY (?!--from)(\S+) \S+$", text, re.MULTILINE)
        self.assertEqual(copied, [".", "conf/relay-container.toml"])
        kept = (CONF.parent / ".containerignore").read_text().splitlines()
        for line in kept:
            if line.startswith("!"):
                self.assertTrue((CONF.parent / line[1:]).exists(), line)
        self.assertIn("!conf/relay-container.toml", kept)


class MonitoringTests(WatchedTestCase):
    OTHERS = ("instance", "job", "le")
    """Labels that come from Prometheus itself."""

    SUFFIXES: Mapping[str, tuple[str, ...]] = {
        "histogram": ("_bucket", "_sum", "_count"),
        "summary": ("_sum", "_count"),
    }
    """Ends of the names of samples, by the kind of the metric."""

    def setUp(self) -> None:
        super().setUp()
        self.serve()
        self.labels: dict[str, set[str]] = {"up": set()}
        for metric in METRICS:
            for suffix in self.SUFFIXES.get(metric.kind, ("",)):
                self.labels[PREFIX + metric.name + suffix] = set(metric.labels)
        for family in ProcessCollector(registry=None).collect():
            self.labels |= {sample.name: set() for sample in family.samples}

    def expressions(self) -> dict[str, str]:
        """Each expression by where it stands."""
        dashboard = json.loads((CONF / "grafana.json").read_text())
        alerts = (CONF / "alerts.yml").read_text().split("- alert: ")[1:]
        found = {
            alert.split("\n", 1)[0]: _folded(alert.partition("expr: ")[2])
            for alert in alerts
        }
        for panel in dashboard["panels"]:
            for number, target in enumerate(panel.get("targets", ())):
                found[f"{panel['title']} {number}"] = target["expr"]
        for annotation in dashboard["annotations"]["list"]:
            found[annotation["name"]] = annotation["expr"]
        return found

    def test_expressions_are_of_metrics_that_there_are(self) -> None:
        samples = self.metrics()
        for where, expression in self.expressions().items():
            names = re.findall(r"\b(?:proxyrelay|process)_\w+|\bup\b", expression)
            self.assertNotEqual(names, [], where)
            known = {label for name in names for label in self.labels[name]}
            grouped = re.findall(r"\bby \(([^)]*)\)", expression)
            for label in ", ".join(grouped).split(", ") if grouped else ():
                self.assertIn(label, {*known, *self.OTHERS}, where)
            for name, inner in re.findall(r"(\w+)\{([^}]*)\}", expression):
                for label, value in re.findall(r'(\w+)="(\w+)"', inner):
                    if label not in self.OTHERS:
                        sample = f"{name}{{{label}={value}}}"
                        self.assertIn(sample, samples, where)

    def test_dashboard_has_every_metric(self) -> None:
        text = (CONF / "grafana.json").read_text()
        for metric in METRICS:
            self.assertIn(PREFIX + metric.name, text, metric.name)

    def test_panels_of_the_dashboard_do_not_overlap(self) -> None:
        panels = json.loads((CONF / "grafana.json").read_text())["panels"]
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            columns = range(place["x"], place["x"] + place["w"])
            rows = range(place["y"], place["y"] + place["h"])
            fields = {(column, row) for column in columns for row in rows}
            self.assertEqual(fields & taken, set(), panel["title"])
            self.assertLessEqual(columns.stop, 24, panel["title"])
            taken |= fields
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))

    def test_configuration_and_dashboard_are_valid_for_prometheus(self) -> None:
        done = run("promtool", "check", "config", CONF / "prometheus.yml")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        rules = [
            {"record": f"a{number}", "expr": re.sub(r"\$__\w+", "5m", expression)}
            for number, expression in enumerate(self.expressions().values())
        ]
        file = Path(self.mktemp())
        file.write_text(json.dumps({"groups": [{"name": "a", "rules": rules}]}))
        done = run("promtool", "check", "rules", file)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_alerts_fire_when_they_should(self) -> None:
        cases = Path(__file__).parent / "alerts.yml"
        done = run("promtool", "test", "rules", cases)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for name in re.findall(r"alert: (\w+)", (CONF / "alerts.yml").read_text()):
            self.assertIn(f'alertname="{name}"', cases.read_text())


def _folded(text: str) -> str:
    """A value of YAML, on one line or folded over several deeper ones."""
    first, *lines = text.split("\n")
    if first != ">-":
        return first
    taken = takewhile(lambda line: line.startswith(" " * 10), lines)
    return " ".join(line.strip() for line in taken)


def found(program: str) -> str:
    """Path of what operators have.

    Raises:
        SkipTest: Not here.
    """
    path = shutil.which(program)
    if path is None:
        raise SkipTest(f"no {program} on this machine")
    return path


def start(program: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """Run a server that operators have."""
    command = [found(program), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run what operators have, to its end."""
    return subprocess.run(
        [found(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

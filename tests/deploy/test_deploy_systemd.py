"""The units of deploy/systemd are sound, agree with the programs' options, and with what else is shipped."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from machines import FOLDER, MACHINES, UNITS, command, environment, settings

from gowork.base import local_probes
from gowork.base.http import LOOP_SECONDS
from gowork.base.service_manager import MORE_SECONDS
from gowork.leader._app.command import main as leader
from gowork.worker._app.command import main as worker

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, click.Command] = {"gowork-leader": leader, "gowork-worker": worker}
each_unit = pytest.mark.parametrize("unit", UNITS)
each_machine = pytest.mark.parametrize("machine", MACHINES)
systemd = pytest.mark.tool("systemd-analyze")
#: How much a unit may do at most, from 0, nothing, to 10, everything.
LEVELS = {"gowork-etcd": 1.8, "gowork-leader": 1.4, "gowork-worker": 1.8}


def analyzed(folder: Path, *arguments: str) -> str:
    """What systemd-analyze says of the units, with programs that are there."""
    for unit in UNITS:
        text = (FOLDER / f"{unit}.service").read_text()
        text = text.replace("/opt/gowork/bin", str(Path(sys.executable).parent)).replace("/usr/bin/etcd", "/bin/true")
        (folder / f"{unit}.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", *arguments, *(str(folder / f"{unit}.service") for unit in UNITS)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@systemd
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    told = analyzed(tmp_path, "verify", "--man=no")
    # It may say something of other units of this machine.
    assert [line for line in told.splitlines() if "gowork" in line] == []


@systemd
def test_a_unit_may_do_little(tmp_path: Path) -> None:
    told = analyzed(tmp_path, "security", "--offline=true", "--no-pager")
    levels = {unit: float(level) for unit, level in re.findall(r"level for (\S+)\.service: ([\d.]+)", told)}
    assert set(levels) == set(LEVELS) == set(UNITS)
    assert {unit: level for unit, level in levels.items() if level > LEVELS[unit]} == {}


@pytest.mark.parametrize("unit", ["gowork-leader", "gowork-worker"])
def test_systemd_is_told_how_leader_and_worker_are(unit: str) -> None:
    found = settings(unit)
    assert found["Type"] == ["notify"]
    assert found["DynamicUser"] == ["yes"]
    # Each asks for more time while it waits, and it must do so before the first time is over.
    assert int(found["TimeoutStartSec"][0]) > MORE_SECONDS
    # A loop that stands for as long as a probe waits is no reason to end it.
    assert int(found["WatchdogSec"][0]) > 2 * LOOP_SECONDS
    (directory,) = found["RuntimeDirectory"]
    assert Path("/run", directory) in local_probes._directories("leader" if unit == "gowork-leader" else "worker")


def test_handlers_have_another_user_than_the_leader() -> None:
    assert settings("gowork-leader")["User"] != settings("gowork-worker")["User"]


@each_machine
@pytest.mark.parametrize("unit", ["gowork-leader", "gowork-worker"])
def test_the_options_of_leader_and_worker_exist(unit: str, machine: str) -> None:
    program, *options = command(unit, machine)
    assert program == f"/opt/gowork/bin/{unit}"
    with COMMANDS[unit].make_context(unit, options) as context:
        assert context.params["name"] == machine
        listened = [value for key, value in context.params.items() if key.endswith("_listen") and value]
        assert listened
        assert all(value.startswith(f"{MACHINES[machine]}:") for value in listened)


@each_machine
@pytest.mark.tool("etcd")
def test_the_options_of_etcd_exist(machine: str) -> None:
    known = subprocess.run(["etcd", "--help"], capture_output=True, text=True, check=True)
    text = known.stdout + known.stderr
    program, *options = command("gowork-etcd", machine)
    assert program == "/usr/bin/etcd"
    names = [option.partition("=")[0] for option in options]
    names += [
        "--" + name.removeprefix("ETCD_").lower().replace("_", "-")
        for name in environment(machine)
        if name.startswith("ETCD_")
    ]
    assert len(names) == 11
    assert [name for name in names if not re.search(rf"^\s+{name}\b", text, re.MULTILINE)] == []
    peer = f"{machine}=http://{MACHINES[machine]}:2380"
    assert peer in environment(machine)["ETCD_INITIAL_CLUSTER"].split(",")


@each_unit
def test_what_ends_is_started_again_and_has_time_to_stop(unit: str) -> None:
    found = settings(unit)
    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]
    assert found["WantedBy"] == ["multi-user.target"]
    (seconds,) = found["TimeoutStopSec"]
    (drain,) = [option.default for option in worker.params if option.name == "drain_timeout"]
    assert int(seconds) >= (float(str(drain)) + 10 if unit == "gowork-worker" else 10)


@each_unit
def test_a_unit_keeps_its_data_where_it_may_write(unit: str) -> None:
    (directory,) = settings(unit)["StateDirectory"]
    (told,) = [word for word in command(unit, "a") if re.match(r"--(data|state)-dir=", word)]
    assert told.partition("=")[2].startswith(f"/var/lib/{directory}")


def test_the_leader_may_write_to_the_folder_that_its_documentation_names_for_snapshots() -> None:
    page = (ROOT / "docs/high-availability.md").read_text()
    (folder,) = set(re.findall(r"(?:--snapshots |GOWORK_SNAPSHOTS=)(/[\w/]+)", page))
    # The folder may be missing, and the leader starts all the same.
    assert settings("gowork-leader")["ReadWritePaths"] == [f"-{folder}"]


def test_shipped_files_and_documentation_agree() -> None:
    variables = environment("a")
    balancer = (ROOT / "deploy/nginx/leaders.conf").read_text()
    for port in (50051, 50052):
        assert re.findall(rf"server ([\d.]+):{port} ", balancer) == list(MACHINES.values())
    assert variables["LEADERS"] == ",".join(f"{address}:50051" for address in MACHINES.values())
    assert variables["GOWORK_LOG"] == f"etcd://{','.join(f'{address}:2379' for address in MACHINES.values())}/gowork"
    composed = yaml.safe_load((ROOT / "deploy/compose-ha.yaml").read_text())["services"]["etcd-a"]["environment"]
    for name in ("QUOTA_BACKEND_BYTES", "AUTO_COMPACTION_MODE", "AUTO_COMPACTION_RETENTION", "INITIAL_CLUSTER_TOKEN"):
        assert variables[f"ETCD_{name}"] == composed[f"ETCD_{name}"]
    assert int(variables["ETCD_QUOTA_BACKEND_BYTES"]) == 8 << 30
    page = (ROOT / "docs/high-availability.md").read_text()
    assert {*re.findall(r"\b10\.\d+\.\d+\.\d+\b", page)} == set(MACHINES.values())
    for file in (*FOLDER.iterdir(), ROOT / "deploy/nginx/nginx.conf", ROOT / "deploy/compose-ha.yaml"):
        assert file.name in page, file

"""Three leaders share snapshots of their stores. All are killed, and the disks of all are lost."""

from __future__ import annotations

import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from clusters import RunningLeader, kill, sharing_leaders, start_worker, stopped_cleanly
from etcd_members import EtcdCluster

from gowork.client import Client

pytestmark = [pytest.mark.tool("etcd"), pytest.mark.timeout(300)]
NAMES = ("one", "two", "three")

Start = Callable[[], dict[str, RunningLeader]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the leaders, each with its own data directory, on one log and one folder for snapshots."""
    with ExitStack() as stack:
        etcd = stack.enter_context(EtcdCluster(tmp_path))
        (tmp_path / "shared").mkdir()

        def start() -> dict[str, RunningLeader]:
            more = [f"--snapshots={tmp_path / 'shared'}"]
            return stack.enter_context(sharing_leaders(tmp_path, etcd.url("gowork"), NAMES, more=lambda name: more))

        yield start


def snapshot_index(leader: RunningLeader) -> int:
    """Up to which entry the newest snapshot has everything, as far as a leader knows; 0 without one."""
    with urllib.request.urlopen(f"http://{leader.http}/metrics", timeout=60) as page:
        rows = [line.split() for line in page.read().decode().splitlines()]
    return round(next((float(row[1]) for row in rows if row[0] == "gowork_log_snapshot_index"), 0.0))


def addresses(leaders: dict[str, RunningLeader]) -> str:
    return ",".join(leader.scheduler for leader in leaders.values())


@pytest.mark.longer
def test_nothing_acknowledged_is_lost_with_the_disks_of_all_leaders(start: Start, tmp_path: Path) -> None:
    leaders = start()
    with Client(addresses(leaders), timeout=120) as client, stopped_cleanly(start_worker(tmp_path, leaders["two"])):
        done = [client.schedule("p", id=f"done-{number}") for number in range(20)]
        assert all(task.result(timeout=120) is not None for task in done)
        while not snapshot_index(leaders["one"]):
            threading.Event().wait(0.2)
        for number in range(50):
            client.schedule("p", id=f"waits-{number}", handler="nobody-has-it")
    for leader in leaders.values():
        kill(leader.process)
    for name in NAMES:
        shutil.rmtree(tmp_path / name)
    leaders = start()
    with Client(addresses(leaders), timeout=120) as client, stopped_cleanly(start_worker(tmp_path, leaders["one"])):
        assert {client.get(f"done-{number}").status.name for number in range(20)} == {"COMPLETED"}
        assert {client.get(f"waits-{number}").status.name for number in range(50)} == {"PENDING"}
        assert client.schedule("p").result(timeout=120) is not None

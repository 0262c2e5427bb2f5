"""A backup is taken under load and restored elsewhere after the leader was killed: all its tasks go on."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from clusters import COMMANDS, first_line, kill, start, start_leader, start_worker, stopped_cleanly

from gowork.client import Client, TaskStatus

TASKS = 2_000


def test_a_backup_taken_under_load_is_restored_elsewhere(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    leader = start_leader(here)
    worker = start_worker(here, leader, "--runners", "1")
    backup = tmp_path / "gowork.backup"
    acknowledged: list[str] = []
    before: set[str] = set()
    try:
        with Client(leader.scheduler) as client:
            for handle in client.schedule_many(f"{n}" for n in range(TASKS)):
                acknowledged.append(handle.id)
                if len(acknowledged) == TASKS // 2:
                    command = [str(COMMANDS / "gowork"), "--leader", leader.scheduler, "store", "backup", str(backup)]
                    subprocess.run(command, check=True, capture_output=True)
                    before = set(acknowledged)
            fences = [client.get(id).fence for id in acknowledged[:: TASKS // 10]]
    finally:
        kill(leader.process)
        kill(worker)
    listen = [f"--{name}-listen=127.0.0.1:0" for name in ("cluster", "scheduler", "http")]
    command = [*listen, f"--store=sqlite:///{there}/leader.db", f"--restore={backup}", "--print-addresses"]
    restored = start("gowork-leader", *command, folder=there)
    addresses = json.loads(first_line(restored, there / "gowork-leader.log"))
    worker = start("gowork-worker", "--leader", addresses["cluster"], "--print-ready", folder=there)
    with stopped_cleanly(restored), stopped_cleanly(worker):
        with Client(addresses["scheduler"]) as client:
            kept = {task.id for task in client.tasks()}
            assert before <= kept
            done = client.wait(kept, timeout=120)
            assert {task.status for task in done} == {TaskStatus.COMPLETED}
            # A grant after the restore has a higher fence than every grant before it.
            again = client.schedule("again")
            assert again.wait(120).fence > max(fences)


def test_a_leader_with_a_store_is_not_restored_over_it(tmp_path: Path) -> None:
    leader = start_leader(tmp_path)
    with stopped_cleanly(leader.process), Client(leader.scheduler) as client:
        client.backup(tmp_path / "backup")
    command = [
        str(COMMANDS / "gowork-leader"),
        f"--store=sqlite:///{tmp_path}/leader.db",
        f"--restore={tmp_path}/backup",
    ]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 1
    assert "is there already" in refused.stderr

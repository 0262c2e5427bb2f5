"""Leader, worker and client together, as real processes."""

from __future__ import annotations

import json
from pathlib import Path

import original
import psutil
from clusters import RunningLeader, kill, start_worker, stopped_cleanly

from gowork.client import Client


async def test_a_task_that_names_no_handler_is_echoed(leader: RunningLeader, tmp_path: Path) -> None:
    worker = start_worker(tmp_path, leader, "--name", "w1", "--runners", "1")
    with stopped_cleanly(worker):
        async with original.calling(leader.scheduler) as scheduler:
            task = original.message("scheduler.v1.Task", id="1", payload="do some work")
            await scheduler("scheduler.v1.SchedulerService/ScheduleTask", task=task)
        with Client(leader.scheduler) as client:
            (task,) = client.wait(["1"], timeout=120)
    assert json.loads(task.result) == {"payload": "do some work", "worker": "w1", "attempt": 1}


def test_a_worker_leaves_no_process_behind_when_it_is_killed(leader: RunningLeader, tmp_path: Path) -> None:
    worker = start_worker(tmp_path, leader, "--runners", "2")
    runners = psutil.Process(worker.pid).children(recursive=True)
    assert runners
    kill(worker)
    _, alive = psutil.wait_procs(runners, timeout=120)
    assert alive == []

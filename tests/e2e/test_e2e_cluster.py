"""Leader, workers and client together, as real processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import original
import psutil
import pytest
from clusters import RunningLeader, kill, start_leader, start_worker, stopped_cleanly

from gowork.client import Client, TaskStatus

TASKS = 100_000
HANDLERS = '''
from gowork.worker import handler

@handler
def nothing() -> None:
    """Runs for no time at all."""
'''


async def test_a_task_that_names_no_handler_is_echoed(leader: RunningLeader, tmp_path: Path) -> None:
    worker = start_worker(tmp_path, leader, "--name", "w1", "--runners", "1")
    with stopped_cleanly(worker):
        async with original.calling(leader.scheduler) as scheduler:
            task = original.message("scheduler.v1.Task", id="1", payload="do some work")
            await scheduler("scheduler.v1.SchedulerService/ScheduleTask", task=task)
        with Client(leader.scheduler) as client:
            (task,) = client.wait(["1"], timeout=30)
    assert json.loads(task.result) == {"payload": "do some work", "worker": "w1", "attempt": 1}


def test_a_worker_leaves_no_process_behind_when_it_is_killed(leader: RunningLeader, tmp_path: Path) -> None:
    worker = start_worker(tmp_path, leader, "--runners", "2")
    runners = psutil.Process(worker.pid).children(recursive=True)
    assert runners
    kill(worker)
    _, alive = psutil.wait_procs(runners, timeout=10)
    assert alive == []


@pytest.mark.timeout(180)
def test_every_acknowledged_task_completes_though_leader_and_workers_are_killed(tmp_path: Path) -> None:
    (tmp_path / "nothing_handlers.py").write_text(HANDLERS)
    options = ["--import", "nothing_handlers", "--runners", "1", "--slots", "8"]
    acknowledged: set[str] = set()
    with ExitStack() as stack:

        def leading(*addresses: str) -> RunningLeader:
            leader = start_leader(tmp_path, *addresses)
            stack.callback(kill, leader.process)
            return leader

        def working(name: str) -> subprocess.Popen[str]:
            worker = start_worker(tmp_path, leader, "--name", name, *options)
            stack.callback(kill, worker)
            return worker

        leader = leading()
        addresses = (leader.cluster, leader.scheduler, leader.http)
        workers = [working("w1"), working("w2")]
        client = stack.enter_context(Client(leader.scheduler))

        def scheduled() -> Iterator[object]:
            for handle in client.schedule_many((str(n) for n in range(TASKS)), handler="nothing"):
                acknowledged.add(handle.id)
                yield handle

        for done, _ in enumerate(client.as_completed(scheduled(), timeout=150), 1):
            if done == TASKS * 2 // 10:
                kill(leader.process)
                leader = leading(*addresses)
            elif done == TASKS * 4 // 10:
                kill(workers.pop(0))
                workers.append(working("w3"))
            elif done == TASKS * 6 // 10:
                kill(workers.pop(0))
                kill(leader.process)
                leader = leading(*addresses)
        assert len(acknowledged) == TASKS
        completed = {task.id for task in client.tasks(status=TaskStatus.COMPLETED, page_size=10_000)}
        assert acknowledged == completed
        assert {queue.status: queue.tasks for queue in client.stats().queues} == {TaskStatus.COMPLETED: TASKS}

"""Many tasks go through kills: every acknowledged task completes, and every run is an attempt on record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from fault_cluster import Cluster, kill

from gowork.client import AttemptOutcome, TaskHandle, TaskStatus, TaskView

OPTIONS = ("--runners", "1", "--slots", "8")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tasks", [30_000, pytest.param(100_000, marks=pytest.mark.longer)])
def test_every_acknowledged_task_completes_once_and_every_run_is_explained(cluster: Cluster, tasks: int) -> None:
    for name in ("w1", "w2"):
        cluster.start_worker(name, *OPTIONS)
    acknowledged: Counter[str] = Counter()
    with cluster.client() as client:

        def scheduled() -> Iterator[TaskHandle]:
            for handle in client.schedule_many((f"{n}" for n in range(tasks)), handler="counted"):
                acknowledged[handle.id] += 1
                if len(acknowledged) == tasks // 4:
                    # Batches are in flight. The client sends those without an answer again, under the same ids.
                    cluster.kill_leader()
                    cluster.start_leader()
                yield handle

        for done, _ in enumerate(client.as_completed(scheduled(), timeout=400), 1):
            if done == tasks * 3 // 10:
                cluster.kill_worker("w1")
                cluster.start_worker("w3", *OPTIONS)
            elif done == tasks * 5 // 10:
                kill(cluster.processes("w2")[0].pid)
            elif done == tasks * 6 // 10:
                cluster.kill_leader()
                cluster.start_leader()
            elif done == tasks * 8 // 10:
                cluster.kill_worker("w2")
                cluster.kill_leader()
                cluster.start_leader()
        stored = list(client.tasks(view=TaskView.FULL, page_size=10_000))
        assert {queue.status: queue.tasks for queue in client.stats().queues} == {TaskStatus.COMPLETED: tasks}
    assert len(acknowledged) == tasks
    assert set(acknowledged.values()) == {1}
    assert {task.id for task in stored} == acknowledged.keys()
    executions = cluster.executions()
    again: Counter[AttemptOutcome] = Counter()
    granted: set[tuple[str, int]] = set()
    for task in stored:
        *lost, last = task.attempts
        assert (last.outcome, last.fence, task.attempts_used) == (AttemptOutcome.COMPLETED, task.fence, 1)
        assert executions[task.id, task.fence] == 1, "the attempt that was accepted is one that ran"
        again.update(attempt.outcome for attempt in lost)
        granted.update((task.id, attempt.fence) for attempt in task.attempts)
    # An attempt runs at most once, and every run is an attempt on record.
    assert set(executions.values()) == {1}
    assert executions.keys() <= granted
    assert set(again) <= {AttemptOutcome.LOST, AttemptOutcome.INTERRUPTED}


@pytest.mark.longer
def test_a_leader_that_is_stopped_and_started_under_load_is_no_error_for_its_clients(cluster: Cluster) -> None:
    tasks = 20_000
    cluster.start_worker("w1", *OPTIONS)
    with cluster.client() as client:

        def scheduled() -> Iterator[TaskHandle]:
            for place, handle in enumerate(client.schedule_many((f"{n}" for n in range(tasks)), handler="counted"), 1):
                if place % (tasks // 4) == 0:
                    cluster.restart_leader()
                yield handle

        assert len({handle.id for handle in client.as_completed(scheduled(), timeout=120)}) == tasks
        stored = list(client.tasks(view=TaskView.FULL, page_size=10_000))
    assert len(stored) == tasks
    assert {task.status for task in stored} == {TaskStatus.COMPLETED}
    # The worker came back each time with all that it held: nothing ran twice. Only grants that were under way to it
    # when the leader stopped were given again.
    assert {attempt.outcome for task in stored for attempt in task.attempts[:-1]} <= {AttemptOutcome.INTERRUPTED}
    assert {task.attempts_used for task in stored} == {1}
    assert sorted(id for id, _ in cluster.executions()) == sorted(task.id for task in stored)

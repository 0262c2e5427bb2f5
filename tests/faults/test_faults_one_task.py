"""How running tasks end when a process is killed."""

from __future__ import annotations

from functools import partial

import psutil
import pytest
from fault_cluster import Cluster, kill, still_running, until

from gowork.client import AttemptOutcome, Client, FailureKind, Liveness, TaskInfo, TaskStatus

#: How long to wait for processes that only gowork ends, in seconds.
END_SECONDS = 30.0


def schedule_gated(cluster: Cluster, client: Client, *ids: str, payload: str = "") -> None:
    for id in ids:
        cluster.gate(id)
        client.schedule(payload, id=id, handler="gated")


def finished(client: Client, id: str) -> TaskInfo:
    client.wait([id], timeout=120)
    return client.get(id)


def outcomes(task: TaskInfo) -> list[AttemptOutcome]:
    return [attempt.outcome for attempt in task.attempts]


def has_told(client: Client, id: str, message: str) -> bool:
    progress = client.get(id).progress
    return progress is not None and progress.message == message


def test_a_running_task_survives_a_leader_without_being_started_again(cluster: Cluster) -> None:
    cluster.start_worker("w", "--runners", "1")
    with cluster.client() as client:
        schedule_gated(cluster, client, "long")
        cluster.news("entered")
        before = client.get("long")
        for _ in range(2):
            cluster.kill_leader()
            cluster.start_leader()
            until(lambda: [member.running for member in client.members()] == [1])
        cluster.release("long")
        task = finished(client, "long")
    assert (task.status, task.result, task.fence) == (TaskStatus.COMPLETED, "1", before.fence)
    assert outcomes(task) == [AttemptOutcome.COMPLETED]
    assert cluster.executions() == {("long", task.fence): 1}


def test_a_completion_while_the_leader_is_down_is_not_lost(cluster: Cluster) -> None:
    cluster.start_worker("w", "--runners", "1")
    with cluster.client() as client:
        schedule_gated(cluster, client, "a")
        cluster.news("entered")
        cluster.kill_leader()
        cluster.release("a")
        cluster.news("left")
        cluster.start_leader()
        task = finished(client, "a")
    assert (task.status, outcomes(task)) == (TaskStatus.COMPLETED, [AttemptOutcome.COMPLETED])
    assert cluster.executions() == {("a", task.fence): 1}


@pytest.mark.longer
def test_a_worker_that_dies_with_its_leader_gives_its_tasks_back(cluster: Cluster) -> None:
    cluster.start_worker("w1", "--runners", "1")
    with cluster.client() as client:
        schedule_gated(cluster, client, "a")
        cluster.news("entered")
        cluster.kill_leader()
        cluster.kill_worker("w1")
        cluster.start_leader()
        cluster.start_worker("w2", "--runners", "1")
        # Nobody proves that the first attempt no longer runs, so the lease that the new leader gave w1 has to end.
        assert cluster.news("entered").attempt == 2
        cluster.release("a")
        task = finished(client, "a")
    assert (task.status, task.worker) == (TaskStatus.COMPLETED, "w2")
    assert outcomes(task) == [AttemptOutcome.LOST, AttemptOutcome.COMPLETED]


def test_a_task_that_must_not_run_twice_ends_with_its_worker_and_only_a_person_has_it_run_again(
    cluster: Cluster,
) -> None:
    cluster.start_worker("w1", "--runners", "1")
    with cluster.client() as client:
        cluster.gate("a")
        client.schedule(id="a", handler="gated", on_lost="fail")
        cluster.news("entered")
        cluster.kill_worker("w1")
        cluster.start_worker("w2", "--runners", "1")
        task = finished(client, "a")
        assert (task.status, outcomes(task)) == (TaskStatus.ERROR, [AttemptOutcome.LOST])
        assert task.failure is not None
        assert task.failure.kind is FailureKind.LOST
        assert "its stream broke" in task.failure.message
        client.retry("a")
        assert cluster.news("entered").attempt == 2
        cluster.release("a")
        assert finished(client, "a").status is TaskStatus.COMPLETED


def test_an_attempt_goes_on_where_the_one_before_stopped_when_its_runner_was_killed(cluster: Cluster) -> None:
    cluster.start_worker("w1", "--runners", "1")
    with cluster.client() as client:
        cluster.gate("a")
        client.schedule(id="a", handler="resuming")
        for attempt in (1, 2):
            news = cluster.news("entered")
            assert news.attempt == attempt
            # Progress leaves after the checkpoint, and what a killed process has not sent is lost.
            until(partial(has_told, client, "a", f"attempt {attempt}"))
            kill(news.runner)
        assert cluster.news("entered").attempt == 3
        cluster.release("a")
        task = finished(client, "a")
        assert (task.status, task.value()) == (TaskStatus.COMPLETED, [1, 2, 3])


@pytest.mark.longer
def test_a_worker_that_is_started_again_proves_that_its_tasks_run_no_more(cluster: Cluster) -> None:
    cluster.start_worker("w", "--runners", "2")
    with cluster.client() as client:
        schedule_gated(cluster, client, "a", "b")
        cluster.news("entered")
        cluster.news("entered")
        cluster.kill_leader()
        cluster.kill_worker("w")
        cluster.start_leader()
        cluster.start_worker("w", "--runners", "2")
        again = [cluster.news("entered"), cluster.news("entered")]
        assert {(news.id, news.attempt) for news in again} == {("a", 2), ("b", 2)}
        for id in ("a", "b"):
            cluster.release(id)
            task = finished(client, id)
            assert (task.status, task.attempts_used) == (TaskStatus.COMPLETED, 1)
            assert outcomes(task) == [AttemptOutcome.LOST, AttemptOutcome.COMPLETED]
            # Not because of the lease, which the new leader gave to the first worker and which lasts 10 s.
            assert "restarted" in task.attempts[0].reason


def test_nothing_of_a_killed_supervisor_is_left_and_its_tasks_run_elsewhere(cluster: Cluster) -> None:
    cluster.start_worker("w1", "--runners", "2")
    with cluster.client() as client:
        schedule_gated(cluster, client, "a", "b", payload="child")
        entered = [cluster.news("entered"), cluster.news("entered")]
        cluster.start_worker("w2", "--runners", "1")
        below = cluster.processes("w1")
        assert {process.pid for process in below} >= {pid for news in entered for pid in (news.runner, news.child)}
        cluster.kill_worker("w1")
        assert still_running(below, END_SECONDS) == []
        again = [cluster.news("entered"), cluster.news("entered")]
        assert {(news.id, news.attempt) for news in again} == {("a", 2), ("b", 2)}
        for id in ("a", "b"):
            cluster.release(id)
            task = finished(client, id)
            assert (task.status, task.worker, task.attempts_used) == (TaskStatus.COMPLETED, "w2", 1)
            assert outcomes(task) == [AttemptOutcome.LOST, AttemptOutcome.COMPLETED]
            # Not because of the lease, which lasts 10 s.
            assert "its stream broke" in task.attempts[0].reason
        assert {member.id: member.liveness for member in client.members()} == {
            "w1": Liveness.LOST,
            "w2": Liveness.LIVE,
        }


def test_a_killed_runner_takes_only_its_own_tasks_with_it(cluster: Cluster) -> None:
    cluster.start_worker("w", "--runners", "2", "--slots", "4")
    ids = ["a", "b", "c", "d"]
    with cluster.client() as client:
        schedule_gated(cluster, client, *ids, payload="child")
        entered = {news.id: news for news in (cluster.news("entered") for _ in ids)}
        victim = entered["a"].runner
        lost = {id for id, news in entered.items() if news.runner == victim}
        assert lost < set(ids)
        children = [psutil.Process(entered[id].child) for id in lost]
        kill(victim)
        assert still_running(children, END_SECONDS) == []
        again = {news.id: news for news in (cluster.news("entered") for _ in lost)}
        assert set(again) == lost
        # Each of them runs alone now, because it may have ended the runner.
        assert len({news.runner for news in again.values()}) == len(lost)
        for id in ids:
            cluster.release(id)
            task = finished(client, id)
            expected = [AttemptOutcome.LOST, AttemptOutcome.COMPLETED] if id in lost else [AttemptOutcome.COMPLETED]
            assert (task.status, outcomes(task)) == (TaskStatus.COMPLETED, expected)
            if id in lost:
                assert "SIGKILL" in task.attempts[0].reason
    assert len(cluster.executions()) == len(ids) + len(lost)


@pytest.mark.parametrize("payload", ["exit", "kill"])
def test_a_task_that_kills_its_runner_is_quarantined_and_its_neighbours_complete(
    cluster: Cluster, payload: str
) -> None:
    cluster.start_worker("w", "--runners", "1", "--slots", "4")
    with cluster.client() as client:
        neighbours = [handle.id for handle in client.schedule_many([""] * 50, handler="counted")]
        deadly = client.schedule(payload, id="deadly", handler="deadly").id
        neighbours += [handle.id for handle in client.schedule_many([""] * 50, handler="counted")]
        assert {task.status for task in client.wait(neighbours, timeout=120)} == {TaskStatus.COMPLETED}
        task = finished(client, deadly)
        assert task.status is TaskStatus.ERROR
        assert task.failure is not None
        assert task.failure.kind is FailureKind.QUARANTINED
        assert ("SIGKILL" if payload == "kill" else "3") in task.failure.message
        assert set(outcomes(task)) == {AttemptOutcome.LOST}
        # Once among neighbours, and three times alone.
        assert len(task.attempts) == 4
        # The worker goes on.
        client.schedule(id="after", handler="counted").result(timeout=120)
    assert sum(number for (id, _), number in cluster.executions().items() if id == "deadly") == 4

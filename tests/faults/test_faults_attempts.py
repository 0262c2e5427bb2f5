"""How attempts end, in real processes: which count, what is tried again, and when a task really runs no more."""

from __future__ import annotations

from datetime import timedelta

import psutil
import pytest
from fault_cluster import Cluster, News, runs, still_running

from gowork.client import AttemptOutcome, Client, FailureKind, RetryPolicy, TaskInfo, TaskStatus

COMPLETED, FAILED, LOST = AttemptOutcome.COMPLETED, AttemptOutcome.FAILED, AttemptOutcome.LOST
SNOOZED, CANCELLED = AttemptOutcome.SNOOZED, AttemptOutcome.CANCELLED
INTERRUPTED, TIMED_OUT = AttemptOutcome.INTERRUPTED, AttemptOutcome.TIMED_OUT
KINDS = ["async", "thread", "process"]


def finished(client: Client, id: str) -> TaskInfo:
    client.wait([id], timeout=120)
    return client.get(id)


def outcomes(task: TaskInfo) -> list[AttemptOutcome]:
    return [attempt.outcome for attempt in task.attempts]


def gated(cluster: Cluster, client: Client, *ids: str) -> list[News]:
    for id in ids:
        cluster.gate(id)
        client.schedule(id=id, handler="gated")
    return [cluster.news("entered") for _ in ids]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("exit", "exited with code 3"),
        pytest.param("crash", "SIGSEGV", marks=pytest.mark.longer),
        pytest.param("kill", "SIGKILL", marks=pytest.mark.longer),
    ],
)
def test_the_guilty_one_of_a_runner_is_found_and_its_neighbours_complete(
    cluster: Cluster, payload: str, reason: str
) -> None:
    cluster.start_worker("w", "--runners", "1", "--slots", "4")
    neighbours = ["a", "b", "c"]
    with cluster.client() as client:
        first = gated(cluster, client, *neighbours)
        client.schedule(payload, id="guilty", handler="deadly")
        # The neighbours ran beside it, and were lost with it. Now each runs alone.
        again = [cluster.news("entered") for _ in neighbours]
        assert len({news.runner for news in first}) == 1
        assert len({news.runner for news in (*first, *again)}) == 4
        for id in neighbours:
            cluster.release(id)
            task = finished(client, id)
            assert (task.status, task.attempts_used) == (TaskStatus.COMPLETED, 1)
            assert outcomes(task) == [LOST, COMPLETED]
            assert reason in task.attempts[0].reason
        guilty = finished(client, "guilty")
    assert guilty.status is TaskStatus.ERROR
    assert guilty.failure is not None
    assert guilty.failure.kind is FailureKind.QUARANTINED
    assert reason in guilty.failure.message
    assert (outcomes(guilty), guilty.attempts_used) == ([LOST] * 4, 0)


def test_a_task_that_wants_more_memory_than_its_process_may_have_fails_by_itself(cluster: Cluster) -> None:
    cluster.start_worker("w", "--runners", "1")
    with cluster.client() as client:
        gated(cluster, client, "neighbour")
        client.schedule(id="hungry", handler="hungry")
        hungry = finished(client, "hungry")
        assert hungry.failure is not None
        assert (hungry.failure.kind, hungry.failure.type) == (FailureKind.HANDLER, "MemoryError")
        cluster.release("neighbour")
        assert outcomes(finished(client, "neighbour")) == [COMPLETED]


@pytest.mark.parametrize(
    ("payload", "ends", "used", "status", "kind"),
    [
        ("value", [FAILED, FAILED, FAILED], 3, TaskStatus.ERROR, FailureKind.HANDLER),
        ("key", [FAILED], 1, TaskStatus.ERROR, FailureKind.NO_RETRY),
        ("snooze", [SNOOZED, SNOOZED, COMPLETED], 1, TaskStatus.COMPLETED, None),
        ("retry", [FAILED, FAILED, COMPLETED], 3, TaskStatus.COMPLETED, None),
        ("cancel", [CANCELLED], 0, TaskStatus.CANCELLED, None),
        ("fail", [FAILED], 1, TaskStatus.ERROR, FailureKind.NO_RETRY),
        ("again", [FAILED, FAILED, FAILED], 3, TaskStatus.ERROR, FailureKind.HANDLER),
    ],
)
def test_a_handlers_policy_and_its_steering_are_followed(
    cluster: Cluster,
    payload: str,
    ends: list[AttemptOutcome],
    used: int,
    status: TaskStatus,
    kind: FailureKind | None,
) -> None:
    cluster.start_worker("w", "--runners", "1")
    with cluster.client() as client:
        client.schedule(payload, id="a", handler="steered")
        task = finished(client, "a")
    assert (task.status, outcomes(task), task.attempts_used) == (status, ends, used)
    if kind is not None:
        assert task.failure is not None
        assert task.failure.kind is kind
    if payload == "retry":
        first, second, third = task.attempts
        for earlier, later in ((first, second), (second, third)):
            assert earlier.ended_at is not None
            assert later.started_at is not None
            assert later.started_at - earlier.ended_at >= timedelta(milliseconds=199)


def test_a_tasks_own_policy_stands_before_its_handlers(cluster: Cluster) -> None:
    cluster.start_worker("w", "--runners", "1")
    policy = RetryPolicy(max_attempts=4, initial_delay=0.1, factor=3, max_delay=0.2)
    with cluster.client() as client:
        client.schedule("value", id="often", handler="steered", retry=policy)
        client.schedule("value", id="named", handler="steered", retry=RetryPolicy(9, no_retry=("ValueError",)))
        often, named = finished(client, "often"), finished(client, "named")
    assert (outcomes(often), often.attempts_used) == ([FAILED] * 4, 4)
    waits = [
        later.started_at - earlier.ended_at
        for earlier, later in zip(often.attempts, often.attempts[1:], strict=False)
        if later.started_at is not None and earlier.ended_at is not None
    ]
    # Times are told in milliseconds.
    assert [wait >= timedelta(seconds=least - 0.002) for wait, least in zip(waits, (0.1, 0.2, 0.2), strict=True)]
    assert all(wait < timedelta(seconds=5) for wait in waits)
    assert outcomes(named) == [FAILED]
    assert named.failure is not None
    assert named.failure.kind is FailureKind.NO_RETRY


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_is_asked_to_stop_at_its_time_limit(cluster: Cluster, kind: str) -> None:
    cluster.start_worker("w", "--runners", "1")
    with cluster.client() as client:
        gated(cluster, client, "neighbour")
        client.schedule("heeds", id="a", handler=f"stay-{kind}", time_limit=0.3)
        entered = cluster.news("entered")
        assert cluster.news("left") == entered._replace(event="left")
        task = finished(client, "a")
        assert task.failure is not None
        assert (task.status, task.failure.kind, outcomes(task)) == (
            *(TaskStatus.ERROR, FailureKind.TIMEOUT),
            [TIMED_OUT],
        )
        assert psutil.pid_exists(entered.runner)
        cluster.release("neighbour")
        assert outcomes(finished(client, "neighbour")) == [COMPLETED]


@pytest.mark.parametrize("way", ["limit", pytest.param("cancel", marks=pytest.mark.longer)])
@pytest.mark.parametrize("kind", KINDS)
def test_one_that_does_not_stop_is_ended_with_its_runner_and_nobody_else_pays(
    cluster: Cluster, kind: str, way: str
) -> None:
    cluster.start_worker("w", "--runners", "1")
    with cluster.client() as client:
        gated(cluster, client, "neighbour")
        client.schedule("ignores", id="a", handler=f"stay-{kind}", time_limit=0.3 if way == "limit" else None)
        runner = psutil.Process(cluster.news("entered").runner)
        if way == "cancel":
            client.cancel("a")
        task = finished(client, "a")
        # Its runner has ended when its status says so.
        assert not runs(runner)
        expected = (TaskStatus.ERROR, [TIMED_OUT]) if way == "limit" else (TaskStatus.CANCELLED, [CANCELLED])
        assert (task.status, outcomes(task)) == expected
        if kind != "process":
            assert cluster.news("entered").attempt == 2
        cluster.release("neighbour")
        neighbour = finished(client, "neighbour")
        assert outcomes(neighbour) == ([COMPLETED] if kind == "process" else [INTERRUPTED, COMPLETED])
        assert neighbour.attempts_used == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancel_is_confirmed_when_the_handler_has_stopped(cluster: Cluster, kind: str) -> None:
    cluster.start_worker("w", "--runners", "1")
    with cluster.client() as client:
        client.schedule("heeds", id="a", handler=f"stay-{kind}")
        entered = cluster.news("entered")
        client.cancel("a")
        task = finished(client, "a")
        assert (task.status, outcomes(task)) == (TaskStatus.CANCELLED, [CANCELLED])
        assert cluster.news("left", timeout=0) == entered._replace(event="left")
        assert psutil.pid_exists(entered.runner)


def test_a_task_is_not_cancelled_as_long_as_it_runs(cluster: Cluster) -> None:
    cluster.start_worker("w", "--runners", "1")
    with cluster.client() as client:
        cluster.gate("a")
        client.schedule(id="a", handler="reluctant")
        cluster.news("entered")
        client.cancel("a")
        cluster.news("asked")
        task = client.get("a")
        assert (task.status, task.cancel_requested) == (TaskStatus.RUNNING, True)
        cluster.release("a")
        assert finished(client, "a").status is TaskStatus.CANCELLED


def test_a_command_that_heeds_no_signal_has_ended_when_it_is_cancelled(cluster: Cluster) -> None:
    cluster.start_worker("w", "--runners", "1")
    with cluster.client() as client:
        script = "trap '' TERM; echo entered a 1 $PPID $$ > news; sleep 1000 & while :; do wait; done"
        client.schedule({"command": script, "shell": True}, id="a", handler="shell")
        entered = cluster.news("entered")
        command = psutil.Process(entered.child)
        group = [command, *command.children(recursive=True)]
        client.cancel("a")
        assert finished(client, "a").status is TaskStatus.CANCELLED
        # A killed process needs a processor once more before it is gone.
        assert still_running(group, 0.1) == []
        # All of it ended within the grace, so its runner is still there.
        assert psutil.pid_exists(entered.runner)

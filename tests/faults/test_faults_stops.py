"""A leader or worker that is asked to stop, by a signal or over the wire, loses no task and uses up no attempt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import grpc
import pytest
from fault_cluster import PATIENCE, Cluster
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gowork.client import AttemptOutcome, Client, Liveness, TaskInfo, TaskStatus, TaskView
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def schedule_gated(cluster: Cluster, client: Client, *ids: str) -> None:
    for id in ids:
        cluster.gate(id)
        client.schedule(id=id, handler="gated")
    for _ in ids:
        cluster.news("entered")


def outcomes(task: TaskInfo) -> list[AttemptOutcome]:
    return [attempt.outcome for attempt in task.attempts]


def test_a_drained_worker_finishes_what_it_can_hands_back_the_rest_and_exits_with_0(cluster: Cluster) -> None:
    cluster.start_worker("w1", "--runners", "1")
    with cluster.client() as client:
        schedule_gated(cluster, client, "short", "long")
        cluster.start_worker("w2", "--runners", "1")
        client.drain("w1", 2.0)
        assert {member.id: member.liveness for member in client.members()}["w1"] is Liveness.DRAINING
        cluster.release("short")
        cluster.news("left")
        again = cluster.news("entered")
        assert (again.id, again.attempt) == ("long", 2)
        assert cluster.exit_code("w1") == 0
        cluster.release("long")
        short, long = client.wait(["short", "long"], timeout=120)
        assert (short.worker, short.status, long.worker, long.status) == (
            *("w1", TaskStatus.COMPLETED),
            *("w2", TaskStatus.COMPLETED),
        )
        long = client.get("long")
        assert (outcomes(long), long.attempts_used) == ([AttemptOutcome.INTERRUPTED, AttemptOutcome.COMPLETED], 1)
        assert {member.id: member.liveness for member in client.members()}["w1"] is Liveness.LEFT


def _drain_then_signal(cluster: Cluster, client: Client) -> None:
    client.drain("w1", 3600)
    client.drain("w1", 0.001)
    cluster.workers["w1"].send_signal(signal.SIGTERM)


def _signal_then_drain(cluster: Cluster, client: Client) -> None:
    cluster.workers["w1"].send_signal(signal.SIGTERM)
    while client.members()[0].liveness is not Liveness.DRAINING:
        pass
    client.drain("w1", 0.001)


def finishes_after(stop: Callable[[Cluster, Client], None], cluster: Cluster) -> TaskInfo:
    cluster.start_worker("w1", "--runners", "1")
    with cluster.client() as client:
        schedule_gated(cluster, client, "a")
        stop(cluster, client)
        cluster.start_worker("w2", "--runners", "1")
        cluster.release("a")
        client.wait(["a"], timeout=120)
        assert cluster.exit_code("w1") == 0
        return client.get("a")


@pytest.mark.longer
def test_a_signal_after_a_drain_hands_nothing_back_yet(cluster: Cluster) -> None:
    assert outcomes(finishes_after(_drain_then_signal, cluster)) == [AttemptOutcome.COMPLETED]


@pytest.mark.longer
def test_a_drain_after_a_signal_changes_nothing(cluster: Cluster) -> None:
    assert outcomes(finishes_after(_signal_then_drain, cluster)) == [AttemptOutcome.COMPLETED]


def test_a_second_signal_hands_back_at_once(cluster: Cluster) -> None:
    cluster.start_worker("w1", "--runners", "1")
    with cluster.client() as client:
        schedule_gated(cluster, client, "a")
        cluster.start_worker("w2", "--runners", "1")
        cluster.workers["w1"].send_signal(signal.SIGTERM)
        while client.members()[0].liveness is not Liveness.DRAINING:
            pass
        cluster.workers["w1"].send_signal(signal.SIGTERM)
        assert cluster.news("entered").attempt == 2
        assert cluster.exit_code("w1") == 0
        cluster.release("a")
        client.wait(["a"], timeout=120)
        task = client.get("a")
    assert (outcomes(task), task.attempts_used) == ([AttemptOutcome.INTERRUPTED, AttemptOutcome.COMPLETED], 1)


class Caller(threading.Thread):
    """Schedules tasks until a call fails; it never repeats a call."""

    def __init__(self, name: str, address: str, enough: threading.Semaphore) -> None:
        super().__init__(name=name)
        self._address, self._enough = address, enough
        self.acknowledged: list[str] = []
        self.code: grpc.StatusCode | None = None

    def run(self) -> None:
        with grpc.insecure_channel(self._address) as channel:
            schedule = scheduler_pb2_grpc.SchedulerServiceStub(channel).ScheduleTasks
            for number in range(100_000):
                ids = [f"{self.name}-{number}-{place}" for place in range(5)]
                tasks = [scheduler_pb2.Task(id=id, handler="counted") for id in ids]
                try:
                    schedule(scheduler_pb2.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)
                except grpc.RpcError as error:
                    self.code = error.code()
                    return
                self.acknowledged += ids
                self._enough.release()


def test_a_leader_that_is_asked_to_stop_says_so_answers_what_it_took_and_stores_no_more(cluster: Cluster) -> None:
    cluster.start_worker("w", "--runners", "1", "--slots", "8")
    enough = threading.Semaphore(0)
    callers = [Caller(f"caller-{number}", cluster.address, enough) for number in range(4)]
    with grpc.insecure_channel(cluster.address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert next(health).status == SERVING
        for caller in callers:
            caller.start()
        for _ in range(200):
            assert enough.acquire(timeout=PATIENCE)
        cluster.stop_leader()
        assert next(health).status == NOT_SERVING
        for caller in callers:
            caller.join(PATIENCE)
    assert {caller.code for caller in callers} == {grpc.StatusCode.UNAVAILABLE}
    cluster.start_leader()
    with cluster.client() as client:
        stored = {task.id for task in client.tasks(view=TaskView.BASIC, page_size=10_000)}
        # All tasks that were acknowledged, and none whose caller got an error.
        assert stored == {id for caller in callers for id in caller.acknowledged}
        client.wait(stored, timeout=120)

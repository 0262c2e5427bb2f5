"""Attempts whose runner can send no span: the leader makes one, so that the chain does not break."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from otlp_receiver import Receiver
from tracing_cluster import Cluster

from gowork.base.channels import open_channel
from gowork.client import Client, TaskStatus
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as pb
from gowork.proto.worker.v1 import session_pb2_grpc as pb_grpc

ATTEMPT = "00-33333333333333333333333333333333-4444444444444444-01"


def runs(client: Client, handler: str) -> str:
    """Schedules a task, waits until its handler reports progress, and returns the task's id."""
    with client.watch() as changes:
        handle = client.schedule(handler=handler)
        next(task for task in changes if task.progress)
    return handle.id


def told_as_lost(receiver: Receiver, task: str) -> None:
    """Checks the spans of a task whose first attempt was lost and whose second completed."""
    send = receiver.one("send default")
    lost = receiver.one("settle default", gowork_task_outcome="lost")
    assert (lost.service, lost.kind, lost.status) == ("gowork-leader", "INTERNAL", "ERROR")
    assert (lost.parent, lost.links) == ("", (send.id,))
    assert lost.trace != send.trace
    assert lost.attributes["messaging.message.id"] == task
    assert lost.attributes["gowork.task.attempt"] == 1
    assert lost.attributes["error.type"] == "lost"
    process = receiver.one("process default")
    assert process.links == (send.id, lost.id)
    assert process.attributes["gowork.task.attempt"] == 2
    settle = receiver.one("settle default", gowork_task_outcome="completed")
    assert (settle.trace, settle.parent) == (process.trace, process.id)


def test_an_attempt_that_is_lost_with_its_runner_is_told_by_the_leader(client: Client, receiver: Receiver) -> None:
    task = client.schedule(handler="dies_once").wait()
    assert task.status is TaskStatus.COMPLETED
    told_as_lost(receiver, task.id)
    assert "SIGKILL" in receiver.one("settle default", gowork_task_outcome="lost").message


@pytest.mark.longer
def test_an_attempt_that_is_lost_with_its_worker_is_told_by_the_leader(
    client: Client, receiver: Receiver, cluster: Cluster
) -> None:
    id = runs(client, "until_told")
    os.kill(cluster.workers[0].pid, signal.SIGKILL)
    cluster.work()
    assert client.wait([id])[0].status is TaskStatus.COMPLETED
    told_as_lost(receiver, id)


def test_what_is_told_of_a_lost_attempt_is_what_is_kept_of_it(client: Client, receiver: Receiver) -> None:
    task = client.schedule(handler="dies_once").wait()
    lost = receiver.one("settle default", gowork_task_outcome="lost")
    attempts = client.get(task.id).attempts
    assert attempts[0].traceparent == f"00-{lost.trace}-{lost.id}-01"


@pytest.mark.longer
def test_an_attempt_whose_runner_was_ended_for_its_time_limit_is_told_by_the_leader(
    client: Client, receiver: Receiver
) -> None:
    client.schedule(handler="stubborn", time_limit=0.05).wait()
    told = receiver.one("settle default", gowork_task_outcome="timed_out")
    assert (told.kind, told.status, told.attributes["error.type"]) == ("INTERNAL", "ERROR", "timed_out")
    assert told.links == (receiver.one("send default").id,)
    assert receiver.named("process default") == []


@pytest.fixture
async def session(client: Client, cluster: Cluster) -> AsyncIterator[Any]:
    """The stream of a worker that the test plays; its one handler is `mine`."""
    async with open_channel([cluster.leader.cluster]) as channel:
        call: Any = pb_grpc.SessionServiceStub(channel).Connect()
        hello = pb.Hello(name="by-hand", instance="1", slots=1, handlers=[pb.HandlerInfo(name="mine")])
        await call.write(pb.ConnectRequest(hello=hello))
        assert (await call.read()).HasField("welcome")
        await call.write(pb.ConnectRequest(credit=[1]))
        yield call


@pytest.mark.longer
async def test_a_report_that_is_refused_as_stale_is_an_error(client: Client, receiver: Receiver, session: Any) -> None:
    task = client.schedule(handler="mine")
    while not (grants := (await session.read()).grants):
        pass
    stale = pb.Report(
        fence=grants[0].fence - 1, id=task.id, outcome=tasks.ATTEMPT_OUTCOME_COMPLETED, traceparent=ATTEMPT
    )
    await session.write(pb.ConnectRequest(reports=[stale]))
    settle = receiver.one("settle default")
    assert (settle.trace, settle.parent) == (ATTEMPT[3:35], ATTEMPT[36:52])
    assert (settle.status, settle.attributes["error.type"]) == ("ERROR", "STALE_FENCE")
    assert settle.attributes["messaging.client.id"] == "by-hand"

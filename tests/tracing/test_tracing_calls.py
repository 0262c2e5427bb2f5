"""The spans of clients: of batches, of refusals, and of the calls themselves."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from clusters import COMMANDS
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
from otlp_receiver import Receiver
from tracing_cluster import Cluster

from gowork.client import AlreadyExists, AsyncClient, Client, NewTask, NotFound
from gowork.proto.status import refusal_of

SCHEDULE_TASK = "/scheduler.v1.SchedulerService/ScheduleTask"
SCHEDULE_TASKS = "/scheduler.v1.SchedulerService/ScheduleTasks"


@pytest.fixture
async def async_client(program: None, cluster: Cluster) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(cluster.leader.scheduler) as client:
        yield client


def batch_is_told(receiver: Receiver, tasks: int) -> None:
    send = receiver.one("send default")
    assert (send.kind, send.parent) == ("PRODUCER", "")
    assert send.attributes["messaging.batch.message_count"] == tasks
    assert send.attributes["messaging.destination.name"] == "default"
    assert "messaging.message.id" not in send.attributes
    assert {span.links for span in receiver.some(tasks, "process default")} == {(send.id,)}
    call, _ = receiver.some(2, SCHEDULE_TASKS)
    assert (call.service, call.kind, call.parent) == ("program", "CLIENT", send.id)
    assert send.begins_ns <= call.begins_ns


def test_a_batch_has_one_span_to_which_all_its_tasks_are_linked(client: Client, receiver: Receiver) -> None:
    client.wait(client.schedule_many(range(3), handler="work"))
    batch_is_told(receiver, 3)


@pytest.mark.longer
async def test_a_batch_of_the_asyncio_client_too(async_client: AsyncClient, receiver: Receiver) -> None:
    await async_client.wait(async_client.schedule_many(range(3), handler="work"))
    batch_is_told(receiver, 3)


@pytest.mark.longer
def test_a_batch_for_several_queues_names_none(client: Client, receiver: Receiver) -> None:
    client.wait(client.schedule_many([NewTask(queue=queue, handler="work") for queue in ("a", "b")]))
    send = receiver.one("send")
    assert "messaging.destination.name" not in send.attributes
    assert send.attributes["messaging.batch.message_count"] == 2
    assert [receiver.one(f"process {queue}").links for queue in ("a", "b")] == [(send.id,)] * 2


@pytest.mark.longer
async def test_the_asyncio_client_traces_a_task_of_its_own(async_client: AsyncClient, receiver: Receiver) -> None:
    await (await async_client.schedule(handler="work_async")).wait()
    assert receiver.one("process default").links == (receiver.one("send default").id,)


def test_calls_are_traced_from_the_program_into_the_leader(client: Client, receiver: Receiver) -> None:
    client.schedule(handler="work").wait()
    send = receiver.one("send default")
    call, served = receiver.some(2, SCHEDULE_TASK)
    assert (call.service, call.kind, call.parent) == ("program", "CLIENT", send.id)
    assert (served.service, served.kind, served.parent) == ("gowork-leader", "SERVER", call.id)
    assert {call.trace, served.trace} == {send.trace}


def refusal_is_told(receiver: Receiver) -> None:
    send = receiver.named("send default")[-1]
    assert (send.status, send.attributes["error.type"]) == ("ERROR", "gowork.client.errors.AlreadyExists")
    (call,) = [span for span in receiver.named(SCHEDULE_TASK) if span.parent == send.id]
    assert (call.status, call.attributes["rpc.grpc.status_code"]) == ("ERROR", 6)


def test_refusals_keep_their_type_and_details(client: Client, receiver: Receiver) -> None:
    client.schedule("x", id="a", handler="work")
    with pytest.raises(AlreadyExists) as caught:
        client.schedule("y", id="a", handler="work")
    assert (caught.value.reason, caught.value.violations[0].field) == ("TASK_EXISTS", "task.id")
    with pytest.raises(NotFound):
        client.get("unknown")
    with pytest.raises(AlreadyExists):
        list(client.schedule_many([NewTask("z", id="a", handler="work")]))
    assert receiver.named("send default")[-1].attributes["error.type"] == "gowork.client.errors.AlreadyExists"


@pytest.mark.longer
async def test_refusals_of_the_asyncio_client_too(async_client: AsyncClient, receiver: Receiver) -> None:
    await async_client.schedule("x", id="a", handler="work")
    with pytest.raises(AlreadyExists) as caught:
        await async_client.schedule("y", id="a", handler="work")
    assert (caught.value.reason, caught.value.violations[0].field) == ("TASK_EXISTS", "task.id")
    refusal_is_told(receiver)
    with pytest.raises(AlreadyExists):
        [handle async for handle in async_client.schedule_many([NewTask("z", id="a", handler="work")])]


@pytest.mark.longer
def test_a_program_that_traces_all_its_calls_has_each_once_and_can_cancel_streams(
    program: None, cluster: Cluster, receiver: Receiver
) -> None:
    instrumentor = GrpcInstrumentorClient()
    instrumentor.instrument()
    try:
        with Client(cluster.leader.scheduler) as client, client.watch() as changes:
            handle = client.schedule(handler="work")
            next(task for task in changes if task.status.finished)
            client.wait([handle.id, client.schedule(handler="work").id])
    finally:
        instrumentor.uninstrument()
    assert len([span for span in receiver.named(SCHEDULE_TASK) if span.kind == "CLIENT"]) == 2


@pytest.mark.longer
async def test_so_has_one_with_asyncio(program: None, cluster: Cluster, receiver: Receiver) -> None:
    instrumentor = GrpcAioInstrumentorClient()
    instrumentor.instrument()
    try:
        async with AsyncClient(cluster.leader.scheduler) as client:
            await (await client.schedule(handler="work")).wait()
    finally:
        instrumentor.uninstrument()
    assert len([span for span in receiver.named(SCHEDULE_TASK) if span.kind == "CLIENT"]) == 1


async def test_streams_go_on_as_without_traces_and_have_no_spans(async_client: AsyncClient, receiver: Receiver) -> None:
    async with async_client.watch(handler="work") as changes:
        handle = await async_client.schedule(handler="work")
        async for task in changes:
            if task.status.finished:
                break
    await async_client.wait([handle.id, (await async_client.schedule(handler="work")).id])
    receiver.some(2, "process default")
    streams = ("WatchTasks", "WaitTasks", "Connect")
    assert [span.name for span in receiver.spans if span.name.endswith(streams)] == []


@pytest.mark.longer
async def test_bytes_that_are_no_protobuf_are_refused_as_without_traces(cluster: Cluster) -> None:
    async with grpc.aio.insecure_channel(cluster.leader.scheduler) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(SCHEDULE_TASK)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff")
    assert (caught.value.code(), refusal_of(caught.value).reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "NOT_PROTOBUF",
    )


@pytest.mark.longer
async def test_health_checks_are_not_traced(cluster: Cluster, receiver: Receiver) -> None:
    async with grpc.aio.insecure_channel(cluster.leader.scheduler) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    cluster.stop()
    assert [span for span in receiver.spans if "health" in span.name] == []


def test_commands_are_traced(cluster: Cluster, receiver: Receiver, tmp_path: Path) -> None:
    command = [str(COMMANDS / "gowork"), "--leader", cluster.leader.scheduler, "add", "--handler", "work", "--wait"]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)
    send = receiver.one("send default")
    assert send.service == "gowork"
    process = receiver.one("process default")
    assert process.links == (send.id,)
    show = [
        str(COMMANDS / "gowork"),
        "--leader",
        cluster.leader.scheduler,
        "show",
        str(send.attributes["messaging.message.id"]),
    ]
    shown = subprocess.run(show, check=True, timeout=120, cwd=tmp_path, capture_output=True, text=True).stdout
    assert send.trace in shown
    assert process.trace in shown
    assert receiver.some(2, SCHEDULE_TASK)[0].parent == send.id


@pytest.mark.longer
def test_a_worker_that_is_dialled_is_traced_over_its_calls(
    client: Client, receiver: Receiver, cluster: Cluster
) -> None:
    cluster.workers[0].terminate()
    cluster.workers[0].wait()
    cluster.work("--listen", "127.0.0.1:0", "--scheduler", cluster.leader.scheduler, "--default-handler", "work")
    client.schedule("x").wait()
    call, served = receiver.some(2, "/worker.v1.WorkerService/StartWork")
    assert (call.service, call.kind, call.parent) == ("gowork-leader", "CLIENT", receiver.one("send default").id)
    assert (served.service, served.kind, served.parent) == ("gowork-worker", "SERVER", call.id)
    process = receiver.one("process default")
    assert (process.attributes["gowork.task.outcome"], process.links) == ("completed", (served.id,))
    assert [span for span in receiver.spans if "Heartbeat" in span.name] == []

"""The chain of a task's spans: from its submit over its attempts to the handler's own spans, by links and parents."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry import trace
from otlp_receiver import Receiver, Seen
from tracing_cluster import Cluster

from gowork.client import AsyncClient, Client, TaskStatus
from gowork.worker import Context, Worker, handler


def common(span: Seen, operation: str, task: str, queue: str = "default") -> None:
    """Checks what the conventions ask of every span about one task."""
    attributes = span.attributes
    assert span.name == f"{operation} {queue}"
    assert attributes["messaging.system"] == "gowork"
    assert attributes["messaging.operation.name"] == attributes["messaging.operation.type"] == operation
    assert attributes["messaging.destination.name"] == queue
    assert attributes["messaging.message.id"] == task


@pytest.mark.parametrize("handler", ["work", "work_async", "work_alone"])
def test_a_task_is_traced_from_its_submit_to_what_its_handler_does(
    client: Client, receiver: Receiver, cluster: Cluster, handler: str
) -> None:
    with trace.get_tracer("test").start_as_current_span("page"):
        task = client.schedule(handler=handler, queue="mail").wait()
    page = receiver.one("page")

    send = receiver.one("send mail")
    common(send, "send", task.id, "mail")
    assert (send.service, send.kind, send.status, send.trace, send.parent) == (
        "program",
        "PRODUCER",
        "UNSET",
        page.trace,
        page.id,
    )
    host, port = cluster.leader.scheduler.rsplit(":", 1)
    assert (send.attributes["server.address"], send.attributes["server.port"]) == (host, int(port))
    assert "messaging.batch.message_count" not in send.attributes

    process = receiver.one("process mail")
    common(process, "process", task.id, "mail")
    assert (process.service, process.kind, process.status, process.parent) == ("gowork-worker", "CONSUMER", "UNSET", "")
    assert process.trace != send.trace
    assert process.links == (send.id,)
    assert process.attributes["gowork.task.attempt"] == 1
    assert process.attributes["gowork.task.fence"] == task.fence
    assert process.attributes["gowork.task.handler"] == handler
    assert process.attributes["gowork.task.outcome"] == "completed"
    assert process.attributes["messaging.client.id"] == task.worker
    assert "error.type" not in process.attributes

    inner = receiver.one("inner")
    assert (inner.trace, inner.parent) == (process.trace, process.id)

    settle = receiver.one("settle mail")
    common(settle, "settle", task.id, "mail")
    assert (settle.service, settle.kind, settle.status) == ("gowork-leader", "SERVER", "UNSET")
    assert (settle.trace, settle.parent) == (process.trace, process.id)
    assert settle.attributes["gowork.task.outcome"] == "completed"
    assert settle.attributes["messaging.client.id"] == task.worker
    assert settle.begins_ns <= settle.ends_ns

    told = client.get(task.id)
    assert told.traceparent[3:52] == f"{send.trace}-{send.id}"
    assert told.attempts[0].traceparent[3:52] == f"{process.trace}-{process.id}"


def test_a_failure_is_an_error_of_its_attempt_and_not_of_its_report(client: Client, receiver: Receiver) -> None:
    client.schedule(handler="fails").wait()
    process = receiver.one("process default")
    assert (process.status, process.message, process.events) == ("ERROR", "no such thing", ("exception",))
    assert process.attributes["error.type"] == "ValueError"
    assert process.attributes["gowork.task.outcome"] == "failed"
    settle = receiver.one("settle default")
    assert (settle.status, settle.attributes["gowork.task.outcome"]) == ("UNSET", "failed")
    assert receiver.one("send default").status == "UNSET"


def test_a_retry_is_linked_to_the_submit_and_to_the_attempt_before(client: Client, receiver: Receiver) -> None:
    client.schedule(handler="flaky", retry=2).wait()
    send = receiver.one("send default")
    first, second = receiver.some(2, "process default")
    assert first.links == (send.id,)
    assert second.links == (send.id, first.id)
    assert len({send.trace, first.trace, second.trace}) == 3
    assert [span.attributes["gowork.task.attempt"] for span in (first, second)] == [1, 2]
    assert [span.status for span in (first, second)] == ["ERROR", "UNSET"]


@pytest.mark.longer
def test_a_snooze_is_no_error(client: Client, receiver: Receiver) -> None:
    client.schedule(handler="sleepy").wait()
    first, second = receiver.some(2, "process default")
    assert (first.status, first.attributes["gowork.task.outcome"], first.events) == ("UNSET", "snoozed", ())
    assert second.links[1:] == (first.id,)


@pytest.mark.longer
def test_a_cancelled_attempt_is_no_error(client: Client, receiver: Receiver) -> None:
    with client.watch() as changes:
        handle = client.schedule(handler="until_told")
        for task in changes:
            if task.progress:
                break
        handle.cancel()
    assert handle.wait().status is TaskStatus.CANCELLED
    process = receiver.one("process default")
    assert (process.status, process.attributes["gowork.task.outcome"], process.events) == ("UNSET", "cancelled", ())
    settle = receiver.one("settle default")
    assert (settle.parent, settle.attributes["gowork.task.outcome"]) == (process.id, "cancelled")


@pytest.mark.longer
def test_an_attempt_that_ran_out_of_time_is_an_error(client: Client, receiver: Receiver) -> None:
    client.schedule(handler="until_told", time_limit=0.05).wait()
    process = receiver.one("process default")
    assert (process.status, process.attributes["gowork.task.outcome"]) == ("ERROR", "timed_out")
    assert process.attributes["error.type"] == "TimeoutError"


def test_a_follow_up_is_linked_to_the_attempt_that_scheduled_it(client: Client, receiver: Receiver) -> None:
    task = client.schedule(handler="follows")
    client.wait([task.wait().id + "/1"])
    first = receiver.one("process default", gowork_task_handler="follows")
    second = receiver.one("process default", gowork_task_handler="work")
    assert second.links == (first.id,)


@pytest.mark.longer
@pytest.mark.parametrize("told", ["--trace-parent", "GOWORK_TRACE_PARENT"])
def test_attempts_are_children_of_the_submit_where_the_worker_is_told_so(
    exporting: None,
    program: None,
    receiver: Receiver,
    start_cluster: Callable[[], Cluster],
    monkeypatch: pytest.MonkeyPatch,
    told: str,
) -> None:
    cluster = start_cluster()
    if told.startswith("--"):
        cluster.work(told)
    else:
        monkeypatch.setenv(told, "1")
        cluster.work()
    with Client(cluster.leader.scheduler) as client:
        client.schedule(handler="flaky", retry=2).wait()
    send = receiver.one("send default")
    first, second = receiver.some(2, "process default")
    assert [span.trace for span in (first, second)] == [send.trace] * 2
    assert [span.parent for span in (first, second)] == [send.id] * 2
    assert (first.links, second.links) == ((), (first.id,))


@pytest.mark.longer
@pytest.mark.parametrize("trace_parent", [False, True])
async def test_a_worker_within_a_program_goes_by_the_programs_provider(
    program: None, receiver: Receiver, start_cluster: Callable[[], Cluster], trace_parent: bool
) -> None:
    @handler
    def mine(ctx: Context) -> None:
        with ctx.tracer.start_as_current_span("inner"):
            pass

    cluster = start_cluster()
    worker = Worker(cluster.leader.cluster, handlers=[mine], runners=0, trace_parent=trace_parent)
    async with worker, AsyncClient(cluster.leader.scheduler) as client:
        await (await client.schedule(handler="mine")).wait()
    send, process, inner = (receiver.one(name) for name in ("send default", "process default", "inner"))
    assert (process.service, inner.parent) == ("program", process.id)
    assert (process.parent, process.links) == ((send.id, ()) if trace_parent else ("", (send.id,)))


def test_the_context_outlives_the_leader(
    exporting: None, program: None, receiver: Receiver, start_cluster: Callable[[], Cluster]
) -> None:
    cluster = start_cluster()
    with Client(cluster.leader.scheduler) as client:
        handle = client.schedule(handler="work")
        cluster.restart_leader()
        cluster.work()
        handle.wait()
    assert receiver.one("process default").links == (receiver.one("send default").id,)

"""Spans of what is sent, by themselves; with a cluster they are tested in tests/tracing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from opentelemetry.util._once import Once

from gowork.client._batches import span_of
from gowork.client._calls import CallSettings
from gowork.client._spans import BatchSpan, sending
from gowork.client.errors import NotFound
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

SETTINGS = CallSettings.of("leader:1", None, 1.0, None)
REQUEST = pb.ScheduleTasksRequest(tasks=[pb.Task(id="a", queue="mail"), pb.Task(id="b", queue="mail")])


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    """What the program exports, which has a provider."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = Once()


def test_a_batch_has_no_span_where_nothing_is_traced() -> None:
    assert span_of(REQUEST.SerializeToString(), SETTINGS) is None


def test_what_a_batch_sends_has_its_context_behind_the_tasks(exported: InMemorySpanExporter) -> None:
    span = BatchSpan(REQUEST.SerializeToString(), SETTINGS)
    span.end()
    sent = pb.ScheduleTasksRequest.FromString(REQUEST.SerializeToString() + span.context)
    assert sent.tasks == REQUEST.tasks
    (ended,) = exported.get_finished_spans()
    assert sent.traceparent[3:52] == f"{ended.context.trace_id:032x}-{ended.context.span_id:016x}"


def test_a_batch_ends_when_it_was_answered_and_only_once(exported: InMemorySpanExporter) -> None:
    span = BatchSpan(REQUEST.SerializeToString(), SETTINGS)
    span.answered(None)
    before = time.time_ns()
    span.end()
    span.end(NotFound())
    span.give_up()
    (ended,) = exported.get_finished_spans()
    assert ended.end_time is not None
    assert ended.end_time <= before
    assert ended.status.status_code is StatusCode.UNSET


def test_a_batch_that_nobody_waits_for_is_an_error(exported: InMemorySpanExporter) -> None:
    BatchSpan(REQUEST.SerializeToString(), SETTINGS).give_up()
    (ended,) = exported.get_finished_spans()
    assert ended.status.status_code is StatusCode.ERROR
    assert ended.attributes is not None
    assert ended.attributes["error.type"] == "cancelled"


def test_a_call_begins_within_the_batchs_span(exported: InMemorySpanExporter) -> None:
    span = BatchSpan(REQUEST.SerializeToString(), SETTINGS)
    with span.current():
        inside = trace.get_current_span().get_span_context()
    span.end()
    assert inside == exported.get_finished_spans()[0].context
    assert not trace.get_current_span().get_span_context().is_valid


async def test_a_schedule_that_is_cancelled_is_an_error(exported: InMemorySpanExporter) -> None:
    async def schedule() -> None:
        with sending(pb.Task(id="a"), SETTINGS):
            await asyncio.Event().wait()

    task = asyncio.create_task(schedule())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (ended,) = exported.get_finished_spans()
    assert ended.status.status_code is StatusCode.ERROR
    assert ended.attributes is not None
    assert ended.attributes["error.type"] == "asyncio.exceptions.CancelledError"

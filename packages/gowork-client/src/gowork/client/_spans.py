"""Makes spans named `send`: one for each task that is scheduled by itself, and one for each batch of `schedule_many`.

It is imported only where the program has set a tracer provider. The tasks that are sent carry their span's context.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from gowork.base import spans
from gowork.base.channels import parse_address
from gowork.client._calls import CallSettings
from gowork.client._version import __version__
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

_QUEUE_DEFAULT = "default"


@contextmanager
def sending(task: scheduler.Task, settings: CallSettings) -> Iterator[None]:
    """Returns a context for the call that schedules a task. It starts a span, whose trace context the task gets."""
    queue = task.queue or _QUEUE_DEFAULT
    attributes = _attributes(settings) | {spans.DESTINATION: queue, spans.MESSAGE_ID: task.id}
    if task.handler:
        attributes[spans.HANDLER] = task.handler
    span = _start(queue, attributes)
    context = span.get_span_context()
    task.traceparent = spans.traceparent_of(context)
    task.tracestate = spans.tracestate_of(context)
    # _fail sets a better status than use_span would, and a refusal is no exception to record.
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as error:
            _fail(span, error)
            raise


class BatchSpan:
    """The span of a batch, from its sending until its answer."""

    def __init__(self, request: bytes, settings: CallSettings) -> None:
        """`request` is the serialized ScheduleTasksRequest."""
        span = _start("", _attributes(settings))
        if span.is_recording():
            tasks = scheduler.ScheduleTasksRequest.FromString(request).tasks
            span.set_attribute(spans.BATCH_COUNT, len(tasks))
            queues = {task.queue or _QUEUE_DEFAULT for task in tasks}
            if len(queues) == 1:
                (queue,) = queues
                span.update_name(spans.name_of(spans.SEND, queue))
                span.set_attribute(spans.DESTINATION, queue)
        self._span = span
        self._answered_ns: int | None = None
        self._ended = False
        context = span.get_span_context()
        #: A serialized ScheduleTasksRequest with the trace context of all the batch's tasks. Append it to the request.
        self.context = scheduler.ScheduleTasksRequest(
            traceparent=spans.traceparent_of(context), tracestate=spans.tracestate_of(context)
        ).SerializeToString()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Returns a context in which to begin a call, so that the call's own span becomes a child."""
        with trace.use_span(self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield

    def answered(self, _: object) -> None:
        """Notes the time at which a call was answered, because its caller may look later. Any thread may call it."""
        self._answered_ns = time.time_ns()

    def end(self, error: BaseException | None = None) -> None:
        """Ends the span, when the batch was acknowledged or has failed with `error`. Only the first call counts."""
        if self._ended:
            return
        self._ended = True
        if error is not None:
            _fail(self._span, error)
        self._span.end(self._answered_ns)

    def give_up(self) -> None:
        """Ends the span as cancelled, because nobody waits for the answer any more."""
        if not self._ended:
            self._span.set_attribute(spans.ERROR_TYPE, "cancelled")
            self._span.set_status(Status(StatusCode.ERROR, "nobody waited for the answer"))
            self.end()


def _start(queue: str, attributes: dict[str, str | int]) -> Span:
    tracer = _tracer_of(trace.get_tracer_provider())
    return tracer.start_span(spans.name_of(spans.SEND, queue), None, SpanKind.PRODUCER, attributes)


@lru_cache(maxsize=1)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("gowork.client", __version__)


def _attributes(settings: CallSettings) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        spans.SYSTEM: spans.GOWORK,
        spans.OPERATION_NAME: spans.SEND,
        spans.OPERATION_TYPE: spans.SEND,
    }
    if len(settings.addresses) == 1:
        # With several addresses, tries of one call may go to several of them.
        attributes[spans.SERVER_ADDRESS], attributes[spans.SERVER_PORT] = parse_address(settings.addresses[0])
    return attributes


def _fail(span: Span, error: BaseException) -> None:
    kind = type(error)
    span.set_attribute(spans.ERROR_TYPE, kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind))
    span.set_status(Status(StatusCode.ERROR, str(error)))


def _full_name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"

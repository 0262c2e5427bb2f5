"""Spans named `settle`: one for each report of a traced attempt, from its receipt until it is durable.

Owns what such spans look like. Some attempts have no other span, because nobody reports them or their runner is gone.
For those it makes the attempt's span, with the ids that the core has decided (`_core.traces`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from gowork.base import spans
from gowork.leader._core import effects as ef
from gowork.leader._core.commands import STALE_FENCE
from gowork.leader._core.model import Outcome


class SettleSpans:
    """Makes spans with the process's tracer provider."""

    def __init__(self, version: str) -> None:
        """`version` is the leader's."""
        self._tracer = trace.get_tracer("gowork.leader", version)
        self._ids: _DecidedIds | None = None
        if isinstance(self._tracer, Tracer):
            self._ids = self._tracer.id_generator = _DecidedIds(self._tracer.id_generator)

    def settle(self, effect: ef.TraceSettling) -> None:
        """Makes the span, which ends now, because the report is durable."""
        attempt = spans.context_of(effect.trace)
        assert attempt is not None
        if effect.alone:
            self._alone(effect, attempt)
            return
        # The report is a request over the worker's session, which is answered when it is durable: hence SERVER.
        span = self._tracer.start_span(
            _name(effect),
            trace.set_span_in_context(trace.NonRecordingSpan(attempt), Context()),
            SpanKind.SERVER,
            _attributes(effect),
            start_time=effect.since_ns,
        )
        if effect.refused:
            span.set_attribute(spans.ERROR_TYPE, STALE_FENCE.reason)
            span.set_status(Status(StatusCode.ERROR, "refused: its sender no longer holds the task"))
        span.end()

    def _alone(self, effect: ef.TraceSettling, attempt: SpanContext) -> None:
        if self._ids is None:
            # A provider other than the SDK's chooses ids itself, so its span would not be the one that was decided on.
            return
        links = [Link(context) for link in effect.links if (context := spans.context_of(link)) is not None]
        self._ids.decided = attempt
        try:
            span = self._tracer.start_span(
                _name(effect),
                Context(),
                SpanKind.INTERNAL,
                _attributes(effect),
                links,
                effect.since_ns,
            )
        finally:
            self._ids.decided = None
        if effect.outcome is not Outcome.CANCELLED:
            span.set_attribute(spans.ERROR_TYPE, effect.outcome.name.lower())
            span.set_status(Status(StatusCode.ERROR, effect.reason))
        span.end()


def of_submit(traceparent: str) -> AbstractContextManager[Any]:
    """Makes the span of a submit, which another process made, the current one."""
    submit = spans.context_of(traceparent)
    assert submit is not None
    return trace.use_span(trace.NonRecordingSpan(submit))


def _name(effect: ef.TraceSettling) -> str:
    return spans.name_of(spans.SETTLE, "" if effect.spec is None else effect.spec.lane.queue)


def _attributes(effect: ef.TraceSettling) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        spans.SYSTEM: spans.GOWORK,
        spans.OPERATION_NAME: spans.SETTLE,
        spans.OPERATION_TYPE: spans.SETTLE,
        spans.MESSAGE_ID: effect.id,
        spans.CLIENT_ID: effect.worker,
        spans.FENCE: effect.fence,
        spans.OUTCOME: effect.outcome.name.lower(),
    }
    if effect.spec is not None:
        attributes[spans.DESTINATION] = effect.spec.lane.queue
        if effect.spec.lane.handler:
            attributes[spans.HANDLER] = effect.spec.lane.handler
    if effect.attempt:
        attributes[spans.ATTEMPT] = effect.attempt
    return attributes


class _DecidedIds(IdGenerator):
    """Returns the ids that were decided on, if there are any, and otherwise those of another generator."""

    def __init__(self, others: IdGenerator) -> None:
        self._others = others
        self.decided: SpanContext | None = None

    def generate_span_id(self) -> int:
        return self._others.generate_span_id() if self.decided is None else self.decided.span_id

    def generate_trace_id(self) -> int:
        return self._others.generate_trace_id() if self.decided is None else self.decided.trace_id

    def is_trace_id_random(self) -> bool:
        return self.decided is None and self._others.is_trace_id_random()

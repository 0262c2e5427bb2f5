"""Spans named `process`: one for each attempt, around its handler.

Each is the root of a trace of its own, linked to the submit and to the attempt before it. With --trace-parent it is a
child of the submit instead. This module is imported only where the process has a tracer provider.
"""

from __future__ import annotations

import logging
from functools import lru_cache

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from gowork.base import spans
from gowork.base.trace_context import is_sampled
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker._core.context import Place
from gowork.worker._runner import exceptions, outcomes
from gowork.worker._runner.completion import AttemptReport, Completion
from gowork.worker._runner.job import Job
from gowork.worker._version import __version__

logger = logging.getLogger("gowork.worker.runner")

#: How many contexts of submits are kept ready. The tasks of a batch share one.
_SUBMITS_KEPT = 256
_FAILED = tasks.ATTEMPT_OUTCOME_FAILED
_ERRORS = frozenset({_FAILED, tasks.ATTEMPT_OUTCOME_TIMED_OUT, tasks.ATTEMPT_OUTCOME_LOST})


class AttemptSpans:
    """Begins and ends spans. May be used from any thread.

    The user chooses samplers, processors, exporters and the runtime that keeps contexts. They run in here, and when
    they raise, the attempt loses its span and nothing else.
    """

    def __init__(self, place: Place) -> None:
        self._tracer = trace.get_tracer("gowork.worker", __version__)
        self._place = place
        #: Whether anything of these has raised. It only ever becomes True, so any thread may write it.
        self._has_failed = False
        #: Whether the sampler takes an attempt only if it has taken the submit (telemetry_sdk).
        self._follows_links = getattr(getattr(self._tracer, "sampler", None), "follows_links", False)

    def begin(self, job: Job) -> Span | None:
        """Begins the span of an attempt, but does not make it current. Returns None when that fails."""
        try:
            return self._begin(job)
        except BaseException as error:  # noqa: BLE001 - see the class
            self._log(error)
            return None

    def _begin(self, job: Job) -> Span:
        task = job.task
        if self._follows_links and task.traceparent and not is_sampled(task.traceparent):
            # The sampler takes 10 µs to say that, and at 1 % it would say so of nearly every attempt. The handler's
            # spans are then children of the submit, and are not recorded either.
            return _unrecorded(task.traceparent, task.tracestate)
        queue = task.queue or "default"
        submit = spans.context_of(task.traceparent, task.tracestate)
        parent = Context()
        linked = [submit, spans.context_of(job.grant.previous_traceparent)]
        if self._place.trace_parent and submit is not None:
            parent = trace.set_span_in_context(trace.NonRecordingSpan(submit), parent)
            del linked[0]
        return self._tracer.start_span(
            spans.name_of(spans.PROCESS, queue),
            parent,
            SpanKind.CONSUMER,
            {
                spans.SYSTEM: spans.GOWORK,
                spans.OPERATION_NAME: spans.PROCESS,
                spans.OPERATION_TYPE: spans.PROCESS,
                spans.DESTINATION: queue,
                spans.MESSAGE_ID: job.id,
                spans.CLIENT_ID: self._place.worker,
                spans.ATTEMPT: job.grant.attempt,
                spans.FENCE: job.fence,
                spans.HANDLER: job.handler.options.name,
            },
            [Link(context) for context in linked if context is not None],
        )

    def enter(self, span: Span) -> object:
        """Makes the span the current one of this context. Give what it returns to `leave`."""
        try:
            return attach(trace.set_span_in_context(span))
        except BaseException as error:  # noqa: BLE001 - see the class
            self._log(error)
            return None

    def leave(self, entered: object) -> None:
        """Undoes `enter`, in the same context."""
        if entered is None:
            return
        try:
            detach(entered)  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001 - see the class
            self._log(error)

    def end(self, span: Span, report: AttemptReport) -> None:
        """Ends the span with the outcome of the report. Writes its context into the report and the follow-ups.

        Args:
            span: what `begin` returned.
            report: how the attempt ended.
        """
        try:
            self._end(span, report)
        except BaseException as error:  # noqa: BLE001 - see the class
            self._log(error)

    def _log(self, error: BaseException) -> None:
        # Logged once, because it would happen to each attempt.
        if not self._has_failed:
            self._has_failed = True
            logger.warning("an attempt could not be traced, and others may not be either", extra=_told(error))

    @staticmethod
    def _end(span: Span, report: AttemptReport) -> None:
        recorded = span.is_recording()
        if not recorded and not report.follow_ups:
            return
        context = span.get_span_context()
        traceparent = spans.traceparent_of(context)
        for follow_up in report.follow_ups:
            follow_up.traceparent = traceparent
            follow_up.tracestate = spans.tracestate_of(context) if traceparent else ""
        if not recorded:
            return
        report.traceparent = traceparent
        span.set_attribute(spans.OUTCOME, outcomes.STATUS[report.outcome])
        if not isinstance(report, Completion) and report.outcome in _ERRORS:
            span.set_attribute(spans.ERROR_TYPE, report.failure.type or "_OTHER")
            span.set_status(Status(StatusCode.ERROR, report.failure.message))
            if report.outcome == _FAILED:
                # Span.record_exception would do this too, but it would call the exception's own methods again.
                event = {"exception.type": report.failure.type, "exception.message": report.failure.message}
                if report.failure.traceback:
                    event["exception.stacktrace"] = report.failure.traceback
                span.add_event("exception", event)
        span.end()


def _told(error: BaseException) -> dict[str, str]:
    return {"reason": f"{exceptions.type_name(error)}: {exceptions.text(error)}"}


@lru_cache(_SUBMITS_KEPT)
def _unrecorded(traceparent: str, tracestate: str) -> Span:
    """Returns what stands for the span of a submit that was not sampled."""
    context = spans.context_of(traceparent, tracestate)
    assert context is not None
    return trace.NonRecordingSpan(context)

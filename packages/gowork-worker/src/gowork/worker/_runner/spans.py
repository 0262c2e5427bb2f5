"""Spans named `process`: one for each attempt, around its handler.

Each is the root of a trace of its own, linked to the submit and to the attempt before it; or, where the worker is told
so, a child of the submit. Imported only where the process has a tracer provider.
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
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.context import Place
from gowork.worker._runner import exceptions, outcomes
from gowork.worker._runner.job import Job
from gowork.worker._version import __version__

logger = logging.getLogger("gowork.worker.runner")

#: Submits whose contexts are kept ready: those of a batch share one.
_SUBMITS_KEPT = 256
_FAILED = tasks.ATTEMPT_OUTCOME_FAILED
_ERRORS = frozenset({_FAILED, tasks.ATTEMPT_OUTCOME_TIMED_OUT, tasks.ATTEMPT_OUTCOME_LOST})


class AttemptSpans:
    """Begins and ends them. May be used from any thread.

    Samplers, processors, exporters and the runtime that keeps contexts are of the user's choosing and run in here. What
    they raise costs the attempt its span, and nothing else.
    """

    def __init__(self, place: Place) -> None:
        self._tracer = trace.get_tracer("gowork.worker", __version__)
        self._place = place
        #: Something of the user's has raised. Only ever becomes True, so any thread may write it.
        self._has_failed = False
        #: The sampler takes no attempt whose submit it has not taken (telemetry_sdk).
        self._follows_links = getattr(getattr(self._tracer, "sampler", None), "follows_links", False)

    def begin(self, job: Job) -> Span | None:
        """The span of an attempt that starts now; None where there is none. It is not current yet."""
        try:
            return self._begin(job)
        except BaseException as error:  # noqa: BLE001 - see the class
            self._log(error)
            return None

    def _begin(self, job: Job) -> Span:
        task = job.task
        if self._follows_links and task.traceparent and not is_sampled(task.traceparent):
            # To hear that from the sampler takes 10 µs, which at 1 % nearly every attempt would spend on it. What the
            # handler traces is a child of the submit then, and is not recorded either.
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
        """Makes the span the current one of this context. Give the answer to `leave`."""
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

    def end(self, span: Span, report: session.Report) -> None:
        """Ends the span by the attempt's report, and notes its context in that and in the follow-ups.

        Args:
            span: what `begin` answered.
            report: how the attempt ended.
        """
        try:
            self._end(span, report)
        except BaseException as error:  # noqa: BLE001 - see the class
            self._log(error)

    def _log(self, error: BaseException) -> None:
        # Once: it would be so for each attempt.
        if not self._has_failed:
            self._has_failed = True
            logger.warning("an attempt could not be traced, and others may not be either", extra=_told(error))

    @staticmethod
    def _end(span: Span, report: session.Report) -> None:
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
        if report.outcome in _ERRORS:
            span.set_attribute(spans.ERROR_TYPE, report.failure.type or "_OTHER")
            span.set_status(Status(StatusCode.ERROR, report.failure.message))
            if report.outcome == _FAILED:
                # Like Span.record_exception, which would call the exception's own methods again.
                event = {"exception.type": report.failure.type, "exception.message": report.failure.message}
                if report.failure.traceback:
                    event["exception.stacktrace"] = report.failure.traceback
                span.add_event("exception", event)
        span.end()


def _told(error: BaseException) -> dict[str, str]:
    return {"reason": f"{exceptions.type_name(error)}: {exceptions.text(error)}"}


@lru_cache(_SUBMITS_KEPT)
def _unrecorded(traceparent: str, tracestate: str) -> Span:
    """Stands for the span of a submit that was not sampled."""
    context = spans.context_of(traceparent, tracestate)
    assert context is not None
    return trace.NonRecordingSpan(context)

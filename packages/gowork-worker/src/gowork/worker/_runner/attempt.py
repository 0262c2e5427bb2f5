"""Runs one attempt: payload in, handler called, report out. The same for threads and for the loop, but for one
`await`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any

import pluggy

from gowork.base.telemetry import is_traced
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.around import AroundTasks
from gowork.worker._core.context import Context, Place
from gowork.worker._core.logs import running
from gowork.worker._core.waiting import Wait
from gowork.worker._runner import outcomes
from gowork.worker._runner.completion import AttemptReport
from gowork.worker._runner.encrypting import Encrypting
from gowork.worker._runner.failure_log import Detail, FailureLog
from gowork.worker._runner.job import RETURNED, Job
from gowork.worker._runner.verdict import Verdict

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from gowork.worker._runner.spans import AttemptSpans

_NO_LABELS: Mapping[str, str] = {}


class Attempts:
    """What running an attempt needs besides the job."""

    def __init__(
        self,
        place: Place,
        hooks: pluggy.PluginManager,
        progress: Callable[[int, str, float, str], None],
        encrypting: Encrypting | None = None,
    ) -> None:
        self._place = place
        self._encrypting = Encrypting(place.worker) if encrypting is None else encrypting
        self._progress = progress
        #: The line of each attempt that fails.
        self.failures = FailureLog(Detail(place.log_failures))
        #: None where nothing is traced.
        self._spans = _spans_of(place)
        around = AroundTasks(hooks, _loop())
        #: None when no plugin asks for it, which spares every task the call.
        self._around = around if around else None

    def context_of(self, job: Job) -> Context:
        """The context of a job that is about to start."""
        task = job.task
        labels = task.labels
        # By their places, because a keyword for each costs as much again: one is made for each task.
        context = Context(
            self._place,
            self._progress,
            job.id,
            job.grant.attempt,
            job.fence,
            job.handler.options.name,
            task.payload,
            task.data,
            task.queue or "default",
            dict(labels) if labels else _NO_LABELS,
            task.payload_form,
        )
        if checkpoint := job.grant.checkpoint:
            context._checkpoint = checkpoint  # noqa: SLF001 - handlers are not to set it
        if after := task.after:
            context._after = tuple(after)  # noqa: SLF001 - as above
        if continued := job.grant.continued:
            context._continued = continued  # noqa: SLF001 - as above
        if task.HasField("group"):
            context._is_group = True  # noqa: SLF001 - as above
        return context

    def run(self, job: Job) -> AttemptReport:
        """Runs a plain handler in this thread. Never raises: an exception of the handler becomes the report."""
        context = job.context
        assert context is not None
        # Until the thread's next task: between the two it logs nothing.
        running.set(context)
        span = None if self._spans is None else self._spans.begin(job)
        verdict = arguments = None
        report: AttemptReport
        try:
            handler = job.handler
            if context.data or self._encrypting.looks_at_all:
                self._encrypting.open(context, job.task)
            in_other_forms = handler.unknown_fields is not None and job.grant.in_other_forms
            arguments = handler.arguments(context, in_other_forms=in_other_forms)
            # A context of its own, so that what a handler sets in context variables does not leak into the thread's
            # next task.
            call = contextvars.copy_context().run
            if self._around is not None:
                verdict = Verdict(job)
                report = call(self._run_held, self._around, verdict, span, job, arguments)
            else:
                if span is None:
                    value = call(job.handler.function, *arguments)
                else:
                    value = call(self._run_within, span, job.handler.function, arguments)
                if value.__class__ is Wait:
                    report = outcomes.waiting(job, value)
                else:
                    report = outcomes.completed(job.fence, job.id, value, context.follow_ups, handler.check_result)
                if context.key_id:
                    self._encrypting.close(context, report)
        except BaseException as error:  # noqa: BLE001 - SystemExit too must not end the thread
            report = self._failed(job, error, not_started=arguments is None)
        own = report
        if job.stop is not None:
            report = job.settle(job.stop, report) if verdict is None else verdict.settle(report)
        if self._spans is not None and span is not None:
            self._spans.end(span, report)
        if report.outcome not in RETURNED:
            assert isinstance(report, session.Report)
            self.note(job, report)
            if context.key_id and report is own:
                # Only now, because the log and the trace of this worker tell it in clear.
                self._encrypting.hide(context, report)
        return report

    async def run_async(self, job: Job) -> AttemptReport:
        """Runs an async handler. Never raises: an exception of the handler becomes the report.

        Of its cancellation nothing is concluded: a handler can cancel itself. Only a job that was asked to stop is
        settled as one.
        """
        context = job.context
        assert context is not None
        # It ends with the asyncio task that this is called in.
        running.set(context)
        span = entered = verdict = arguments = None
        report: AttemptReport
        if self._spans is not None:
            span = self._spans.begin(job)
            entered = None if span is None else self._spans.enter(span)
        try:
            if job.stop is not None:
                raise asyncio.CancelledError(job.stop.reason)
            handler = job.handler
            if context.data or self._encrypting.looks_at_all:
                self._encrypting.open(context, job.task)
            in_other_forms = handler.unknown_fields is not None and job.grant.in_other_forms
            arguments = handler.arguments(context, in_other_forms=in_other_forms)
            if self._around is None:
                value = await job.handler.function(*arguments)
                if value.__class__ is Wait:
                    report = outcomes.waiting(job, value)
                else:
                    report = outcomes.completed(job.fence, job.id, value, context.follow_ups, handler.check_result)
                if context.key_id:
                    self._encrypting.close(context, report)
            else:
                verdict = Verdict(job)
                report = await self._run_held_async(self._around, verdict, job, arguments)
        except BaseException as error:  # noqa: BLE001 - SystemExit too must not end the loop
            report = self._failed(job, error, not_started=arguments is None)
        own = report
        if job.stop is not None:
            report = job.settle(job.stop, report) if verdict is None else verdict.settle(report)
        if self._spans is not None and span is not None:
            self._spans.leave(entered)
            self._spans.end(span, report)
        if report.outcome not in RETURNED:
            assert isinstance(report, session.Report)
            self.note(job, report)
            if context.key_id and report is own:
                # Only now, because the log and the trace of this worker tell it in clear.
                self._encrypting.hide(context, report)
        return report

    def note(self, job: Job, report: session.Report) -> None:
        """Logs an attempt that has failed."""
        options = job.handler.options
        self.failures.note(
            job.grant, job.task, options.name, options.retry, report, fails_if_lost=options.fails_if_lost
        )

    def _run_within(self, span: Span | None, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Runs in a context that is dropped afterwards, so variables that it sets need not be reset."""
        if self._spans is not None and span is not None:
            self._spans.enter(span)
        return function(*arguments)

    def _run_held(
        self, around: AroundTasks, verdict: Verdict, span: Span | None, job: Job, arguments: tuple[Any, ...]
    ) -> AttemptReport:
        """Runs a plain handler with hooks around it, in a context as above, and returns the report of its result.

        The report is made within the hooks, so that they hear of a result that cannot be one.
        """
        context, handler, value, report = job.context, job.handler, None, None
        assert context is not None
        if self._spans is not None and span is not None:
            self._spans.enter(span)
        with ExitStack() as stack:
            around.enter(stack, context, verdict)
            with ExitStack() as own:
                around.enter_own(own, context, handler.plugin, verdict)
                value = handler.function(*arguments)
                report = self._complete(job, context, value)
                verdict.returned = report.outcome
            report = self._completed_again(job, context, value, report)
        return self._completed_again(job, context, value, report)

    async def _run_held_async(
        self, around: AroundTasks, verdict: Verdict, job: Job, arguments: tuple[Any, ...]
    ) -> AttemptReport:
        """Does as _run_held, for an async handler."""
        context, handler, value, report = job.context, job.handler, None, None
        assert context is not None
        async with AsyncExitStack() as stack:
            await around.enter_async(stack, context, verdict)
            async with AsyncExitStack() as own:
                await around.enter_own_async(own, context, handler.plugin, verdict)
                value = await handler.function(*arguments)
                report = self._complete(job, context, value)
                verdict.returned = report.outcome
            report = self._completed_again(job, context, value, report)
        return self._completed_again(job, context, value, report)

    def _complete(self, job: Job, context: Context, value: object) -> AttemptReport:
        if value.__class__ is Wait:
            report: AttemptReport = outcomes.waiting(job, value)
        else:
            report = outcomes.completed(job.fence, job.id, value, context.follow_ups, job.handler.check_result)
        if context.key_id:
            self._encrypting.close(context, report)
        return report

    def _completed_again(
        self, job: Job, context: Context, value: object, report: AttemptReport | None
    ) -> AttemptReport:
        """Returns the report, or another one: of an attempt whose own hook has swallowed what the handler raised, or
        has scheduled tasks while it was left.
        """
        if report is None or len(report.follow_ups) != len(context.follow_ups):
            return self._complete(job, context, value)
        return report

    def _failed(self, job: Job, error: BaseException, *, not_started: bool) -> session.Report:
        report = outcomes.failed(job.fence, job.id, error, self._no_retry(job))
        if job.grant.in_other_forms and report.failure.kind == tasks.FAILURE_KIND_REJECTED:
            return outcomes.unfit(report, not_started=not_started)
        return report

    @staticmethod
    def _no_retry(job: Job) -> tuple[str, ...]:
        if job.task.HasField("retry"):
            return tuple(job.task.retry.no_retry)
        retry = job.handler.options.retry
        return retry.no_retry if retry is not None else ()


def _loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _spans_of(place: Place) -> AttemptSpans | None:
    if not is_traced():
        return None
    # OpenTelemetry is imported only where it is used.
    from gowork.worker._runner.spans import AttemptSpans

    return AttemptSpans(place)

"""The jobs that a runner holds: each from its arrival to its report.

Invariants: a job is in `held` until it has its report. It is in `queued` until somebody takes it out and decides what
becomes of it: a thread starts it, or the loop starts, cancels or returns it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner import endings, forks
from gowork.worker._runner.attempt import Attempts
from gowork.worker._runner.clock import Clock
from gowork.worker._runner.completion import AttemptReport
from gowork.worker._runner.job import RETURNED, Job
from gowork.worker._runner.lending import Lending
from gowork.worker._runner.messages import StopKind
from gowork.worker._runner.outbox import Outbox
from gowork.worker._runner.table import SlotTable

#: Why a task is lost though its runner goes on.
_STRUCK = "an exception reached the code of the runner that ran it, from outside of its handler"


class Jobs:
    """Knows every job. The thread that runs one calls `begin`, `finish` and `lose`; all else is called on the loop."""

    def __init__(
        self,
        held: dict[int, Job],
        attempts: Attempts,
        table: SlotTable,
        outbox: Outbox,
        lending: Lending,
        stopping: Callable[[int, int, StopKind], None],
        clock: type[Clock] = Clock,
    ) -> None:
        """Args:
        held: empty; `lending` looks into it.
        attempts: makes contexts, and logs attempts that fail.
        table: where starts and ends are noted.
        outbox: takes reports.
        lending: hears of the end of attempts that wait for other tasks.
        stopping: told the fence and the grace in milliseconds of each task that was asked to stop, and why.
        clock: counts how long attempts take.
        """
        self._monotonic_ns = clock.monotonic_ns
        self._loop = asyncio.get_running_loop()
        self._generation = forks.generation
        self._attempts = attempts
        self._table = table
        self._outbox = outbox
        self._lending = lending
        self._stopping = stopping
        #: fence -> job: all without a report. Owner: the loop adds; whoever runs the job, or returns it, takes it out.
        self.held = held
        #: fence -> job: those of them that have not started, in the order of arrival. Owner: the loop adds; it and the
        #: threads take out, one of them each.
        self.queued: dict[int, Job] = {}

    def take_back(self, fence: int) -> Job | None:
        """Takes out a job that has not started; None when it has."""
        job = self.queued.pop(fence, None)
        if job is not None:
            del self.held[fence]
        return job

    def stop(self, job: Job | None, kind: StopKind, reason: str) -> None:
        """Asks a job that has started to stop, once."""
        if job is not None and job.stop is None:
            job.ask_to_stop(kind, reason)
            self._stopping(job.fence, job.handler.options.grace_ms, kind)

    def begin(self, job: Job, slot: int) -> Job:
        """Notes that a job starts in a slot, and gives it its context."""
        # First all that belongs to the job, then those who look at it: the loop, and the supervisor at the table.
        job.started_ns = started = self._monotonic_ns()
        job.context = self._attempts.context_of(job)
        if job.stop is not None:
            # It was asked to stop between being claimed and being given its context.
            job.context.cancelled.set(job.stop.reason)
        kill_at = 0
        if job.limit_ms:
            kill_at = started + (job.limit_ms + job.handler.options.grace_ms) * 1_000_000
            self._loop.call_soon_threadsafe(self._limit, job)
        self._table.start(slot, job.fence, started, kill_at)
        return job

    def finish(self, job: Job, slot: int, report: AttemptReport) -> bool:
        """Reports a job that has run.

        Returns:
            Whether the loop has yet to hear that the job no longer waits for other tasks.
        """
        if forks.generation != self._generation:
            # The handler has forked, and this is the child: its parent reports.
            forks.leave(0 if report.outcome in RETURNED else 1)
        report.execution_us = (self._monotonic_ns() - job.started_ns) // 1000
        self.held.pop(job.fence, None)
        self._table.end(slot, job.fence)
        has_waited = bool(self._lending.noted) and job.fence in self._lending.noted
        if has_waited:
            self._lending.attempt_ended(job.fence)
        if job.limit_ms:
            # Whether there is a timer is the loop's to know: it hears of the start and of the end in their order.
            self._loop.call_soon_threadsafe(self._end_limit, job)
        self._outbox.add(report, job)
        return has_waited

    def lose(self, job: Job) -> session.Report:
        """The report of a job whose own one does not exist, because something struck the code that ran it."""
        report = endings.lost(job.fence, job.id, _STRUCK)
        self._attempts.note(job, report)
        return report

    def _limit(self, job: Job) -> None:
        if self.held.get(job.fence) is job:
            passed = (self._monotonic_ns() - job.started_ns) / 1e9
            job.timer = self._loop.call_later(max(0.0, job.limit_ms / 1000 - passed), self._time_out, job)

    def _time_out(self, job: Job) -> None:
        job.timer = None
        if self.held.get(job.fence) is job:
            self.stop(job, StopKind.TIMEOUT, f"the time limit of {job.limit_ms / 1000:g} s ran out")

    @staticmethod
    def _end_limit(job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

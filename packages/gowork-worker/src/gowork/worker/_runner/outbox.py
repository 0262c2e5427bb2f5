"""Gathers reports and progress from all threads of a runner, and sends them in batches from the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from gowork.base.buckets import Buckets
from gowork.base.trace_context import sampled_trace_id
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner import outcomes
from gowork.worker._runner.completion import AttemptReport
from gowork.worker._runner.exceptions import cut
from gowork.worker._runner.job import Job
from gowork.worker._runner.messages import EXECUTION_BUCKETS, Executed, ExecutedRow, TracedRow

#: Reports in one frame at most, and its bytes. A frame of this size takes no more reports.
_REPORTS_MAX = 2000
_BYTES_MAX = 1 << 20
#: Seconds for which reports gather after a frame, for each report in that frame, within limits. A report that comes by
#: itself leaves at once; those of a burst gather, since each frame costs the supervisor, and often the leader, more
#: than the reports in it.
_GATHER_EACH = 0.0002
_GATHER_MIN = 0.001
_GATHER_MAX = 0.005
#: Seconds between two progress frames, and between two frames of execution times.
_PROGRESS_INTERVAL = 0.25
_EXECUTED_INTERVAL = 1.0
#: Seconds between two times at which checkpoints are sent, and how many bytes of them go into one frame at most.
_CHECKPOINT_INTERVAL = 1.0
_CHECKPOINTS_BYTES_MAX = 1 << 20

#: Sends reports, with their size in bytes, and progress.
Send = Callable[[list[AttemptReport], int, list[session.ProgressReport]], None]


class Outbox:
    """`add` and `progress` are called from any thread, all else on the loop.

    A flush may be broken off at any point, by whatever reaches the loop. So its flag goes down first and what it sends
    is removed last: a report that is sent twice does no harm, since the supervisor takes the first.
    """

    def __init__(self, send: Send, send_executed: Callable[[Executed], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._send_executed = send_executed
        #: Owner: any thread adds, the loop takes.
        self._reports: deque[tuple[AttemptReport, Job | None]] = deque()
        #: A flush is on its way. Owner: any thread sets it after it has added a report; the loop takes it down before
        #: it looks for reports.
        self._scheduled = False
        #: Before that time, on the loop's clock, reports gather.
        self._gathers_until = 0.0
        #: fence -> (id, fraction, message): the latest of each task. Owner: the task's thread sets, the loop takes.
        self._progress: dict[int, tuple[str, float, str]] = {}
        #: As _scheduled, for progress.
        self._progress_scheduled = False
        self._progress_at = 0.0
        #: fence -> (id, state): the latest of each task. Owner: the task's thread sets, the loop takes.
        self._checkpoints: dict[int, tuple[str, bytes]] = {}
        #: As _scheduled, for checkpoints.
        self._checkpoints_scheduled = False
        self._checkpoints_at = 0.0
        #: (queue, handler, status) -> how long attempts took
        self._executed: dict[tuple[str, str, str], Buckets] = {}
        self._executed_timer: asyncio.TimerHandle | None = None
        #: Called before each frame of reports leaves, with a function that returns the handlers of those that have run.
        self.leaving: Callable[[Callable[[], Iterable[str]]], None] | None = None

    def add(self, report: AttemptReport, job: Job | None) -> None:
        """Takes a report; `job` when it has run."""
        self._reports.append((report, job))
        if not self._scheduled:
            # Two threads may both come here; a second flush finds nothing.
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._schedule_flush)

    def progress(self, fence: int, id: str, fraction: float, message: str) -> None:
        """Takes the latest word of a task."""
        self._progress[fence] = (id, fraction, message)
        if not self._progress_scheduled:
            self._progress_scheduled = True
            self._loop.call_soon_threadsafe(self._schedule_progress)

    def checkpoint(self, fence: int, id: str, state: bytes) -> None:
        """Takes the latest checkpoint of a task."""
        self._checkpoints[fence] = (id, state)
        if not self._checkpoints_scheduled:
            self._checkpoints_scheduled = True
            self._loop.call_soon_threadsafe(self._schedule_checkpoints)

    def flush(self) -> None:
        """Sends the reports that have gathered."""
        # First the flag: a report added from here on schedules a flush of its own.
        self._scheduled = False
        reports = self._reports
        if reports:
            seconds = min(max(len(reports) * _GATHER_EACH, _GATHER_MIN), _GATHER_MAX)
            self._gathers_until = self._loop.time() + seconds
        while reports:
            batch: list[AttemptReport] = []
            size = 0
            # By place, because threads add to the end meanwhile, which an iterator refuses. Even a copy is not made in
            # one step: the garbage collector may run other code at its start.
            for place in range(min(len(reports), _REPORTS_MAX)):
                report, job = reports[place]
                if self._checkpoints:
                    self._attach(report)
                batch.append(report)
                size += report.ByteSize() + 4
                if job is not None:
                    self._note(report, job)
                    if self._progress:
                        self._progress.pop(report.fence, None)
                if size >= _BYTES_MAX:
                    break
            if self.leaving is not None:
                self.leaving(partial(self._handlers, len(batch)))
            self._send(batch, size, [])
            for _ in batch:
                reports.popleft()

    def look_after(self) -> None:
        """Sends what lies here because a flush was broken off. To be called about once a second."""
        if self._reports:
            self.flush()
        if self._progress:
            self._flush_progress()
        if self._checkpoints:
            self._flush_checkpoints()

    def flush_executed(self) -> None:
        """Sends the execution times that have gathered."""
        if self._executed_timer is not None:
            self._executed_timer.cancel()
            self._executed_timer = None
        if self._executed:
            rows = tuple(
                ExecutedRow(
                    *key,
                    counts=tuple(buckets.counts),
                    seconds=buckets.total,
                    exemplars=tuple(TracedRow(bucket, *traced) for bucket, traced in buckets.exemplars.items()),
                )
                for key, buckets in self._executed.items()
            )
            self._executed.clear()
            self._send_executed(Executed(rows))

    def _handlers(self, number: int) -> Iterable[str]:
        jobs = [self._reports[place][1] for place in range(number)]
        return {job.handler.options.name for job in jobs if job is not None}

    def _schedule_flush(self) -> None:
        wait = self._gathers_until - self._loop.time()
        if wait > 0:
            self._loop.call_later(wait, self.flush)
        else:
            self.flush()

    def _note(self, report: AttemptReport, job: Job) -> None:
        key = (job.task.queue or "default", job.handler.options.name, outcomes.STATUS[report.outcome])
        buckets = self._executed.get(key)
        if buckets is None:
            buckets = self._executed[key] = Buckets(EXECUTION_BUCKETS)
            if self._executed_timer is None:
                self._executed_timer = self._loop.call_later(_EXECUTED_INTERVAL, self.flush_executed)
        traceparent = report.traceparent
        buckets.observe(report.execution_us / 1e6, sampled_trace_id(traceparent) if traceparent else "")

    def _attach(self, report: AttemptReport) -> None:
        """Puts the checkpoint of an attempt that has ended into its report, where another attempt may follow."""
        _, state = self._checkpoints.pop(report.fence, ("", b""))
        if state and isinstance(report, session.Report) and report.outcome != tasks.ATTEMPT_OUTCOME_COMPLETED:
            report.checkpoint = state

    def _schedule_checkpoints(self) -> None:
        wait = self._checkpoints_at + _CHECKPOINT_INTERVAL - self._loop.time()
        self._loop.call_later(max(0.0, wait), self._flush_checkpoints)

    def _flush_checkpoints(self) -> None:
        # First the flag, as in flush.
        self._checkpoints_scheduled = False
        self._checkpoints_at = self._loop.time()
        words: list[session.ProgressReport] = []
        size = 0
        while self._checkpoints:
            fence, (id, state) = self._checkpoints.popitem()
            words.append(session.ProgressReport(fence=fence, id=id, checkpoint=state, is_checkpoint_alone=True))
            size += len(state)
            if size >= _CHECKPOINTS_BYTES_MAX:
                self._send([], 0, words)
                words, size = [], 0
        if words:
            self._send([], 0, words)

    def _schedule_progress(self) -> None:
        wait = self._progress_at + _PROGRESS_INTERVAL - self._loop.time()
        self._loop.call_later(max(0.0, wait), self._flush_progress)

    def _flush_progress(self) -> None:
        # First the flag, as in flush.
        self._progress_scheduled = False
        self._progress_at = self._loop.time()
        words = []
        while self._progress:
            # Taken out one by one: threads put words in meanwhile.
            fence, (id, fraction, message) = self._progress.popitem()
            message = cut(message, limits.PROGRESS_MESSAGE_BYTES_MAX)
            words.append(session.ProgressReport(fence=fence, id=id, fraction=fraction, message=message))
        if words:
            self._send([], 0, words)

"""Counts what has happened since this leader started, for its metrics.

The event loop writes the counts. Any thread may read them, and copies a table before it iterates over it.

Invariant BOUNDED: there are rows for QUEUES_MAX queues and HANDLERS_MAX handlers, and one more for all others. A queue
loses its row after IDLE_SECONDS without an event.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from gowork.base.buckets import Buckets
from gowork.base.trace_context import sampled_trace_id
from gowork.leader._core.model import COMPLETED, LaneKey, Outcome, Spec, Status
from gowork.leader._core.schedules import SkipReason
from gowork.leader._core.tally import Tally

QUEUES_MAX = 100
HANDLERS_MAX = 200
#: The row for all others.
OTHER = "other"
#: The handler of tasks that name none.
DEFAULT_HANDLER = "(default)"
IDLE_SECONDS = 3600.0

_COMMIT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_COMMIT_TASKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
#: From a worker that idles to a backlog of a day.
START_SECONDS = (
    0.001,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
    1800,
    7200,
    43_200,
    86_400,
)
#: Heartbeats are due every third of the lease, which is 10 s.
_GAP_SECONDS = (0.01, 0.1, 0.5, 1, 2, 3, 3.5, 4, 5, 6, 7, 8, 10, 15, 30, 60)
_CALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OFFICE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ENDS = ("completed", "cancelled", "error")
#: {why a tick had no task made; None: it had: how it is counted}
TICK_OUTCOMES = {
    None: "made",
    SkipReason.OVERLAP: "skipped_overlap",
    SkipReason.PAUSED: "skipped_paused",
    SkipReason.MISSED: "skipped_missed",
    SkipReason.REFUSED: "refused",
    SkipReason.ORPHANED: "skipped_orphaned",
}
#: Outcomes after which a task goes back to its queue because of where it ran, not because of what it did.
_TAKEN_BACK = frozenset({Outcome.LOST, Outcome.INTERRUPTED})


class QueueCounts:
    """What has happened in one queue."""

    __slots__ = ("attempts", "finished", "heard_mono", "start_seconds", "submitted")

    def __init__(self) -> None:
        #: {(handler, accepted, duplicate, refused or unique): tasks}
        self.submitted: Counter[tuple[str, str]] = Counter()
        #: {(handler, completed, cancelled or error): tasks}
        self.finished: Counter[tuple[str, str]] = Counter()
        #: {outcome: attempts}
        self.attempts: Counter[str] = Counter({outcome.name.lower(): 0 for outcome in Outcome})
        #: How long tasks that could run waited for their first grant.
        self.start_seconds = Buckets(START_SECONDS)
        #: When the queue last had an event.
        self.heard_mono = 0.0


class Counts:
    """All counts. The engine and the parts around it report events to it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Makes empty counts.

        Args:
            clock: returns seconds. It is the machine's clock and not the engine's, because counts outlive each term's
                engine and are read between terms. Only the removal of idle rows goes by it.
        """
        self._clock = clock
        #: {queue: what has happened in it}
        self.queues: dict[str, QueueCounts] = {}
        self._handlers: set[str] = set()
        #: {lost or interrupted: tasks}
        self.reassigned: Counter[str] = Counter()
        self.quarantined = 0
        #: {made, refused, or skipped_ and why: ticks of schedules}
        self.ticks: Counter[str] = Counter(dict.fromkeys(TICK_OUTCOMES.values(), 0))
        self.stale_reports = 0
        #: {accepted or refused: heartbeats}
        self.heartbeats: Counter[str] = Counter()
        self.heartbeat_gap_seconds = Buckets(_GAP_SECONDS)
        self.commit_seconds = Buckets(_COMMIT_SECONDS)
        self.commit_tasks = Buckets(_COMMIT_TASKS)
        #: {(method, code): how long calls took}
        self.calls: dict[tuple[str, str], Buckets] = {}
        #: How often this leader has begun or ceased to lead.
        self.transitions = 0
        #: How long it took from the moment when it could lead until it served.
        self.failover_seconds = Buckets(_OFFICE_SECONDS)

    def committed(self, tasks: int, seconds: float, last: Spec | None) -> None:
        """Counts a durable batch of `tasks` tasks that took `seconds` to commit; `last` is its last task."""
        trace_id = "" if last is None else _trace_id(last)
        self.commit_seconds.observe(seconds, trace_id)
        self.commit_tasks.observe(tasks, trace_id)

    def applied(self, tally: Tally) -> None:
        """Counts what a durable batch has done."""
        if tally.submitted:
            self._submitted(tally.submitted, "accepted")
        if tally.ended:
            self._ended(tally.ended)
        if tally.started:
            self._started(tally.started)
        self.quarantined += len(tally.quarantined)
        for ticked in tally.ticked:
            self.ticks[TICK_OUTCOMES[ticked.reason]] += ticked.ticks
        if tally.gaps_ms:
            self.heartbeats["accepted"] += len(tally.gaps_ms)
            for gap_ms in tally.gaps_ms:
                self.heartbeat_gap_seconds.observe(gap_ms / 1000)
        if tally.callback_heartbeats:
            self.heartbeats["accepted"] += tally.callback_heartbeats

    def not_submitted(self, specs: Iterable[Spec], outcome: str) -> None:
        """Counts tasks that a submit did not add. `outcome`: see `effects.CountNotSubmitted`."""
        self._submitted(specs, outcome)

    def heartbeat_refused(self) -> None:
        """Counts a heartbeat of an unknown member."""
        self.heartbeats["refused"] += 1

    def reports_refused(self, reports: int) -> None:
        """Counts stale reports."""
        self.stale_reports += reports

    def called(self, method: str, code: str, seconds: float, trace_id: str = "") -> None:
        """Counts a call that has ended. `trace_id` is in hexadecimal, and empty when the call is not traced."""
        buckets = self.calls.get((method, code))
        if buckets is None:
            buckets = self.calls[method, code] = Buckets(_CALL_SECONDS)
        buckets.observe(seconds, trace_id)

    def leads(self, seconds: float) -> None:
        """Notes that this leader serves, `seconds` seconds after it could lead."""
        self.transitions += 1
        self.failover_seconds.observe(seconds)

    def leads_no_more(self) -> None:
        """Notes that this leader has ceased to serve."""
        self.transitions += 1

    def drop_idle(self, present: Collection[str]) -> None:
        """Forgets queues that are not in `present` and have had no event for IDLE_SECONDS."""
        silent_since = self._clock() - IDLE_SECONDS
        for name, queue in list(self.queues.items()):
            if name not in present and queue.heard_mono < silent_since:
                del self.queues[name]

    def _submitted(self, specs: Iterable[Spec], outcome: str) -> None:
        for lane, tasks in Counter([spec.lane for spec in specs]).items():
            queue, handler = self._queue(lane.queue), self._handler(lane.handler)
            queue.submitted[handler, outcome] += tasks
            if (handler, _ENDS[0]) not in queue.finished:
                # Prometheus sees an increase from 0 to 1, but not from no value to 1.
                queue.finished.update({(handler, end): 0 for end in _ENDS})

    def _started(self, started: Sequence[tuple[Spec, int]]) -> None:
        # A batch's grants come queue by queue, so the row is looked up only when the queue changes.
        name, buckets = "", Buckets(())
        for spec, waited_ms in started:
            if spec.lane.queue != name:
                name = spec.lane.queue
                buckets = self._queue(name).start_seconds
            buckets.observe(waited_ms / 1000, _trace_id(spec) if spec.trace else "")

    def _ended(self, ended: Sequence[tuple[LaneKey, Outcome | None, Status]]) -> None:
        # Tens of thousands of tasks have few different ends, and Counter goes through them in C.
        for (lane, outcome, status), tasks in Counter(ended).items():
            queue = self._queue(lane.queue)
            if outcome is not None:
                queue.attempts[outcome.name.lower()] += tasks
            if status >= COMPLETED:
                queue.finished[self._handler(lane.handler), status.name.lower()] += tasks
            elif outcome in _TAKEN_BACK:
                self.reassigned[outcome.name.lower()] += tasks

    def _queue(self, name: str) -> QueueCounts:
        queue = self.queues.get(name)
        if queue is None:
            if len(self.queues) >= QUEUES_MAX:
                name = OTHER
            queue = self.queues.setdefault(name, QueueCounts())
        queue.heard_mono = self._clock()
        return queue

    def _handler(self, name: str) -> str:
        if not name:
            return DEFAULT_HANDLER
        if name not in self._handlers:
            if len(self._handlers) >= HANDLERS_MAX:
                return OTHER
            self._handlers.add(name)
        return name


def _trace_id(spec: Spec) -> str:
    """Returns the trace id of a task's submit; empty if that was not sampled."""
    return sampled_trace_id(spec.traceparent)

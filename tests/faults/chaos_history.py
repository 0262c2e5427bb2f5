"""Checks that after a chaos run the leader's record, the handlers' own record and the clients' ledger agree."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from chaos_faults import Event, Kind
from chaos_load import Ledger

from gowork.client import Attempt, AttemptOutcome, FailureKind, TaskInfo, TaskStatus

#: How many attempts of a task the leader keeps. The history of a task with more is incomplete.
ATTEMPTS_KEPT = 20
#: Outcomes that use up an attempt.
_COUNTED = frozenset({AttemptOutcome.COMPLETED, AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT})
#: {outcome that only a handler which has ended can have: how it may have ended}.
_ENDINGS = {
    AttemptOutcome.COMPLETED: frozenset({"returned"}),
    AttemptOutcome.FAILED: frozenset({"RuntimeError", "ValueError"}),
    AttemptOutcome.SNOOZED: frozenset({"Snooze"}),
}
#: {handler whose tasks never complete: how they fail unless they are cancelled}.
_FAILURES = {"hopeless": FailureKind.HANDLER, "overdue": FailureKind.TIMEOUT}
#: How long after a fault it may still cost a task its attempt, in seconds: the lease that a leader gives when it starts
#: or goes on, and some time for a busy machine.
_AFTERMATH_SECONDS = 15.0
#: By how much the clocks of two processes may seem to differ, in milliseconds.
_CLOCK_MS = 20


@dataclass(frozen=True)
class Execution:
    """One run of a handler, as it recorded it."""

    id: str
    fence: int
    attempt: int
    pid: int
    worker: str
    #: Monotonic seconds, and wall-clock milliseconds.
    started: float
    started_ms: int
    #: None when its process ended first.
    ended: float | None = None
    how: str = ""


@dataclass(frozen=True)
class History:
    """All that is known of a chaos run that is over."""

    tasks: Mapping[str, TaskInfo]
    executions: Sequence[Execution]
    ledger: Ledger
    events: Sequence[Event]
    #: How far wall-clock seconds are ahead of monotonic seconds.
    wall_offset: float

    def found(self) -> list[str]:
        """A sentence for each broken rule; empty when none is."""
        return [*self._refused(), *self._lost(), *self._unrecorded(), *self._tasks()]

    def _refused(self) -> Iterator[str]:
        for error in self.ledger.errors:
            yield f"no call is refused: {error}"

    def _lost(self) -> Iterator[str]:
        for id in self.ledger.acknowledged:
            if id not in self.tasks:
                yield f"acknowledged tasks are never lost: {id}"

    def _unrecorded(self) -> Iterator[str]:
        granted = {(id, attempt.fence) for id, task in self.tasks.items() for attempt in task.attempts}
        ran: set[tuple[str, int]] = set()
        for execution in self.executions:
            key = (execution.id, execution.fence)
            if key not in granted:
                yield f"every execution is an attempt on record: {execution}"
            if key in ran:
                yield f"an attempt runs at most once: {execution}"
            ran.add(key)

    def _tasks(self) -> Iterator[str]:
        runs: dict[str, list[Execution]] = defaultdict(list)
        alive: dict[int, float] = {}
        for execution in self.executions:
            runs[execution.id].append(execution)
            seen = execution.started if execution.ended is None else execution.ended
            alive[execution.pid] = max(alive.get(execution.pid, 0.0), seen)
        for id, task in self.tasks.items():
            if len(task.attempts) >= ATTEMPTS_KEPT:
                yield f"a run keeps its tasks below {ATTEMPTS_KEPT} attempts: {id}"
                continue
            told = f"; {[(a.number, a.outcome.value, a.worker, a.reason) for a in task.attempts]}"
            mine = sorted(runs[id], key=lambda execution: execution.started)
            for found in (
                *self._ended(task),
                *self._recorded(task, mine),
                *self._overlapping(task, mine, alive),
                *self._explained(task, mine),
                *self._followed(task),
            ):
                yield f"{found}: {id} ({task.handler}, {task.status.value}){told}"

    def _ended(self, task: TaskInfo) -> Iterator[str]:
        """Whether the task ended once, and as its kind says."""
        completions = [attempt for attempt in task.attempts if attempt.outcome is AttemptOutcome.COMPLETED]
        if not task.status.finished:
            yield "every task ends"
        elif task.status is TaskStatus.COMPLETED:
            if completions != list(task.attempts[-1:]):
                yield "a completed task has one completion, its last attempt"
            elif completions[0].fence != task.fence or task.result != str(task.fence):
                yield "the result is that of the attempt that was accepted"
        elif completions:
            yield "a completion is final"
        if sum(attempt.outcome in _COUNTED for attempt in task.attempts) != task.attempts_used:
            yield f"only blameworthy attempts count ({task.attempts_used} are used)"
        kind = None if task.failure is None else task.failure.kind
        expected = _FAILURES.get(task.handler)
        if task.id in self.ledger.cancels:
            if task.status is TaskStatus.ERROR and kind is not FailureKind.QUARANTINED:
                yield f"a task ends as its kind says ({kind})"
        elif task.status is TaskStatus.CANCELLED:
            yield "nothing is cancelled that nobody cancelled"
        elif task.status is TaskStatus.COMPLETED:
            if expected is not None:
                yield f"a task ends as its kind says ({expected} is expected)"
        elif task.status is TaskStatus.ERROR and kind not in (expected, FailureKind.QUARANTINED):
            yield f"a task ends as its kind says ({kind}, {expected} is expected)"

    def _recorded(self, task: TaskInfo, runs: Sequence[Execution]) -> Iterator[str]:
        """Whether the attempts on record are those that ran, in order."""
        if [attempt.number for attempt in task.attempts] != list(range(1, len(task.attempts) + 1)):
            yield "attempts are numbered from 1"
        fences = [attempt.fence for attempt in task.attempts]
        if fences != sorted(set(fences)):
            yield "fences only grow"
        by_fence = {execution.fence: execution for execution in runs}
        for attempt in task.attempts:
            execution, endings = by_fence.get(attempt.fence), _ENDINGS.get(attempt.outcome)
            if endings is not None and (execution is None or execution.how not in endings):
                yield f"an attempt that ended by itself is one that ran so (number {attempt.number}, {execution})"
            if execution is not None and (execution.attempt, execution.worker) != (attempt.number, attempt.worker):
                yield f"a handler knows its attempt (number {attempt.number}, {execution})"

    def _overlapping(self, task: TaskInfo, runs: Sequence[Execution], alive: Mapping[int, float]) -> Iterator[str]:
        """Whether no two runs overlapped, except when the record says that the earlier attempt was lost."""
        lost = {attempt.fence for attempt in task.attempts if attempt.outcome is AttemptOutcome.LOST}
        for place, first in enumerate(runs):
            # A run without a recorded end ended with its process: at the last moment that the process recorded.
            end = alive[first.pid] if first.ended is None else first.ended
            for second in runs[place + 1 :]:
                earlier = min(first.fence, second.fence)
                if end > second.started and earlier not in lost:
                    yield f"no task runs twice at once ({first}, {second})"
                # A worker that was cut off may start late what waits in its buffer.
                if first.fence > second.fence and second.fence not in lost:
                    yield f"fences grow in the order of starts ({first}, {second})"

    def _explained(self, task: TaskInfo, runs: Sequence[Execution]) -> Iterator[str]:
        """Whether a fault explains each loss, and whether cancels and times were kept."""
        by_fence = {execution.fence: execution for execution in runs}
        blamed = 0
        for attempt in task.attempts:
            if attempt.outcome is AttemptOutcome.LOST:
                if not any(self._hit(event, attempt) for event in self.events):
                    yield f"an attempt is lost by a fault alone (number {attempt.number})"
                execution = by_fence.get(attempt.fence)
                blamed += execution is not None and self._killed(execution)
        if task.failure is not None and task.failure.kind is FailureKind.QUARANTINED and blamed < 3:
            yield f"only a task whose runner died under it is quarantined ({blamed} did)"
        told_ms = self.ledger.cancelled.get(task.id)
        if told_ms is not None:
            later = [a for a in task.attempts if a.ended_at and a.ended_at.timestamp() * 1000 > told_ms + _CLOCK_MS]
            if len(later) > 1:
                yield "a cancelled task is not started again"
        if task.run_at is not None and runs and runs[0].started_ms < task.run_at.timestamp() * 1000 - _CLOCK_MS:
            yield f"nothing starts before its time ({runs[0]})"

    def _hit(self, event: Event, attempt: Attempt) -> bool:
        assert attempt.started_at is not None
        assert attempt.ended_at is not None
        if event.target not in (attempt.worker, "leader"):
            return False
        began = attempt.started_at.timestamp() - self.wall_offset
        ended = attempt.ended_at.timestamp() - self.wall_offset
        return event.at <= ended + _CLOCK_MS / 1000 and event.until + _AFTERMATH_SECONDS >= began

    def _killed(self, execution: Execution) -> bool:
        return any(
            event.kind is Kind.KILL_RUNNER and execution.pid in event.pids and event.at >= execution.started
            for event in self.events
        )

    def _followed(self, task: TaskInfo) -> Iterator[str]:
        """Whether follow-ups are there when their task has completed, and only then."""
        if task.handler == "parent":
            wanted = json.loads(task.payload)["children"] if task.status is TaskStatus.COMPLETED else 0
            for number in range(1, 5):
                if (f"{task.id}/{number}" in self.tasks) is not (number <= wanted):
                    yield f"follow-ups are scheduled with a completion, or not at all (number {number})"

    # For the summary.

    def longest_silence(self, began: float, ended: float) -> float:
        """The longest time without the end of a handler between these moments, in seconds."""
        ends = sorted(e.ended for e in self.executions if e.ended is not None)
        within = [began, *ends[bisect_left(ends, began) : bisect_right(ends, ended)], ended]
        return max(later - earlier for earlier, later in pairwise(within))

    def rerun_seconds(self, kind: Kind) -> list[float]:
        """The seconds until the next start of each task that a fault of this kind killed with its process, sorted."""
        starts: dict[str, list[Execution]] = defaultdict(list)
        for execution in self.executions:
            starts[execution.id].append(execution)
        killed = {pid: event.at for event in self.events if event.kind is kind for pid in event.pids}
        seconds: list[float] = []
        for execution in self.executions:
            at = killed.get(execution.pid)
            if at is not None and execution.ended is None and execution.started <= at:
                again = [e.started for e in starts[execution.id] if e.fence > execution.fence]
                seconds += [max(0.0, min(again) - at)] if again else []
        return sorted(seconds)


def read_executions(files: Iterable[Path]) -> list[Execution]:
    """Reads the runs that handlers have recorded."""
    executions: list[Execution] = []
    for path in files:
        #: {(id, fence): place in `executions` of its latest start}.
        running: dict[tuple[str, int], int] = {}
        for line in path.read_text().splitlines():
            event, id, fence, attempt, pid, worker, mono_ns, wall_ms, *how = json.loads(line)
            if event == "start":
                running[id, fence] = len(executions)
                executions.append(Execution(id, fence, attempt, pid, worker, mono_ns / 1e9, wall_ms))
            else:
                place = running.pop((id, fence))
                executions[place] = replace(executions[place], ended=mono_ns / 1e9, how=how[0])
    return executions

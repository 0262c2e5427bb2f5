"""Checks tasks that come after others, and those with unique keys."""

from __future__ import annotations

from collections.abc import Mapping

from sim_trace import Trace
from sim_violation import Violation

from gowork.leader._core.model import BLOCKED_MS, AfterRule, FailureKind, Spec, Standing, Status
from gowork.leader.store.protocol import Batch


class LinkChecks:
    """Goes by what is durable before a batch and after it.

    A leader decides between the two, and may have seen some of the batch by then.
    """

    def __init__(self, trace: Trace, durable: Mapping[str, tuple[Spec, Standing]]) -> None:
        self._trace, self._durable = trace, durable
        #: {id of a task that a dependent names: its status before the batch}; those that were not there are left out.
        self._before: dict[str, Status] = {}
        #: What the batch decides of dependents: (id, spec, whether the task is to run).
        self._decided: list[tuple[str, Spec, bool]] = []
        #: {unique key: the unfinished tasks with it}, and the keys of the tasks that the batch writes.
        self._keyed: dict[str, set[str]] = {}
        self._touched: dict[str, None] = {}

    def begin(self, batch: Batch) -> None:
        """Notes how things stand before a batch."""
        self._decided, self._touched = [], {}
        dependents = [spec for spec, standing in self._durable.values() if spec.after] if batch.moves else []
        named = {id for spec in dependents for id in spec.after}
        self._before = {id: self._durable[id][1].status for id in named if id in self._durable}

    def moved(self, id: str, spec: Spec, before: Standing | None, after: Standing) -> None:
        """Takes a task's move from one standing to the next."""
        if after.status is Status.PENDING and after.not_before_ms == BLOCKED_MS:
            went_on = bool(after.attempts) and after.attempts[-1].waits and before is None
            self._trace.seen["task: goes on after others" if went_on else "task: comes after others"] += 1
        was_blocked = before is not None and before.status is Status.PENDING and before.not_before_ms == BLOCKED_MS
        if was_blocked and after.not_before_ms != BLOCKED_MS:
            is_upstream = after.failure is not None and after.failure.kind is FailureKind.UPSTREAM
            if after.status < Status.COMPLETED or is_upstream:
                self._decided.append((id, spec, after.status < Status.COMPLETED))
        if spec.unique_key:
            self._touched[spec.unique_key] = None
            holders = self._keyed.setdefault(spec.unique_key, set())
            if after.status < Status.COMPLETED:
                holders.add(id)
            else:
                holders.discard(id)

    def end(self) -> None:
        """Checks what a batch has decided."""
        for key in self._touched:
            if len(self._keyed[key]) > 1:
                raise Violation("one unfinished task has a unique key", key, *sorted(self._keyed[key]))
        for id, spec, runs in self._decided:
            verdicts = [self._verdicts(up) for up in spec.after]
            completed = all(Status.COMPLETED in statuses for statuses in verdicts)
            ended = all(any(status >= Status.COMPLETED for status in statuses) for statuses in verdicts)
            failed = any(any(status > Status.COMPLETED for status in statuses) for statuses in verdicts)
            match spec.after_rule:
                case AfterRule.ALL_COMPLETED:
                    may = completed if runs else failed
                case AfterRule.ALL_FINISHED:
                    may = ended and runs
                case _:
                    may = failed if runs else completed
            self._trace.seen[f"dependent: {spec.after_rule.name} {'runs' if runs else 'is cancelled'}"] += 1
            if not may:
                raise Violation("no task runs before its rule holds", id, spec.after_rule.name, spec.after, verdicts)

    def _verdicts(self, id: str) -> list[Status]:
        """How a task may have stood when the batch was decided. One that is gone counts as failed."""
        before = self._before.get(id, Status.ERROR)
        entry = self._durable.get(id)
        return [before, Status.ERROR if entry is None else entry[1].status]

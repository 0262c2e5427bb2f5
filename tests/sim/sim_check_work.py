"""Checks what workers do: what they were granted, run, and report."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from sim_trace import Trace
from sim_violation import Violation

from gowork.leader._core.model import Outcome, Spec, Standing
from gowork.proto.worker.v1 import session_pb2 as session


class WorkChecks:
    """Knows what every worker really runs."""

    def __init__(self, trace: Trace, durable: Mapping[str, tuple[Spec, Standing]]) -> None:
        self._trace, self._durable = trace, durable
        #: {fence: id} of grants that have reached a worker, and of what runs now.
        self._received: dict[int, str] = {}
        self._running: dict[int, str] = {}
        #: {(instance, fence): the worker's true report}
        self._reports: dict[tuple[str, int], session.Report] = {}
        #: {fence: id} that a worker has run to an end; it has not died since.
        self._ended: dict[int, str] = {}
        #: Ids that some callback worker has completed.
        self._told_by_callbacks: dict[str, None] = {}

    def received(self, fence: int, id: str, instance: str) -> None:
        """A grant has come to its worker."""
        self._received[fence] = id
        self._trace.note("worker", instance, "gets", id, fence)

    def started(self, fence: int, id: str) -> None:
        """A session worker runs a task."""
        for other, running in self._running.items():
            if running == id:
                entry = self._durable.get(id)
                attempts = () if entry is None else entry[1].attempts
                # A worker that is cut off may also be the one that starts later, from its buffer.
                if not any(attempt.fence in (other, fence) and attempt.outcome is Outcome.LOST for attempt in attempts):
                    raise Violation("no task runs twice at once", id, "runs under", other, "and", fence)
                self._trace.seen["work: a task runs twice, its first worker being cut off"] += 1
        self._running[fence] = id

    def stopped(self, fence: int, *, kept: bool) -> None:
        """An execution is over; `kept` when its worker has a report of it to tell."""
        id = self._running.pop(fence, None)
        if id is not None and kept:
            self._ended[fence] = id

    def reported(self, instance: str, report: session.Report) -> None:
        """A worker says how an attempt ended."""
        if (instance, report.fence) not in self._reports:
            name = Outcome(report.outcome).name
            self._trace.note("worker", instance, "reports", report.id, report.fence, name, report.reason)
            self._trace.seen[f"report: {name}"] += 1
        self._reports[instance, report.fence] = report

    def told_by_callback(self, id: str) -> None:
        """A callback worker has ended a task."""
        self._told_by_callbacks[id] = None

    def died(self, fences: list[int]) -> None:
        """A worker is gone with all that it held."""
        for fence in fences:
            self._running.pop(fence, None)
            self._ended.pop(fence, None)

    # What the store is told of it.

    def removed(self, id: str) -> None:
        """The task is no more: whoever still runs it, being cut off, runs nothing that a new task of this id is."""
        for fence, running in self._running.items():
            if running == id:
                self._running[fence] = f"{id}, removed"

    def completed(self, id: str, standing: Standing) -> session.Report | None:
        """The report that has completed a task; None for that of a callback worker, which has no fence."""
        if not standing.instance:
            # The weaker promise: whichever member says so, while one of them holds the task.
            if id not in self._told_by_callbacks:
                raise Violation("no stale report is accepted", id, "completed, which no member has said")
            return None
        report = self._reports.get((standing.instance, standing.fence))
        if report is None or report.outcome != Outcome.COMPLETED or report.id != id:
            raise Violation("no stale report is accepted", id, "completed under fence", standing.fence)
        return report

    def unreached(self, id: str, fence: int) -> None:
        """The leader takes back a grant that it thinks has not reached its worker."""
        if fence in self._ended:
            raise Violation("no report is dropped", id, "had ended under fence", fence, "and is run again")

    def fences_of_late(self) -> dict[int, str]:
        """Some grants that were received lately."""
        return dict(islice(reversed(self._received.items()), 8))

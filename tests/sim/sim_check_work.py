"""Checks what all workers together do: what they were granted, run and report."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from sim_trace import Trace
from sim_violation import Violation

from gowork.leader._core.model import Outcome, Spec, Standing
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session


class WorkChecks:
    """Knows what every worker really runs."""

    def __init__(self, trace: Trace, durable: Mapping[str, tuple[Spec, Standing]]) -> None:
        self._trace, self._durable = trace, durable
        #: {fence: id} of grants that have reached a worker, and of the tasks that run now.
        self._received: dict[int, str] = {}
        self._running: dict[int, str] = {}
        #: {(instance, fence): the worker's true report}, without the lies of sim_worker.
        self._reports: dict[tuple[str, int], session.Report] = {}
        #: {fence: id} of tasks that have ended in a worker which has not died since.
        self._ended: dict[int, str] = {}
        #: The ids of tasks that a callback worker has completed.
        self._told_by_callbacks: dict[str, None] = {}

    def received(self, fence: int, id: str, instance: str) -> None:
        """Notes that a grant has reached its worker."""
        self._received[fence] = id
        self._trace.note("worker", instance, "gets", id, fence)

    def started(self, fence: int, id: str) -> None:
        """Checks that a worker with a session may start a task."""
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
        """Notes that a run is over; `kept` says whether its worker has a report of it."""
        id = self._running.pop(fence, None)
        if id is not None and kept:
            self._ended[fence] = id

    def reported(self, instance: str, report: session.Report) -> None:
        """Notes a worker's report."""
        if (instance, report.fence) not in self._reports:
            name = Outcome(report.outcome).name
            self._trace.note("worker", instance, "reports", report.id, report.fence, name, report.reason)
            self._trace.seen[f"report: {name}"] += 1
        self._reports[instance, report.fence] = report

    def told_by_callback(self, id: str) -> None:
        """Notes that a callback worker has ended a task."""
        self._told_by_callbacks[id] = None

    def died(self, fences: list[int]) -> None:
        """Notes that a worker is gone with all that it held."""
        for fence in fences:
            self._running.pop(fence, None)
            self._ended.pop(fence, None)

    # What comes of it in the store.

    def removed(self, id: str) -> None:
        """Notes that a task was removed: a worker that is cut off may still run it beside a later task of its id."""
        for fence, running in self._running.items():
            if running == id:
                self._running[fence] = f"{id}, removed"

    def waiting(self, id: str, standing: Standing) -> session.Report:
        """Checks that a worker has said that a task goes on after others, and returns the report that says so."""
        report = self._reports.get((standing.instance, standing.fence))
        if report is None or report.outcome != tasks.ATTEMPT_OUTCOME_WAITING or report.id != id:
            raise Violation("no stale report is accepted", id, "waits under fence", standing.fence)
        return report

    def completed(self, id: str, standing: Standing) -> session.Report | None:
        """Checks a completion, and returns the report that made it; None for one of a callback worker."""
        if not standing.instance:
            # A weaker promise holds here: any callback worker may say so while one of them holds the task.
            if id not in self._told_by_callbacks:
                raise Violation("no stale report is accepted", id, "completed, which no member has said")
            return None
        report = self._reports.get((standing.instance, standing.fence))
        if report is None or report.outcome != tasks.ATTEMPT_OUTCOME_COMPLETED or report.id != id:
            raise Violation("no stale report is accepted", id, "completed under fence", standing.fence)
        return report

    def unreached(self, id: str, fence: int) -> None:
        """Checks a grant that the leader takes back because it believes that it has not reached its worker."""
        if fence in self._ended:
            raise Violation("no report is dropped", id, "had ended under fence", fence, "and is run again")

    def fences_of_late(self) -> dict[int, str]:
        """Some grants that workers received lately, as {fence: id}."""
        return dict(islice(reversed(self._received.items()), 8))

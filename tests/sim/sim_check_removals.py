"""Checks which finished tasks run again, and which are removed."""

from __future__ import annotations

from collections.abc import Mapping

from sim_trace import Trace
from sim_violation import Violation

from gowork.leader._core.model import FailureKind, Spec, Standing, Status
from gowork.leader._core.state import State

#: How long the simulated retention keeps tasks, in seconds.
KEPT_SECONDS = 6.0


class RemovalChecks:
    """Knows which tasks somebody asked to run again or to remove."""

    def __init__(self, trace: Trace, durable: Mapping[str, tuple[Spec, Standing]]) -> None:
        self._trace, self._durable = trace, durable
        #: The ids that somebody asked to run again, those that somebody asked to remove, and those that were removed.
        self.run_again: dict[str, None] = {}
        self._to_be_removed: dict[str, None] = {}
        self._removed: dict[str, None] = {}
        #: The number of finished tasks, and of those with status ERROR.
        self._finished = self._failed = 0

    def finished_ids(self) -> list[str]:
        """The ids of finished tasks, which may be removed or run again."""
        return [id for id, (_, standing) in self._durable.items() if standing.status >= Status.COMPLETED]

    def ask_to_run_again(self, id: str) -> None:
        """Notes that somebody is about to ask for it."""
        self.run_again[id] = None

    def ask_to_remove(self, ids: list[str]) -> None:
        """Notes that somebody is about to ask for it."""
        self._to_be_removed.update(dict.fromkeys(ids))

    def may_be_gone(self, id: str) -> bool:
        """Whether it may have been removed before somebody hears of it."""
        return id in self._to_be_removed or id in self._removed

    def moved(self, id: str, before: Standing | None, after: Standing) -> None:
        """Checks a task's move from one standing to the next."""
        if before is not None and before.status >= Status.COMPLETED:
            # One that was cancelled because of others waits again when these are run again.
            asked = id in self.run_again or (before.failure is not None and before.failure.kind is FailureKind.UPSTREAM)
            if before.status is Status.COMPLETED or not asked or after.status is Status.COMPLETED:
                raise Violation("finished stays finished", id, "went to", after.status.name)
            if after.fence < before.fence:
                raise Violation("fences only grow", id)
            self._trace.seen["task: runs again on request"] += 1
            self._count(before, -1)
        self._count(after, 1)

    def removed(self, id: str, standing: Standing, wall_ms: int) -> None:
        """Checks the removal of a task from the store."""
        self._removed[id] = None
        asked = id in self._to_be_removed
        self._trace.seen["task: removed on request" if asked else "task: removed when its time was over"] += 1
        if not asked and standing.status < Status.COMPLETED:
            raise Violation("only finished tasks are removed", id, standing.status.name)
        if not asked and standing.finished_ms > wall_ms - KEPT_SECONDS * 1000:
            raise Violation("nothing is removed before its time", id, wall_ms - standing.finished_ms, "ms old")
        self._count(standing, -1)

    def _count(self, standing: Standing, tasks: int) -> None:
        if standing.status >= Status.COMPLETED:
            self._finished += tasks
            self._failed += tasks * (standing.status is Status.ERROR)

    def counted(self, state: State | None) -> None:
        """Compares the counts in memory with the number of finished tasks."""
        if state is None:
            return
        found, expected = (state.finished_tasks, state.failed_tasks), (self._finished, self._failed)
        if found != expected:
            raise Violation("memory counts what the store has", "finished, failed:", found, "not", expected)

"""Decides on tasks whose handlers end with a continuation: what they run next, and after which other tasks.

Such a task keeps its id. It is pending meanwhile, holds no slot, and comes after those tasks as `upstream` says. It
asks for something else from now on, so it is changed as `edits` changes a task. When it is cancelled or expires while
it waits, those of the tasks are cancelled too whose ids begin with its own and a slash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.attempts import UNCOUNTED_MAX
from gowork.leader._core.decision import Decision
from gowork.leader._core.edits import edited
from gowork.leader._core.model import COMPLETED, Now, Spec, Standing, Task
from gowork.leader._core.state import State
from gowork.leader._core.tasks import cancel_unfinished, no_lanes
from gowork.leader._core.upstream import blocked, fault_of_waiting

#: How many tasks one batch cancels because those that waited for them were cancelled.
STOPPED_A_BATCH_MAX = 2_000


class Continuing:
    """The tasks that are continued by the reports of one frame."""

    def __init__(self, state: State, now: Now) -> None:
        self._state = state
        self._now = now
        #: {id: what it asks for from now on}, and the names of the fields that differ.
        self.specs: dict[str, Spec] = {}
        self._fields: dict[str, tuple[str, ...]] = {}
        #: How many tasks come after others by this frame so far, new ones too, and how many ids they name.
        self.beside = (0, 0)
        #: {id: its `Standing.uncounted`: waits without an unfinished task to wait for count}
        self._idle: dict[str, int] = {}
        #: {id: where it stands}
        self._standings: dict[str, Standing] = {}

    def fault_of(self, task: Task, continuation: cmd.Continuation, made: Mapping[str, Spec]) -> str:
        """Returns why a task can't be continued so; empty: it can, and is noted.

        Args:
            task: the task.
            continuation: what it runs next.
            made: the tasks that the same decision schedules, {id: spec}.
        """
        spec, fields = continuation.edit(task.spec, task.standing.created_ms, self._now.wall_ms)
        refusal = fault_of_waiting(self._state, spec, {**made, **self.specs}, self.beside)
        refusal = refusal or no_lanes(self._state, [*self.specs.values(), spec])
        if refusal is not None:
            return refusal.message
        idle = 0 if any(id in made or self._is_unfinished(id) for id in spec.after) else task.standing.uncounted + 1
        if idle > UNCOUNTED_MAX:
            return (
                f"after: none of its last {UNCOUNTED_MAX} attempts has counted, and there is no unfinished task to "
                "wait for; let it snooze, or end"
            )
        self.specs[spec.id] = spec
        self._fields[spec.id] = fields
        self.count([spec])
        self._idle[spec.id] = idle
        return ""

    def count(self, specs: Iterable[Spec]) -> None:
        """Counts those of these tasks that come after others."""
        tasks, edges = self.beside
        for spec in specs:
            if spec.waits_for_others or spec.id in self.specs:
                tasks, edges = tasks + 1, edges + len(spec.after)
        self.beside = (tasks, edges)

    def waiting(self, settled: Standing, id: str) -> Standing:
        """Returns where a task stands that is continued. `settled` is where it stands by its report."""
        standing = self._standings[id] = replace(blocked(settled), uncounted=self._idle[id])
        return standing

    def _is_unfinished(self, id: str) -> bool:
        task = self._state.tasks.get(id)
        status = self._state.briefs[id].status if task is None else task.standing.status
        return status < COMPLETED

    def changes(self, scheduled: int) -> list[ch.Change]:
        """Returns the changes by which the tasks wait, which come after all others of the decision.

        Args:
            scheduled: how many new tasks the decision has.
        """
        changes: list[ch.Change] = []
        seq = self._state.next_seq + scheduled
        for id, spec in self.specs.items():
            if fields := self._fields[id]:
                standing = edited(self._standings[id], self._state.tasks[id], fields, self._now)
                changes.append(ch.TaskReplaced(id, seq, spec, standing))
                seq += 1
            changes.append(ch.TaskContinued(id))
        return changes


def stop_children(state: State, now: Now, decision: Decision) -> set[str]:
    """Cancels the tasks in hand for which tasks waited that were cancelled, or have expired. Returns their ids.

    Those of which the decision has moved one already are left to a later batch.
    """
    moved = {change.id for change in decision.changes if type(change) is ch.TaskMoved}
    stopped: set[str] = set()
    for id in state.dependents.stopping:
        children = state.dependents.abandoned[id]
        if not moved.isdisjoint(children) or not stopped.isdisjoint(children):
            continue
        for child in children:
            task = state.tasks.get(child)
            if task is not None and cancel_unfinished(state, task, now, decision):
                stopped.add(child)
        decision.changes.append(ch.ChildrenStopped(id))
    return stopped

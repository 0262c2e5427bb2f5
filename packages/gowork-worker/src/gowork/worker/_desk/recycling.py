"""Replaces runners that have run many tasks, have grown, or ask for it, so that no handler harms others for long.

A runner that is to be replaced gets no new tasks. When it has finished those that it holds, it is told to stop, and the
next runner takes its place. So no task is lost by that. One ordinary runner is replaced at a time, while others work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gowork.worker._desk.instructions import SPEAK, Instruction, Level, Note, Tell
from gowork.worker._desk.roster import Roster
from gowork.worker._desk.runner import Runner
from gowork.worker._runner import messages


class Recycling:
    """Says which runners are due, and stops them when they are idle."""

    def __init__(
        self, roster: Roster, tasks_max: int, memory_bytes_max: int, instruct: Callable[[Instruction], None]
    ) -> None:
        """Args:
        roster: the runners.
        tasks_max: a runner is replaced when it has finished this number of tasks; 0 for no bound.
        memory_bytes_max: a runner is replaced when its process takes this number of bytes; 0 for no bound.
        instruct: takes instructions.
        """
        self._roster = roster
        self._tasks_max = tasks_max
        self._memory_bytes_max = memory_bytes_max
        self._has_warned = False
        self._instruct = instruct

    def is_due(self, runner: Runner) -> bool:
        """Whether a runner is to be replaced."""
        if not runner.is_process:
            return False
        if not runner.finished:
            # One that is worn out by no task, or too large without one, would be so again as soon as it is ready.
            return False
        if runner.worn:
            return True
        return 0 < self._tasks_max <= runner.finished or 0 < self._memory_bytes_max <= runner.memory_bytes

    def look(self, now: float) -> None:
        """Begins to replace a runner that is due, and stops one that has finished its tasks."""
        if self._roster.is_closing:
            return
        ordinary = self._roster.ordinary
        self._warn_of_bound(ordinary)
        if not self._roster.is_short and not any(runner.is_retiring or not runner.is_ready for runner in ordinary):
            due = next((runner for runner in ordinary if self.is_due(runner)), None)
            if due is not None:
                due.is_retiring = True
                fields: dict[str, object] = {"tasks": due.finished, "memory_bytes": due.memory_bytes}
                if due.worn:
                    fields["reason"] = due.worn
                self._instruct(Note(Level.INFO, "runner is replaced", fields, due.id))
                self._instruct(SPEAK)
        for runner in ordinary:
            # What isolated tasks have borrowed of it goes to another one when it has ended.
            if runner.is_retiring and runner.is_ready and not runner.tasks:
                runner.stop(now)
                self._instruct(Tell(runner.id, messages.Stop()))

    def _warn_of_bound(self, runners: Iterable[Runner]) -> None:
        """Says once that runners are too large before they have run anything, so that each runs only a task or two."""
        if self._has_warned or not self._memory_bytes_max:
            return
        for runner in runners:
            is_unused = runner.is_process and not runner.finished and not runner.tasks
            if is_unused and runner.memory_bytes >= self._memory_bytes_max:
                self._has_warned = True
                fields = {
                    "memory_mib": runner.memory_bytes >> 20,
                    "runner_memory_max": self._memory_bytes_max >> 20,
                    "advice": "raise --runner-memory-max: every runner is replaced after its first tasks",
                }
                self._instruct(Note(Level.WARNING, "a runner is too large before its first task", fields, runner.id))
                self._instruct(SPEAK)
                return

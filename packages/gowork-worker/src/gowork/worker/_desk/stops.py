"""Tasks that were asked to stop: why, and when their runner is ended if they have not stopped."""

from __future__ import annotations

from gowork.worker._desk.tasks import HeldTask
from gowork.worker._runner.messages import StopKind


class Stops:
    """The tasks of all runners that were asked to stop. Times are in seconds, always on the same clock."""

    def __init__(self) -> None:
        #: {fence: a task whose runner is ended at its `kill_at`}
        self._open: dict[int, HeldTask] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    @staticmethod
    def wish(task: HeldTask) -> None:
        """The leader has cancelled or released a task, so it must stop."""
        task.stop_kind = StopKind.CANCEL

    def expect(self, task: HeldTask, kill_at: float) -> None:
        """Ends the runner of a task at `kill_at`, if the task has not stopped by then."""
        task.kill_at = kill_at
        self._open[task.fence] = task

    def told(self, task: HeldTask, kind: StopKind, kill_at: float) -> None:
        """A runner has asked a task to stop. The first reason to stop it stays the reason."""
        task.stop_kind = task.stop_kind or kind
        self.expect(task, kill_at)

    @staticmethod
    def time_out(task: HeldTask) -> bool:
        """Notes that a task is past its time limit. Returns False when it was asked to stop for another reason."""
        if task.stop_kind not in (None, StopKind.TIMEOUT):
            return False
        task.stop_kind = StopKind.TIMEOUT
        return True

    def over(self, fence: int) -> None:
        """The task has ended, or its end is not waited for any more."""
        self._open.pop(fence, None)

    def due(self, now: float) -> list[HeldTask]:
        """Returns the tasks whose time to stop is over."""
        return [task for task in self._open.values() if now >= task.kill_at]

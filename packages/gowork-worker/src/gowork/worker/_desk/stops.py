"""Tasks that were asked to stop, why, and until when: then their runner is ended."""

from __future__ import annotations

from gowork.worker._desk.tasks import HeldTask
from gowork.worker._runner.messages import StopKind


class Stops:
    """Of all runners. Times are in seconds, on any one clock."""

    def __init__(self) -> None:
        #: {fence: a task whose runner is ended when it does not stop in time}
        self._open: dict[int, HeldTask] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    @staticmethod
    def wish(task: HeldTask) -> None:
        """The leader asks a task to stop, or to be forgotten."""
        task.stop_kind = StopKind.CANCEL

    def expect(self, task: HeldTask, kill_at: float) -> None:
        """A task that was asked to stop has until then."""
        task.kill_at = kill_at
        self._open[task.fence] = task

    def told(self, task: HeldTask, kind: StopKind, kill_at: float) -> None:
        """Its runner has asked it to stop. What was asked for first is why."""
        task.stop_kind = task.stop_kind or kind
        self.expect(task, kill_at)

    @staticmethod
    def time_out(task: HeldTask) -> bool:
        """It was found past its time limit; False when it was asked to stop for another reason."""
        if task.stop_kind not in (None, StopKind.TIMEOUT):
            return False
        task.stop_kind = StopKind.TIMEOUT
        return True

    def over(self, fence: int) -> None:
        """The task has ended, or nobody waits for that any more."""
        self._open.pop(fence, None)

    def due(self, now: float) -> list[HeldTask]:
        """Those that had their time."""
        return [task for task in self._open.values() if now >= task.kill_at]

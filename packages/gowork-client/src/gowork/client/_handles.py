"""What the handles of both clients have in common: the task's id, and how the task finished."""

from __future__ import annotations

from typing import Any

from gowork.client._mapping import task_info
from gowork.client._models import FailureKind, TaskInfo, TaskStatus
from gowork.client._payloads import decode_result
from gowork.client.errors import CallError, TaskCancelled, TaskFailed
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


class Handle:
    """An id, and the finished task once it was seen."""

    __slots__ = ("_task", "id")

    def __init__(self, id: str) -> None:
        self.id = id
        # As it came off the wire until somebody looks: to wait for many tasks must not cost the conversion of fields
        # nobody reads.
        self._task: scheduler.Task | TaskInfo | None = None

    @property
    def task(self) -> TaskInfo | None:
        """The task as it finished, once a wait has seen that: with its result and failure, without payload and
        attempts.
        """
        if isinstance(self._task, scheduler.Task):
            self._task = task_info(self._task)
        return self._task

    @property
    def done(self) -> bool:
        """Whether a wait has seen it finish."""
        return self._task is not None

    def __repr__(self) -> str:
        status = f" {self.task.status}" if self.task else ""
        return f"<{type(self).__name__} {self.id}{status}>"

    def note_finished(self, task: scheduler.Task) -> None:
        """For the waits: keeps the task as it finished."""
        self._task = task

    def _value(self, type: Any) -> Any:
        task = self._task
        if isinstance(task, scheduler.Task) and task.status == scheduler.TASK_STATUS_COMPLETED:
            return decode_result(task.result, task.result_data, type, is_empty_data=task.result_is_empty_data)
        if self.task is None:  # pragma: no cover - a wait that ends without its tasks raises
            raise CallError("the leader ended a wait without the task")
        return completed(self.task).value(type)


def completed(task: TaskInfo) -> TaskInfo:
    """The task itself.

    Raises:
        TaskFailed, TaskCancelled: when it did not complete.
    """
    if task.status is TaskStatus.COMPLETED:
        return task
    failure = task.failure
    what = failure.message if failure else ""
    if task.status is TaskStatus.CANCELLED:
        raise TaskCancelled(task, f"task {task.id} was cancelled" + (f": {what}" if what else ""))
    kind = f" ({failure.kind})" if failure and failure.kind is not FailureKind.HANDLER else ""
    name = f"{failure.type}: " if failure and failure.type else ""
    raise TaskFailed(task, f"task {task.id} failed{kind}: {name}{what}" if failure else f"task {task.id} failed")

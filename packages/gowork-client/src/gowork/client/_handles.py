"""The common part of both clients' handles: the task's id, and the task when it has finished."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gowork.base.encryption import is_encrypted
from gowork.client._models import FailureKind, TaskInfo, TaskStatus
from gowork.client._payloads import decode_result
from gowork.client._responses import task_info
from gowork.client._typed import annotated_result
from gowork.client.errors import CallError, TaskCancelled, TaskFailed
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


class Handle:
    """A task's id, and the finished task after a wait has seen it."""

    __slots__ = ("_client", "_function", "_task", "id", "is_new")

    def __init__(self, client: Any, id: str, function: Callable[..., Any] | None = None, holder: str = "") -> None:
        """Each task that is scheduled costs a call of this, so neither client's handle has one of its own.

        Args:
            client: that of the handle, of either kind.
            id: the task's id.
            function: its handler, where that is known.
            holder: the id of the task that has its unique key; empty: no other task has it.
        """
        self._client = client
        #: The task's id: that of the task that had the unique key, where one did.
        self.id = holder or id
        #: False when another task had the unique key, so that none was scheduled.
        self.is_new = not holder
        #: The decorated function, whose return type says how to read the result; None where only its name is known.
        self._function = function
        # The wire's form until somebody reads it: to wait for many tasks must not convert fields that nobody reads.
        self._task: scheduler.Task | TaskInfo | None = None

    @property
    def task(self) -> TaskInfo | None:
        """The finished task in TaskView.RESULT: without payload and attempts. None before a wait has seen it finish."""
        if isinstance(self._task, scheduler.Task):
            self._task = task_info(self._task, self._client._settings.encryption)  # noqa: SLF001 - a part of it
        return self._task

    @property
    def done(self) -> bool:
        """Whether a wait has seen the task finish."""
        return self._task is not None

    def __repr__(self) -> str:
        status = f" {self.task.status}" if self.task else ""
        return f"<{type(self).__name__} {self.id}{status}>"

    def note_finished(self, task: scheduler.Task) -> None:
        """Keeps the finished task. Waits call it."""
        self._task = task

    def _value(self, type: Any) -> Any:
        if type is None and self._function is not None:
            type = annotated_result(self._function)
        task = self._task
        if (
            isinstance(task, scheduler.Task)
            and task.status == scheduler.TASK_STATUS_COMPLETED
            # Most results are no bytes, and so need no look at what they begin with.
            and not (task.result_data and is_encrypted(task.result_data))
        ):
            return decode_result(task.result, task.result_data, type, is_empty_data=task.result_is_empty_data)
        if self.task is None:  # pragma: no cover - a wait that ends without its tasks raises
            raise CallError("the leader ended a wait without the task")
        return completed(self.task).value(type)


def completed(task: TaskInfo) -> TaskInfo:
    """Returns a finished task if it completed.

    Raises:
        TaskFailed, TaskCancelled: when the task did not complete.
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

"""How a task stands after something was done to it. That was done, whether or not the leader can still tell."""

from __future__ import annotations

from gowork.cli.records import Record, task_record
from gowork.client import CallError, Client, TaskInfo


def seen(client: Client, task_id: str) -> TaskInfo | None:
    """The task; None when the leader is too old to tell, has removed it since, or answers no more."""
    try:
        return client.get(task_id)
    except CallError:
        return None


def seen_record(task_id: str, task: TaskInfo | None) -> Record:
    """The task, or its id alone where that is all that is known."""
    return {"id": task_id} if task is None else task_record(task, explained=True)

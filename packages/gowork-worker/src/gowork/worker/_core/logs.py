"""Logging of a worker's own processes: the command and the runners. A program that runs a worker keeps its logging.

Each line that is logged while an attempt runs has the attempt's fields, also when a library of the handler logs it.
"""

from __future__ import annotations

from contextvars import ContextVar

from gowork.base import logs
from gowork.base.logs import take_standard_error
from gowork.base.running import attempt
from gowork.worker._core.context import Context

__all__ = ["configure", "running", "take_standard_error"]

#: The attempt that runs here: in this thread, or in this asyncio task and those that it starts.
running: ContextVar[Context | None] = attempt


def configure(form: str, level: str, worker: str, *, waits: bool = False) -> None:
    """Sends all logs of this process to standard error.

    Args:
        form: "text" or "json".
        level: debug, info, warning or error.
        worker: the worker's name, a field of every line.
        waits: see gowork.base.logs. For runners, whose last lines matter when a handler ends its process.
    """
    logs.configure(form, level, lambda: _scope(worker), waits=waits)


def _scope(worker: str) -> dict[str, object]:
    context = running.get()
    if context is None:
        return {"worker": worker}
    return {
        "worker": worker,
        "task_id": context.id,
        "attempt": context.attempt,
        "fence": context.fence,
        "handler": context.handler,
        "queue": context.queue,
    }

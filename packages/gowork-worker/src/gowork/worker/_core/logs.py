"""Logging of processes that the worker owns: its own command and its runners. A library's host process is left alone.

Whatever logs while an attempt runs, a library that the handler calls included, has the attempt's fields on its line.
"""

from __future__ import annotations

from contextvars import ContextVar

from gowork.base import logs
from gowork.base.logs import take_standard_error
from gowork.base.running import attempt
from gowork.worker._core.context import Context

__all__ = ["configure", "running", "take_standard_error"]

#: The attempt that runs here: in this thread, or in this asyncio task and the tasks that it starts.
running: ContextVar[Context | None] = attempt


def configure(form: str, level: str, worker: str, *, waits: bool = False) -> None:
    """Sends all logs of this process to standard error.

    Args:
        form: "text" or "json".
        level: debug, info, warning or error.
        worker: the worker's name, a field of every line.
        waits: see gowork.base.logs; for runners, whose last words matter when a handler brings its process down.
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

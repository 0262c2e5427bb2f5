"""The attempt that runs in this thread or asyncio task. The worker sets it; what a handler calls, such as a client,
reads it.

It is in this package because worker and client do not import each other.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

#: The worker's Context of the attempt, with the task's `id` and `handler`; None where no attempt runs. Asyncio tasks
#: inherit it from the task that starts them.
attempt: ContextVar[Any] = ContextVar("gowork_running", default=None)

_NOTHING: AbstractContextManager[None] = nullcontext()


def waiting() -> AbstractContextManager[None]:
    """Returns a context to enter while waiting for other tasks. Meanwhile the running attempt lends its slot to them.

    It does nothing where no attempt runs, or where the worker does not know of lending.
    """
    within = getattr(attempt.get(), "waiting", None)
    return _NOTHING if within is None else within()

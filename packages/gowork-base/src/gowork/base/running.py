"""Which attempt runs here. The worker sets it around each attempt; what a handler calls, such as a client, reads it.

Here, since worker and client do not import each other.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

#: In this thread, or this asyncio task and what it starts: the worker's Context of the attempt, with its `id` and
#: `handler`.
attempt: ContextVar[Any] = ContextVar("gowork_running", default=None)

_NOTHING: AbstractContextManager[None] = nullcontext()


def waiting() -> AbstractContextManager[None]:
    """To be entered around a wait for other tasks: the attempt that runs here lends its slot to them meanwhile.

    Nothing happens where no attempt runs, or where its worker is older than this.
    """
    within = getattr(attempt.get(), "waiting", None)
    return _NOTHING if within is None else within()

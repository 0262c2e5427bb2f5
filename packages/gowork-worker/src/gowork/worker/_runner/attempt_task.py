"""The asyncio task of an attempt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from gowork.worker._core.context import Context
from gowork.worker._core.logs import running

logger = logging.getLogger("gowork.worker.runner")


class AttemptTask(asyncio.Task[None]):
    """A task that no other attempt of the runner can cancel.

    Otherwise a handler that cancels all tasks of its loop would end other attempts. Code that runs in the attempt's own
    context (its timeouts, its task groups) may cancel it, and so may code that runs in no attempt's context.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None], attempt: Context, **options: Any) -> None:
        super().__init__(coroutine, **options)
        self._attempt = attempt

    def cancel(self, msg: Any | None = None) -> bool:
        by = running.get()
        if by is not None and by is not self._attempt:
            logger.warning("a handler tried to cancel another attempt", extra={"other_task_id": self._attempt.id})
            return False
        return super().cancel(msg)

    def stop(self, reason: str) -> None:
        """Cancels it on behalf of the runner, from any context."""
        super().cancel(reason)

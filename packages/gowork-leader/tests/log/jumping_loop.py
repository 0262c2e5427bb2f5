"""An event loop whose time jumps to the next timer when nothing is left to do. So nothing takes long."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

#: How much time passes from one turn of the loop to the next, so that even a busy loop gets to its timers, in seconds.
TURN_SECONDS = 1e-4


class _JumpingSelector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            return super().select()
        self.now += max(timeout, TURN_SECONDS)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its time is simulated, in seconds from 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Waits for threads however long they take, because a time limit would be over at once."""
        await super().shutdown_default_executor()

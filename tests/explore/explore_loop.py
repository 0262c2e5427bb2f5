"""An event loop that runs one process until it waits for something from outside.

It has no input of its own, and its timers fire when they are told to.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncGenerator, Callable
from contextvars import Context
from typing import Any, Protocol


class Timed(Protocol):
    """A process with a clock of its own."""

    #: Seconds of its clock.
    time: float
    #: What waits for a time of its clock.
    timers: list[asyncio.TimerHandle]
    #: All that it has under way.
    tasks: list[asyncio.Task[Any]]


class _NoInput(selectors.BaseSelector):
    """A selector that ends the loop's run instead of waiting for input."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            self._end()
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        return None

    def unregister(self, fileobj: Any) -> Any:
        return None

    def get_map(self) -> Any:
        return {}

    def get_key(self, fileobj: Any) -> Any:
        raise KeyError(fileobj)


class ExploreLoop(asyncio.SelectorEventLoop):
    """Runs many processes, one after the other."""

    def __init__(self) -> None:
        super().__init__(_NoInput(self.stop))
        self.process: Timed | None = None
        #: How many tasks were made. Each task has its number, which orders the tasks of a process.
        self._made = 0
        self.set_exception_handler(lambda loop, context: None)
        self.set_task_factory(self._make_task)

    def settle(self, process: Timed) -> None:
        """Runs a process until nothing of it can go on by itself."""
        self.process = process
        self.run_forever()

    def time(self) -> float:
        return self.process.time if self.process is not None else 0.0

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        assert self.process is not None
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self.process.timers.append(timer)
        return timer

    def fire(self, timer: asyncio.TimerHandle) -> None:
        """Has a timer fire, though its clock stands still: safety must rest on no clock."""
        self._ready.append(timer)  # type: ignore[attr-defined]

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        assert self.process is not None
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        task.made = self._made = self._made + 1  # type: ignore[attr-defined]
        self.process.tasks.append(task)
        return task

    def _asyncgen_finalizer_hook(self, generator: AsyncGenerator[Any, None]) -> None:
        """Closes nothing. What is collected here belongs to a process that was given up, while another one runs."""

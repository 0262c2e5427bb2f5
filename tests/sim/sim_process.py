"""A process among several, which can be stopped for a while (SIGSTOP) and go on: nothing of it runs meanwhile.

Its code runs in a context of its own. The loop holds back what would run in the context of a stopped process.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any

from sim_loop import CLOCK_RATE, SimLoop

#: The process whose code runs; None: no such process.
PROCESS: ContextVar[SimProcess | None] = ContextVar("PROCESS", default=None)


class SimProcess:
    """One process.

    Args:
        loop: runs its code.
        clock_rate: the seconds of its clock for one second of the world.
        rng: what is random in its own code.
    """

    def __init__(self, loop: StoppingLoop, clock_rate: float, rng: Random) -> None:
        self._loop, self.rng = loop, rng
        self.is_alive = True
        #: What would have run while it was stopped; None: it is not stopped.
        self._held: list[asyncio.Handle] | None = None
        self.context = copy_context()
        self.context.run(PROCESS.set, self)
        self.context.run(CLOCK_RATE.set, clock_rate)

    @property
    def is_stopped(self) -> bool:
        return self._held is not None

    def stop(self) -> None:
        """Lets nothing of it run from now on."""
        if self._held is None:
            self._held = []

    def go_on(self) -> None:
        """Has it go on after a stop. Harmless when it is not stopped."""
        held, self._held = self._held, None
        self._loop.resume(held or [])

    def holds(self, handle: asyncio.Handle) -> bool:
        """Keeps for later what would run now, if it is stopped."""
        if self._held is None:
            return False
        self._held.append(handle)
        return True


class StoppingLoop(SimLoop):
    """A loop with processes that can be stopped one by one."""

    def resume(self, handles: list[asyncio.Handle]) -> None:
        """Runs what was held back, in the same order."""
        self._ready.extend(handle for handle in handles if not handle.cancelled())  # type: ignore[attr-defined]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._push(when / CLOCK_RATE.get(), callback, args, context)

    def at(self, when: float, function: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        return self._push(when, function, args, self._no_machine)

    def _push(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _call_soon(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle


class _Handle(asyncio.Handle):
    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is None or not process.holds(self):
            super()._run()


class _Timer(asyncio.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is None or not process.holds(self):
            super()._run()

"""An event loop that makes results independent of the machine: it simulates time, and waits for handler threads.

Time jumps to the next timer when nothing is left to do. The store's work in threads is done at once, and its result
comes after a fixed span. Before each pass the loop waits until all threads rest, so that the work of a batch always
falls into the same passes.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

#: Simulated seconds that a request to the disk takes.
DISK_SECONDS = 0.001
#: Real seconds after which threads that do not come to rest are a defect.
REST_SECONDS_MAX = 30.0


class _NoInput(selectors.BaseSelector):
    """A selector without input: it lets simulated time pass instead of waiting."""

    def __init__(self, loop: CountedLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        self._loop.come_to_rest()
        if timeout is None or timeout > 0:
            self._loop.pass_time(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        return None

    def unregister(self, fileobj: Any) -> Any:
        return None

    def get_map(self) -> Any:
        return {}

    def get_key(self, fileobj: Any) -> Any:
        raise KeyError(fileobj)


class CountedLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` is in simulated seconds from 0."""

    def __init__(self, at_rest: Callable[[], bool]) -> None:
        """`at_rest` tells whether no thread has work."""
        self._now = 0.0
        self._at_rest = at_rest
        #: Whether a thread has called `call_soon_threadsafe` since the loop last waited.
        self._was_called = False
        super().__init__(_NoInput(self))

    def time(self) -> float:
        return self._now

    def come_to_rest(self) -> None:
        """Waits until no thread has work."""
        began = time.perf_counter()
        while not self._at_rest():
            if time.perf_counter() - began > REST_SECONDS_MAX:
                raise AssertionError("the threads of the handlers do not come to rest")
            # Real time, because no event tells that every thread has handed in its report.
            time.sleep(0.0002)

    def pass_time(self, seconds: float | None) -> None:
        """Moves time on by `seconds`, to the next timer, unless a thread has given the loop something to do."""
        if self._was_called:
            self._was_called = False
        elif seconds is None:
            raise AssertionError("no timer is set and no thread works: the cluster waits for ever")
        else:
            self._now += seconds

    def call_soon_threadsafe(  # type: ignore[override] # Its types say nothing here.
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._was_called = True
        return handle

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Runs the function at once; the future has its result after DISK_SECONDS."""
        future: asyncio.Future[Any] = self.create_future()
        try:
            result = function(*args)
        except Exception as error:  # noqa: BLE001 - whoever waits for the future gets it
            self.call_later(DISK_SECONDS, _settle, future, None, error)
        else:
            self.call_later(DISK_SECONDS, _settle, future, result, None)
        return future


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)

"""An event loop whose time is simulated: it jumps to the next timer when nothing is left to do.

Nothing runs at the same time as anything else, and the store's work in threads is done at a simulated moment, so that
one seed gives one history. Each simulated machine has a clock of its own, which is the world's at another rate.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, TypeVarTuple

Arguments = TypeVarTuple("Arguments")
#: The rate of the current machine's clock: its seconds for one second of the world.
CLOCK_RATE: ContextVar[float] = ContextVar("CLOCK_RATE", default=1.0)


#: The least time between two events that must keep their order, in seconds: a heap does not order events of one time.
STEP = 1e-9


class _NoInput(selectors.BaseSelector):
    """A selector without input: it lets simulated time pass instead of waiting."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("no timer is set: everything waits for something that will never happen")
        if timeout > 0:
            self.now += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        return None

    def unregister(self, fileobj: Any) -> Any:
        return None

    def get_map(self) -> Any:
        return {}

    def get_key(self, fileobj: Any) -> Any:
        raise KeyError(fileobj)


class _Task(asyncio.Task[Any]):
    """A task that a set has at the same place in each run, because its hash is no address.

    TaskGroup keeps its tasks in a set, and cancels them in its order.
    """

    def __init__(self, coro: Any, *, loop: SimLoop, **options: Any) -> None:
        # First, because it is put into a set of all tasks.
        self._number = next(loop.task_numbers)
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number


class SimLoop(asyncio.SelectorEventLoop):
    """`now` is the world's time, in simulated seconds from 0; `time()` is the time of the machine whose code asks."""

    def __init__(self, rng: Random) -> None:
        self._sim_selector = _NoInput()
        super().__init__(self._sim_selector)
        self._rng = rng
        self._no_machine = copy_context()
        self.task_numbers = itertools.count()
        self.set_task_factory(lambda loop, coro, **options: _Task(coro, loop=self, **options))
        #: The least and the most that the disk takes for one request, in seconds.
        self.io_seconds = (0.0002, 0.02)

    @property
    def now(self) -> float:
        return self._sim_selector.now

    def time(self) -> float:
        return self._sim_selector.now * CLOCK_RATE.get()

    def call_at(
        self, when: float, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when / CLOCK_RATE.get(), callback, *args, context=context)

    def at(self, when: float, function: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Calls the function at `when` of the world's time, on no machine."""
        return super().call_at(when, function, *args, context=self._no_machine)

    def later(self, seconds: float, function: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Calls the function after `seconds` of the world's time, on no machine."""
        return self.at(self._sim_selector.now + seconds, function, *args)

    async def create_connection(self, protocol_factory: Any, *, sock: Any, **_: Any) -> Any:  # type: ignore[override]
        """Connects a simulated pipe."""
        protocol = protocol_factory()
        protocol.connection_made(sock)
        sock.connected(protocol)
        return sock, protocol

    def stand_still(self, seconds: float) -> None:
        """Lets `seconds` pass while nothing runs, as in a stopped process. Timers of that time fire afterwards."""
        self._sim_selector.now += seconds

    async def pass_time(self, seconds: float) -> None:
        """Returns after `seconds` simulated seconds."""
        passed = self.create_future()
        self.call_later(seconds, _resolve, passed, None)
        await passed

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Runs the function at a later moment, unless its future is cancelled by then."""
        future: asyncio.Future[Any] = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = function(*args)
            except BaseException as error:  # noqa: BLE001 - whoever waits for the future gets it
                future.set_exception(error)
            else:
                # The result comes a moment later, because a crash may come in between.
                self.call_later(self._rng.uniform(*self.io_seconds) / 2, _resolve, future, result)

        self.call_later(self._rng.uniform(*self.io_seconds), run)
        return future


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)

"""A clock that a test moves, and a loop that goes by it.

Invariants: the clock stands still while code runs. It moves when the test moves it (`advance`), and by itself only when
nothing else can happen: to the next timer of the loop. While the loop waits for the outside, which has no timers (a
socket, a child process, a thread of `asyncio.to_thread`), it moves as real time does. Of other threads nobody can know
whether the loop waits for them: where there are any, it first waits a little whether something comes.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gowork.worker._runner import forks
from gowork.worker._runner.clock import Clock

#: After this number of jumps in a row before which nothing came from other threads, they are not waited for any more.
_IN_VAIN_MAX = 20


class FakeClock:
    """The time of one run of a handler, in seconds. It begins at 0, and a test may use it for several runs in turn."""

    def __init__(self, *, jumps: bool = True, check_seconds: float = 0.0, idle_seconds: float = 0.05) -> None:
        """Args:
        jumps: whether waits of the handler end at once and move the clock: `ctx.cancelled.wait`, `asyncio.sleep` and
            other timers of asyncio. Else they last until the test calls `advance`.
        check_seconds: how far each look at `ctx.cancelled` moves the clock. A handler that computes, and looks there
            without waiting, comes to its time limit only so.
        idle_seconds: for how long nothing must have come from other threads before the clock of an async handler jumps,
            in seconds of real time. Threads of `asyncio.to_thread` are waited for in any case.
        """
        self.jumps = jumps
        self.check_seconds = _seconds("check_seconds", check_seconds)
        self.idle_seconds = _seconds("idle_seconds", idle_seconds)
        self._now = 0.0
        self._lock = threading.Lock()
        #: Moves the clock within the run that uses it; None where none does.
        self._mover: Callable[[float], None] | None = None

    def __repr__(self) -> str:
        return f"<FakeClock {self._now:g} s>"

    @property
    def now(self) -> float:
        """The time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves the clock. When a run uses it, all that is due by then happens before this returns, except where an
        async handler calls it: then it happens when that awaits.

        Raises:
            ValueError: when `seconds` is negative or not finite.
        """
        seconds = _seconds("seconds", seconds)
        mover = self._mover
        if mover is None:
            self._move(seconds)
        else:
            mover(seconds)

    def _move(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds

    def _enter(self, mover: Callable[[float], None]) -> None:
        """Gives the clock to a run.

        Raises:
            RuntimeError: when another run has it.
        """
        with self._lock:
            if self._mover is not None:
                raise RuntimeError("this clock is used by another run: give each run that goes on at once its own")
            self._mover = mover

    def _leave(self) -> None:
        self._mover = None


def clock_type(clock: FakeClock) -> type[Clock]:
    """Returns what a runner counts attempts by, going by this clock."""

    class RunnersClock(Clock):
        """The runner's view of a fake clock."""

        @staticmethod
        def monotonic_ns() -> int:
            return round(clock.now * 1e9)

    return RunnersClock


class FakeLoop(asyncio.SelectorEventLoop):
    """A loop whose timers go by a FakeClock."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        #: Whether a plain handler runs and does not wait. The clock stands still meanwhile. Changed on the loop only.
        self.held = False
        #: Seconds that have passed since the attempt was reported, and whether it was. The test's clock stands then.
        self._later = 0.0
        self.is_reported = False
        #: Whether threads that the run does not know may wake the loop. Asked before each jump.
        self.has_strangers: Callable[[], bool] = lambda: False
        #: How often in a row it was waited for them in vain.
        self._in_vain = 0
        #: Calls that threads of an executor carry out for this loop.
        self._in_threads = 0
        #: One entry for each call that a thread carries out right now, also where nobody waits for it any more.
        self._working: list[None] = []
        self._pool = ThreadPoolExecutor(thread_name_prefix="gowork-test")
        self._processes: list[asyncio.SubprocessTransport] = []
        #: Whether what is left is waited for in real time.
        self.is_closing = False
        selector = _Selector(self)
        super().__init__(selector)
        self.set_default_executor(self._pool)
        # What the loop has opened for itself is not the outside.
        selector.own = len(selector.get_map())

    def time(self) -> float:
        """The time in seconds."""
        return self._clock.now + self._later

    @property
    def jumps(self) -> bool:
        """Whether waits end at once."""
        return self._clock.jumps or self.is_reported

    @property
    def waits_outside(self) -> bool:
        """Whether threads or child processes work for this loop, or it closes."""
        self._processes = [process for process in self._processes if process.get_returncode() is None]
        return bool(self._in_threads or self._processes or self.is_closing)

    def idle_seconds(self) -> float:
        """How long to wait for other threads before a jump, in seconds of real time."""
        if self.is_reported or self._in_vain >= _IN_VAIN_MAX or not self.has_strangers():
            return 0.0
        return self._clock.idle_seconds

    def waited(self, *, in_vain: bool) -> None:
        """Notes whether something came from other threads."""
        self._in_vain = self._in_vain + 1 if in_vain else 0

    def move(self, seconds: float) -> None:
        """Moves the clock."""
        if self.is_reported:
            self._later += seconds
        else:
            self._clock._move(seconds)  # noqa: SLF001 - they are one thing

    def run_in_executor(  # type: ignore[override] # Its types are the base class's, which has its own variables for them.
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Does as its base class, and counts the call until it is done."""
        future = super().run_in_executor(executor, self._counted(func), *args)
        self._in_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def close_pool(self) -> None:
        """Ends the threads of `asyncio.to_thread`. One that still works, because nobody waits for it, ends later."""
        self._pool.shutdown(wait=not self._working, cancel_futures=True)

    def _counted(self, func: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self._working.append(None)
            try:
                return func(*args)
            finally:
                self._working.pop()

        return counted

    async def subprocess_exec(self, *args: Any, **options: Any) -> Any:
        """Does as its base class, and notes the process."""
        transport, protocol = await super().subprocess_exec(*args, **options)
        self._processes.append(transport)
        return transport, protocol

    async def subprocess_shell(self, *args: Any, **options: Any) -> Any:
        """Does as its base class, and notes the process."""
        transport, protocol = await super().subprocess_shell(*args, **options)
        self._processes.append(transport)
        return transport, protocol

    def _thread_done(self, future: asyncio.Future[Any]) -> None:
        self._in_threads -= 1


class _Selector(selectors.DefaultSelector):
    """Where the loop waits: for the outside, for a test, or for nothing."""

    def __init__(self, loop: FakeLoop) -> None:
        super().__init__()
        self._loop = loop
        self._generation = forks.generation
        #: How many descriptors are the loop's own.
        self.own = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Waits as the clock says."""
        if forks.generation != self._generation:
            # A child that the handler has forked waits for a loop that is its parent's.
            forks.leave(forks.EXIT_WAITING)
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        loop = self._loop
        if loop.held or timeout is None or not loop.jumps:
            return super().select(None)
        if len(self.get_map()) > self.own or loop.waits_outside:
            # By the runner's clock, because a test may have frozen the functions of time.
            before = Clock.monotonic_ns()
            ready = super().select(timeout)
            loop.move((Clock.monotonic_ns() - before) / 1e9)
            return ready
        idle = loop.idle_seconds()
        if idle:
            ready = super().select(idle)
            loop.waited(in_vain=not ready)
            if ready:
                return ready
        loop.move(timeout)
        return []


def _seconds(name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: {value!r} is not a number of seconds from 0 on")
    return value

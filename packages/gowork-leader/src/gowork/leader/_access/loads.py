"""What each caller takes of a leader at once, so that one of them can't use up what is there for all."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import grpc

from gowork.leader._access.audit import CALLER_LIMIT
from gowork.leader._access.rights import Identity, Limits
from gowork.proto.status import Refusal

#: How many callers are remembered. Beyond that, those who were silent for longest and have no open streams are not.
CALLERS_MAX = 10_000
#: For how many seconds of its rate a caller may be ahead after a pause.
BURST_SECONDS = 2.0
_SESSION = "worker.v1.SessionService/Connect"
#: Calls that count as one task when they come.
_ONE = {f"scheduler.v1.SchedulerService/{name}" for name in ("ScheduleTask", "RetryTask", "RetryTasks")}
#: What may be more of them is counted when they are known.
_SELECTED = "scheduler.v1.SchedulerService/RetryTasks"
_SEVERAL = "scheduler.v1.SchedulerService/ScheduleTasks"
#: {call: what its streams are counted as}; those of other calls are counted together. Clients open streams of
#: submissions by themselves, so that these must not take the place of a wait.
_KINDS = {_SESSION: "sessions", "scheduler.v1.SchedulerService/SubmitTasks": "streams of submissions"}

#: Counts more tasks for the call that is served now; None: its caller has no rate of tasks.
_MORE: ContextVar[Callable[[int], None] | None] = ContextVar("_MORE", default=None)


def count_more_tasks(number: int) -> None:
    """Counts tasks of the call that is served now which could not be counted when it came.

    They are not refused any more. The caller's next call waits for them.
    """
    more = _MORE.get()
    if more is not None and number > 0:
        more(number)


class Loads:
    """Counts the calls, the tasks and the open streams of each caller whose identity has limits."""

    def __init__(self) -> None:
        #: {name: load}, the one that was silent for longest first.
        self._of: OrderedDict[str, _Load] = OrderedDict()

    def enter(self, caller: Identity, call: str, request: Any, *, streams: bool) -> None:
        """Counts a call of a caller; a stream counts until the current asyncio task is done.

        Args:
            caller: who calls.
            call: service/method.
            request: the request; of a call that is forwarded, as bytes, in which the leader counts tasks.
            streams: whether it answers with a stream.

        Raises:
            Refusal: RESOURCE_EXHAUSTED: the caller has reached one of its limits.
        """
        limits = caller.limits
        if limits == _NONE:
            return
        load = self._load(caller.name)
        # A node that forwards counts too, and has no engine.
        now = time.monotonic()
        load.calls.take(caller, 1, limits.calls_per_second, now, "calls")
        if (call in _ONE or call == _SEVERAL) and not isinstance(request, bytes):
            number = 1 if call in _ONE else len(request.tasks)
            load.tasks.take(caller, number, limits.tasks_per_second, now, "tasks")
            if call == _SELECTED and limits.tasks_per_second is not None:
                _MORE.set(load.tasks.add)
        if streams:
            kind = _KINDS.get(call, "streams")
            most = limits.sessions if call == _SESSION else limits.streams
            if most is not None and load.open[kind] >= most:
                raise _reached(caller, f"{load.open[kind]} {kind} open, which is its limit; end some")
            load.enter(kind)

    def _load(self, name: str) -> _Load:
        load = self._of.get(name)
        if load is None:
            if len(self._of) >= CALLERS_MAX:
                idle = next((each for each, load in self._of.items() if not load.open.total()), None)
                if idle is not None:
                    del self._of[idle]
            load = self._of[name] = _Load()
        self._of.move_to_end(name)
        return load


class _Load:
    __slots__ = ("calls", "open", "tasks")

    def __init__(self) -> None:
        self.calls, self.tasks = _Rate(), _Rate()
        #: {kind of stream: how many are open}
        self.open: Counter[str] = Counter()

    def enter(self, kind: str) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self.open[kind] += 1

        def leave(_: asyncio.Task[Any]) -> None:
            self.open[kind] -= 1

        serving.add_done_callback(leave)


class _Rate:
    """How far a caller is ahead of its rate."""

    __slots__ = ("_ahead", "_at")

    def __init__(self) -> None:
        #: How much of it was not allowed yet at this time, in monotonic seconds.
        self._ahead, self._at = 0.0, 0.0

    def take(self, caller: Identity, number: int, per_second: float | None, now: float, what: str) -> None:
        """Takes some at once, if the caller is not too far ahead. A batch of any size passes then, and is waited for.

        Raises:
            Refusal: it is.
        """
        if per_second is None:
            return
        ahead = max(0.0, self._ahead - (now - self._at) * per_second)
        most = max(1.0, per_second * BURST_SECONDS)
        if ahead and ahead + min(number, most) > most:
            seconds = (ahead + min(number, most) - most) / per_second
            raise _reached(caller, f"its {per_second:g} {what} a second; repeat this in {max(seconds, 0.01):.2f} s")
        self._ahead, self._at = ahead + number, now

    def add(self, number: int) -> None:
        """Takes `number` more now, however far ahead the caller is then."""
        self._ahead += number


def _reached(caller: Identity, what: str) -> Refusal:
    return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, CALLER_LIMIT, f"{caller.words} has {what}")


_NONE = Limits()

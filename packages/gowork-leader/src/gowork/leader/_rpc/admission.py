"""Bounds how many calls may be open, and how many bytes of tasks may wait to be recorded, over all callers.

A request takes memory as soon as it is received. So calls are held back before gRPC receives their requests, which stay
with their senders. Few of the calls that may carry 4 MiB are let in at once. Many of the calls with one task are let
in, because a task usually is small. What is received beyond a bound in bytes is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from gowork.proto.status import Refusal, abort

#: {method: how many of its calls are let in at once}. As many batches fill a commit.
CALLS_MAX = {"ScheduleTasks": 32, "ScheduleTask": 4_096}
#: How many calls may wait for tasks, and how many watches may be open, over both ports. Further ones are refused.
WAITS_MAX = 10_000
WATCHES_MAX = 1_000
#: How many streams of submissions may be open, over both ports. Further ones are refused.
SUBMIT_STREAMS_MAX = 1_000
#: How many calls of all other methods together may be open. `sessions` counts the sessions, which are not among them.
OTHERS_MAX = 20_000
#: How many calls of one method of CALLS_MAX may be held back. Further ones are refused.
CALLS_HELD_BACK_MAX = 1_024
#: How many bytes of received tasks may wait to be recorded, over all calls. It is more than the largest batches that
#: are let in have together. In memory the tasks take about three times as much.
BYTES_WAITING_MAX = 256 << 20
#: About how many bytes a call takes besides its tasks.
_CALL_BYTES = 4 << 10

_SERVICE = "/scheduler.v1.SchedulerService/"
_SESSION = "/worker.v1.SessionService/Connect"
_GRPCS_OWN = "/grpc."


class HoldBack(grpc.aio.ServerInterceptor):
    """Lets a number of calls of each method in CALLS_MAX in at once, and holds further ones back, in their order.

    Refuses calls of other methods beyond a number.
    """

    def __init__(
        self, waits_max: int = WAITS_MAX, watches_max: int = WATCHES_MAX, others_max: int = OTHERS_MAX
    ) -> None:
        self._gates = {f"{_SERVICE}{method}": _Gate(number) for method, number in CALLS_MAX.items()}
        waits = _Total(waits_max, "calls that wait for tasks")
        watches = _Total(watches_max, "watches")
        self._others = _Total(others_max, "other calls")
        self._totals = {
            f"{_SERVICE}WaitTask": waits,
            f"{_SERVICE}WaitTasks": waits,
            f"{_SERVICE}WatchTasks": watches,
            f"{_SERVICE}SubmitTasks": _Total(SUBMIT_STREAMS_MAX, "streams of submissions"),
            # `sessions` has its own bound for them.
            _SESSION: _Total(math.inf, "sessions"),
        }
        #: Calls of health and reflection. They count among the others too.
        self._process_own = _Total(math.inf, "calls of gRPC's own services")

    @property
    def under_way(self) -> set[asyncio.Task[Any]]:
        """The asyncio tasks that serve calls of the leader's services now, without calls that are held back."""
        counted: list[_Gate | _Total] = [*self._gates.values(), *self._totals.values(), self._others]
        return set[asyncio.Task[Any]]().union(*(each.open for each in counted)) - self._process_own.open

    async def intercept_service(
        self, continuation: Callable[..., Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Lets the call in, holds it back or refuses it. gRPC calls this before it receives the request."""
        method = handler_call_details.method
        gate = self._gates.get(method)
        if gate is not None:
            if gate.held_back >= CALLS_HELD_BACK_MAX:
                return grpc.unary_unary_rpc_method_handler(_refuse)
            await gate.enter()
        else:
            total = self._totals.get(method, self._others)
            if not total.enter():
                return grpc.stream_stream_rpc_method_handler(total.refuse)
            if method.startswith(_GRPCS_OWN):
                self._process_own.enter()
        return await continuation(handler_call_details)


class _Total:
    """The open calls of some methods, by the asyncio tasks that serve them.

    gRPC serves each call in a task of its own, which also receives the request.
    """

    def __init__(self, number: float, what: str) -> None:
        self._number = number
        self._what = what
        self.open: set[asyncio.Task[Any]] = set()

    def enter(self) -> bool:
        """Counts the current call until it is over, however it ends. Returns whether it may be served."""
        if len(self.open) >= self._number:
            return False
        serving = asyncio.current_task()
        assert serving is not None
        self.open.add(serving)
        serving.add_done_callback(self.open.discard)
        return True

    async def refuse(self, requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        """Serves a call of any method by refusing it. The request is not read."""
        message = f"{self._number} {self._what} are open, which is this leader's limit; end some, or try again later"
        await abort(context, Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", message))


class _Gate:
    def __init__(self, number: int) -> None:
        self._places = asyncio.Semaphore(number)
        self.held_back = 0
        self.open: set[asyncio.Task[Any]] = set()

    async def enter(self) -> None:
        """Takes a place for the current call, and gives it back when the call is over, however it ends."""
        self.held_back += 1
        try:
            await self._places.acquire()
        finally:
            self.held_back -= 1
        serving = asyncio.current_task()
        assert serving is not None
        self.open.add(serving)
        serving.add_done_callback(self._leave)

    def _leave(self, serving: asyncio.Task[Any]) -> None:
        self.open.discard(serving)
        self._places.release()


async def _refuse(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    message = f"{CALLS_HELD_BACK_MAX} calls are held back already, which is the limit; repeat this one in a moment"
    await abort(context, Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MUCH_WAITING", message))


class Admission:
    """Counts the bytes of requests that wait for something.

    Args:
        bytes_max: how many may wait.
        what: what waits, and for what, as the refusal says it.
    """

    def __init__(self, bytes_max: int = BYTES_WAITING_MAX, what: str = "tasks wait to be recorded") -> None:
        self._bytes_max = bytes_max
        self._what = what
        self._waiting = 0

    @contextlib.contextmanager
    def taking(self, size: int) -> Iterator[None]:
        """Counts a call of `size` bytes for as long as it waits.

        Raises:
            Refusal: RESOURCE_EXHAUSTED: too many bytes wait already. A call is always taken when no other waits.
        """
        size += _CALL_BYTES
        if self._waiting and self._waiting + size > self._bytes_max:
            message = (
                f"{self._waiting} bytes of {self._what} and the limit is {self._bytes_max}; "
                "nothing of this call was taken: repeat it in a moment"
            )
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MUCH_WAITING", message)
        self._waiting += size
        try:
            yield
        finally:
            self._waiting -= size

"""Streams between workers and the leader: in order, late, cut at both ends or at one first, silent one way or both.

Each stream has the worker's own session code at one end and the leader's own service at the other. The frames between
them are the bytes that would travel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from sim_loop import STEP
from sim_seat import Seat
from sim_violation import Violation

from gowork.proto.worker.v1 import session_pb2 as session

if TYPE_CHECKING:
    from sim_worker import Life
    from sim_world import World

#: The times that a frame may take, in seconds.
QUICK = (0.0002, 0.001, 0.02, 0.2)
SLOW = (0.2, 0.7, 1.4)

#: How a call ended: code, details, trailing metadata.
_Status = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]
_BROKEN: _Status = (grpc.StatusCode.UNAVAILABLE, "the simulated network has broken the stream", ())
_NOBODY: _Status = (grpc.StatusCode.UNAVAILABLE, "nobody listens on the simulated network", ())
_CANCELLED: _Status = (grpc.StatusCode.CANCELLED, "the call was given up", ())


class Link:
    """One stream. A worker may have a new stream while its frames on an old one are still under way."""

    def __init__(self, world: World, seat: Seat, life: Life, call: SimCall, connection: int) -> None:
        self._world, self.seat, self._life, self._call = world, seat, life, call
        self.connection = connection
        #: The worker's credit, as far as the leader has heard.
        self.credit = 0
        self.delays: tuple[float, ...] = QUICK
        self._alive, self._greeted = True, False
        self._muted: set[str] = set()
        #: By how many seconds frames arrive later since the worker gave the stream up; None before that.
        self._late: float | None = None
        self._last = {"up": 0.0, "down": 0.0}
        #: The frames that have arrived at the leader, and the task that serves the stream there.
        self._requests: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._handler: asyncio.Task[None] | None = None

    def send(self, frame: bytes) -> None:
        """Sends a frame from the worker to the leader."""
        self._later("up", self._receive, frame)

    def cut(self) -> None:
        """Breaks the stream: frames under way are lost, and each end sees the break in its own time."""
        if not self._alive:
            return
        self._end()
        loop, rng = self._world.loop, self._world.rng
        loop.later(rng.uniform(0.0, 0.5), self.cancel_handler)
        loop.later(rng.uniform(0.0, 0.5), self._call.end, _BROKEN)

    def linger(self) -> None:
        """Breaks the stream at the worker's end. Frames that it has sent arrive late, and the end after them."""
        if not self._greeted:
            # A leader could not tell a Hello that arrives after a later one of its instance from a new one.
            self.cut()
        elif self._alive and self._late is None:
            self._late = self._world.rng.uniform(0.1, 3.0)
            self._later("up", self._close)
            self._world.loop.later(0.0, self._call.end, _BROKEN)

    def give_up(self) -> None:
        """Takes the worker's cancel of the call."""
        if not self._greeted:
            self.cut()
        elif self._alive and self._late is None:
            self._later("up", self._close)

    def silence(self, way: str, seconds: float) -> None:
        """Drops all frames of a way ("up", "down", "both") without a sign; the stream breaks after `seconds`."""
        self._muted |= {"up", "down"} if way == "both" else {way}
        self._world.loop.later(seconds, self.cut)

    @property
    def carries(self) -> bool:
        """Whether the worker uses the stream, and nothing keeps its heartbeats from the leader."""
        return self._alive and not self._muted and self._late is None and not self._call.is_over and self._life.is_alive

    def heal(self) -> None:
        """Ends the faults; a stream that has lost frames breaks."""
        self.delays = QUICK
        if self._muted:
            self.cut()

    def cancel_handler(self) -> None:
        """Shows the leader's end that the stream is gone."""
        if self._handler is not None:
            self._handler.cancel()

    # The leader's end.

    def __aiter__(self) -> Link:
        return self

    async def __anext__(self) -> session.ConnectRequest:
        while not self._requests:
            self._arrived.clear()
            await self._arrived.wait()
        request = session.ConnectRequest.FromString(self._requests.popleft())
        self.credit = max([self.credit, *request.credit])
        return request

    def invocation_metadata(self) -> tuple[()]:
        """No leader has forwarded this call."""
        return ()

    def peer(self) -> str:
        """Plays grpc.aio.ServicerContext.peer."""
        return "sim"

    def _receive(self, frame: bytes) -> None:
        if self._handler is None:
            self._greeted = True
            self._handler = self._world.loop.create_task(self._serve(), context=self.seat.context)
        self._requests.append(frame)
        self._arrived.set()

    async def _serve(self) -> None:
        context = SimContext()
        # The service takes the next number when a call begins.
        sessions = self.seat.sessions
        sessions._numbers = iter((self.connection,))  # type: ignore[assignment]
        try:
            async for response in sessions.Connect(self, context):  # type: ignore[arg-type]
                if response.HasField("welcome"):
                    response.welcome.reads_completions = self._world.reads_completions
                self._later("down", self._call.deliver, response.SerializeToString())
        except grpc.aio.AbortError:
            if context.status[0] is grpc.StatusCode.INTERNAL:
                self._world.found(Violation("no frame is beyond the leader", context.status[1]))
        self._later("down", self._finish, context.status)

    def _finish(self, status: _Status) -> None:
        self._end()
        self._call.end(status)

    def _close(self) -> None:
        self._end()
        self.cancel_handler()

    def _end(self) -> None:
        self._alive = False
        self._world.links.pop(self.connection, None)

    # The way between the ends.

    def _later(self, way: str, function: Callable[..., object], *args: object) -> None:
        loop = self._world.loop
        # Frames keep their order, however long each one takes.
        at = max(self._last[way] + STEP, loop.now + self._world.rng.choice(self.delays))
        self._last[way] = at
        loop.at(at, self._arrive, way, function, args)

    def _arrive(self, way: str, function: Callable[..., object], args: tuple[object, ...]) -> None:
        if not self._alive or way in self._muted:
            return
        if way == "down":
            function(*args)
        elif self.seat.is_open:
            if self._late is None:
                function(*args)
            else:
                self._world.loop.later(self._late, self._arrive_late, function, args)

    def _arrive_late(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        if self._alive and self.seat.is_open:
            if function != self._close:
                self._world.trace.seen["network: a frame of an old stream arrives late"] += 1
            function(*args)


class SimContext:
    """Plays grpc.aio.ServicerContext, as far as the leader's service needs it."""

    def __init__(self) -> None:
        self.status: _Status = (grpc.StatusCode.OK, "", ())

    def invocation_metadata(self) -> tuple[()]:
        """No leader has forwarded this call."""
        return ()

    def peer(self) -> str:
        return "sim"

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        self.status = (code, details, tuple(trailing_metadata))
        raise grpc.aio.AbortError


class SimChannel:
    """Plays grpc.aio.Channel, as far as the worker's session needs it."""

    def __init__(self, world: World, life: Life) -> None:
        self._world, self._life = world, life

    def stream_stream(
        self, method: str, request_serializer: Callable[..., bytes], response_deserializer: Any, **_: Any
    ) -> Callable[[], SimCall]:
        return lambda: SimCall(self._world, self._life, request_serializer, response_deserializer)

    async def close(self) -> None:
        """Does nothing: its calls are over by then."""


class SimCall:
    """Plays grpc.aio.StreamStreamCall, as far as the worker's session needs it. Its checkers see every frame."""

    def __init__(
        self,
        world: World,
        life: Life,
        serialize: Callable[[session.ConnectRequest], bytes],
        parse: Callable[[bytes], session.ConnectResponse],
    ) -> None:
        self._life, self._serialize, self._parse = life, serialize, parse
        self._frames: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._status: _Status | None = None
        self._link = world.connect(life, self)
        if self._link is None:
            world.loop.later(world.rng.uniform(0.0, 0.2), self.end, _NOBODY)

    @property
    def is_over(self) -> bool:
        return self._status is not None

    async def write(self, request: session.ConnectRequest) -> None:
        if self._status is not None:
            raise asyncio.InvalidStateError("the call is over")
        if self._link is not None:
            self._life.sends(self._link, request)
            self._link.send(self._serialize(request))

    async def read(self) -> Any:
        while not self._frames:
            if self._status is _CANCELLED:
                raise asyncio.CancelledError
            if self._status is not None:
                if self._status[0] is grpc.StatusCode.OK:
                    return grpc.aio.EOF
                raise self._error()
            self._changed.clear()
            try:
                await self._changed.wait()
            except asyncio.CancelledError:
                self.cancel()
                raise
        response = self._parse(self._frames.popleft())
        self._life.reads(response)
        return response

    def cancel(self) -> None:
        if self._status is None:
            self.end(_CANCELLED)
            if self._link is not None:
                self._link.give_up()

    def deliver(self, frame: bytes) -> None:
        """Takes a frame that has arrived."""
        if self._status is None:
            self._frames.append(frame)
            self._changed.set()

    def end(self, status: _Status) -> None:
        """Ends the call for the worker, with this status."""
        if self._status is None:
            self._status = status
            self._life.lost_stream()
            self._changed.set()

    async def code(self) -> grpc.StatusCode:
        assert self._status is not None
        return self._status[0]

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        assert self._status is not None
        return grpc.aio.Metadata(*self._status[2])

    async def details(self) -> str:
        assert self._status is not None
        return self._status[1]

    def _error(self) -> grpc.aio.AioRpcError:
        assert self._status is not None
        code, details, trailing = self._status
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)

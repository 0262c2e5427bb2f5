"""The service worker.v1.SessionService: the streams of workers, in both directions.

Owns what is on its way to each worker. Effects gather while a stream is busy, and leave as one frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence

import grpc
from msgspec.structs import replace

from gowork.leader._access.rights import CALLER
from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.state import Settings
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusal_from, refusing
from gowork.leader._rpc.descriptions import Descriptions
from gowork.leader._rpc.hops import peer_of
from gowork.leader._rpc.mapping import frame_from, hello_from
from gowork.leader._rpc.schedule_messages import declared_from
from gowork.leader._rpc.validation import Violations, check_hello
from gowork.proto.status import FieldViolation, Refusal, invalid
from gowork.proto.worker.v1 import session_pb2 as pb

#: How many frames of one worker may wait for a batch. While as many wait, its stream is not read.
FRAMES_WAITING_MAX = 64
#: How many bytes of reports may wait for a batch, over all workers. Beyond that a stream is read again when its last
#: frame was dealt with, so each worker may add one frame. Unread frames wait with their workers.
REPORT_BYTES_WAITING_MAX = 32 << 20
#: How many fences (of grants, acknowledgements and the like) may wait for one worker to read them. The next one ends
#: its stream. They are several batches' worth, so that only a worker that does not read has so many.
FENCES_UNREAD_MAX = 100_000
#: The same over all workers. Beyond that the next effect for a stream with more than FENCES_SHARE of them ends it.
FENCES_UNREAD_ALL_MAX = 1_000_000
FENCES_SHARE = 1_000
#: How many streams may be open that have sent no Hello, besides the sessions. Further ones are refused.
STREAMS_WAITING_MAX = 1_000
#: A frame is closed after the task whose body brings it beyond this size.
FRAME_BYTES_MAX = 1 << 20
#: How long acknowledgements wait for something to travel with, in seconds.
ACKNOWLEDGE_SECONDS = 0.01
#: How long a connected worker has to send its Hello, in seconds.
HELLO_SECONDS = 10.0

_SessionEffect = (
    ef.Welcome
    | ef.GrantTasks
    | ef.Acknowledge
    | ef.ReleaseTasks
    | ef.CancelTasks
    | ef.DrainWorker
    | ef.Ping
    | ef.EndSession
)
_Context = grpc.aio.ServicerContext[pb.ConnectRequest, pb.ConnectResponse]
#: The answer to a heartbeat.
_ANSWER = pb.ConnectResponse()


class Sessions:
    """All sessions of this leader."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._numbers = itertools.count(1)
        #: {connection: stream}
        self._streams: dict[int, _Stream] = {}
        #: How many streams are being served, with those that have sent no Hello.
        self._open = 0
        self._report_bytes = 0
        self._unread = _Unread()
        #: What workers have told of their handlers.
        self.descriptions = Descriptions(self._mono)

    def _mono(self) -> float:
        assert self._engine is not None
        return self._engine.now().mono

    def attach(self, engine: Engine) -> None:
        """Sets the engine that frames go to. Call it before the server starts."""
        self._engine = engine

    def deliver(self, effect: _SessionEffect) -> None:
        """Puts an effect on its way.

        An effect for a stream that has ended is dropped, because the worker lists what it holds when it reconnects.
        """
        stream = self._streams.get(effect.connection)
        if stream is not None:
            stream.add(effect)

    def end_all(self, because: str) -> None:
        """Ends all streams. Workers go on with their running tasks and look for a leader.

        Args:
            because: what the workers are told.
        """
        refusal = cmd.Refused(cmd.RefusalCode("UNAVAILABLE", "NOT_SERVING"), because)
        for connection, stream in self._streams.items():
            stream.add(ef.EndSession(connection, refusal))

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: _Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        engine = self._engine
        assert engine is not None
        connection = next(self._numbers)
        async with refusing(context), self._counted():
            hello = await self._hello(request_iterator)
            stream = self._streams[connection] = _Stream(self._unread)
            schedules, faults = declared_from(hello)
            hello.plugin_errors.extend(faults)
            command = hello_from(hello, connection, peer_of(context))
            engine.post(replace(command, schedules=schedules) if schedules else command)
            is_known = False
            reader = asyncio.create_task(self._read(request_iterator, connection, engine, stream))
            try:
                while True:
                    effects, answers = await stream.take()
                    if effects:
                        for frame in self._frames(effects, engine):
                            yield frame
                        if not is_known and any(isinstance(effect, ef.Welcome) for effect in effects):
                            is_known = True
                            stream.ask(self.descriptions.open(connection, hello.handlers))
                    for frame in stream.questions():
                        yield frame
                    for _ in range(answers):
                        yield _ANSWER
                    if stream.ending is not None:
                        if stream.ending.refusal is not None:
                            raise refusal_from(stream.ending.refusal)
                        return
                    if stream.closed:
                        # If a frame was refused, the reader raises its refusal, which ends the stream.
                        await reader
                        return
            finally:
                del self._streams[connection]
                for other, digests in self.descriptions.close(connection).items():
                    if other in self._streams:
                        self._streams[other].ask(digests)
                stream.end()
                engine.post(cmd.CloseSession(connection))
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        if self._open >= self._settings.sessions_max + STREAMS_WAITING_MAX:
            message = f"{self._open} streams of workers are open, which is this leader's limit; try again later"
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_SESSIONS", message)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def _hello(self, requests: AsyncIterator[pb.ConnectRequest]) -> pb.Hello:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                request = await anext(requests)
        except (TimeoutError, StopAsyncIteration):
            message = f"no hello came within {HELLO_SECONDS:g} s; send it as the first frame"
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "NO_HELLO", message) from None
        if not request.HasField("hello"):
            raise invalid([FieldViolation("hello", "is missing in the first frame")])
        violations: Violations = []
        check_hello(request.hello, violations)
        if violations:
            raise invalid(violations)
        _check_bounds(request.hello)
        return request.hello

    async def _read(
        self, requests: AsyncIterator[pb.ConnectRequest], connection: int, engine: Engine, stream: _Stream
    ) -> None:
        waiting: deque[asyncio.Future[None]] = deque()
        try:
            async for request in requests:
                if request.HasField("hello"):
                    raise invalid([FieldViolation("hello", "is for the first frame alone; open a new stream")])
                if stream.ending is not None:
                    # The worker has no session from now on. The reason waits behind what it has not read.
                    engine.post(cmd.CloseSession(connection))
                    return
                if request.descriptions:
                    self.descriptions.take(connection, request.descriptions)
                while waiting and waiting[0].done():
                    waiting.popleft()
                post = engine.post_frame
                if not (request.reports or request.completions) and not request.ByteSize():
                    # A heartbeat is answered here and not when its batch is durable, which takes long when the disk is
                    # full. The answer says only that this leader has heard the worker. Waiting frames are dealt with
                    # before any lease ends.
                    stream.answer()
                    if waiting:
                        # A frame that waits already renews the lease as well.
                        continue
                    post = engine.post_heartbeat
                dealt_with = post(frame_from(request, connection, engine.wall_ns))
                waiting.append(dealt_with)
                if request.reports or request.completions:
                    self._count(request.ByteSize(), dealt_with)
                # Freed before the wait for the next request.
                del request
                while len(waiting) >= FRAMES_WAITING_MAX or (waiting and self._report_bytes > REPORT_BYTES_WAITING_MAX):
                    await waiting.popleft()
        finally:
            stream.close()

    def _count(self, size: int, dealt_with: asyncio.Future[None]) -> None:
        self._report_bytes += size

        def uncount(_: asyncio.Future[None]) -> None:
            self._report_bytes -= size

        dealt_with.add_done_callback(uncount)

    def _frames(self, effects: Sequence[_SessionEffect], engine: Engine) -> Iterator[pb.ConnectResponse]:
        # One frame at a time, because the bodies of tasks are copied and may be large.
        frame, size = pb.ConnectResponse(), 0
        for effect in effects:
            match effect:
                case ef.GrantTasks():
                    for grant in effect.grants:
                        spec, attempt = grant.spec, grant.attempt
                        task = spec.body + spec.trace
                        # Assigned one by one, because keywords cost twice as much.
                        message = frame.grants.add()
                        message.fence = grant.fence
                        message.id = spec.id
                        message.attempt = attempt
                        message.task = task
                        if grant.alone:
                            message.alone = True
                        if grant.previous:
                            message.previous_traceparent = grant.previous
                        if grant.used != attempt - 1:
                            message.attempts_used = grant.used
                        if grant.others:
                            message.in_other_forms = True
                        if grant.continued:
                            message.continued = grant.continued
                        if grant.checkpoint:
                            message.checkpoint = grant.checkpoint
                            size += len(grant.checkpoint)
                        size += len(task)
                        if size > FRAME_BYTES_MAX:
                            yield frame
                            frame, size = pb.ConnectResponse(), 0
                case ef.Acknowledge():
                    frame.acknowledged.extend(effect.fences)
                    frame.refused.extend(effect.refused)
                case ef.CancelTasks():
                    frame.cancelled.extend(effect.fences)
                case ef.ReleaseTasks():
                    frame.released.extend(effect.fences)
                case ef.DrainWorker():
                    frame.drains.add(budget_ms=effect.budget_ms)
                case ef.Ping():
                    frame.pings.append(1)
                case ef.Welcome():
                    frame.welcome.term = engine.opened.term
                    frame.welcome.lease_ms = int(self._settings.lease * 1000)
                    # Two heartbeats may be lost before the lease runs out.
                    frame.welcome.heartbeat_ms = int(self._settings.lease * 1000 / 3)
                    frame.welcome.reconnect_grace_ms = int(self._settings.reconnect_grace * 1000)
                    frame.welcome.reads_completions = True
                    frame.welcome.heeds_queues = True
                    frame.welcome.heeds_unique_keys = True
                    frame.welcome.heeds_on_lost = True
                    frame.welcome.keeps_checkpoints = True
                    frame.welcome.heeds_schedules = True
                    frame.welcome.heeds_continuations = True
                case ef.EndSession():
                    pass
        if frame.ByteSize():
            yield frame


def _check_bounds(hello: pb.Hello) -> None:
    """Raises Refusal: PERMISSION_DENIED: the worker may not run one of its handlers, or take from one of its queues."""
    caller = CALLER.get()
    if caller is None:
        return
    if caller.queues is not None and not hello.queues:
        message = f"{caller.words} is bound to queues, and takes tasks of all; name its queues by --queue"
        raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "OUT_OF_BOUNDS", message)
    for queue in hello.queues:
        if not caller.may_queue(queue):
            message = f"{caller.words} may not take tasks of the queue {queue!r}; name its queues by --queue"
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "OUT_OF_BOUNDS", message)
    # A worker's default handler runs tasks that name none.
    for name in [info.name for info in hello.handlers] + [""] * any(info.is_default for info in hello.handlers):
        if not caller.may_handler(name):
            if name:
                told = f"the handler {name!r}; name its handlers by --handler"
            else:
                told = (
                    "tasks that name no handler, as its default handler does; "
                    """start it with --default-handler "", or add "" to its handlers in the access file"""
                )
            message = f"{caller.words} may not run {told}"
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "OUT_OF_BOUNDS", message)


class _Unread:
    """Counts the fences that wait for workers to read them, over all workers."""

    __slots__ = ("fences",)

    def __init__(self) -> None:
        self.fences = 0


class _Stream:
    """What is on its way to one worker."""

    __slots__ = (
        "_all",
        "_answers",
        "_asked",
        "_effects",
        "_event",
        "_late",
        "_unread",
        "_welcomed",
        "closed",
        "ending",
    )

    def __init__(self, unread: _Unread) -> None:
        """`unread` counts the fences of all workers."""
        self._all = unread
        self._effects: list[_SessionEffect] = []
        #: How many fences are in the effects.
        self._unread = 0
        #: How many heartbeats are to be answered. Each gets an empty frame of its own, so that the worker can count.
        self._answers = 0
        self._welcomed = False
        #: Digests of descriptions that the worker is to be asked for. They are among those that its Hello named.
        self._asked: list[str] = []
        self._event = asyncio.Event()
        #: Sends acknowledgements that had nothing to travel with.
        self._late: asyncio.TimerHandle | None = None
        #: The last effect of this stream; None: it is not to end.
        self.ending: ef.EndSession | None = None
        #: Whether the worker sends no more.
        self.closed = False

    def add(self, effect: _SessionEffect) -> None:
        if self.ending is not None:
            return
        limit = FENCES_UNREAD_MAX if self._all.fences <= FENCES_UNREAD_ALL_MAX else FENCES_SHARE
        if self._unread > limit and not isinstance(effect, ef.EndSession):
            message = f"the worker has not read {self._unread} grants and answers; the limit is {limit}"
            behind = cmd.RefusalCode("RESOURCE_EXHAUSTED", "SESSION_BEHIND")
            # What is dropped here is decided again when the worker reconnects.
            self._effects.clear()
            effect = ef.EndSession(effect.connection, cmd.Refused(behind, message))
        if isinstance(effect, ef.EndSession):
            self.ending = effect
        else:
            self._effects.append(effect)
            fences = _fences_of(effect)
            self._unread += fences
            self._all.fences += fences
            self._welcomed = self._welcomed or isinstance(effect, ef.Welcome)
            if isinstance(effect, ef.Acknowledge):
                # Nobody waits for an acknowledgement, so it travels with the next grants.
                if self._late is None:
                    self._late = asyncio.get_running_loop().call_later(ACKNOWLEDGE_SECONDS, self._event.set)
                return
        self._event.set()

    def answer(self) -> None:
        """Answers a heartbeat."""
        self._answers += 1
        self._event.set()

    def ask(self, digests: Sequence[str]) -> None:
        """Asks for descriptions of handlers. Call it after the Welcome was sent."""
        if digests:
            self._asked.extend(digests)
            self._event.set()

    def questions(self) -> Iterator[pb.ConnectResponse]:
        """Yields the frame that asks for descriptions, if there are any to ask for."""
        if self._asked:
            asked, self._asked = self._asked, []
            yield pb.ConnectResponse(describe=asked)

    def close(self) -> None:
        self.closed = True
        self._event.set()

    def end(self) -> None:
        """Uncounts the fences of this stream, because none of them waits any more."""
        self._all.fences -= self._unread
        self._unread = 0

    async def take(self) -> tuple[list[_SessionEffect], int]:
        """Waits for something to send. Returns the effects, and how many heartbeats to answer."""
        await self._event.wait()
        self._event.clear()
        if self._late is not None:
            self._late.cancel()
            self._late = None
        taken, self._effects = self._effects, []
        self.end()
        # Heartbeats are answered after the Welcome, which must be the first frame.
        answers = self._answers if self._welcomed else 0
        self._answers -= answers
        return taken, answers


def _fences_of(effect: _SessionEffect) -> int:
    match effect:
        case ef.GrantTasks():
            return len(effect.grants)
        case ef.Acknowledge() | ef.CancelTasks() | ef.ReleaseTasks():
            return len(effect.fences)
        case _:
            return 1

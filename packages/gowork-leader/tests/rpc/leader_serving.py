"""A leader in this process on free ports, the calls that tests make to it, and a worker's session spoken by hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from gowork.base.channels import open_channel
from gowork.leader import Addresses, Leader
from gowork.leader._core.state import Settings
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.cluster.v1 import leader_pb2_grpc as cluster_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as scheduler_grpc
from gowork.proto.status import Refusal, refusal_of
from gowork.proto.worker.v1 import session_pb2 as spb
from gowork.proto.worker.v1 import session_pb2_grpc as session_grpc

#: For whoever waits for the leader, in seconds: longer than anything takes, shorter than a test may.
PATIENCE = 120.0

COMPLETED = pb.ATTEMPT_OUTCOME_COMPLETED


class ServedLeader:
    """A leader that serves, seen through one of its ports."""

    def __init__(self, addresses: Addresses, channel: grpc.aio.Channel, stopped: asyncio.Event) -> None:
        self.addresses = addresses
        self.channel = channel
        self.stopped = stopped
        self.scheduler: Any = scheduler_grpc.SchedulerServiceStub(channel)
        self.cluster: Any = cluster_grpc.LeaderServiceStub(channel)
        self._sessions = session_grpc.SessionServiceStub(channel)

    async def submit(self, *ids: str, **fields: Any) -> pb.ScheduleTasksResponse:
        """Schedules these tasks in one batch, with the same fields."""
        fields.setdefault("handler", "h")
        tasks = [pb.Task(id=id, **fields) for id in ids]
        return await self.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)

    async def get(self, id: str) -> pb.Task:
        return (await self.scheduler.GetTask(pb.GetTaskRequest(id=id), timeout=PATIENCE)).task

    async def finished(self, *ids: str, **fields: Any) -> dict[str, pb.Task]:
        """Waits for these tasks to finish."""
        request = pb.WaitTasksRequest(ids=ids, **fields)
        return {
            task.id: task
            async for response in self.scheduler.WaitTasks(request, timeout=PATIENCE)
            for task in response.tasks
        }

    async def list(self, **fields: Any) -> Sequence[pb.Task]:
        """All pages."""
        request = pb.ListTasksRequest(**fields)
        tasks: list[pb.Task] = []
        while True:
            response = await self.scheduler.ListTasks(request, timeout=PATIENCE)
            tasks += response.tasks
            request.page_token = response.next_page_token
            if not request.page_token:
                return tasks

    def unary_unary(self, method: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """A method, called with the bytes of a request."""
        return self.channel.unary_unary(method)

    def unary_stream(self, method: str) -> grpc.aio.UnaryStreamMultiCallable[bytes, bytes]:
        """As unary_unary."""
        return self.channel.unary_stream(method)

    def stream_stream(self, method: str) -> grpc.aio.StreamStreamMultiCallable[bytes, bytes]:
        """As unary_unary."""
        return self.channel.stream_stream(method)

    def session(self) -> Session:
        """A stream that is open and silent."""
        return Session(self._sessions.Connect())

    @asynccontextmanager
    async def worker(self, name: str = "w", *, credit: int = 1_000_000, **hello: Any) -> AsyncIterator[Session]:
        """A worker that has been welcomed and has given credit; it leaves at the end."""
        session = self.session()
        await session.hello(name, **hello)
        await session.welcome()
        if credit:
            await session.send(credit=[credit])
        try:
            yield session
        finally:
            session.call.cancel()


class Session:
    """A worker's side of a session."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._grants: deque[spb.Grant] = deque()
        self._drains: deque[spb.Drain] = deque()
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.released: set[int] = set()
        self.cancelled: set[int] = set()
        self.pings = 0
        #: gRPC takes one write of a call at a time, and a test may send heartbeats beside what else it sends.
        self._writing = asyncio.Lock()

    async def hello(
        self,
        name: str = "w",
        *,
        instance: str = "",
        slots: int = 100,
        handlers: Iterable[str | spb.HandlerInfo] = ("h",),
        **fields: Any,
    ) -> None:
        infos = [
            spb.HandlerInfo(name=handler, is_default=handler == "default") if isinstance(handler, str) else handler
            for handler in handlers
        ]
        hello = spb.Hello(name=name, instance=instance or f"{name}-1", slots=slots, handlers=infos, **fields)
        await self.send(hello=hello)

    async def send(self, **fields: Any) -> None:
        async with self._writing:
            await self.call.write(spb.ConnectRequest(**fields))

    async def welcome(self) -> spb.Welcome:
        """The first frame."""
        frame = await self.frame()
        assert frame.HasField("welcome")
        return frame.welcome

    async def frame(self) -> spb.ConnectResponse:
        """The next frame, taken account of.

        Raises:
            AioRpcError: when the leader has ended the stream with an error.
            EOFError: when it has ended the stream with OK.
        """
        async with asyncio.timeout(PATIENCE):
            frame = await self.call.read()
            if frame is grpc.aio.EOF:
                code = await self.call.code()
                if code is not grpc.StatusCode.OK:
                    raise grpc.aio.AioRpcError(
                        code,
                        await self.call.initial_metadata(),
                        await self.call.trailing_metadata(),
                        details=await self.call.details(),
                    )
                raise EOFError
        self._grants += frame.grants
        self.acknowledged |= set(frame.acknowledged)
        self.refused |= set(frame.refused)
        self.released |= set(frame.released)
        self.cancelled |= set(frame.cancelled)
        self.pings += len(frame.pings)
        self._drains += frame.drains
        return frame

    async def drain(self) -> int:
        """The budget of the next request to drain."""
        while not self._drains:
            await self.frame()
        return self._drains.popleft().budget_ms

    async def grant(self) -> spb.Grant:
        """The next grant."""
        while not self._grants:
            await self.frame()
        return self._grants.popleft()

    async def grants(self, number: int) -> list[spb.Grant]:
        return [await self.grant() for _ in range(number)]

    async def report(self, *grants: spb.Grant, outcome: pb.AttemptOutcome.ValueType = COMPLETED, **fields: Any) -> None:
        """Reports on these, and returns when the leader has acknowledged that."""
        reports = [spb.Report(fence=grant.fence, id=grant.id, outcome=outcome, **fields) for grant in grants]
        await self.send(reports=reports)
        while not self.acknowledged >= {grant.fence for grant in grants}:
            await self.frame()

    async def complete(self, *grants: spb.Grant, **columns: Any) -> None:
        """Reports by columns that these have completed, and returns when the leader has acknowledged that."""
        ids, fences = [grant.id for grant in grants], [grant.fence for grant in grants]
        await self.send(completions=[spb.Completions(ids=ids, fences=fences, execution_us=fences, **columns)])
        while not self.acknowledged >= set(fences):
            await self.frame()

    async def refusal(self) -> Refusal:
        """Why the leader ends the stream."""
        return await refused(self._to_the_end())

    async def _to_the_end(self) -> None:
        while True:
            await self.frame()


@asynccontextmanager
async def serving(
    folder: Path, *, settings: Settings | None = None, port: str = "scheduler", **options: Any
) -> AsyncIterator[ServedLeader]:
    """Runs a leader with its store in this folder, on free ports; it is stopped at the end."""
    listen: dict[str, Any] = {f"{name}_listen": "127.0.0.1:0" for name in ("cluster", "scheduler", "http")}
    leader = Leader(SqliteStore(folder / "leader.db"), settings=settings, **listen | options)
    started: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    stopped = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(leader.run(started, stopped))
        first: set[asyncio.Future[Any]] = {running, started}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        addresses = started.result()
        try:
            async with open_channel([getattr(addresses, port)]) as channel:
                yield ServedLeader(addresses, channel, stopped)
        finally:
            stopped.set()


async def refused(call: Awaitable[Any]) -> Refusal:
    """How the leader refuses this call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, PATIENCE)
    return refusal_of(caught.value)


async def stream_refused(call: Any) -> Refusal:
    """How the leader ends this stream of responses."""

    async def to_the_end() -> None:
        async for _ in call:
            pass

    return await refused(to_the_end())

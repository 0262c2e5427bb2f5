"""A scripted leader, and workers to go with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest

from gowork.base.channels import SERVER_OPTIONS
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.completions import reports_of
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.status import Refusal, abort
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.proto.worker.v1 import session_pb2_grpc
from gowork.worker._app.service import Service
from gowork.worker._core.options import Options
from gowork.worker._core.selection import Selection

MODULES = Path(__file__).parent / "modules"
#: No test waits longer for anything; each fails with a timeout instead.
PATIENCE = 120.0


class ScriptedSession:
    """One session as the leader sees it: the test says what is sent, and looks at what came."""

    def __init__(self, hello: session.Hello) -> None:
        self.hello = hello
        self.reports: dict[int, session.Report] = {}
        self.frames: list[session.ConnectRequest] = []
        self.progress: dict[int, session.ProgressReport] = {}
        self.condition = session.Condition()
        self.pongs: list[int] = []
        self.credit = 0
        self.closed = asyncio.Event()
        self._changed = asyncio.Event()
        self._outgoing: asyncio.Queue[session.ConnectResponse | grpc.StatusCode] = asyncio.Queue()

    def send(self, **fields: Any) -> None:
        self._outgoing.put_nowait(session.ConnectResponse(**fields))

    def grant(self, fence: int, handler: str = "", payload: str = "", *, alone: bool = False, **fields: Any) -> None:
        task = tasks.Task(id=f"task-{fence}", handler=handler, payload=payload, **fields)
        self.send(
            grants=[
                session.Grant(fence=fence, id=task.id, attempt=1, task=task.SerializeToString(), alone=alone),
            ]
        )

    def acknowledge(self, *fences: int) -> None:
        self.send(acknowledged=fences)

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
        self._outgoing.put_nowait(code)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Waits until what has come makes this true, and answers it."""
        async with asyncio.timeout(PATIENCE):
            while not (found := condition()):
                await self._changed.wait()
                self._changed.clear()
        return found

    async def report(self, fence: int) -> session.Report:
        return await self.until(lambda: self.reports.get(fence))

    async def started(self, fence: int) -> str:
        """Waits for a handler's first word, and answers it."""
        word: session.ProgressReport = await self.until(lambda: self.progress.get(fence))
        return word.message

    def take(self, frame: session.ConnectRequest) -> None:
        self.frames.append(frame)
        self.reports.update((report.fence, report) for report in frame.reports)
        for completions in frame.completions:
            self.reports.update((report.fence, report) for report in reports_of(completions))
        self.progress.update((word.fence, word) for word in frame.progress)
        self.pongs += frame.pongs
        self.credit = max([self.credit, *frame.credit])
        for condition in frame.conditions:
            self.condition = condition
        if self.condition.draining and self.reports:
            # So that no test waits for what a real leader would do.
            self.acknowledge(*self.reports)
        if self.condition.leaving:
            self.end()
        self._changed.set()

    async def outgoing(self) -> session.ConnectResponse | grpc.StatusCode:
        return await self._outgoing.get()


#: ScriptedLeader has a method by the name of this module.
Requests = AsyncIterator[session.ConnectRequest]
Responses = AsyncIterator[session.ConnectResponse]


class ScriptedLeader(session_pb2_grpc.SessionServiceServicer, leader_pb2_grpc.LeaderServiceServicer):
    def __init__(self) -> None:
        self.term = 1
        self.lease_ms = 10_000
        self.heartbeat_ms = 3_000
        self.reconnect_grace_ms = 1_000
        self.reads_completions = self.heeds_queues = self.heeds_unique_keys = self.heeds_continuations = True
        self.heeds_on_lost = self.heeds_schedules = True
        self.refusal: grpc.StatusCode | Refusal | None = None
        #: How many sessions were refused.
        self.refused = 0
        #: How the next calls are refused before anything is read, in turn.
        self.unread_refusals: list[Refusal] = []
        #: The hint in its answers: the address of the one that leads.
        self.hint = ""
        #: Comes with each Welcome.
        self.drain: session.Drain | None = None
        self.released: list[int] = []
        #: What it says of the leaders, and is set when it is asked.
        self.leaders = leader_pb2.LeadersResponse()
        self.asked = asyncio.Event()
        #: Whether heartbeats are answered.
        self.answers = True
        #: How many more sessions get no Welcome, as if a balancer had chosen a leader whose process is stopped.
        self.hangs = 0
        self.port = 0
        self._sessions: asyncio.Queue[ScriptedSession] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = grpc.aio.server(options=list(SERVER_OPTIONS))
        session_pb2_grpc.add_SessionServiceServicer_to_server(self, self._server)
        leader_pb2_grpc.add_LeaderServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    def says_leads(self, term: int, address: str, *others: str) -> None:
        """Has it say that the leader at this address leads, and that there are others."""
        self.leaders = leader_pb2.LeadersResponse(log=leader_pb2.Log(generation="g"))
        self.leaders.leaders.add(leads=True, term=term, cluster_address=address)
        for other in others:
            self.leaders.leaders.add(cluster_address=other)

    async def Leaders(self, request: leader_pb2.LeadersRequest, context: Any) -> leader_pb2.LeadersResponse:
        self.asked.set()
        return self.leaders

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def session(self) -> ScriptedSession:
        """The next session that a worker opens."""
        async with asyncio.timeout(PATIENCE):
            return await self._sessions.get()

    async def Connect(self, request_iterator: Requests, context: Any) -> Responses:
        if self.hint:
            await context.send_initial_metadata((("gowork-leader", self.hint),))
        if self.unread_refusals:
            await abort(context, self.unread_refusals.pop(0))
        first = await anext(request_iterator)
        if self.refusal is not None:
            self.refused += 1
        if isinstance(self.refusal, Refusal):
            await abort(context, self.refusal)
        if self.refusal is not None:
            await context.abort(self.refusal, "scripted")
        if self.hangs:
            self.hangs -= 1
            await asyncio.Event().wait()
        scripted = ScriptedSession(first.hello)
        yield session.ConnectResponse(
            welcome=session.Welcome(
                term=self.term,
                lease_ms=self.lease_ms,
                heartbeat_ms=self.heartbeat_ms,
                reconnect_grace_ms=self.reconnect_grace_ms,
                reads_completions=self.reads_completions,
                heeds_queues=self.heeds_queues,
                heeds_unique_keys=self.heeds_unique_keys,
                heeds_continuations=self.heeds_continuations,
                heeds_on_lost=self.heeds_on_lost,
                heeds_schedules=self.heeds_schedules,
            ),
            drains=[self.drain] if self.drain is not None else [],
            released=self.released,
        )
        self._sessions.put_nowait(scripted)

        async def read() -> None:
            async for frame in request_iterator:
                if self.answers and not frame.ByteSize():
                    scripted.send()
                scripted.take(frame)

        reader = asyncio.ensure_future(read())
        try:
            while True:
                outgoing = await scripted.outgoing()
                if outgoing is grpc.StatusCode.OK:
                    return
                if isinstance(outgoing, grpc.StatusCode):
                    await context.abort(outgoing, "scripted")
                else:
                    yield outgoing
        finally:
            reader.cancel()
            await asyncio.wait([reader])
            scripted.closed.set()


@pytest.fixture
async def leader() -> AsyncIterator[ScriptedLeader]:
    scripted = ScriptedLeader()
    await scripted.start()
    yield scripted
    await scripted.stop()


WorkerFactory = Callable[..., Awaitable[Service]]


@pytest.fixture
async def start_worker(leader: ScriptedLeader, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkerFactory]:
    """Starts workers for the scripted leader: in process with `handlers`, else with the sample module in runner
    processes.
    """
    monkeypatch.syspath_prepend(str(MODULES))
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            handlers: Iterable[Callable[..., Any]] = (),
            *,
            slots: int = 2,
            runners: int = 0,
            addresses: list[str] | None = None,
            selection: Selection | None = None,
            **options: Any,
        ) -> Service:
            selection = selection or Selection(plugins=("echo",), imports=("worker_sample",) if runners else ())
            service = Service(
                Options(
                    name=f"test-{secrets.token_hex(3)}",
                    slots=slots,
                    runners=runners,
                    selection=selection,
                    functions=tuple(handlers),
                    **options,
                ),
                addresses or [leader.address],
            )
            task = asyncio.ensure_future(service.run())

            async def finish() -> None:
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    await task

            stack.push_async_callback(finish)
            service.task = task  # type: ignore[attr-defined]
            return service

        yield start


def exists(pid: int) -> bool:
    """Whether a process runs; zombies, which wait for somebody else to reap them, do not."""
    if sys.platform.startswith("linux"):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


Eventually = Callable[[Callable[[], Any]], Awaitable[Any]]


@pytest.fixture
def eventually() -> Eventually:
    """Waits until a condition is true that no event tells of, such as the work of a thread or of another process."""

    async def eventually(condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not (found := condition()):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.002)
        return found

    return eventually


@pytest.fixture
def process_exists() -> Callable[[int], bool]:
    return exists

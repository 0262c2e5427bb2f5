"""What a call has acknowledged is there when the leader ends right after the answer.

Each test asks one leader and looks at the next one: at a leader that starts with what a lone one has left in its files,
and at one that takes over from another that can reach the log no more.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from leader_process import running
from leader_serving import PATIENCE, ServedLeader, refused, serving
from several_leaders import Several, several

from gowork.base.channels import open_channel
from gowork.leader import Addresses
from gowork.leader._replication import registers
from gowork.leader._replication.announcement import Announcement
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import session_pb2 as spb
from gowork.proto.worker.v1 import worker_pb2 as wpb
from gowork.proto.worker.v1 import worker_pb2_grpc

PENDING, RUNNING, COMPLETED = pb.TASK_STATUS_PENDING, pb.TASK_STATUS_RUNNING, pb.TASK_STATUS_COMPLETED
LIVE, DRAINING = cpb.MEMBER_LIVENESS_LIVE, cpb.MEMBER_LIVENESS_DRAINING
#: Nobody listens there.
NOWHERE = "127.0.0.1:1"


class House(Protocol):
    """A leader, and another one that goes on when it ends."""

    leader: ServedLeader

    async def kill(self) -> ServedLeader:
        """Ends the leader, and returns the next one when it answers."""


class Lone:
    """A leader with a store. The next one has a copy of its files as they are at its end."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack
        (folder / "before").mkdir()
        (folder / "after").mkdir()

    async def start(self) -> None:
        self.leader = await self._stack.enter_async_context(serving(self._folder / "before"))

    async def kill(self) -> ServedLeader:
        for file in sorted((self._folder / "before").glob("leader.db*")):
            # A process that is killed leaves its files as the system has them; SQLite makes the shared memory anew.
            if not file.name.endswith("-shm"):
                shutil.copy(file, self._folder / "after")
        return await self._stack.enter_async_context(serving(self._folder / "after"))


class Pair:
    """Two leaders that share a log. The one that leads reaches it no more at its end, and so can let nothing out."""

    def __init__(self, house: Several) -> None:
        self._house = house

    async def start(self) -> None:
        self.leader = await self._house.start("one")
        await self._house.leads()
        self._two = await self._house.start("two")
        await self._house.listed(self._two, "one", "two")

    async def kill(self) -> ServedLeader:
        term = self._house.term
        self._house.logs["one"].is_cut = True
        leader, _ = self._house.place.leader()
        assert leader is not None
        self._house.place.depose(leader.token)
        assert await self._house.leads(term) == "two"
        # It is held until the other one answers.
        await members(self._two)
        return self._two

    def mend(self) -> None:
        self._house.logs["one"].is_cut = False


@pytest.fixture(params=["lone", "pair"])
async def house(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    # Both leaders share this process: while it gets no processor, no lease is kept, and leading would change by itself.
    monkeypatch.setattr("memory_log.LEASE_SECONDS", 60.0)
    async with AsyncExitStack() as stack:
        if request.param == "lone":
            lone = Lone(tmp_path, stack)
            await lone.start()
            yield lone
        else:
            pair = Pair(await stack.enter_async_context(several(tmp_path)))
            await pair.start()
            yield pair
            pair.mend()


class Taker(worker_pb2_grpc.WorkerServiceServicer):
    """A callback worker that takes what it is given, and does nothing."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[wpb.StartWorkRequest] = asyncio.Queue()
        self.stopped: asyncio.Queue[str] = asyncio.Queue()
        self.address = ""

    async def StartWork(self, request: wpb.StartWorkRequest, context: Any) -> wpb.StartWorkResponse:
        self.started.put_nowait(request)
        return wpb.StartWorkResponse()

    async def StopWork(self, request: wpb.StopWorkRequest, context: Any) -> wpb.StopWorkResponse:
        self.stopped.put_nowait(request.id)
        return wpb.StopWorkResponse()


@asynccontextmanager
async def taker(leader: ServedLeader) -> AsyncIterator[Taker]:
    """A callback worker that has joined as `m`."""
    worker, server = Taker(), grpc.aio.server()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
    worker.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        await join(leader, "m", worker.address)
        yield worker
    finally:
        await server.stop(0)


async def members(leader: ServedLeader) -> dict[str, cpb.MemberLiveness.ValueType]:
    response = await leader.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)
    return {member.id: member.liveness for member in response.members}


async def join(leader: ServedLeader, id: str, address: str = NOWHERE) -> None:
    await leader.cluster.Join(cpb.JoinRequest(id=id, address=address), timeout=PATIENCE)


async def drain(leader: ServedLeader, id: str, budget_ms: int = 0) -> None:
    await leader.cluster.Drain(cpb.DrainRequest(id=id, budget_ms=budget_ms), timeout=PATIENCE)


async def cancel(leader: ServedLeader, id: str) -> None:
    await leader.scheduler.CancelTask(pb.CancelTaskRequest(id=id), timeout=PATIENCE)


async def queues(leader: ServedLeader) -> dict[str, pb.Queue]:
    response = await leader.scheduler.ListQueues(pb.ListQueuesRequest(), timeout=PATIENCE)
    return {queue.name: queue for queue in response.queues}


async def is_gone(leader: ServedLeader, id: str) -> bool:
    return (await refused(leader.get(id))).code is grpc.StatusCode.NOT_FOUND


async def granted(leader: ServedLeader, id: str) -> spb.Grant:
    """Submits the task and has the worker `w` take it. Its stream is broken when this returns."""
    await leader.submit(id)
    async with leader.worker("w") as session:
        return await session.grant()


async def is_away(leader: ServedLeader, id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await members(leader))[id] != cpb.MEMBER_LIVENESS_LOST:
            pass


async def back(leader: ServedLeader, *held: spb.Grant) -> Any:
    """The session with which the worker `w` has come back. It is still open."""
    session = leader.session()
    await session.hello("w", held=[spb.Held(fence=grant.fence, id=grant.id) for grant in held])
    await session.welcome()
    return session


async def test_what_was_submitted(house: House) -> None:
    fields: dict[str, Any] = {"queue": "q", "labels": {"k": "v"}, "concurrency_key": "c", "expires_in_ms": 3_600_000}
    await house.leader.submit("a", "b", delay_ms=1_800_000, **fields)
    one = pb.ScheduleTaskRequest(task=pb.Task(id="c", payload="p"))
    await house.leader.scheduler.ScheduleTask(one, timeout=PATIENCE)
    before = await house.leader.list(page_size=10)
    after = await house.kill()
    assert await after.list(page_size=10) == before
    assert [task.id for task in before] == ["a", "b", "c"]
    assert (await after.get("a")).run_at_ms > 0


async def test_that_a_waiting_task_was_cancelled(house: House) -> None:
    await house.leader.submit("a")
    await cancel(house.leader, "a")
    assert (await (await house.kill()).get("a")).status == pb.TASK_STATUS_CANCELLED


async def test_that_a_workers_task_is_to_stop(house: House) -> None:
    grant = await granted(house.leader, "a")
    await is_away(house.leader, "w")
    await cancel(house.leader, "a")
    after = await house.kill()
    assert (await after.get("a")).cancel_requested
    session = await back(after, grant)
    async with asyncio.timeout(PATIENCE):
        while grant.fence not in session.cancelled:
            await session.frame()
    session.call.cancel()


async def test_that_a_callback_workers_task_is_to_stop(house: House) -> None:
    async with taker(house.leader) as worker, asyncio.timeout(PATIENCE):
        await house.leader.submit("a", handler="", payload="p")
        await worker.started.get()
        await cancel(house.leader, "a")
        after = await house.kill()
        task = await after.get("a")
        assert task.cancel_requested or task.status == pb.TASK_STATUS_CANCELLED


async def test_what_a_callback_worker_has_completed(house: House) -> None:
    async with taker(house.leader) as worker, asyncio.timeout(PATIENCE):
        await house.leader.submit("a", "b", handler="", payload="p")
        later: dict[str, Any] = {"outcome": pb.ATTEMPT_OUTCOME_SNOOZED, "error": "later", "retry_delay_ms": 3_600_000}
        ends: list[dict[str, Any]] = [{}, later]
        for end in ends:
            id = (await worker.started.get()).id
            await house.leader.scheduler.TaskComplete(pb.TaskCompleteRequest(id=id, **end), timeout=PATIENCE)
        after = await house.kill()
        assert (await after.get("a")).status == COMPLETED
        assert (await after.get("b")).waiting_reason.startswith("its last attempt was snoozed")


async def test_what_a_worker_has_reported(house: House) -> None:
    await house.leader.submit("a")
    async with house.leader.worker("w") as session:
        await session.report(await session.grant(), result="r", follow_ups=[pb.Task(id="next", handler="h")])
    after = await house.kill()
    task = await after.get("a")
    assert (task.status, task.result) == (COMPLETED, "r")
    assert (await after.get("next")).id == "next"


async def test_that_a_finished_task_runs_again(house: House) -> None:
    await house.leader.submit("a")
    await cancel(house.leader, "a")
    await house.leader.scheduler.RetryTask(pb.RetryTaskRequest(id="a"), timeout=PATIENCE)
    assert (await (await house.kill()).get("a")).status == PENDING


@pytest.mark.parametrize("by", [{"ids": ["a"]}, {"filter": "status = CANCELLED"}], ids=["ids", "filter"])
async def test_that_a_task_was_removed(house: House, by: dict[str, Any]) -> None:
    await house.leader.submit("a")
    await cancel(house.leader, "a")
    purged = await house.leader.scheduler.PurgeTasks(pb.PurgeTasksRequest(**by), timeout=PATIENCE)
    assert purged.purged == 1
    assert await is_gone(await house.kill(), "a")


async def test_what_was_set_for_queues(house: House) -> None:
    scheduler = house.leader.scheduler
    settings: dict[str, Any] = {"weight": 3, "concurrency_limit": 4, "key_concurrency_limit": 2, "rate_limit": 0.5}
    await scheduler.ConfigureQueue(pb.ConfigureQueueRequest(name="q", rate_burst=7, **settings), timeout=PATIENCE)
    for name in ("paused", "resumed"):
        await scheduler.PauseQueue(pb.PauseQueueRequest(name=name), timeout=PATIENCE)
    await scheduler.ResumeQueue(pb.ResumeQueueRequest(name="resumed"), timeout=PATIENCE)
    found = await queues(await house.kill())
    assert found["q"] == pb.Queue(name="q", rate_burst=7, **settings)
    assert found["paused"].paused
    assert not found.get("resumed", pb.Queue()).paused


async def test_who_has_joined_and_left(house: House) -> None:
    for id in ("m", "n"):
        await join(house.leader, id)
    await house.leader.cluster.Leave(cpb.LeaveRequest(id="n"), timeout=PATIENCE)
    assert await members(await house.kill()) == {"m": LIVE}


async def test_that_a_callback_worker_is_drained(house: House) -> None:
    await join(house.leader, "m")
    await drain(house.leader, "m")
    assert await members(await house.kill()) == {"m": DRAINING}


@pytest.mark.parametrize("holds", [False, True], ids=["idle", "with a task"])
async def test_that_a_worker_that_was_away_is_to_drain(house: House, holds: bool) -> None:
    held: list[spb.Grant] = []
    if holds:
        held.append(await granted(house.leader, "runs"))
    else:
        async with house.leader.worker("w"):
            pass
    await is_away(house.leader, "w")
    await drain(house.leader, "w", 5000)
    after = await house.kill()
    assert await members(after) == {"w": DRAINING}
    session = await back(after, *held)
    await session.send(credit=[1])
    assert await session.drain() == 5000
    await after.submit("a")
    assert (await after.get("a")).waiting_reason == "every worker that could run it is draining"
    if holds:
        await session.report(*held)
    await session.send(conditions=[spb.Condition(draining=True, leaving=True)])
    with pytest.raises(EOFError):
        await session.frame()
    assert await members(after) == {"w": cpb.MEMBER_LIVENESS_LEFT}


async def test_that_a_leader_was_removed(tmp_path: Path) -> None:
    async with several(tmp_path) as house:
        pair = Pair(house)
        await pair.start()
        own = Announcement("three", "c:1", "s:2", "h:3", "t", "9.9")
        value = registers.encode(registers.Registration(own, 0, 0, round(time.time() * 1000) - 100_000, 1))
        house.place.put_note(f"{registers.PREFIX}t", value, float("inf"))
        await house.listed(pair.leader, "one", "three", "two")
        await pair.leader.cluster.RemoveLeader(cpb.RemoveLeaderRequest(store_id="t"), timeout=PATIENCE)
        await house.listed(await pair.kill(), "two", "one")
        pair.mend()


async def test_that_a_worker_that_was_away_is_to_drain_when_the_process_is_killed(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        async with seen(process.scheduler) as leader:
            async with leader.worker("w"):
                pass
            await is_away(leader, "w")
            await drain(leader, "w", 5000)
        process.process.kill()
        process.process.communicate()
    with running(tmp_path) as process:
        async with seen(process.scheduler) as leader:
            session = await back(leader)
            assert await session.drain() == 5000
            session.call.cancel()


@asynccontextmanager
async def seen(scheduler: str) -> AsyncIterator[ServedLeader]:
    """A leader in another process, which the test stops by itself."""
    async with open_channel([scheduler]) as channel:
        yield ServedLeader(Addresses("", scheduler, ""), channel, asyncio.Event())

"""A node that follows answers every call as the leader does, and hands on what belongs to the call, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from leader_serving import PATIENCE, ServedLeader, refused, serving, stream_refused
from node_following import Follower, following, node, stats

from gowork.base.outgoing import Outgoing
from gowork.leader._app import ports
from gowork.leader._rpc import hops, upstream
from gowork.leader._rpc.services import SERVICES
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal, refusal_of

IDLE = cpb.HEARTBEAT_STATUS_IDLE
HEARTBEAT = "/cluster.v1.LeaderService/Heartbeat"


@pytest.fixture
async def leader(tmp_path: Path) -> AsyncIterator[ServedLeader]:
    async with serving(tmp_path) as leader:
        yield leader


@pytest.fixture
async def follower(leader: ServedLeader) -> AsyncIterator[Follower]:
    async with following(leader.addresses) as follower:
        yield follower


async def test_tasks_go_from_submit_to_result_through_a_follower_alone(follower: Follower) -> None:
    answer = await follower.submit("a", "b")
    assert (answer.created, answer.existing) == (2, 0)
    async with follower.worker() as session:
        grants = await session.grants(2)
        single = asyncio.ensure_future(follower.scheduler.WaitTask(pb.WaitTaskRequest(id="a"), timeout=PATIENCE))
        await session.report(*grants, result="1")
        assert (await single).task.id == "a"
        finished = await follower.finished("a", "b")
        assert {task.status for task in finished.values()} == {pb.TASK_STATUS_COMPLETED}
    assert [task.id for task in await follower.list(page_size=1)] == ["a", "b"]


async def test_submissions_pass_through_a_follower(follower: Follower, leader: ServedLeader) -> None:
    stream = follower.scheduler.SubmitTasks(timeout=PATIENCE)
    calls = (pb.ScheduleTaskRequest(task=pb.Task(id="a", handler="h")), pb.ScheduleTaskRequest())
    submissions = [pb.Submission(number=number, call=call) for number, call in enumerate(calls)]
    await stream.write(pb.SubmitTasksRequest(submissions=submissions))
    await stream.done_writing()
    answers = {answer.number: answer async for response in stream for answer in response.answers}
    assert {number: answer.HasField("refusal") for number, answer in answers.items()} == {0: False, 1: True}
    assert [task.id for task in await leader.list()] == ["a"]
    assert (hops.LEADER, leader.addresses.scheduler) in tuple(await stream.initial_metadata())


async def test_a_watch_sees_changes_through_a_follower(follower: Follower) -> None:
    watch = aiter(follower.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE))
    await anext(watch)
    await follower.submit("a")
    assert [task.id for task in (await anext(watch)).tasks] == ["a"]


async def test_a_backup_passes_whole_through_a_follower(follower: Follower) -> None:
    for n in range(4):
        await follower.submit(*(f"{n}-{m}" for m in range(10)), payload="x" * 100_000)
    parts = [part async for part in follower.scheduler.BackupStore(pb.BackupStoreRequest(), timeout=PATIENCE)]
    assert sum(len(part.data) for part in parts) == parts[0].total_bytes > 4_000_000


@pytest.mark.parametrize("port", ["cluster", "scheduler"])
async def test_answers_name_the_leaders_address_for_the_port_that_was_called(tmp_path: Path, port: str) -> None:
    async with serving(tmp_path) as leader, following(leader.addresses, port) as follower:
        wanted = (hops.LEADER, getattr(leader.addresses, port))
        call = stats(follower)
        await call
        assert wanted in tuple(await call.initial_metadata())
        watch = follower.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
        await watch.read()
        assert wanted in tuple(await watch.initial_metadata())
        session = follower.session()
        await session.hello()
        await session.welcome()
        assert wanted in tuple(await session.call.initial_metadata())
        await join(follower, "m")
        beat = follower.cluster.Heartbeat(timeout=PATIENCE)
        for _ in range(2):
            await beat.write(cpb.HeartbeatRequest(id="m", status=IDLE))
            await beat.read()
        assert wanted in tuple(await beat.initial_metadata())


async def test_a_leader_names_no_other(leader: ServedLeader) -> None:
    call = stats(leader)
    await call
    assert hops.LEADER not in dict(await call.initial_metadata())


async def test_refusals_pass_with_their_details(follower: Follower, leader: ServedLeader) -> None:
    for calls in (follower, leader):
        refusal = await refused(calls.submit("x" * 300))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        assert [violation.field for violation in refusal.violations] == ["tasks[0].id"]
        refusal = await stream_refused(calls.scheduler.WaitTasks(pb.WaitTasksRequest(ids=["?"]), timeout=PATIENCE))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN")
        session = calls.session()
        await session.send(credit=[1])
        assert (await session.refusal()).reason == "INVALID_ARGUMENT"


async def test_garbage_is_refused_by_the_leader_for_every_method(follower: Follower) -> None:
    for method in (f"/{service}/{name}" for service, names in SERVICES.items() for name in names):
        call = follower.stream_stream(method)(iter([b"\x0a\x7f"]), timeout=PATIENCE)
        assert (await stream_refused(call)).reason == "NOT_PROTOBUF", method


async def test_that_a_list_was_cut_short_passes(follower: Follower) -> None:
    for n in range(4):
        await follower.submit(*(f"{n}-{m}" for m in range(10)), payload="x" * 100_000)
    call = follower.scheduler.GetTasks(pb.GetTasksRequest(), timeout=PATIENCE)
    await call
    assert ("gowork-truncated", "true") in tuple(await call.trailing_metadata())


async def test_a_workers_address_is_its_own_behind_a_follower(follower: Follower) -> None:
    session = follower.session()
    await session.hello("w")
    await session.welcome()
    (member,) = (await follower.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)).members
    addresses = follower.addresses
    assert member.address.startswith("ipv4:127.0.0.1:")
    assert member.address.removeprefix("ipv4:") not in (addresses.cluster, addresses.scheduler)
    # The worker and this client share a channel, and the follower has others.
    assert member.address == await peer_seen_by(follower)


async def peer_seen_by(follower: Follower) -> str:
    """This client's peer, as the follower sees it."""
    seen: list[str] = []
    methods = follower.node._forwarding.methods

    async def method(request: bytes, context: Any) -> bytes:
        seen.append(context.peer())
        return b""

    call = "scheduler.v1.SchedulerService/Stats"
    follower.node._switchboard.forward({port: {**table, call: method} for port, table in methods.items()})
    await stats(follower)
    return seen[0]


async def join(calls: ServedLeader, id: str) -> None:
    await calls.cluster.Join(cpb.JoinRequest(id=id, address="127.0.0.1:1"), timeout=PATIENCE)


async def test_heartbeats_pass_in_all_three_shapes(follower: Follower) -> None:
    await join(follower, "m")
    beat = cpb.HeartbeatRequest(id="m", status=IDLE).SerializeToString()
    unary: Any = follower.channel.unary_unary(HEARTBEAT)
    assert await unary(beat, timeout=PATIENCE) == b""
    streaming = follower.stream_stream(HEARTBEAT)(iter([beat] * 3), timeout=PATIENCE)
    assert [response async for response in streaming] == [b""] * 3
    single: Any = follower.channel.stream_unary(HEARTBEAT)
    assert await single(iter([beat]), timeout=PATIENCE) == b""
    # A client-streaming caller reads nothing before the end, and is heard all the same.
    silent: Any = follower.channel.stream_unary(HEARTBEAT)(timeout=PATIENCE)
    for status in (cpb.HEARTBEAT_STATUS_IDLE, cpb.HEARTBEAT_STATUS_BUSY):
        await silent.write(cpb.HeartbeatRequest(id="m", status=status).SerializeToString())
    async with asyncio.timeout(PATIENCE):
        while await status_of_the_member(follower) != "alive, busy":
            pass
    silent.cancel()
    stranger = follower.stream_stream(HEARTBEAT)(iter([b"\x0a\x01?\x10\x01"]), timeout=PATIENCE)
    assert (await stream_refused(stranger)).code is grpc.StatusCode.NOT_FOUND


async def status_of_the_member(calls: ServedLeader) -> str:
    (member,) = (await calls.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)).members
    return member.status


async def test_calls_that_their_callers_give_up_end_at_the_leader_too(tmp_path: Path) -> None:
    async with node() as leader, leader.term(tmp_path), following(leader.addresses) as follower:
        await follower.submit("a")
        session = follower.session()
        await session.hello("w")
        await session.welcome()
        wait = follower.scheduler.WaitTask(pb.WaitTaskRequest(id="a"), timeout=PATIENCE)
        watch = follower.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
        await watch.read()
        async with asyncio.timeout(PATIENCE):
            while len(leader.node._ports.under_way) < 3:
                await stats(leader)
        for call in (wait, watch, session.call):
            call.cancel()
        for each in (follower, leader):
            await asyncio.wait_for(over(each), PATIENCE)


async def over(here: Follower) -> None:
    """Returns when no call is under way here."""
    while calls := here.node._ports.under_way:
        await asyncio.wait(calls)


async def test_a_deadline_passes_on(follower: Follower) -> None:
    await follower.submit("a")
    call = follower.scheduler.WaitTask(pb.WaitTaskRequest(id="a"), timeout=0.3)
    assert (await refused(call)).code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_that_was_forwarded_is_forwarded_no_further(follower: Follower) -> None:
    async with following(follower.addresses) as second:
        metadata = ((hops.FORWARDED, "ipv4:1.2.3.4:5"),)
        refusals = [
            await refused(stats(second, metadata=metadata)),
            await refused(stats(follower, metadata=metadata)),
            await stream_refused(follower.scheduler.WatchTasks(pb.WatchTasksRequest(), metadata=metadata)),
            await stream_refused(follower.stream_stream(HEARTBEAT)(iter([b""]), metadata=metadata)),
            await stream_refused(
                follower.stream_stream("/worker.v1.SessionService/Connect")(iter([b""]), metadata=metadata)
            ),
        ]
        assert {(each.code, each.reason) for each in refusals} == {(grpc.StatusCode.UNAVAILABLE, "NOT_LEADER")}
        # The second one does not take the first one for a leader.
        call = await refused(stats(second, timeout=1.0))
        assert call.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert second.node._forwarding.reaches == (
            False,
            f"the leader at {follower.addresses.scheduler} does not answer",
        )


async def test_a_node_that_neither_leads_nor_follows_says_so_to_whoever_forwards(leader: ServedLeader) -> None:
    async with node() as idle:
        assert (await refused(stats(idle))).reason == "NOT_LEADING"
        assert (await refused(stats(idle, metadata=((hops.FORWARDED, "x"),)))).reason == "NOT_LEADER"


async def test_health_and_reflection_are_the_followers_own_and_its_page_says_whom_it_follows(
    follower: Follower, leader: ServedLeader
) -> None:
    await follower.until_healthy(True)
    ready = f"follows the leader at {leader.addresses.scheduler}\n"
    assert await follower.page("/readyz") == (200, ready)
    assert await follower.page("/healthz") == (200, "alive\n")
    assert "gowork_leader_is_leader 0.0" in (await follower.page("/metrics"))[1]
    checked = await follower.health.Check(health_pb2.HealthCheckRequest(service="worker.v1.SessionService"))
    assert checked.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_node_that_reaches_no_leader_is_not_ready() -> None:
    async with following(None) as alone:
        assert await alone.page("/readyz") == (503, "no leader is known\n")
        await alone.until_healthy(False)


class Narrow(Outgoing):
    """Has little room, and tells when that was too little."""

    def __init__(self) -> None:
        super().__init__(500_000, room_seconds=0.05)
        self.has_refused = asyncio.Event()

    def _refusal(self) -> Refusal:
        self.has_refused.set()
        return super()._refusal()


async def test_callers_that_do_not_read_are_bounded_together_and_hold_up_nobody_else(
    leader: ServedLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "Outgoing", Narrow)
    async with following(leader.addresses) as follower:
        request = pb.WatchTasksRequest(view=pb.TASK_VIEW_FULL)
        lazy = [follower.scheduler.WatchTasks(request, timeout=PATIENCE) for _ in range(10)]
        for call in lazy:
            await call.read()
        for n in range(20):
            await leader.submit(*(f"{n}-{m}" for m in range(10)), payload="x" * 100_000)
        outgoing = follower.node._ports._outgoing
        assert isinstance(outgoing, Narrow)
        await asyncio.wait_for(outgoing.has_refused.wait(), PATIENCE)
        assert (await stats(follower)).ByteSize()
        ends = await asyncio.gather(*(end_of(call) for call in lazy))
        assert "TOO_MUCH_UNREAD" in ends
        assert set(ends) <= {"TOO_MUCH_UNREAD", "read"}
        assert (await stats(follower)).ByteSize()


async def end_of(watch: Any) -> str:
    """How a watch ends that is read to its last task, or to its end."""
    try:
        while True:
            if "19-9" in {task.id for task in (await watch.read()).tasks}:
                return "read"
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason


async def test_as_many_sessions_are_forwarded_as_a_connection_takes(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "SESSIONS_MAX", 1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(follower.worker("a", credit=0))
        session = follower.session()
        await session.hello("b")
        refusal = await session.refusal()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_SESSIONS")

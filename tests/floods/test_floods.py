"""A peer that sends too much, or does not read, costs the leader a bounded amount of memory, and hears the reason."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from clusters import RunningLeader, kill, start_leader
from tls_authority import Authority

from gowork.base.channels import open_channel
from gowork.base.tls import Tls
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc
from gowork.proto.status import Refusal, refusal_of
from gowork.proto.worker.v1 import session_pb2 as spb
from gowork.proto.worker.v1 import session_pb2_grpc

#: How long anything may take, in seconds: floods use the whole machine, and take much longer on a busy one.
PATIENCE = 180.0
# Each test takes a minute or two on two processors, and several times that on busy ones.
pytestmark = pytest.mark.timeout(900)
MIB = 1 << 20
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[RunningLeader]:
    leader = start_leader(tmp_path)
    yield leader
    kill(leader.process)


@pytest.fixture
async def channel(leader: RunningLeader) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel([leader.scheduler]) as channel:
        yield channel


@contextlib.contextmanager
def growing_at_most(leader: RunningLeader, mib: int) -> Iterator[None]:
    """Checks that the leader's resident memory grows by less than `mib` MiB within the block."""
    process, done = psutil.Process(leader.process.pid), threading.Event()
    before = process.memory_info().rss
    most = before

    def look() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, process.memory_info().rss)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        done.set()
        looking.join()
    grown = (max(most, process.memory_info().rss) - before) / MIB
    print(f"grew by {grown:.0f} MiB; {mib} are allowed")
    assert grown < mib


async def still_works(channel: grpc.aio.Channel) -> None:
    scheduler: Any = scheduler_pb2_grpc.SchedulerServiceStub(channel)
    await scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=[pb.Task(id="after", payload="x")]), timeout=PATIENCE)
    await scheduler.GetTask(pb.GetTaskRequest(id="after"), timeout=PATIENCE)


async def submitted(channel: grpc.aio.Channel, batch: bytes) -> pb.ScheduleTasksResponse:
    """Submits a serialized batch. Calls again when gRPC ends the call as CANCELLED, as a client does."""
    submit: grpc.aio.UnaryUnaryMultiCallable[bytes, Any] = channel.unary_unary(
        "/scheduler.v1.SchedulerService/ScheduleTasks"
    )
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return pb.ScheduleTasksResponse.FromString(await submit(batch, timeout=PATIENCE))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.CANCELLED:
                    raise


async def welcomed(channel: grpc.aio.Channel, name: str, credit: int = 0) -> Any:
    """Opens a worker's session, and returns its stream after Welcome."""
    call: Any = session_pb2_grpc.SessionServiceStub(channel).Connect()
    handlers = [spb.HandlerInfo(name="h")]
    await call.write(spb.ConnectRequest(hello=spb.Hello(name=name, instance=name, slots=1000, handlers=handlers)))
    assert (await call.read()).HasField("welcome")
    if credit:
        await call.write(spb.ConnectRequest(credit=[credit]))
    return call


@pytest.mark.longer
async def test_a_flood_of_batches_is_held_back(leader: RunningLeader) -> None:
    tasks = [pb.Task(id=f"t{number}", handler="h", data=bytes(MIB - 100)) for number in range(4)]
    batch = pb.ScheduleTasksRequest(tasks=tasks).SerializeToString()
    channels = [open_channel([leader.scheduler]) for _ in range(40)]
    for channel in channels:
        await channel.channel_ready()
    with growing_at_most(leader, 900):
        calls = [submitted(channel, batch) for _ in range(15) for channel in channels]
        answers = await asyncio.gather(*calls)
    assert sum(answer.created for answer in answers) == len(tasks)
    await still_works(channels[0])
    for channel in channels:
        await channel.close()


@pytest.mark.longer
@pytest.mark.parametrize("by_columns", [False, True])
async def test_huge_results_of_many_workers_wait_with_the_workers(
    leader: RunningLeader, channel: grpc.aio.Channel, by_columns: bool
) -> None:
    reports = [
        spb.Report(fence=n, id="none", outcome=pb.ATTEMPT_OUTCOME_COMPLETED, result_data=bytes(MIB))
        for n in range(1, 8)
    ]
    frame = spb.ConnectRequest(reports=reports)
    if by_columns:
        fences = [report.fence for report in reports]
        data = [report.result_data for report in reports]
        columns = spb.Completions(ids=["none"] * len(reports), fences=fences, execution_us=fences, result_data=data)
        frame = spb.ConnectRequest(completions=[columns])

    async def flood(number: int) -> None:
        async with open_channel([leader.cluster]) as own:
            call = await welcomed(own, f"w{number}")
            for _ in range(12):
                await call.write(frame)
            acknowledged = 0
            while acknowledged < 12 * len(reports):
                acknowledged += len((await call.read()).acknowledged)

    with growing_at_most(leader, 500):
        await asyncio.wait_for(asyncio.gather(*(flood(number) for number in range(8))), PATIENCE)
    await still_works(channel)


@pytest.mark.longer
async def test_watchers_that_never_read_are_ended_beyond_a_number_of_bytes(
    leader: RunningLeader, channel: grpc.aio.Channel
) -> None:
    scheduler: Any = scheduler_pb2_grpc.SchedulerServiceStub(channel)
    async with open_channel([leader.scheduler]) as other:
        watching: Any = scheduler_pb2_grpc.SchedulerServiceStub(other)
        watches = [watching.WatchTasks(pb.WatchTasksRequest(view=pb.TASK_VIEW_FULL)) for _ in range(3)]
        for watch in watches:
            assert (await watch.read()).token
        with growing_at_most(leader, 330):
            for batch in range(80):
                tasks = [pb.Task(id=f"t{batch}-{n}", handler="h", data=bytes(MIB - 100)) for n in range(4)]
                await scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)
                for task in tasks:
                    await scheduler.CancelTask(pb.CancelTaskRequest(id=task.id), timeout=PATIENCE)
        for watch in watches:
            assert (await ended(watch)).reason == "WATCHER_BEHIND"
    await still_works(channel)


@pytest.mark.longer
async def test_a_wait_that_is_read_late_costs_little_and_misses_nothing(
    leader: RunningLeader, channel: grpc.aio.Channel
) -> None:
    # Unbounded, they would cost 600 MiB.
    number = 250
    scheduler: Any = scheduler_pb2_grpc.SchedulerServiceStub(channel)
    ids = [f"t{n}" for n in range(number)]
    tasks = [pb.Task(id=id, handler="h") for id in ids]
    await scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)
    async with open_channel([leader.cluster]) as own, open_channel([leader.scheduler]) as other:
        waiting: Any = scheduler_pb2_grpc.SchedulerServiceStub(other)
        early = waiting.WaitTasks(pb.WaitTasksRequest(ids=ids))
        with growing_at_most(leader, 450):
            worker = await welcomed(own, "w", credit=number)
            finished = 0
            while finished < number:
                frame = await worker.read()
                for grant in frame.grants:
                    report = spb.Report(
                        fence=grant.fence, id=grant.id, outcome=pb.ATTEMPT_OUTCOME_COMPLETED, result_data=bytes(MIB)
                    )
                    await worker.write(spb.ConnectRequest(reports=[report]))
                finished += len(frame.acknowledged)
            # One wait began before any task was done, and one begins now that all are. Neither has been read so far.
            late = waiting.WaitTasks(pb.WaitTasksRequest(ids=ids))
            for wait in (early, late):
                seen: list[str] = []
                async with asyncio.timeout(PATIENCE):
                    while (response := await wait.read()) is not grpc.aio.EOF:
                        assert all(len(task.result_data) == MIB for task in response.tasks)
                        seen += [task.id for task in response.tasks]
                assert sorted(seen) == sorted(ids)
    await still_works(channel)


async def test_a_session_that_never_reads_is_ended_with_the_reason(
    leader: RunningLeader, channel: grpc.aio.Channel
) -> None:
    reports = [spb.Report(fence=n, id="none", outcome=pb.ATTEMPT_OUTCOME_COMPLETED) for n in range(1, 5001)]
    async with open_channel([leader.cluster]) as own:
        call = await welcomed(own, "w")
        with growing_at_most(leader, 200):
            # Until the leader has given the session up. Its reason stands after all that was not read.
            async with asyncio.timeout(PATIENCE):
                writing = asyncio.ensure_future(call.write(spb.ConnectRequest(reports=reports)))
                while await is_live(channel, "w"):
                    if writing.done():
                        writing = asyncio.ensure_future(call.write(spb.ConnectRequest(reports=reports)))
            refusal = await ended(call)
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "SESSION_BEHIND")
        await asyncio.gather(writing, return_exceptions=True)
    await still_works(channel)


@pytest.mark.longer
async def test_connections_that_say_nothing_and_sessions_without_a_hello_are_closed(
    leader: RunningLeader, channel: grpc.aio.Channel
) -> None:
    host, _, port = leader.cluster.rpartition(":")
    with growing_at_most(leader, 120):
        sockets = [socket.create_connection((host, int(port))) for _ in range(300)]
        async with open_channel([leader.cluster]) as own:
            stub = session_pb2_grpc.SessionServiceStub(own)
            calls: list[Any] = [stub.Connect() for _ in range(300)]
            for call in calls:
                assert (await ended(call)).reason == "NO_HELLO"
        loop = asyncio.get_running_loop()
        for dead in sockets:
            dead.setblocking(False)
            async with asyncio.timeout(PATIENCE):
                # gRPC's first bytes, and then the end.
                while await loop.sock_recv(dead, 4096):
                    pass
            dead.close()
    await still_works(channel)


async def is_live(channel: grpc.aio.Channel, name: str) -> bool:
    """Whether the leader lists this worker as LIVE."""
    answer = await leader_pb2_grpc.LeaderServiceStub(channel).Members(leader_pb2.MembersRequest(), timeout=PATIENCE)
    return any(member.id == name and member.liveness == leader_pb2.MEMBER_LIVENESS_LIVE for member in answer.members)


async def ended(call: Any) -> Refusal:
    """Reads the stream to its end, and returns how the leader has ended it."""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (await call.read()) is not grpc.aio.EOF:
                pass
        code, details = await call.code(), await call.details()
        initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
    return refusal_of(grpc.aio.AioRpcError(code, initial, trailing, details=details))


async def test_headers_that_are_too_large_are_refused_and_cost_little(leader: RunningLeader) -> None:
    large = tuple((f"bomb-{number}", "x" * 8_000) for number in range(128))
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(open_channel([leader.scheduler])) for _ in range(8)]
        with growing_at_most(leader, 64):
            calls = [
                scheduler_pb2_grpc.SchedulerServiceStub(channel).Stats(
                    pb.StatsRequest(), metadata=large, timeout=PATIENCE
                )
                for channel in channels
                for _ in range(50)
            ]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(answer) for answer in answers} == {grpc.aio.AioRpcError}
        await still_works(channels[0])


@pytest.mark.longer
async def test_handshakes_that_never_end_are_ended_and_cost_little(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.server(client_ca=authority.file)
    options = [f"--tls-cert={files.cert}", f"--tls-key={files.key}", f"--tls-client-ca={files.client_ca}"]
    leader = start_leader(tmp_path, more=options)
    try:
        host, port = leader.scheduler.rsplit(":", 1)
        with growing_at_most(leader, 128):
            opened = []
            for _ in range(500):
                reader, writer = await asyncio.open_connection(host, int(port))
                # The first bytes of a ClientHello whose rest does not come.
                writer.write(bytes.fromhex("16030102000100 01fc0303".replace(" ", "")))
                opened.append((reader, writer))
            # Who has a certificate gets through meanwhile.
            async with open_channel([leader.scheduler], tls=Tls(authority.client("admin"))) as channel:
                await still_works(channel)
            for reader, writer in opened:
                # Whatever the leader still says, it ends the connection.
                async with asyncio.timeout(PATIENCE):
                    with contextlib.suppress(ConnectionError):
                        await reader.read()
                writer.close()
    finally:
        kill(leader.process)

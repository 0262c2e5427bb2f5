"""What becomes of calls that a follower forwards when the leader stops, is killed, or is another one."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from leader_process import RunningLeader, running
from leader_serving import PATIENCE, refused, serving
from node_following import Follower, Waiters, following, node, stats

from gowork.leader import Addresses
from gowork.leader._rpc import forwarding, upstream
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
HEARTBEAT = "/cluster.v1.LeaderService/Heartbeat"
BEAT = cpb.HeartbeatRequest(id="m", status=cpb.HEARTBEAT_STATUS_IDLE).SerializeToString()
#: A length of time that must not pass, in seconds.
LONG = 10 * PATIENCE


def is_unavailable(refusal: Refusal, reason: str) -> bool:
    assert refusal.message
    return (refusal.code, refusal.reason) == (UNAVAILABLE, reason)


async def test_200_calls_without_a_leader_are_answered_by_the_next_one(tmp_path: Path) -> None:
    async with following(None) as follower:
        waiters = Waiters(follower)
        tasks = [pb.ScheduleTaskRequest(task=pb.Task(id=f"t{n}", handler="h")) for n in range(200)]
        calls = [asyncio.ensure_future(follower.scheduler.ScheduleTask(task, timeout=PATIENCE)) for task in tasks]
        await waiters.until(200)
        async with serving(tmp_path) as leader:
            follower.node.follow(leader.addresses)
            await asyncio.gather(*calls)
            assert len(await leader.list(page_size=1_000)) == 200


async def test_calls_wait_no_longer_than_they_may_and_are_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "WAIT_SECONDS", 0.05)
    async with following(None) as follower:
        refusal = await refused(stats(follower))
        assert is_unavailable(refusal, "NOT_LEADING")
        assert "repeat it" in refusal.message
        assert "not carried out" in refusal.message


async def test_calls_wait_no_longer_than_their_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "WAIT_SECONDS", LONG)
    async with following(None) as follower:
        refusal = await refused(stats(follower, timeout=0.1))
        assert refusal.code in (grpc.StatusCode.DEADLINE_EXCEEDED, UNAVAILABLE)
        async with asyncio.timeout(PATIENCE):
            while follower.node._ports.under_way:
                await asyncio.wait(follower.node._ports.under_way)
        assert follower.node._forwarding._waiting == 0


async def test_how_many_calls_wait_and_how_many_bytes_they_have_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "WAITING_CALLS_MAX", 2)
    monkeypatch.setattr(forwarding, "REQUEST_BYTES_MAX", 100_000)
    async with following(None) as follower:
        waiters = Waiters(follower)
        calls = [asyncio.ensure_future(follower.submit("a", payload="x" * 50_000))]
        await waiters.until(1)
        refusal = await refused(follower.submit("b", payload="x" * 50_000))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MUCH_WAITING")
        assert "the limit is 100000" in refusal.message
        calls.append(asyncio.ensure_future(follower.submit("c")))
        await waiters.until(2)
        refusal = await refused(follower.submit("d"))
        assert is_unavailable(refusal, "NOT_LEADING")
        assert "2 calls wait" in refusal.message
        for call in calls:
            call.cancel()


async def test_streams_without_a_leader_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "CONNECT_SECONDS", LONG)
    async with following(None) as follower:
        assert is_unavailable(await follower.session().refusal(), "NOT_LEADING")
        watch = follower.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
        assert is_unavailable(await ended(watch), "NOT_LEADING")


async def test_streams_do_not_wait_for_a_leader_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "CONNECT_SECONDS", 0.05)
    async with node() as idle, following(idle.addresses) as follower:
        assert is_unavailable(await follower.session().refusal(), "NOT_LEADING")


async def test_a_change_of_leader_ends_streams_but_no_heartbeats(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    async with serving(folders[0]) as first, serving(folders[1]) as second, following(first.addresses) as follower:
        for leader in (first, second):
            await leader.cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:1"), timeout=PATIENCE)
        session, watch = await opened(follower)
        beats = follower.stream_stream(HEARTBEAT)(timeout=PATIENCE)
        await beats.write(BEAT)
        assert await beats.read() == b""
        follower.node.follow(second.addresses)
        assert is_unavailable(await session.refusal(), "NOT_LEADING")
        assert is_unavailable(await ended(watch), "NOT_LEADING")
        await beats.write(BEAT)
        assert await beats.read() == b""
        await follower.submit("a")
        assert [task.id for task in await second.list(page_size=10)] == ["a"]
        # To be told the same leader again changes nothing.
        session, _ = await opened(follower)
        follower.node.follow(
            Addresses(**{name: getattr(second.addresses, name) for name in Addresses.__struct_fields__})
        )
        await session.send()
        assert not session.call.done()
        assert (await session.frame()).SerializeToString() == b""


async def opened(follower: Follower) -> tuple[Any, Any]:
    """A session, and a watch, that the leader has answered."""
    session = follower.session()
    await session.hello("w", instance="i")
    await session.welcome()
    watch = follower.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
    await watch.read()
    return session, watch


async def ended(call: Any) -> Refusal:
    """How this call ends when it is read to its end."""

    async def to_the_end() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    return await refused(to_the_end())


async def test_a_leader_that_stops_ends_no_call_that_it_did_not_take(tmp_path: Path) -> None:
    async with node() as leading, following(leading.addresses) as follower, AsyncExitStack() as terms:
        await terms.enter_async_context(leading.term(tmp_path))
        await follower.submit("a")
        waiters = Waiters(follower)
        await terms.aclose()
        # The connection stays, and the node says that it does not lead.
        call = asyncio.ensure_future(follower.get("a"))
        await waiters.until(1)
        async with leading.term(tmp_path):
            assert (await call).id == "a"


async def test_a_leader_that_is_killed_leaves_calls_in_doubt_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        async with following(addresses_of(process)) as follower:
            await follower.submit("a")
            session, watch = await opened(follower)
            wait = asyncio.ensure_future(follower.scheduler.WaitTask(pb.WaitTaskRequest(id="a"), timeout=PATIENCE))
            beats = await beating(follower)
            process.process.kill()
            await asyncio.to_thread(process.process.communicate)
            refusal = await refused(wait)
            assert is_unavailable(refusal, "LEADER_LOST")
            assert "unknown" in refusal.message
            assert is_unavailable(await session.refusal(), "NOT_LEADING")
            assert is_unavailable(await ended(watch), "NOT_LEADING")
            assert (await follower.page("/readyz"))[0] == 200
            waiters = Waiters(follower)
            call = asyncio.ensure_future(follower.get("a"))
            await beats.write(BEAT)
            await waiters.until(2)
            with running(tmp_path) as successor:
                follower.node.follow(addresses_of(successor))
                assert (await call).id == "a"
                assert await beats.read() == b""


def addresses_of(process: RunningLeader) -> Addresses:
    return Addresses(process.cluster, process.scheduler, process.http)


async def beating(follower: Follower) -> Any:
    """A stream of heartbeats that was answered."""
    await follower.cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:1"), timeout=PATIENCE)
    beats = follower.stream_stream(HEARTBEAT)(timeout=PATIENCE)
    await beats.write(BEAT)
    await beats.read()
    return beats


async def test_a_call_to_a_leader_that_hangs_ends_soon_after_another_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "UNDER_WAY_SECONDS", 0.05)
    with running(tmp_path) as process:
        async with following(addresses_of(process)) as follower:
            session, _ = await opened(follower)
            beats = await beating(follower)
            process.process.send_signal(signal.SIGSTOP)
            call = asyncio.ensure_future(follower.submit("a"))
            await beats.write(BEAT)
            folder = tmp_path / "next"
            folder.mkdir()
            async with serving(folder) as leader:
                await leader.cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:1"), timeout=PATIENCE)
                follower.node.follow(leader.addresses)
                refusal = await refused(call)
                # It may not have been sent yet.
                assert is_unavailable(refusal, "LEADER_LOST")
                assert is_unavailable(await session.refusal(), "NOT_LEADING")
                assert await beats.read() == b""
                assert (await leader.list(page_size=10)) == []


async def test_when_a_term_begins_here_waiting_calls_are_answered_by_it_and_streams_end(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with serving(tmp_path / "other") as other, following(other.addresses) as follower:
        await other.cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:1"), timeout=PATIENCE)
        session, watch = await opened(follower)
        beats = follower.stream_stream(HEARTBEAT)(timeout=PATIENCE)
        await beats.write(BEAT)
        await beats.read()
        async with follower.term(tmp_path):
            for refusal in (await session.refusal(), await ended(watch), await ended(beats)):
                assert is_unavailable(refusal, "NOT_LEADING")
            await follower.submit("here")
            assert await follower.page("/readyz") == (200, "ready\n")
        # It goes back to the leader that it was told of.
        await follower.submit("there")
        assert [task.id for task in await other.list(page_size=10)] == ["there"]
        waiters = Waiters(follower)
        follower.node.follow(None)
        call = asyncio.ensure_future(follower.get("here"))
        garbage = asyncio.ensure_future(
            follower.unary_unary("/scheduler.v1.SchedulerService/GetTask")(b"\x0a\x7f", timeout=PATIENCE)
        )
        unknown = asyncio.ensure_future(follower.get("there"))
        await waiters.until(3)
        async with follower.term(tmp_path):
            assert (await call).id == "here"
            assert (await refused(garbage)).reason == "NOT_PROTOBUF"
            assert (await refused(unknown)).reason == "TASK_UNKNOWN"


async def test_the_end_of_a_term_does_not_wait_for_calls_that_are_forwarded_by_then(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with serving(tmp_path / "other") as other, following(None) as follower:
        async with follower.term(tmp_path):
            await follower.submit("a")
            follower.node.follow(other.addresses)
        session, watch = await opened(follower)
        async with follower.term(tmp_path):
            pass
        assert is_unavailable(await session.refusal(), "NOT_LEADING")
        del watch


async def test_a_follower_that_stops_ends_what_waits_and_what_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "WAIT_SECONDS", LONG)
    async with serving(tmp_path) as leader, AsyncExitStack() as running:
        follower = await running.enter_async_context(following(leader.addresses))
        channel = follower.channel
        running.push_async_callback(channel.close)
        session, watch = await opened(follower)
        beats = await beating(follower)
        waiters = Waiters(follower)
        follower.node.follow(None)
        assert is_unavailable(await session.refusal(), "NOT_LEADING")
        assert is_unavailable(await ended(watch), "NOT_LEADING")
        call = asyncio.ensure_future(refused(follower.get("a")))
        await waiters.until(1)
        follower.stopped.set()
        follower.node._forwarding.stop(Refusal(UNAVAILABLE, "NOT_SERVING", "it stops"))
        assert is_unavailable(await call, "NOT_SERVING")
        assert is_unavailable(await ended(beats), "NOT_SERVING")
        assert (await follower.page("/readyz"))[0] == 503


async def test_a_node_that_had_a_leader_is_ready_for_a_while(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with serving(tmp_path) as leader, following(leader.addresses) as follower:
        await follower.until_healthy(True)
        follower.node.follow(None)
        status, words = await follower.page("/readyz")
        assert status == 200
        assert words.startswith("no leader is known; one answered ")
        monkeypatch.setattr(forwarding, "READY_SECONDS", 0.05)
        follower.node.follow(leader.addresses)
        await follower.until_healthy(True)
        await follower.submit("a")
        follower.node.follow(None)
        await follower.until_healthy(False)
        assert await follower.page("/readyz") == (503, "no leader is known\n")
        follower.node.follow_on("the log is silent")
        assert await follower.page("/readyz") == (503, "no leader is known; the log is silent\n")


async def test_a_call_learns_before_its_deadline_that_it_was_not_carried_out_and_why(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader, following(leader.addresses) as follower:
        await follower.submit("a")
        follower.node.follow(None)
        follower.node.follow_on("the log is silent")
        request = pb.GetTaskRequest(id="a")
        refusal = await refused(follower.scheduler.GetTask(request, timeout=2 * forwarding.TELL_SECONDS))
        assert is_unavailable(refusal, "NOT_LEADING")
        assert refusal.message.endswith("was not carried out; repeat it; the log is silent")


async def test_a_node_that_is_not_told_who_leads_goes_on_with_the_leader_that_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "CONFIRM_SECONDS", 0.01)
    monkeypatch.setattr(forwarding, "BEHIND_SECONDS", LONG)
    async with serving(tmp_path) as leader, following(leader.addresses) as follower:
        session, watch = await opened(follower)
        upheld = follower.node._forwarding._leader
        for _ in range(2):
            follower.node.follow_on("the log is silent")
            await follower.submit("a")
        words = f"follows the leader at {leader.addresses.scheduler}; the log is silent\n"
        assert await follower.page("/readyz") == (200, words)
        # Since that leader leads, the log works, and only this node is cut off.
        monkeypatch.setattr(forwarding, "BEHIND_SECONDS", 0.05)
        follower.node.follow_on("the log is silent")
        await follower.until_healthy(False)
        assert await follower.page("/readyz") == (503, words)
        await follower.submit("b")
        follower.node.follow(leader.addresses)
        await follower.until_healthy(True)
        assert await follower.page("/readyz") == (200, f"follows the leader at {leader.addresses.scheduler}\n")
        assert follower.node._forwarding._leader is upheld
        session.call.cancel()
        watch.cancel()


@pytest.mark.parametrize("ends", ["leads no more", "hangs"])
async def test_a_node_that_is_not_told_who_leads_gives_up_a_leader_that_does_not_say_so_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(upstream, "CONFIRM_SECONDS", 0.01)
    monkeypatch.setattr(upstream, "ASK_SECONDS", 1.0)
    # Nothing but the question finds out that a process is stopped.
    monkeypatch.setattr(upstream, "_OPTIONS", (*upstream._OPTIONS, ("grpc.keepalive_time_ms", 3_600_000)))
    monkeypatch.setattr(forwarding, "UNDER_WAY_SECONDS", 0.05)
    monkeypatch.setattr(forwarding, "WAIT_SECONDS", 0.05)
    with running(tmp_path) as process:
        async with node() as other, following(addresses_of(process)) as follower:
            leads_elsewhere = ends == "leads no more"
            folder = tmp_path / "other"
            folder.mkdir()
            async with AsyncExitStack() as terms:
                if leads_elsewhere:
                    await terms.enter_async_context(other.term(folder))
                    follower.node.follow(other.addresses)
                session, _ = await opened(follower)
                follower.node.follow_on("the log is silent")
                await follower.submit("a")
                if not leads_elsewhere:
                    process.process.send_signal(signal.SIGSTOP)
            assert (await session.refusal()).code is UNAVAILABLE
            refusal = await refused(stats(follower))
            assert is_unavailable(refusal, "NOT_LEADING")
            assert refusal.message.endswith("; the log is silent")
            status, words = await follower.page("/readyz")
            assert status == 200
            assert " does not answer; the log is silent; one answered " in words
            # It leads again, and nobody says so except itself.
            monkeypatch.setattr(forwarding, "WAIT_SECONDS", LONG)
            if leads_elsewhere:
                async with other.term(folder):
                    assert (await follower.get("a")).id == "a"
            else:
                process.process.send_signal(signal.SIGCONT)
                assert (await follower.get("a")).id == "a"


async def test_nothing_of_a_former_leader_is_left(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader, following(leader.addresses) as follower:
        await follower.submit("a")
        for _ in range(5):
            follower.node.follow(None)
            follower.node.follow(leader.addresses)
            assert (await follower.get("a")).id == "a"
        async with asyncio.timeout(PATIENCE):
            tasks = follower.node._forwarding._tasks
            while len(tasks) > 1:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert follower.node._forwarding._tasks == set()

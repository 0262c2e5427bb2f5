"""A full disk: the leader stays up and not ready, refuses, keeps its sessions, and goes on when there is room again."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from leader_process import RunningLeader, running
from leader_serving import COMPLETED, PATIENCE, ServedLeader, Session, refused, stream_refused

from gowork.base.channels import open_channel
from gowork.leader import Addresses
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import session_pb2 as spb

#: The leader looks every second whether there is room. It takes no longer than this on a machine that is busy.
BACK_SECONDS = 30.0
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")

#: Takes the leader's room away, and gives it back.
Switch = Callable[[], None]


@contextmanager
def limited_files(folder: Path) -> Iterator[tuple[RunningLeader, Switch, Switch]]:
    """A leader whose files may grow no more: any user can do this to a process."""
    with running(folder) as leader:
        process = psutil.Process(leader.process.pid)
        _, most = process.rlimit(resource.RLIMIT_FSIZE)

        def fill() -> None:
            largest = max(path.stat().st_size for path in folder.iterdir())
            process.rlimit(resource.RLIMIT_FSIZE, (largest, most))

        def free() -> None:
            process.rlimit(resource.RLIMIT_FSIZE, (most, most))

        yield leader, fill, free


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[RunningLeader, Switch, Switch]]:
    """A leader on a file system of its own, which something else fills up."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system can't be mounted here: {mounted.stderr.strip()}")
    filler = folder / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    try:
        with running(folder) as leader:
            yield leader, fill, filler.unlink
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=[limited_files, small_disk], ids=["file size", "disk"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RunningLeader, Switch, Switch]]:
    if request.param is small_disk and os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    with request.param(tmp_path) as leader_and_switches:
        yield leader_and_switches


def served(leader: RunningLeader, channel: grpc.aio.Channel) -> ServedLeader:
    return ServedLeader(Addresses(leader.cluster, leader.scheduler, leader.http), channel, asyncio.Event())


async def submit_until_full(leader: ServedLeader) -> list[str]:
    """The ids that were acknowledged before the store was full."""
    acknowledged: list[str] = []
    while True:
        id = f"task-{len(acknowledged)}"
        try:
            await leader.submit(id, payload="x" * 50_000)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return acknowledged
        acknowledged.append(id)


async def heartbeats(session: Session) -> None:
    """Sends heartbeats as a worker does: at its own pace, whatever the leader answers."""
    while True:
        await session.send()
        await asyncio.sleep(0.1)


async def test_a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_room(
    full: tuple[RunningLeader, Switch, Switch],
) -> None:
    process, fill, free = full
    async with open_channel([process.scheduler]) as channel:
        leader = served(process, channel)
        await leader.submit("before", "running")
        await leader.submit("waits", selector={"zone": "none"})
        async with leader.worker(credit=2, slots=2) as session, asyncio.TaskGroup() as group:
            beating = group.create_task(heartbeats(session))
            done, running_task = await session.grants(2)
            fill()
            acknowledged = await submit_until_full(leader)
            assert process.page("/readyz") == (503, "the store is full\n")
            assert process.page("/healthz")[0] == 200
            # Every call is refused, none hangs.
            refusals = [
                await refused(leader.submit("more")),
                await refused(leader.scheduler.CancelTask(pb.CancelTaskRequest(id="before"), timeout=PATIENCE)),
                await refused(leader.get("before")),
                await refused(leader.list()),
                await stream_refused(leader.scheduler.WaitTasks(pb.WaitTasksRequest(ids=["before"]), timeout=PATIENCE)),
                await refused(leader.scheduler.WaitTask(pb.WaitTaskRequest(id="before"), timeout=PATIENCE)),
            ]
            assert {(refusal.code, refusal.reason) for refusal in refusals} == {FULL}
            assert "the store is full" in refusals[0].message
            explained = await leader.scheduler.ExplainTask(pb.ExplainTaskRequest(id="waits"), timeout=PATIENCE)
            assert [reason.message for reason in explained.reasons] == ["the store is full, so no task is started"]
            # A report is not acknowledged, and not forgotten either.
            await session.send(reports=[spb.Report(fence=done.fence, id=done.id, outcome=COMPLETED, result="1")])
            free()
            freed = time.monotonic()
            while not session.acknowledged:
                await session.frame()
            assert time.monotonic() - freed < BACK_SECONDS
            assert session.acknowledged == {done.fence}
            assert not session.refused
            assert process.page("/readyz")[0] == 200
            await leader.submit("after")
            # The session was kept, and so was what it runs.
            await session.send(credit=[3])
            assert (await session.grant()).fence > running_task.fence
            await session.report(running_task)
            assert not session.refused
            beating.cancel()
        kept = {task.id: task.status for task in await leader.list(page_size=10_000)}
        assert kept["before"] == kept["running"] == pb.TASK_STATUS_COMPLETED
        assert kept.keys() >= {*acknowledged, "after"}
        assert process.stop()[0] == 0


async def test_calls_that_wait_for_the_commit_that_fails_are_answered_too(
    full: tuple[RunningLeader, Switch, Switch],
) -> None:
    process, fill, free = full
    async with open_channel([process.scheduler]) as channel:
        leader = served(process, channel)
        await leader.submit("before")
        fill()
        # Submits and reads in the same batches.
        calls: list[Coroutine[Any, Any, object]] = [leader.submit(str(n), payload="x" * 100_000) for n in range(20)]
        calls += [leader.get("before") for _ in range(20)]
        calls += [leader.list() for _ in range(5)]
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        codes = {answer.code() for answer in answers if isinstance(answer, grpc.aio.AioRpcError)}
        assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        acknowledged = {str(n) for n in range(20) if not isinstance(answers[n], BaseException)}
        free()
        freed = time.monotonic()
        while process.page("/readyz")[0] != 200:
            assert time.monotonic() - freed < BACK_SECONDS
        kept = {task.id for task in await leader.list()}
        assert kept >= acknowledged | {"before"}
        # What was refused with the batch that failed may be there; to repeat it is safe.
        again = await leader.submit(*(str(n) for n in range(20)), payload="x" * 100_000)
        assert again.existing == len(kept) - 1


async def test_workers_are_answered_however_long_the_disk_is_full(full: tuple[RunningLeader, Switch, Switch]) -> None:
    process, fill, free = full
    async with open_channel([process.scheduler]) as channel:
        leader = served(process, channel)
        async with leader.worker() as session:
            fill()
            await submit_until_full(leader)
            # More than may wait for a batch.
            for _ in range(100):
                await session.send()
                assert not (await session.frame()).ByteSize()
            assert process.page("/readyz")[0] == 503
            free()
            await session.grant()
            session.call.cancel()
        assert process.stop()[0] == 0


async def test_a_leader_with_a_full_disk_can_be_stopped(full: tuple[RunningLeader, Switch, Switch]) -> None:
    process, fill, _ = full
    async with open_channel([process.scheduler]) as channel:
        leader = served(process, channel)
        fill()
        await submit_until_full(leader)
        code, log = await asyncio.to_thread(process.stop)
    assert code == 0
    assert "Traceback" not in log

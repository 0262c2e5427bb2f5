"""What the next leader makes of everything that its predecessor had promised, all of it at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from leader_serving import PATIENCE, ServedLeader, Session
from several_leaders import Several, several

from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import session_pb2 as spb

pytestmark = pytest.mark.timeout(240)
#: How long the retry waits, and in how many seconds the queue with a rate may start a task. Each is longer than a
#: change of leader takes.
RETRY_MS = 5_000
RATE_SECONDS = 5.0


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Several]:
    async with several(tmp_path) as house:
        yield house


class Starts:
    """What a worker was given, in all of its sessions."""

    def __init__(self) -> None:
        #: {id: when it was started, by the wall clock, for each of its attempts}
        self.at: dict[str, list[float]] = {}
        self.grants: dict[str, spb.Grant] = {}
        self.running: set[str] = set()

    async def until(self, session: Session, *ids: str) -> None:
        """Takes grants until each of these tasks runs."""
        while not self.running >= set(ids):
            grant = await session.grant()
            assert grant.id not in self.running, "it runs already"
            self.at.setdefault(grant.id, []).append(time.time())
            self.grants[grant.id] = grant
            self.running.add(grant.id)
            # The limits of a queue, and of a key.
            for name in ("limited", "key"):
                assert len({id for id in self.running if id.startswith(name)}) <= 1
            assert "paused" not in self.running

    async def end(self, session: Session, id: str, outcome: pb.AttemptOutcome.ValueType) -> None:
        self.running.discard(id)
        await session.report(self.grants[id], outcome=outcome)


async def submit_all(leader: ServedLeader) -> None:
    """Schedules two tasks of each kind, the second of which has to wait for the first, and some others."""
    call = leader.scheduler
    await call.ConfigureQueue(pb.ConfigureQueueRequest(name="limited", concurrency_limit=1), timeout=PATIENCE)
    await call.ConfigureQueue(pb.ConfigureQueueRequest(name="keys", key_concurrency_limit=1), timeout=PATIENCE)
    rate = pb.ConfigureQueueRequest(name="rated", rate_limit=1 / RATE_SECONDS, rate_burst=1)
    await call.ConfigureQueue(rate, timeout=PATIENCE)
    await call.PauseQueue(pb.PauseQueueRequest(name="still"), timeout=PATIENCE)
    await leader.submit("paused", queue="still")
    await leader.submit("limited-1", "limited-2", queue="limited")
    await leader.submit("key-1", "key-2", queue="keys", concurrency_key="k")
    await leader.submit("rated-1", "rated-2", queue="rated")
    await leader.submit("retried", retry=pb.RetryPolicy(max_attempts=3, initial_delay_ms=RETRY_MS, factor=1.0))
    await leader.submit("delayed", delay_ms=RETRY_MS)
    await leader.submit("unwanted")


@pytest.mark.parametrize("gone", ["steps down", "stops"])
async def test_limits_rates_pauses_delays_and_cancels_hold_across_a_change_of_leader(house: Several, gone: str) -> None:
    one = await house.start("one")
    await house.leads()
    term = house.term
    two = await house.start("two")
    await house.listed(two, "one", "two")
    starts = Starts()
    async with one.worker("w") as session:
        await submit_all(one)
        await starts.until(session, "limited-1", "key-1", "rated-1", "retried", "unwanted")
        failed_at = time.time()
        await starts.end(session, "retried", pb.ATTEMPT_OUTCOME_FAILED)
        due = {id: await due_ms(one, id) for id in ("retried", "delayed")}
        if gone == "steps down":
            leaving = asyncio.ensure_future(one.cluster.StepDown(cpb.StepDownRequest(), timeout=PATIENCE))
        else:
            leaving = asyncio.ensure_future(house.stop("one"))
        # It may come to the former leader, to the next one, or wait in between.
        cancelling = asyncio.ensure_future(
            two.scheduler.CancelTask(pb.CancelTaskRequest(id="unwanted"), timeout=PATIENCE)
        )
        await asyncio.gather(leaving, return_exceptions=True)
    assert await house.leads(term) == "two"
    await asyncio.gather(cancelling, return_exceptions=True)
    # It waits until the next leader answers.
    await two.get("unwanted")
    for id, at_ms in due.items():
        assert await due_ms(two, id) in (at_ms, 0), "the delay began anew"

    session = two.session()
    await session.hello("w", held=[spb.Held(fence=starts.grants[id].fence, id=id) for id in starts.running])
    await session.welcome()
    await session.send(credit=[1_000])
    # A cancel whose leader went away before it answered is repeated, as clients do.
    await two.scheduler.CancelTask(pb.CancelTaskRequest(id="unwanted"), timeout=PATIENCE)
    while starts.grants["unwanted"].fence not in session.cancelled:
        await session.frame()
    await starts.end(session, "unwanted", pb.ATTEMPT_OUTCOME_CANCELLED)

    await starts.until(session, "retried", "delayed", "rated-2")
    # Nothing else was started.
    assert starts.running == {"limited-1", "key-1", "rated-1", "retried", "delayed", "rated-2"}
    assert starts.at["retried"][-1] >= failed_at + RETRY_MS / 1000
    assert starts.at["delayed"][0] * 1000 >= due["delayed"]
    assert starts.at["rated-2"][0] - starts.at["rated-1"][0] > 0.9 * RATE_SECONDS
    await starts.end(session, "limited-1", pb.ATTEMPT_OUTCOME_COMPLETED)
    await starts.end(session, "key-1", pb.ATTEMPT_OUTCOME_COMPLETED)
    await starts.until(session, "limited-2", "key-2")
    assert [queue.paused for queue in await queues(two) if queue.name == "still"] == [True]
    await two.scheduler.ResumeQueue(pb.ResumeQueueRequest(name="still"), timeout=PATIENCE)
    grant = await session.grant()
    assert grant.id == "paused"
    await session.report(grant)
    for id in sorted(starts.running):
        await starts.end(session, id, pb.ATTEMPT_OUTCOME_COMPLETED)
    tasks = {task.id: task for task in await two.list(page_size=100)}
    assert {task.status for task in tasks.values() if task.id != "unwanted"} == {pb.TASK_STATUS_COMPLETED}
    assert tasks["unwanted"].status == pb.TASK_STATUS_CANCELLED
    assert {id: len((await two.get(id)).attempts) for id in tasks} == {id: 1 + (id == "retried") for id in tasks}
    session.call.cancel()


async def queues(leader: ServedLeader) -> list[pb.Queue]:
    return list((await leader.scheduler.ListQueues(pb.ListQueuesRequest(), timeout=PATIENCE)).queues)


async def due_ms(leader: ServedLeader, id: str) -> int:
    """When a task that waits for its time is due, by the wall clock; 0: it waits no more."""
    response = await leader.scheduler.ExplainTask(pb.ExplainTaskRequest(id=id), timeout=PATIENCE)
    return max((int(reason.until_ms) for reason in response.reasons), default=0)

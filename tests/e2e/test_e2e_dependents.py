"""Tasks that come after others, with both clients and handlers that schedule, over a leader and a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gowork.client import AsyncClient, Client, FailureKind, NewTask, TaskStatus
from gowork.testing import Cluster
from gowork.worker import Context, handler


@handler
def number(ctx: Context, value: int) -> int:
    if value < 0:
        raise ValueError(value)
    return value


@handler
def upstream(ctx: Context, value: int) -> list[str]:
    return list(ctx.after)


@handler
def parent(ctx: Context, children: int) -> None:
    """Schedules children, and a task after all of them and itself."""
    ids = [ctx.schedule(place, handler=number) for place in range(children)]
    ctx.schedule(0, handler=upstream, id=f"{ctx.id}-last", after=[ctx.id, *ids])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(handlers=[number, upstream, parent]) as cluster:
        yield cluster


def test_a_chain_runs_in_order_and_its_last_task_finds_the_results_before_it(cluster: Cluster) -> None:
    with Client(cluster.address) as client:
        first = client.schedule(1, handler=number)
        second = client.schedule(2, handler=number, after=[first])
        last = client.schedule(3, handler=upstream, after=[first, second.id])
        ids = last.result(timeout=60)
        assert ids == [first.id, second.id]
        assert [client.handle(id).result() for id in ids] == [1, 2]
        started = [task.started_at for task in map(client.get, (first.id, second.id, last.id)) if task.started_at]
        assert len(started) == 3
        assert started == sorted(started)


def test_the_rest_of_a_chain_is_cancelled_when_a_task_fails_and_another_one_is_for_that(cluster: Cluster) -> None:
    async def run() -> None:
        async with AsyncClient(cluster.address) as client:
            first = await client.schedule(-1, handler=number)
            then = await client.schedule(2, handler=number, after=[first])
            finally_ = await client.schedule(3, handler=number, after=[first, then], after_rule="all_finished")
            otherwise = await client.schedule(4, handler=number, after=[first], after_rule="any_failed")
            assert [await task.result(timeout=60) for task in (finally_, otherwise)] == [3, 4]
            told = await client.get(then.id)
            assert (told.status, told.failure and told.failure.kind) == (TaskStatus.CANCELLED, FailureKind.UPSTREAM)

    asyncio.run(run())


def test_tasks_of_several_batches_come_after_one_another_in_any_order(cluster: Cluster) -> None:
    """Batches of one schedule_many are on their way at once, and may arrive in another order."""
    tasks = [
        NewTask(place, id=f"many-{place}", after=[f"many-{place - 1}"] if place % 100 else None)
        for place in range(3_000)
    ]
    with Client(cluster.address) as client:
        handles = list(client.schedule_many(tasks, handler=number))
        assert [handle.result(timeout=120) for handle in handles[-3:]] == [2997, 2998, 2999]


def test_follow_ups_come_after_one_another_and_after_their_parent(cluster: Cluster) -> None:
    with Client(cluster.address) as client:
        client.schedule(3, handler=parent, id="parent").result(timeout=60)
        assert len(client.handle("parent-last").result(timeout=60)) == 4

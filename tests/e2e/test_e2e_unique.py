"""Unique keys with both clients and handlers that schedule, over a leader and a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from gowork.client import AsyncClient, Client, FailedPrecondition, NewTask, TaskStatus
from gowork.testing import Cluster
from gowork.worker import Context, handler

#: (id, whether it is new) of each handle
Told = list[tuple[str, bool]]
Do = Callable[[str, list[NewTask], bool], Told]


@handler
def chained(ctx: Context, left: int) -> int:
    """Goes on under its own key."""
    if left:
        ctx.schedule(left - 1, handler=chained, id=f"chained-{left - 1}", unique="chain")
        ctx.schedule(0, handler=chained, id="never", unique="waits")
    return left


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(handlers=[chained]) as cluster:
        yield cluster


def blocking(address: str, tasks: list[NewTask], many: bool) -> Told:
    with Client(address) as client:
        handles = list(client.schedule_many(tasks)) if many else [client.schedule(task) for task in tasks]
    return [(handle.id, handle.is_new) for handle in handles]


def with_asyncio(address: str, tasks: list[NewTask], many: bool) -> Told:
    async def run() -> Told:
        async with AsyncClient(address) as client:
            if many:
                handles = [handle async for handle in client.schedule_many(tasks)]
            else:
                handles = [await client.schedule(task) for task in tasks]
            return [(handle.id, handle.is_new) for handle in handles]

    return asyncio.run(run())


@pytest.mark.parametrize("many", [False, True], ids=["one-by-one", "many"])
@pytest.mark.parametrize("do", [blocking, with_asyncio])
def test_the_handle_is_that_of_the_task_that_has_the_key(cluster: Cluster, do: Do, many: bool) -> None:
    mark = f"{do.__name__}-{many}"
    tasks = [
        NewTask("p", id=f"{mark}-{number}", handler="nobody", unique=f"{mark}-{key}" if key else None)
        for number, key in enumerate(["a", "", "a", "b", "a"])
    ]
    # One by one, all but the first share a stream.
    assert do(cluster.address, tasks, many) == [
        (f"{mark}-0", True),
        (f"{mark}-1", True),
        (f"{mark}-0", False),
        (f"{mark}-3", True),
        (f"{mark}-0", False),
    ]


def test_a_handler_gives_its_key_to_its_follow_up_and_leaves_a_key_alone_that_another_task_has(
    cluster: Cluster,
) -> None:
    client = cluster.client
    waits = client.schedule("p", handler="nobody", unique="waits")
    assert client.schedule(2, handler=chained, id="chained-2", unique="chain").result(timeout=60) == 2
    assert client.handle("chained-1").result(timeout=60) == 1
    assert client.handle("chained-0").result(timeout=60) == 0
    assert client.get("chained-0").unique_key == "chain"
    assert "never" not in [task.id for task in client.tasks()]
    waits.cancel()
    # Its end has freed the chain's key.
    assert client.schedule(0, handler=chained, unique="chain").is_new


def test_a_failed_task_does_not_run_again_while_another_one_has_its_key(cluster: Cluster) -> None:
    client = cluster.client
    first = client.schedule("p", handler="nobody", unique="again", unique_for=0)
    first.cancel()
    second = client.schedule("p", handler="nobody", unique="again")
    with pytest.raises(FailedPrecondition, match=f"task '{second.id}' has the unique_key 'again'"):
        client.retry(first.id)
    second.cancel()
    client.retry(first.id)
    assert first.get().status is TaskStatus.PENDING

"""Batches of one schedule_many that arrive in another order than they were sent, with either client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from gowork.client import AsyncClient, Client, FailedPrecondition, NewTask
from gowork.proto.status import Refusal

EARLY = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "UPSTREAM_UNKNOWN", "tasks[0].after[0]: no task has the id 'a'")
TASK = NewTask("p", id="b", after=["a"])


def blocking(address: str) -> None:
    with Client(address) as client:
        list(client.schedule_many([TASK]))


def with_asyncio(address: str) -> None:
    async def run() -> None:
        async with AsyncClient(address) as client:
            [handle async for handle in client.schedule_many([TASK])]

    asyncio.run(run())


@pytest.mark.parametrize("do", [blocking, with_asyncio])
def test_a_batch_that_comes_before_the_tasks_that_it_names_is_sent_again(
    do: Callable[[str], None], scripted: Any
) -> None:
    scripted.fail_next("ScheduleTasks", EARLY)
    do(scripted.address)
    assert [[task.id for task in request.tasks] for request in scripted.requests["ScheduleTasks"]] == [["b"], ["b"]]


@pytest.mark.parametrize("do", [blocking, with_asyncio])
def test_a_batch_that_names_tasks_that_never_come_is_refused(do: Callable[[str], None], scripted: Any) -> None:
    scripted.fail_next("ScheduleTasks", EARLY)
    scripted.fail_next("ScheduleTasks", EARLY)
    with pytest.raises(FailedPrecondition, match="no task has the id 'a'"):
        do(scripted.address)
    assert len(scripted.requests["ScheduleTasks"]) == 2

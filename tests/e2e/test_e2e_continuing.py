"""Handlers that have their tasks go on after others, with a leader and workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from gowork.client import Client, FailureKind, TaskCancelled, TaskFailed, TaskStatus
from gowork.testing import Cluster
from gowork.worker import Context, WaitFor, handler

PATIENCE = 60.0
#: Set when `held` has begun.
begun = threading.Event()


@handler
def part(number: int) -> int:
    if number == 13:
        raise ValueError("13 is no number")
    return number * number


@handler
def held(ctx: Context, number: int) -> int:
    begun.set()
    ctx.cancelled.wait()
    return number


@handler
def total(ctx: Context, address: str) -> int:
    with Client(address) as client:
        return sum(client.handle(id).result() for id in ctx.after)


@handler
def split(ctx: Context, address: str) -> int:
    return WaitFor(ctx.schedule_many(range(1, 6), handler=part), then=total)


@handler
async def deeper(ctx: Context, address: str) -> int:
    """Waits for a task that waits itself, twice."""
    first = ctx.schedule(address, handler=split)
    return WaitFor([first], then="deeper-still")


@handler("deeper-still")
def deeper_still(ctx: Context, address: str) -> int:
    return WaitFor([*ctx.after, ctx.schedule(10, handler=part)], then=total)


@handler
def for_a_group(ctx: Context, address: str) -> int:
    group = ctx.schedule("", id=f"{ctx.id}/all", group=3)
    for number in range(3):
        ctx.schedule(number, id=f"{group}/{number}", handler=part)
    return WaitFor([group], then="children-of")


@handler("children-of")
def children_of(ctx: Context, address: str) -> int:
    with Client(address) as client:
        return client.groups.get(ctx.after[0]).completed


@handler
def for_one_that_fails(ctx: Context, rule: Literal["all_completed", "any_failed"]) -> str:
    return WaitFor([ctx.schedule(13, handler=part)], then="ends", after_rule=rule)


@handler
def ends(ctx: Context, _: str) -> str:
    return "after all"


@handler
def for_held(ctx: Context, number: int) -> str:
    return WaitFor(ctx.schedule_many([number], handler=held), then="ends")


@handler
def for_nobody(ctx: Context, _: str) -> str:
    ctx.schedule(1, handler=part)
    return WaitFor(["nobody"], then="ends")


HANDLERS: list[Callable[..., Any]] = [
    part,
    held,
    total,
    split,
    deeper,
    deeper_still,
    for_a_group,
    children_of,
    for_one_that_fails,
    ends,
    for_held,
    for_nobody,
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # One slot, so that a wait that held it would never end.
    with Cluster(handlers=HANDLERS, slots=1) as cluster:
        yield cluster


def test_a_task_waits_for_its_children_without_a_slot_and_ends_with_their_sum(cluster: Cluster) -> None:
    handle = cluster.client.schedule(cluster.address, handler=split, id="sums")
    assert handle.result(timeout=PATIENCE) == 55
    task = cluster.client.get("sums")
    assert [attempt.outcome for attempt in task.attempts] == ["WAITING", "COMPLETED"]
    assert (task.handler, task.attempts_used, task.after) == ("total", 1, tuple(f"sums/{n}" for n in range(1, 6)))
    assert task.attempts[0].reason == "waits for 5 tasks; then total"
    assert not task.is_waiting


def test_a_repeated_submit_of_a_task_that_went_on_is_the_same_task(cluster: Cluster) -> None:
    handle = cluster.client.schedule(cluster.address, handler=split, id="again")
    assert handle.result(timeout=PATIENCE) == 55
    assert cluster.client.schedule(cluster.address, handler=split, id="again").result(timeout=PATIENCE) == 55


def test_a_task_may_wait_for_one_that_waits_and_wait_again(cluster: Cluster) -> None:
    handle = cluster.client.schedule(cluster.address, handler=deeper, id="deep")
    assert handle.result(timeout=PATIENCE) == 155
    assert cluster.client.get("deep").after == ("deep/1", "deep/then-1/1")


def test_a_task_may_wait_for_a_group_of_its_own(cluster: Cluster) -> None:
    assert cluster.client.schedule(cluster.address, handler=for_a_group).result(timeout=PATIENCE) == 3


def test_the_rule_says_what_becomes_of_a_task_whose_child_fails(cluster: Cluster) -> None:
    client = cluster.client
    assert client.schedule("any_failed", handler=for_one_that_fails).result(timeout=PATIENCE) == "after all"
    handle = client.schedule("all_completed", handler=for_one_that_fails)
    with pytest.raises(TaskCancelled):
        handle.result(timeout=PATIENCE)
    assert handle.get().failure is not None


def test_who_waits_is_told_and_a_cancel_reaches_the_children(cluster: Cluster) -> None:
    client = cluster.client
    handle = client.schedule(7, handler=for_held, id="waits")
    assert begun.wait(PATIENCE)
    task = handle.get()
    assert (task.status, task.is_waiting, task.handler) == (TaskStatus.PENDING, True, "ends")
    assert "'waits/1'" in client.explain("waits").reasons[0].message
    handle.cancel()
    with pytest.raises(TaskCancelled):
        client.handle("waits/1").result(timeout=PATIENCE)
    assert handle.get().status is TaskStatus.CANCELLED


def test_a_wait_that_cannot_be_fails_its_attempt_and_schedules_nothing(cluster: Cluster) -> None:
    handle = cluster.client.schedule("", handler=for_nobody, id="nobodys")
    with pytest.raises(TaskFailed, match="it can't wait: after\\[0\\]: no task has the id 'nobody'"):
        handle.result(timeout=PATIENCE)
    failure = handle.get().failure
    assert failure is not None
    assert failure.kind is FailureKind.REJECTED
    assert not list(cluster.client.tasks(filter='id = "nobodys/1"'))

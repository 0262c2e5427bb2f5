"""What waiters are told, and what they hold meanwhile."""

from __future__ import annotations

import pytest

from gowork.leader._core.model import LaneKey, Priority, Spec, Standing, Status, Task
from gowork.leader._engine.subscriptions import SMALL_BYTES, WAITERS_BYTES_MAX, Ended, Subscriptions, Waiter
from gowork.leader._engine.watching import SubscriptionsClosed


def task(id: str, body: bytes = b"body", result: str = "") -> Task:
    spec = Spec(id, LaneKey("default", Priority.LOW, "", ()), body)
    return Task(1, spec, Standing(Status.COMPLETED, 0, result=result), 1)


@pytest.fixture
def subscriptions() -> Subscriptions:
    return Subscriptions()


def waiter_of(subscriptions: Subscriptions, *ids: str) -> Waiter:
    waiter = Waiter(subscriptions.waiting)
    subscriptions.add_waiter(waiter, ids)
    return waiter


def ids_of(taken: tuple[list[Ended], list[str]]) -> tuple[list[str], list[str]]:
    ended, beyond = taken
    return [each.id for each in ended], beyond


async def test_a_waiter_keeps_one_task_beyond_what_all_may_keep(subscriptions: Subscriptions) -> None:
    subscriptions.waiting.bytes = WAITERS_BYTES_MAX
    waiter = waiter_of(subscriptions, "a", "b")
    subscriptions.publish([task("a"), task("b")], 1)
    assert ids_of(await waiter.take()) == (["a"], ["b"])


async def test_what_was_taken_counts_until_the_next_is_taken(subscriptions: Subscriptions) -> None:
    waiter = waiter_of(subscriptions, "a", "b")
    subscriptions.publish([task("a")], 1)
    await waiter.take()
    assert subscriptions.waiting.bytes == len(b"body")
    subscriptions.publish([task("b")], 2)
    await waiter.take()
    assert subscriptions.waiting.bytes == len(b"body")


async def test_a_waiter_with_bodies_holds_large_ones_too(subscriptions: Subscriptions) -> None:
    waiter = waiter_of(subscriptions, "a")
    body = b"x" * (SMALL_BYTES + 1)
    subscriptions.publish([task("a", body)], 1)
    (ended,), _ = await waiter.take()
    assert ended.body == body
    assert subscriptions.waiting.bytes == len(body)


async def test_a_waiter_without_bodies_holds_no_large_one(subscriptions: Subscriptions) -> None:
    waiter = Waiter(subscriptions.waiting, with_bodies=False)
    subscriptions.add_waiter(waiter, ["a"])
    subscriptions.publish([task("a", b"x" * (SMALL_BYTES + 1))], 1)
    (ended,), _ = await waiter.take()
    assert (ended.id, ended.body) == ("a", None)
    assert subscriptions.waiting.bytes == 0


async def test_a_waiter_that_ends_holds_nothing(subscriptions: Subscriptions) -> None:
    waiter = waiter_of(subscriptions, "a", "b")
    subscriptions.publish([task("a")], 1)
    await waiter.take()
    subscriptions.publish([task("b")], 2)
    assert subscriptions.waiting.bytes == 2 * len(b"body")
    waiter.end()
    assert subscriptions.waiting.bytes == 0


async def test_tasks_that_finished_before_the_end_are_told_and_then_why_it_ends(subscriptions: Subscriptions) -> None:
    waiter = waiter_of(subscriptions, "a", "b")
    subscriptions.publish([task("a")], 1)
    subscriptions.close("the leader stops")
    assert ids_of(await waiter.take()) == (["a"], [])
    waiter.close()
    with pytest.raises(SubscriptionsClosed, match="the leader stops"):
        await waiter.take()


def test_a_removed_task_is_not_kept(subscriptions: Subscriptions) -> None:
    subscriptions.publish([task("a")], 1)
    subscriptions.publish([], 2, ["a"])
    assert subscriptions.recent("a", with_body=False) is None


def test_nothing_is_left_of_tasks_that_nobody_waits_for(subscriptions: Subscriptions) -> None:
    first, second = waiter_of(subscriptions, "a"), waiter_of(subscriptions, "a")
    subscriptions.drop_waiter(first, ["a"])
    assert subscriptions._waiters == {"a": (second,)}
    subscriptions.drop_waiter(second, ["a"])
    assert subscriptions._waiters == {}


async def test_tasks_of_several_waiters_go_to_their_own(subscriptions: Subscriptions) -> None:
    one, other = waiter_of(subscriptions, "a", "b", "e"), waiter_of(subscriptions, "c", "b")
    subscriptions.publish([task(id) for id in "abcde"], 1)
    assert ids_of(await one.take()) == (["a", "b", "e"], [])
    assert ids_of(await other.take()) == (["b", "c"], [])
    assert subscriptions.waiting.bytes == 5 * len(b"body")


async def test_of_tasks_that_are_told_together_those_beyond_the_bound_are_kept_as_ids(
    subscriptions: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gowork.leader._engine.subscriptions.WAITER_BYTES_MAX", 3 * len(b"body"))
    waiter = waiter_of(subscriptions, *"abcd")
    subscriptions.publish([task(id) for id in "abcd"], 1)
    assert subscriptions.waiting.bytes == 3 * len(b"body")
    assert ids_of(await waiter.take()) == (["a", "b", "c"], ["d"])


async def test_results_of_tasks_that_are_told_together_count(
    subscriptions: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gowork.leader._engine.subscriptions.WAITER_BYTES_MAX", 10)
    waiter = waiter_of(subscriptions, *"abc")
    subscriptions.publish([task(id, b"", "123456") for id in "abc"], 1)
    assert subscriptions.waiting.bytes == 12
    assert ids_of(await waiter.take()) == (["a", "b"], ["c"])


async def test_of_tasks_that_are_told_together_only_the_large_bodies_are_left_out(subscriptions: Subscriptions) -> None:
    waiter = Waiter(subscriptions.waiting, with_bodies=False)
    subscriptions.add_waiter(waiter, ["a", "b"])
    subscriptions.publish([task("a", b"x" * (SMALL_BYTES + 1)), task("b")], 1)
    (first, second), _ = await waiter.take()
    assert (first.body, second.body) == (None, b"body")
    assert subscriptions.waiting.bytes == len(b"body")

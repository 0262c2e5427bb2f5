"""Watchers are told what their filter selects; what they do not read is bounded over all of them."""

from __future__ import annotations

import pytest

from gowork.leader._core.model import LaneKey, Priority, Spec, Standing, Status, Task
from gowork.leader._engine.watching import TASK_BYTES, Feed, SubscriptionsClosed, Watcher, WatcherBehind
from gowork.leader._rpc.filters import selection_of

MANY = 1_000_000


def task(id: str, queue: str = "default", status: Status = Status.PENDING, body: bytes = b"") -> Task:
    return Task(1, Spec(id, LaneKey(queue, Priority.LOW, "", ()), body), Standing(status, 0), 1)


def watch(feed: Feed, text: str = "") -> Watcher:
    watcher = Watcher(selection_of(text))
    feed.add(watcher)
    return watcher


def told(watcher: Watcher, items_max: int = MANY, bytes_max: int = MANY) -> tuple[list[str], list[str], int | None]:
    """What it is told without waiting: ids of tasks, removed ids, and the batch that ends with it."""
    coroutine = watcher.take(items_max, bytes_max)
    try:
        coroutine.send(None)
    except StopIteration as end:
        part = end.value
        return [new.spec.id for new in part.tasks], list(part.removed), part.changed
    coroutine.close()
    return [], [], None


NOTHING: tuple[list[str], list[str], None] = ([], [], None)


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", ["a", "b", "c"]),
        ('id = "b"', ["b"]),
        ('id = "b" AND queue = "other"', []),
        ('id = "a*"', ["a"]),
        ('queue = "other"', ["c"]),
        ('queue != "other"', ["a", "b"]),
        ('queue = "default" AND status = RUNNING', ["b"]),
        ("status = RUNNING", ["b"]),
        ("priority = HIGH", []),
    ],
)
async def test_a_watcher_is_told_what_its_filter_selects(text: str, selected: list[str]) -> None:
    feed = Feed()
    watcher = watch(feed, text)
    feed.publish([task("a"), task("b", status=Status.RUNNING), task("c", "other")], 1, ())
    assert told(watcher) == (selected, [], 1 if selected else None)
    assert told(watcher) == NOTHING
    assert feed.unread_bytes == 0


async def test_all_watchers_of_a_filter_are_told_whatever_the_others_read() -> None:
    feed = Feed()
    early, late = watch(feed), watch(feed)
    feed.publish([task("a")], 1, ())
    assert told(early) == (["a"], [], 1)
    between = watch(feed)
    feed.publish([task("b")], 2, ())
    assert told(early) == (["b"], [], 2)
    assert told(late) == (["a", "b"], [], 2)
    assert told(between) == (["b"], [], 2)
    assert feed.unread_bytes == 0


async def test_of_each_task_the_last_change_is_told_in_the_order_of_the_changes() -> None:
    feed = Feed()
    watcher = watch(feed)
    feed.publish([task("a"), task("b")], 1, ())
    feed.publish([task("a", status=Status.RUNNING)], 2, ())
    assert told(watcher) == (["b", "a"], [], 2)


async def test_removals_are_told_before_the_tasks_of_their_batch_and_after_those_of_earlier_ones() -> None:
    feed = Feed()
    watcher = watch(feed)
    feed.publish([task("a")], 1, ())
    feed.publish([task("a")], 2, ("a", "z"))
    assert told(watcher) == (["a"], [], 1)
    assert told(watcher) == ([], ["a", "z"], None)
    assert told(watcher) == (["a"], [], 2)


async def test_a_watcher_of_one_task_is_told_of_that_ones_removal_alone() -> None:
    feed = Feed()
    watcher = watch(feed, 'id = "a"')
    feed.publish([], 1, ("b", "c"))
    assert told(watcher) == NOTHING
    feed.publish([], 2, ("b", "a"))
    assert told(watcher) == ([], ["a"], 2)


async def test_a_watcher_is_told_a_part_at_a_time_and_the_number_with_the_last() -> None:
    feed = Feed()
    watcher = watch(feed)
    feed.publish([task(id, body=bytes(10)) for id in "abcde"], 1, ("x", "y", "z"))
    assert told(watcher, items_max=2) == ([], ["x", "y"], None)
    assert told(watcher, items_max=2) == ([], ["z"], None)
    assert told(watcher, items_max=2) == (["a", "b"], [], None)
    assert told(watcher, bytes_max=20) == (["c", "d"], [], None)
    assert told(watcher, bytes_max=1) == (["e"], [], 1), "one is always told"


async def test_watchers_that_do_not_read_are_ended_beyond_a_bound_over_all_of_them() -> None:
    feed = Feed(unread_bytes_max=10 * TASK_BYTES)
    stuck = [watch(feed, f'queue != "{number}"') for number in range(3)]
    reader = watch(feed)
    for number in range(20):
        feed.publish([task(f"{number}")], number, ())
        assert told(reader) == ([f"{number}"], [], number), "who reads is not ended for others"
        assert feed.unread_bytes <= (10 + 3) * TASK_BYTES
    for watcher in stuck:
        with pytest.raises(WatcherBehind):
            told(watcher)
        feed.drop(watcher)
    assert feed.unread_bytes == 0
    feed.publish([task("last")], 21, ())
    assert told(reader) == (["last"], [], 21)


async def test_one_batch_may_bring_more_than_may_wait() -> None:
    feed = Feed(unread_bytes_max=10 * TASK_BYTES)
    watcher = watch(feed)
    feed.publish([task(f"{number}") for number in range(100)], 1, ())
    assert len(told(watcher)[0]) == 100


async def test_a_change_is_held_once_for_all_watchers_of_one_filter() -> None:
    feed = Feed()
    watchers = [watch(feed) for _ in range(1_000)]
    feed.publish([task("a", body=bytes(1_000_000))], 1, ())
    assert feed.unread_bytes == 1_000_000 + TASK_BYTES
    for watcher in watchers:
        feed.drop(watcher)
    assert feed.unread_bytes == 0


async def test_a_watcher_that_leaves_frees_what_it_has_not_read() -> None:
    feed = Feed()
    for text in ("", 'id = "a"', 'queue = "default"'):
        watcher = watch(feed, text)
        feed.publish([task("a")], 1, ("b",))
        feed.drop(watcher)
        feed.drop(watcher)
    assert feed.unread_bytes == 0
    feed.publish([task("a")], 2, ())
    assert feed.unread_bytes == 0, "nobody is left"


async def test_a_batch_asks_only_the_watchers_that_it_may_concern() -> None:
    """A thousand watchers of one task each, or of other queues, cost a batch next to nothing."""
    asked = 0

    def counting(text: str) -> Watcher:
        selection = selection_of(text)

        def selects(spec: Spec, standing: Standing) -> bool:
            nonlocal asked
            asked += 1
            return selection.task(spec, standing)

        watcher = Watcher(selection._replace(task=selects))
        feed.add(watcher)
        return watcher

    feed = Feed()
    watchers = [counting(f'id = "{number}"') for number in range(1_000)]
    watchers += [counting(f'queue = "{number}"') for number in range(1_000)]
    watchers += [counting('queue = "shared"') for _ in range(1_000)]
    feed.publish([task("7"), task("x", "8"), *(task(f"s{number}", "shared") for number in range(10))], 1, ())
    assert asked == 1 + 1 + 10


async def test_watchers_are_told_what_is_there_when_all_ends() -> None:
    feed = Feed()
    watchers = [watch(feed, text) for text in ("", 'id = "a"', 'queue = "default"')]
    feed.publish([task("a")], 1, ())
    feed.close("over")
    for watcher in watchers:
        assert [new.spec.id for new in (await watcher.take(MANY, MANY)).tasks] == ["a"]
        with pytest.raises(SubscriptionsClosed):
            await watcher.take(MANY, MANY)


@pytest.mark.parametrize("text", ["", 'id = "a"', 'queue = "other"'])
async def test_a_watcher_that_has_gone_leaves_nothing_of_its_filter(text: str) -> None:
    feed = Feed()
    # One may go before it has been added.
    feed.drop(Watcher(selection_of(text)))
    first, second = watch(feed, text), watch(feed, text)
    feed.drop(first)
    feed.publish([task("a", "other")], 1, ())
    assert told(second) == (["a"], [], 1)
    feed.drop(second)
    assert (feed._of_ids, feed._of_lanes, feed._of_all) == ({}, {}, {})


def test_a_watcher_that_never_began_leaves_nothing() -> None:
    feed = Feed()
    feed.drop(Watcher(selection_of('id = "a"')))
    assert feed._of_ids == {}

"""A handler that waits for other tasks lends its slot to them, once, and gets it back."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import Context, handler
from gowork.worker._runner import lending
from gowork.worker._runner.lending import Lending

MakeRig = Callable[..., Any]
COMPLETED = tasks.ATTEMPT_OUTCOME_COMPLETED


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait is long."""
    monkeypatch.setattr(lending, "LEND_AFTER_SECONDS", 0.0)


@pytest.fixture
def busy_switching() -> Iterator[None]:
    """Threads change places all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Family:
    """Parents that wait for their children: the payload of either is the parent's number."""

    def __init__(self) -> None:
        self.ended: dict[str, threading.Event] = {}
        self.contexts: list[Context] = []
        self._lock = threading.Lock()

    def end_of(self, name: str) -> threading.Event:
        with self._lock:
            return self.ended.setdefault(name, threading.Event())

    def handlers(self) -> list[Callable[..., Any]]:
        @handler
        def parent(ctx: Context, name: str) -> None:
            self.contexts.append(ctx)
            with ctx.waiting():
                assert self.end_of(name).wait(10)

        @handler
        async def parent_on_loop(ctx: Context, name: str) -> None:
            self.contexts.append(ctx)
            with ctx.waiting():
                while not self.end_of(name).is_set():  # noqa: ASYNC110
                    await asyncio.sleep(0)

        @handler
        def child(name: str) -> None:
            self.end_of(name).set()

        @handler
        async def child_on_loop(name: str) -> None:
            self.end_of(name).set()

        return [parent, parent_on_loop, child, child_on_loop]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def all_told(rig: Any, waiting: int) -> None:
    """Waits until `waiting` attempts are said to wait."""
    await until(lambda: rig.waiting and rig.waiting[-1] == waiting)


async def all_over(rig: Any) -> None:
    """Waits until the loop has heard of all ends, and each thread has given its slot back."""
    executor = rig.executor
    await until(lambda: executor.idle and not executor._lending.noted and not executor._waiting_due)
    await until(lambda: not executor._slots.contended and len(executor._threads.hands) <= rig.table.slots)
    await until(
        lambda: (
            len(executor._slots.free) + len(executor._slots.handed) + len(executor._slots.withheld) == rig.table.rows
        )
    )


def assert_whole(rig: Any) -> None:
    """Every slot is where it belongs."""
    executor = rig.executor
    assert len(executor._slots.free) + len(executor._slots.handed) == rig.table.slots
    assert len(executor._slots.withheld) == rig.table.spare
    everything = [*executor._slots.free, *executor._slots.handed, *executor._slots.withheld]
    assert sorted(everything) == list(range(rig.table.rows))
    assert (rig.table.running(), executor._lending.lent, executor._lending._waits) == ([], set(), {})


@pytest.mark.parametrize("child", ["child", "child_on_loop"])
@pytest.mark.parametrize("parent", ["parent", "parent_on_loop"])
async def test_parents_that_wait_lend_their_slots_to_their_children(
    make_rig: MakeRig, at_once: None, parent: str, child: str
) -> None:
    rig = make_rig(*Family().handlers(), slots=2, spare=2)
    rig.feed((1, parent, "a"), (2, parent, "b"))
    await all_told(rig, 2)
    rig.feed((3, child, "a"), (4, child, "b"))
    for fence in range(1, 5):
        assert (await rig.report(fence)).outcome == COMPLETED
    await all_over(rig)
    assert rig.waiting[-1] == 0
    assert_whole(rig)


async def test_many_parents_on_few_slots_end_with_every_slot_where_it_belongs(
    make_rig: MakeRig, at_once: None, busy_switching: None
) -> None:
    rig = make_rig(*Family().handlers(), slots=2, spare=100)
    names = [str(number) for number in range(100)]
    rig.feed(*((1 + number, ("parent", "parent_on_loop")[number % 2], name) for number, name in enumerate(names)))
    rig.feed(*((101 + number, ("child", "child_on_loop")[number % 3 % 2], name) for number, name in enumerate(names)))
    for fence in range(1, 201):
        assert (await rig.report(fence)).outcome == COMPLETED
    await all_over(rig)
    assert_whole(rig)
    assert rig.waiting[-1] == 0


async def test_a_short_wait_lends_nothing(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "LEND_AFTER_SECONDS", 3600.0)

    @handler
    def brief(ctx: Context) -> None:
        with ctx.waiting():
            pass

    rig = make_rig(brief, slots=1, spare=1)
    rig.feed((1, "brief"))
    await rig.report(1)
    await all_over(rig)
    assert rig.waiting == []
    assert rig.executor._lending._timers == {}
    assert_whole(rig)


async def test_no_more_run_at_once_than_slots_and_those_that_wait(make_rig: MakeRig, at_once: None) -> None:
    family, release = Family(), threading.Event()
    running = threading.Semaphore(0)

    @handler
    def busy() -> None:
        running.release()
        assert release.wait(10)

    rig = make_rig(busy, *family.handlers(), slots=2, spare=5)
    rig.feed((1, "parent", "a"), *((fence, "busy") for fence in range(2, 8)))
    await asyncio.to_thread(running.acquire)
    await asyncio.to_thread(running.acquire)
    await all_told(rig, 1)
    assert len(rig.table.running()) == 3
    # The parent goes on at once: three run for a moment, and the next slot that is freed stays free.
    family.end_of("a").set()
    await rig.report(1)
    await all_told(rig, 0)
    assert len(rig.table.running()) == 2
    release.set()
    for fence in range(2, 8):
        await rig.report(fence)
    await all_over(rig)
    assert_whole(rig)


@pytest.mark.parametrize("kind", ["forgets", "raises", "is cancelled"])
async def test_an_attempt_that_ends_while_it_waits_gives_back_once(make_rig: MakeRig, at_once: None, kind: str) -> None:
    @handler
    def forgets(ctx: Context) -> None:
        entered.append(ctx.waiting())
        entered[0].__enter__()
        assert ready.wait(10)

    @handler
    def raises(ctx: Context) -> None:
        with ctx.waiting():
            assert ready.wait(10)
            raise SystemExit(1)

    @handler
    async def on_loop(ctx: Context) -> None:
        with ctx.waiting(), ctx.waiting():
            await asyncio.Event().wait()

    ready = threading.Event()
    entered: list[Any] = []
    rig = make_rig(forgets, raises, on_loop, slots=1, spare=1)
    rig.feed((1, {"is cancelled": "on_loop"}.get(kind, kind)))
    await all_told(rig, 1)
    ready.set()
    if kind == "is cancelled":
        rig.executor.cancel([1], "enough")
    await rig.report(1)
    await all_over(rig)
    assert rig.waiting == [1, 0]
    assert_whole(rig)
    rig.feed((2, "echo"))
    assert (await rig.report(2)).outcome == COMPLETED


async def test_slots_that_are_withheld_are_told_while_all_tasks_wait(make_rig: MakeRig, at_once: None) -> None:
    family = Family()
    rig = make_rig(*family.handlers(), slots=2, spare=2)
    rig.feed((1, "parent", "a"), (2, "parent_on_loop", "b"))
    await all_told(rig, 2)
    rig.executor.set_slots(0)
    assert rig.withheld == [2]
    rig.feed((3, "child", "a"))
    assert rig.executor.recall() == (3,)
    for name in "ab":
        family.end_of(name).set()
    for fence in (1, 2):
        await rig.report(fence)
    rig.executor.set_slots(2)
    assert rig.withheld == [2, 0]
    await all_over(rig)
    assert_whole(rig)


async def test_who_finds_no_spare_slot_keeps_its_own_until_another_goes_on(make_rig: MakeRig, at_once: None) -> None:
    family = Family()
    rig = make_rig(*family.handlers(), slots=2, spare=1)
    rig.feed((1, "parent", "a"))
    await all_told(rig, 1)
    rig.feed((2, "parent", "b"))
    await until(lambda: rig.executor._lending._beyond)
    first, second = family.contexts
    assert (first.keeps_slot, second.keeps_slot) == (False, True)
    family.end_of("a").set()
    await rig.report(1)
    await until(lambda: not second.keeps_slot)
    assert rig.executor._lending.lent == {2}
    family.end_of("b").set()
    await rig.report(2)
    await all_over(rig)
    assert_whole(rig)


async def test_a_wait_in_the_name_of_an_attempt_that_has_ended_lends_nothing(make_rig: MakeRig, at_once: None) -> None:
    family = Family()
    rig = make_rig(*family.handlers(), slots=1, spare=1)
    rig.feed((1, "parent", "a"))
    family.end_of("a").set()
    await rig.report(1)
    await all_over(rig)
    before = list(rig.waiting)
    with family.contexts[0].waiting():
        await all_over(rig)
        assert rig.waiting == before
    assert_whole(rig)


async def test_what_was_left_behind_is_taken_back() -> None:
    running = {1}
    changes: list[int] = []
    lends = Lending(2, running, lambda: changes.append(1))
    lends.noted[1] = None
    lends._begun(1)
    lends._begun(1)
    lends._lend(1)
    lends._ended(1)
    assert lends.lent == {1}
    running.clear()
    lends.look_after()
    assert (lends.lent, lends.noted, len(changes)) == (set(), {}, 2)
    lends._ended(1)
    assert len(changes) == 2


def test_a_context_of_a_test_has_no_slot_to_lend() -> None:
    ctx = Context()
    with ctx.waiting():
        assert not ctx.keeps_slot

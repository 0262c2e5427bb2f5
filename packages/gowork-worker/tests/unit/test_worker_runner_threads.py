"""What the loop and the threads of a runner see of each other, with the order of events chosen by the test."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Context, handler
from gowork.worker._core.cancellation import CancelToken
from gowork.worker._runner import main
from gowork.worker._runner.clock import Clock
from gowork.worker._runner.hands import Hand
from gowork.worker._runner.job import Job
from gowork.worker._runner.messages import StopKind
from gowork.worker._runner.table import SlotTable

MakeRig = Callable[..., Any]


@pytest.fixture
async def prompt_loop(monkeypatch: pytest.MonkeyPatch) -> asyncio.AbstractEventLoop:
    """The loop acts on what a thread tells it before that thread takes its next step."""
    loop, this_thread = asyncio.get_running_loop(), threading.get_ident()
    tell = loop.call_soon_threadsafe

    def tell_and_wait(callback: Callable[..., Any], *arguments: Any) -> None:
        done = threading.Event()

        def act() -> None:
            try:
                callback(*arguments)
            finally:
                done.set()

        tell(act)
        if threading.get_ident() != this_thread:
            assert done.wait(120)

    monkeypatch.setattr(loop, "call_soon_threadsafe", tell_and_wait)
    return loop


@pytest.mark.parametrize("name", ["plain", "on_loop"])
async def test_limit_is_counted_from_the_start_however_soon_the_loop_hears_of_it(
    make_rig: MakeRig, prompt_loop: asyncio.AbstractEventLoop, name: str
) -> None:
    # Whatever is due by then has happened once the loop has turned twice.
    @handler
    def plain() -> None:
        for _ in range(2):
            prompt_loop.call_soon_threadsafe(lambda: None)

    @handler
    async def on_loop() -> None:
        for _ in range(2):
            await asyncio.sleep(0)

    rig = make_rig(plain, on_loop)
    rig.feed((1, name), time_limit_ms=30_000)
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert rig.stopping == []


@pytest.mark.parametrize("limit_ms", [(1 << 63) - 1, 10**17, -1, -(1 << 63)])
@pytest.mark.parametrize("name", ["plain", "on_loop"])
async def test_limit_that_no_clock_can_count_harms_nobody(make_rig: MakeRig, name: str, limit_ms: int) -> None:
    @handler
    def plain() -> None:
        pass

    @handler
    async def on_loop() -> None:
        await asyncio.sleep(0)

    rig = make_rig(plain, on_loop)
    rig.feed((1, name), time_limit_ms=limit_ms)
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert (rig.stopping, rig.broken) == ([], [])


async def test_no_timer_is_left_of_a_job_that_ended_before_the_loop_heard_of_its_start(make_rig: MakeRig) -> None:
    @handler
    def plain() -> None:
        pass

    rig = make_rig(plain)
    jobs: list[Job] = []
    ended = threading.Event()
    begin, end = rig.executor._jobs.begin, rig.table.end

    def note_and_begin(job: Job, slot: int) -> Any:
        jobs.append(job)
        return begin(job, slot)

    def end_and_tell(slot: int, fence: int) -> None:
        end(slot, fence)
        ended.set()

    rig.executor._jobs.begin = note_and_begin
    rig.table.end = end_and_tell
    # A thread that is there already, so that the loop is not needed to start one.
    rig.feed((9, "plain"))
    await rig.report(9)
    ended.clear()
    jobs.clear()
    rig.feed((1, "plain"), time_limit_ms=30_000)
    # The loop stands still until the thread is through.
    assert ended.wait(120)
    await rig.report(1)
    assert [job.timer for job in jobs] == [None]


async def test_what_has_passed_when_the_loop_hears_of_a_start_counts_to_the_limit(make_rig: MakeRig) -> None:
    go, heard = threading.Event(), asyncio.Event()
    left: list[float] = []

    @handler
    def plain() -> None:
        go.wait(120)

    rig = make_rig(plain)
    started, loop = rig.executor._jobs._limit, asyncio.get_running_loop()

    def hear_late(job: Job) -> None:
        job.started_ns -= 600 * 10**9
        started(job)
        assert job.timer is not None
        left.append(job.timer.when() - loop.time())
        heard.set()

    rig.executor._jobs._limit = hear_late
    rig.feed((1, "plain"), time_limit_ms=1_000_000)
    await heard.wait()
    go.set()
    await rig.report(1)
    assert 0 < left[0] <= 400


async def test_timer_ends_with_its_job(make_rig: MakeRig) -> None:
    jobs: list[Job] = []
    go = threading.Event()

    @handler
    def plain() -> None:
        go.wait(120)

    rig = make_rig(plain)
    started = rig.executor._jobs._limit
    heard = asyncio.Event()

    def limit_and_tell(job: Job) -> None:
        started(job)
        jobs.append(job)
        heard.set()

    rig.executor._jobs._limit = limit_and_tell
    rig.feed((1, "plain"), time_limit_ms=30_000)
    await heard.wait()
    timer = jobs[0].timer
    assert timer is not None
    go.set()
    await rig.report(1)
    assert timer.cancelled()
    assert jobs[0].timer is None


async def test_limit_that_runs_out_as_its_job_ends_stops_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.feed((1, "echo"))
    job = rig.executor._jobs.held.get(1)
    await rig.report(1)
    if job is None:
        job = Job(session.Grant(fence=1), tasks.Task(), rig.executor._handlers["echo"])
    rig.executor._jobs._time_out(job)
    assert (job.stop, rig.stopping) == (None, [])


class HandedWhileEmptied(deque[int]):
    """A queue to which a thread adds a slot while the loop moves all that is in it."""

    late: int | None = None

    def _add(self) -> None:
        if self.late is not None:
            late, self.late = self.late, None
            self.append(late)

    def __iter__(self) -> Iterator[int]:
        yield from list(super().__iter__())
        self._add()

    def popleft(self) -> int:
        slot = super().popleft()
        if not self:
            self._add()
        return slot


async def test_slot_that_is_handed_back_while_the_loop_collects_them_is_not_lost(make_rig: MakeRig) -> None:
    rig = make_rig(slots=3)
    executor = rig.executor
    executor._slots.free.clear()
    executor._slots.handed = HandedWhileEmptied([0, 1])
    executor._slots.handed.late = 2
    executor._slots.pump()
    assert sorted([*executor._slots.free, *executor._slots.handed]) == [0, 1, 2]


async def test_slot_that_is_freed_as_somebody_begins_to_wait_is_not_missed(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(slots=1)
    executor = rig.executor
    pumped: list[list[int]] = []
    monkeypatch.setattr(
        executor._slots, "pump", lambda: pumped.append([*executor._slots.free, *executor._slots.handed])
    )

    class Freed(list[int]):
        def extend(self, slots: Iterable[int]) -> None:
            # The loop has looked here in vain, and waits.
            executor._slots.contended = True
            super().extend(slots)

    hand = Hand(0, lambda hand: None)
    hand.slots.append(executor._slots.free.pop())
    executor._slots.free = Freed()
    executor._slots.release(hand, False)
    await asyncio.sleep(0)
    assert pumped == [[0]]
    monkeypatch.undo()
    executor._slots.pump()


async def test_threads_free_slots_by_themselves_again_once_nobody_waits(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(slots=1)
    slots = rig.executor._slots
    slots.contended = True
    slots.pump()
    pumped: list[None] = []
    monkeypatch.setattr(slots, "pump", lambda: pumped.append(None))
    hand = Hand(0, lambda hand: None)
    hand.take_slot(slots.free.pop)
    slots.release(hand, False)
    await asyncio.sleep(0)
    assert (slots.free, pumped) == ([0], [])


def test_stop_is_seen_with_its_reason_or_not_at_all() -> None:
    seen: list[Any] = []

    class Watched(Job):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if self.stop is not None:
                seen.append((self.stop.kind, self.stop.reason))

    job = Watched.__new__(Watched)
    for name in ("stop", "context", "future"):
        object.__setattr__(job, name, None)
    job.ask_to_stop(StopKind.CANCEL, "not wanted")
    job.ask_to_stop(StopKind.TIMEOUT, "too late")
    assert seen == [(StopKind.CANCEL, "not wanted")]


def test_token_that_answers_yes_knows_that_it_was_asked() -> None:
    class SetMeanwhile(CancelToken):
        """Is set by another thread between any two looks at it."""

        __slots__ = ("looks",)

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name == "_set" and not value:
                super().__setattr__("_set", True)
            return value

    token = SetMeanwhile()
    assert bool(token) == token.noticed
    assert bool(token)
    assert token.noticed


def test_row_of_the_table_counts_only_once_its_times_are_there() -> None:
    rows: list[Any] = []

    class Memory(bytearray):
        pass

    table = SlotTable(Memory(64), 2)
    table.start(1, 7, 100, 200)
    table.end(1, 7)

    class Watched:
        """Looks at the table after each write."""

        def __init__(self, struct: Any) -> None:
            self._struct = struct
            self.size = struct.size

        def pack_into(self, *arguments: Any) -> None:
            self._struct.pack_into(*arguments)
            rows.extend(table.running())

        def unpack_from(self, *arguments: Any) -> Any:
            return self._struct.unpack_from(*arguments)

    from gowork.worker._runner import table as module

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_TIMES", "_WORD"):
            patch.setattr(module, name, Watched(getattr(module, name)))
        table.start(1, 8, 300, 400)
        table.end(1, 8)
    assert [(row.fence, row.started_ns, row.kill_at_ns) for row in rows] == [(8, 300, 400)] * 2


async def test_job_that_is_asked_to_stop_before_it_has_a_context_finds_its_token_set(make_rig: MakeRig) -> None:
    seen: list[bool] = []

    @handler
    def plain(ctx: Context) -> None:
        seen.append(bool(ctx.cancelled))

    rig = make_rig(plain)
    context_of = rig.executor._attempts.context_of

    def stopped_meanwhile(job: Job) -> Context:
        context = context_of(job)
        job.ask_to_stop(StopKind.CANCEL, "not wanted")
        return context

    rig.executor._attempts.context_of = stopped_meanwhile
    rig.feed((1, "plain"))
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    assert seen == [True]


@pytest.mark.parametrize("name", ["plain", "on_loop"])
async def test_a_handler_that_stops_the_clock_stops_its_own_alone(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    @handler(time_limit=600)
    def plain() -> int:
        monkeypatch.setattr(time, "monotonic_ns", lambda: 0)
        return time.monotonic_ns()

    @handler(time_limit=600)
    async def on_loop() -> int:
        return plain()

    rig = make_rig(plain, on_loop)
    for fence in (1, 2):
        before = Clock.monotonic_ns()
        rig.feed((fence, name))
        report = await rig.report(fence)
        assert (report.outcome, report.result) == (tasks.ATTEMPT_OUTCOME_COMPLETED, "0")
        assert 0 <= report.execution_us <= (Clock.monotonic_ns() - before) // 1000
    assert rig.broken == []


def test_the_timers_of_a_runner_go_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = main._new_loop()
    try:
        before = loop.time()
        monkeypatch.setattr(time, "monotonic", lambda: before - 1)
        assert loop.time() >= before
    finally:
        loop.close()

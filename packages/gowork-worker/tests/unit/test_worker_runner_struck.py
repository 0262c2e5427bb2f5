"""What reaches a runner's own thread or task from outside of a handler, at any moment: one task is reported, nothing
leaks, and the rest goes on.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from types import FrameType
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import Context, handler
from gowork.worker._runner import executor as executor_module
from gowork.worker._runner import lending, main
from gowork.worker._runner.hands import Hand
from gowork.worker._runner.job import Job
from gowork.worker._runner.strikes import STRIKES_MAX

MakeRig = Callable[..., Any]
RUNNER = executor_module.__file__.rpartition("/")[0]


class Halt(BaseException):
    """What no `except Exception` stops."""


class Strike:
    """A profile function that raises at one of the moments in which the interpreter looks for exceptions that were
    sent to the thread: when a call in the runner's own code has come back, and its result is not yet stored.
    """

    def __init__(self, at: int, within: str) -> None:
        """Args:
        at: which moment.
        within: the function in which moments begin to count, with all that it calls.
        """
        self._left = at
        self._within = within
        self.has_struck = self.is_over = False
        self.where = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if (
            self.has_struck
            or self.is_over
            or event != "c_return"
            or not frame.f_code.co_filename.startswith(RUNNER)
            or not self._is_within(frame)
        ):
            return
        self._left -= 1
        if self._left < 0:
            self.has_struck = True
            self.where = f"{frame.f_code.co_name}:{frame.f_lineno} {event} {argument}"
            raise Halt

    def _is_within(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code.co_name == self._within:
                return True
            frame = frame.f_back
        return False


async def settled(rig: Any, fence: int) -> Any:
    async with asyncio.timeout(120):
        while fence not in rig.reports:
            rig.executor.look_after()
            await asyncio.sleep(0)
    return rig.reports[fence]


#: More than a task has.
MOMENTS_MAX = 1_000


async def strike_everywhere(
    make_rig: MakeRig, name: str, within: str, trace: Callable[[Any], None], *, waits: bool = False
) -> set[str]:
    """Strikes each moment of a task in turn; answers in which functions.

    Args:
        make_rig: makes an executor.
        name: of the handler.
        within: the function in which moments count.
        trace: sets the profile function.
        waits: the handler waits for other tasks.
    """

    @handler
    def plain(ctx: Context) -> str:
        with ctx.waiting() if waits else nullcontext():
            return "done"

    @handler
    async def on_loop(ctx: Context) -> str:
        with ctx.waiting() if waits else nullcontext():
            for _ in range(3):
                await asyncio.sleep(0)
        return "done"

    struck: set[str] = set()
    for at in range(MOMENTS_MAX):
        rig = make_rig(plain, on_loop, slots=1, spare=1)
        rig.may_repeat = True
        strike = Strike(at, within)
        trace(strike)
        try:
            rig.feed((1, name), time_limit_ms=60_000)
            first = await settled(rig, 1)
            async with asyncio.timeout(120):
                while not (strike.has_struck or rig.executor._slots.free or rig.executor._slots.handed):  # noqa: ASYNC110
                    await asyncio.sleep(0)
        finally:
            trace(None)
            strike.is_over = True
        assert first.outcome in (
            tasks.ATTEMPT_OUTCOME_COMPLETED,
            tasks.ATTEMPT_OUTCOME_FAILED,
            tasks.ATTEMPT_OUTCOME_LOST,
        ), strike.where
        if rig.broken:
            # Its process would have ended with all that it held.
            assert strike.where.startswith(("_hand_out:", "pump:", "_next:")), strike.where
            continue
        rig.feed((2, name))
        assert (await settled(rig, 2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED, strike.where
        rig.executor.close()
        for hand in list(rig.executor._threads.hands):
            hand.thread.join(120)
        await rig.executor.finished()
        rig.executor.look_after()
        executor = rig.executor
        assert sorted([*executor._slots.free, *executor._slots.handed, *executor._slots.withheld]) == [0, 1], (
            strike.where
        )
        assert (len(executor._slots.withheld), executor._lending.noted, executor._lending.lent) == (1, {}, set()), (
            strike.where
        )
        assert (executor.idle, rig.table.running(), executor._threads.hands) == (True, [], []), strike.where
        if not strike.has_struck:
            return struck
        struck.add(strike.where.partition(":")[0])
    raise AssertionError("a task has more moments than are struck")


async def test_thread_that_is_struck_anywhere_is_replaced_and_its_task_reported(make_rig: MakeRig) -> None:
    struck = await strike_everywhere(make_rig, "plain", "_work", threading.setprofile)
    assert struck >= {"_work", "claim", "begin", "run", "finish", "add", "take_slot", "give_slot"}


async def test_task_on_the_loop_that_is_struck_anywhere_is_reported(make_rig: MakeRig) -> None:
    struck = await strike_everywhere(make_rig, "on_loop", "_run_on_loop", sys.setprofile)
    assert struck >= {"_run_on_loop", "run_async", "_settle", "finish", "add"}


@pytest.mark.parametrize(
    ("name", "within", "trace", "where"),
    [
        ("plain", "_work", threading.setprofile, {"finish"}),
        ("on_loop", "_run_on_loop", sys.setprofile, {"_settle", "drop"}),
    ],
)
async def test_attempt_that_waits_and_is_struck_anywhere_gives_its_slot_back_once(
    make_rig: MakeRig,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    within: str,
    trace: Callable[[Any], None],
    where: set[str],
) -> None:
    monkeypatch.setattr(lending, "LEND_AFTER_SECONDS", 0.0)
    assert await strike_everywhere(make_rig, name, within, trace, waits=True) >= where


async def test_exception_that_is_sent_to_an_idle_thread_costs_no_task(make_rig: MakeRig) -> None:
    rig = make_rig(slots=1)
    # It may not have put the first task aside when it is struck.
    rig.may_repeat = True
    rig.feed((1, "echo"))
    await rig.report(1)
    (hand,) = rig.executor._threads.hands
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(hand.thread.ident), ctypes.py_object(Halt)) == 1
    for fence in (2, 3):
        rig.feed((fence, "echo"))
        assert (await rig.report(fence)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert not hand.thread.is_alive()


async def test_exception_that_a_handler_sends_to_the_loop_breaks_off_no_taking_of_tasks(make_rig: MakeRig) -> None:
    taking: list[bool] = []
    in_feed = False

    @handler
    def plain() -> None:
        taking.append(in_feed)

    rig = make_rig(plain, slots=1)
    in_feed = True
    rig.feed((1, "plain"))
    assert rig.executor._threads.hands == []
    in_feed = False
    await rig.report(1)
    assert taking == [False]


async def test_thread_whose_start_was_broken_off_is_started_all_the_same(make_rig: MakeRig) -> None:
    rig = make_rig(slots=1)
    start = rig.executor._threads.start
    rig.executor._threads.start = lambda waiting: None
    rig.feed((1, "echo"))
    await asyncio.sleep(0)
    rig.executor._threads.start = start
    rig.executor.look_after()
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_system_without_any_thread_ends_the_runner(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    rig = make_rig(slots=1)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    rig.feed((1, "echo"))
    await asyncio.sleep(0)
    assert [str(error) for error in rig.broken] == ["can't start new thread"]


async def test_job_that_was_cancelled_while_its_thread_died_is_not_run(make_rig: MakeRig) -> None:
    rig = make_rig(slots=1)
    # It may not have put the first task aside when it is struck.
    rig.may_repeat = True
    rig.feed((1, "echo"))
    await rig.report(1)
    (hand,) = rig.executor._threads.hands
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(hand.thread.ident), ctypes.py_object(Halt))
    rig.feed((2, "echo"))
    rig.executor.cancel([2], "not wanted")
    assert (await rig.report(2)).outcome in (tasks.ATTEMPT_OUTCOME_CANCELLED, tasks.ATTEMPT_OUTCOME_COMPLETED)
    rig.feed((3, "echo"))
    assert (await rig.report(3)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_threads_that_the_system_refuses_leave_the_work_to_those_that_are_there(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(slots=3)
    rig.feed((1, "echo"))
    await rig.report(1)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    rig.feed((2, "echo"), (3, "echo"), (4, "echo"))
    for fence in (2, 3, 4):
        assert (await rig.report(fence)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_reports_that_threads_add_while_a_batch_is_made_are_sent_too(make_rig: MakeRig) -> None:
    rig = make_rig()

    note = rig.outbox._note

    def note_and_add(report: Any, job: Any) -> None:
        note(report, job)
        if report.fence < 3:
            rig.outbox.add(executor_module.endings.cancelled(report.fence + 1, "t", "why"), job)

    rig.outbox._note = note_and_add
    rig.feed((1, "echo"))
    for fence in (1, 2, 3):
        await rig.report(fence)


@pytest.mark.parametrize("batch", [1, 3])
async def test_reports_whose_sending_is_broken_off_are_sent_again(make_rig: MakeRig, batch: int) -> None:
    rig = make_rig()
    send = rig.outbox._send
    broken: list[int] = []

    def break_once(reports: Any, size: int, progress: Any) -> None:
        if not broken:
            broken.append(len(reports))
            raise MemoryError
        send(reports, size, progress)

    rig.outbox._send = break_once
    for fence in range(batch):
        rig.executor.cancel([], "")
        rig.outbox.add(executor_module.endings.cancelled(fence, "t", "why"), None)
    with pytest.raises(MemoryError):
        rig.outbox.flush()
    rig.executor.look_after()
    assert (broken, sorted(rig.reports)) == ([batch], list(range(batch)))


async def test_progress_goes_on_after_it_was_broken_off(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.outbox.progress(1, "t", 0.5, "half")
    # As if the loop had lost the callback that was to send it.
    rig.outbox._schedule_progress = lambda: None
    rig.executor.look_after()
    assert [word.fence for word in rig.progress] == [1]
    del rig.outbox._schedule_progress
    rig.outbox.progress(1, "t", 0.6, "more")
    assert rig.outbox._progress_scheduled


def run_to_the_end(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner() as runner:
        return main.run_to_the_end(runner.get_loop(), work, lambda: True)


def test_loop_of_a_runner_goes_on_whatever_stops_it() -> None:
    async def work() -> str:
        loop = asyncio.get_running_loop()
        loop.stop()
        await asyncio.sleep(0)
        loop.call_soon(sys.exit, 3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        def interrupt() -> None:
            raise KeyboardInterrupt

        loop.call_soon(interrupt)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        async def exits() -> None:
            raise SystemExit(4)

        with pytest.raises(SystemExit):
            await asyncio.create_task(exits())
        return "whole"

    assert run_to_the_end(work()) == "whole"


def test_work_of_a_runner_that_fails_ends_it() -> None:
    async def work() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        run_to_the_end(work())


async def test_runner_waits_for_its_supervisors_word_whoever_cancels_it() -> None:
    stopped = asyncio.Event()
    waiting = asyncio.ensure_future(main.until(stopped))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    stopped.set()
    await waiting


@pytest.mark.parametrize("breaks", [main.BREAKS_MAX, main.BREAKS_MAX + 2])
def test_a_loop_that_comes_no_further_ends_its_runner(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, breaks: int
) -> None:
    ended: list[bool] = []

    async def work() -> str:
        return "whole"

    with asyncio.Runner() as runner:
        loop: Any = runner.get_loop()
        turn = loop._run_once

        def broken() -> None:
            nonlocal breaks
            if breaks > 0:
                breaks -= 1
                raise ZeroDivisionError
            turn()

        monkeypatch.setattr(loop, "_run_once", broken)
        coroutine = work()
        if breaks > main.BREAKS_MAX:
            with pytest.raises(ZeroDivisionError):
                main.run_to_the_end(loop, coroutine, lambda: True, lambda: ended.append(True))
            breaks = 0
        else:
            assert main.run_to_the_end(loop, coroutine, lambda: True, lambda: ended.append(True)) == "whole"
            assert not ended
        monkeypatch.undo()
    # Not one for each break.
    assert [record.message for record in caplog.records] == [
        "the runner's loop was broken off, and goes on",
        *(["the runner's loop does not go on any more"] if ended else []),
    ]


@pytest.fixture
async def dead(make_rig: MakeRig) -> tuple[Any, Hand]:
    """A rig without threads of its own, and a thread that was struck."""
    rig = make_rig(slots=2)
    hand = Hand(0, lambda hand: None)
    rig.executor._threads.hands.append(hand)
    return rig, hand


async def test_what_a_dead_thread_had_not_claimed_is_run_by_another(dead: tuple[Any, Hand]) -> None:
    rig, hand = dead
    rig.feed((1, "echo"))
    # It was struck when it had got the job from the queue.
    rig.executor._threads.queue.get_nowait()
    rig.executor._threads._settle(hand)
    assert rig.executor._threads.queue.qsize() == 1
    rig.executor._threads.start(1)
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert rig.executor.idle


async def test_what_a_dead_thread_had_not_claimed_can_be_cancelled_and_leaves_nothing(dead: tuple[Any, Hand]) -> None:
    rig, hand = dead
    rig.feed((1, "echo"))
    rig.executor._threads.queue.get_nowait()
    rig.executor._threads._settle(hand)
    rig.executor.cancel([1], "not wanted")
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    assert rig.executor.idle


async def test_a_job_is_claimed_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.feed((1, "echo"))
    queued = dict(rig.executor._jobs.queued)
    await rig.report(1)
    one, other = (Hand(number, lambda hand: None) for number in range(2))
    assert one.claim(queued, 1)
    assert not other.claim(queued, 1)
    assert (len(one.jobs), other.jobs) == (1, [])


async def test_a_job_that_is_in_the_queue_twice_runs_once(make_rig: MakeRig) -> None:
    runs: list[str] = []

    @handler
    def plain(ctx: Context) -> None:
        runs.append(ctx.id)

    rig = make_rig(plain, slots=2)
    rig.feed((1, "plain"), (2, "plain"))
    rig.executor._threads._put_again()
    await rig.report(1)
    await rig.report(2)
    rig.feed((3, "plain"))
    await rig.report(3)
    assert len(runs) == 3
    assert rig.executor.idle


async def test_what_tells_a_thread_to_end_is_handed_on_by_one_that_dies(dead: tuple[Any, Hand]) -> None:
    rig, hand = dead
    rig.executor._threads._hands_ending = 1
    rig.executor._threads._settle(hand)
    assert rig.executor._threads.queue.get_nowait() is None


async def test_no_slot_is_given_to_a_dead_thread(dead: tuple[Any, Hand]) -> None:
    rig, hand = dead
    rig.executor._slots.starving.append(hand)
    rig.executor._threads._settle(hand)
    assert sorted([*rig.executor._slots.free, *rig.executor._slots.handed]) == [0, 1]
    assert hand.slots_given.empty()


@pytest.mark.parametrize("name", ["plain", "on_loop"])
async def test_a_runner_that_is_struck_by_one_task_after_another_goes_on_no_more(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    @handler
    def plain() -> None: ...

    @handler
    async def on_loop() -> None: ...

    def strike(job: Job) -> Any:
        raise Halt

    async def strike_on_loop(job: Job) -> Any:
        raise Halt

    rig = make_rig(plain, on_loop, slots=1)
    for fence in range(1, 2 * STRIKES_MAX + 1):
        with monkeypatch.context() as patch:
            # One that is well in between counts from the start.
            if fence != STRIKES_MAX:
                patch.setattr(rig.executor._attempts, "run", strike)
                patch.setattr(rig.executor._attempts, "run_async", strike_on_loop)
            assert not rig.broken
            rig.feed((fence, name))
            report = await settled(rig, fence)
        assert (report.outcome == tasks.ATTEMPT_OUTCOME_LOST) is (fence != STRIKES_MAX)
    assert [type(error) for error in rig.broken] == [Halt]


async def test_a_task_that_its_runner_has_lost_is_in_the_log(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    @handler
    def plain() -> None:
        pass

    def strike(job: Job) -> None:
        raise Halt

    rig = make_rig(plain)
    rig.executor._attempts.run = strike
    rig.feed((1, "plain"))
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_LOST
    assert [record.__dict__["fence"] for record in caplog.records if "fence" in record.__dict__] == [1]

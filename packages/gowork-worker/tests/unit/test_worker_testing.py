"""The kit for tests of handlers: what a run tells, on a clock of the test's, with no ports and no waiting."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import (
    Cancel,
    Context,
    Fail,
    HandlerDefinitionError,
    PluginError,
    Retry,
    Snooze,
    handler,
    lifespan,
)
from gowork.worker.testing import (
    FailureKind,
    FakeClock,
    FakeContext,
    Fault,
    HandlerStuck,
    NotCompleted,
    Status,
    Switch,
    cancel,
    drain,
    lose_lease,
    regain_lease,
    run_handler,
    run_handler_async,
)

logger = logging.getLogger("tests.kit")
#: Real seconds within which what needs none ends, however busy the machine is. The clock of a run counts hours.
SOON = 60.0


@dataclass
class Order:
    customer: str
    cups: int = 1


@handler(max_attempts=3, retry_delay=7)
def brew(ctx: Context, order: Order) -> dict[str, Any]:
    ctx.progress(0.5, "grinding")
    ctx.progress(2.0, "x" * 2000)
    return {"for": order.customer, "served": "*" * order.cups}


@handler
async def brew_later(ctx: Context, order: Order) -> Order:
    await asyncio.sleep(3600)
    ctx.progress(1)
    return Order(order.customer, order.cups + 1)


@handler
def sweep(ctx: Context, rooms: int) -> int:
    done = 0
    while done < rooms and not ctx.cancelled.wait(1.0):
        done += 1
        ctx.progress(done / rooms, f"room {done}")
    return done


def test_a_payload_is_written_as_a_client_does_and_read_as_a_worker_does() -> None:
    for payload in (Order("Ada", 2), {"customer": "Ada", "cups": 2}):
        assert run_handler(brew, payload).result == {"for": "Ada", "served": "**"}
    assert run_handler(brew_later, Order("Ada")).result == {"customer": "Ada", "cups": 2}
    assert run_handler(brew_later, Order("Ada")).result_as(Order) == Order("Ada", 2)


@pytest.mark.parametrize("value", [None, 0, "text", b"bytes", b"", [1, 2.5], {"a": None}])
def test_a_result_is_what_a_client_gets(value: object) -> None:
    @handler
    def give() -> object:
        return value

    outcome = run_handler(give)
    assert (outcome.status, outcome.result) == (Status.COMPLETED, value)
    assert (outcome.failure, outcome.error, outcome.next, outcome.reason) == (None, None, "", "")


def test_a_result_of_another_type_is_named() -> None:
    with pytest.raises(NotCompleted, match="the result is not int"):
        run_handler(brew, Order("Ada")).result_as(int)


@pytest.mark.parametrize("function", [brew, brew_later])
@pytest.mark.parametrize("payload", ["no JSON", {"cups": 2}, {"customer": "Ada", "cups": "many"}, b"\xff"])
def test_a_payload_that_does_not_fit_is_rejected(function: Any, payload: object) -> None:
    outcome = run_handler(function, payload)
    assert outcome.status is Status.FAILED
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.type) == (FailureKind.REJECTED, "PayloadError")
    assert (outcome.will_retry, outcome.next, outcome.progress) == (False, "failed for good", ())
    with pytest.raises(NotCompleted, match="PayloadError: payload"):
        _ = outcome.result


def test_a_payload_that_no_client_could_send_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="payload: .* of 1,048,577 bytes"):
        run_handler(brew, "x" * (1 << 20 | 1))


@pytest.mark.parametrize("value", [float("nan"), {"rows": [object()]}, "x" * (1 << 20)])
def test_a_result_that_cannot_be_sent_fails_for_good(value: object) -> None:
    @handler(max_attempts=5)
    def give() -> object:
        return value

    outcome = run_handler(give)
    assert outcome.failure is not None
    assert (outcome.status, outcome.failure.kind, outcome.failure.type) == ("failed", "no_retry", "ResultError")
    assert not outcome.will_retry


def test_a_failure_has_the_exception_and_its_own_traceback_and_what_comes_next() -> None:
    @handler(max_attempts=3, retry_delay=7, retry_factor=2)
    def fails() -> None:
        raise ZeroDivisionError("by nothing")

    outcome = run_handler(fails, attempt=2)
    assert isinstance(outcome.error, ZeroDivisionError)
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.type) == (FailureKind.HANDLER, "ZeroDivisionError")
    assert outcome.failure.message == "by nothing"
    assert 'raise ZeroDivisionError("by nothing")' in outcome.failure.traceback
    assert "_runner" not in outcome.failure.traceback
    assert (outcome.will_retry, outcome.retry_delay) == (True, 14.0)
    assert outcome.next == "retry in 14 s, attempt 3 of 3"
    assert str(outcome) == "failed: ZeroDivisionError: by nothing (retry in 14 s, attempt 3 of 3)"
    with pytest.raises(NotCompleted) as raised:
        _ = outcome.result
    assert raised.value.__cause__ is outcome.error
    assert run_handler(fails, attempt=3).retry_delay is None
    assert run_handler(fails, attempt=3, max_attempts=4).will_retry


@pytest.mark.parametrize(
    ("error", "status", "reason", "retry_delay", "snooze_delay"),
    [
        (Retry("later", delay=30), "failed", "", 30.0, None),
        (Retry("later"), "failed", "", 7.0, None),
        (Snooze("busy", delay=60), "snoozed", "busy", None, 60.0),
        (Cancel("withdrawn"), "cancelled", "withdrawn", None, None),
        (Fail("no such"), "failed", "", None, None),
        (Fail("no such", retry=True), "failed", "", 7.0, None),
    ],
)
def test_steering_is_told(
    error: Exception, status: str, reason: str, retry_delay: float | None, snooze_delay: float | None
) -> None:
    @handler(max_attempts=3, retry_delay=7)
    async def steers() -> None:
        raise error

    outcome = run_handler(steers)
    assert (outcome.status, outcome.reason, outcome.error) == (status, reason, error)
    assert (outcome.retry_delay, outcome.snooze_delay) == (retry_delay, snooze_delay)


def test_every_word_of_progress_is_there_as_it_would_be_sent() -> None:
    words = run_handler(brew, Order("Ada")).progress
    assert [(word.fraction, word.message[:8], word.at) for word in words] == [
        (0.5, "grinding", 0),
        (1.0, "xxxxxxxx", 0),
    ]
    assert len(words[1].message.encode()) == 1024
    assert [(word.message, word.at) for word in run_handler(sweep, 2).progress] == [("room 1", 1.0), ("room 2", 2.0)]


def test_follow_ups_are_scheduled_by_a_completion_alone() -> None:
    @handler
    def plans(ctx: Context, fails: bool) -> None:
        ctx.schedule({"n": 1}, handler=brew, delay=5)
        ctx.schedule("text", handler="other", id="mine")
        if fails:
            raise RuntimeError

    first, second = run_handler(plans, False, id="parent").follow_ups
    assert (first.id, first.handler, first.payload, first.delay_ms) == ("parent/1", "brew", '{"n":1}', 5000)
    assert (second.id, second.handler, second.payload) == ("mine", "other", "text")
    outcome = run_handler(plans, True)
    assert outcome.follow_ups == ()
    assert outcome.context is not None
    assert len(outcome.context.follow_ups) == 2


def test_the_context_knows_what_the_run_was_given() -> None:
    @handler("named")
    def look(ctx: Context) -> list[object]:
        return [ctx.id, ctx.attempt, ctx.fence, ctx.handler, ctx.queue, dict(ctx.labels), ctx.worker, ctx.payload]

    told = run_handler(look, 5, id="a", attempt=2, queue="q", labels={"team": "web"}, worker="nora").result
    assert told == ["a", 2, 2, "named", "q", {"team": "web"}, "nora", "5"]
    assert run_handler(look, fence=9).result == ["test", 1, 9, "named", "default", {}, "test", ""]


def test_logs_are_those_of_the_run_and_the_workers_own_line_on_a_failure() -> None:
    @handler
    def talks(n: int) -> None:
        logger.info("half", extra={"n": n})
        logger.debug("too little for a worker's log")
        raise RuntimeError("broken")

    before = logging.getLogger().level
    half, failed = run_handler(talks, 3).logs
    assert (half.getMessage(), half.n, half.levelname) == ("half", 3, "INFO")  # type: ignore[attr-defined]
    assert (failed.getMessage(), failed.levelname) == ("attempt failed", "WARNING")
    assert failed.error == "RuntimeError: broken"  # type: ignore[attr-defined]
    assert failed.next == "failed for good"  # type: ignore[attr-defined]
    assert logging.getLogger().level == before


async def test_logs_of_runs_at_once_are_told_apart() -> None:
    @handler
    async def talks(n: int) -> None:
        logger.info("round %s", n)
        await asyncio.sleep(n)
        logger.info("end %s", n)
        raise RuntimeError(str(n))

    outcomes = await asyncio.gather(*(run_handler_async(talks, n) for n in range(4)))
    for n, outcome in enumerate(outcomes):
        assert [record.getMessage() for record in outcome.logs] == [f"round {n}", f"end {n}", "attempt failed"]
        assert outcome.elapsed == n


seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")


@pytest.mark.parametrize("is_async", [False, True])
def test_context_variables_pass_neither_in_nor_out(is_async: bool) -> None:
    def look() -> str:
        found = seen.get()
        seen.set("the handler's")
        return found

    async def look_async() -> str:
        return look()

    seen.set("the test's")
    assert run_handler(handler(look_async if is_async else look)).result == "nothing"
    assert seen.get() == "the test's"


def test_a_plain_handler_runs_in_the_thread_of_the_test() -> None:
    @handler
    def where() -> int:
        return threading.get_ident()

    assert run_handler(where).result == threading.get_ident()


async def test_a_plain_handler_has_a_thread_of_its_own_where_a_loop_runs() -> None:
    @handler
    def where() -> int:
        asyncio.run(asyncio.sleep(0))
        return threading.get_ident()

    assert run_handler(where).result != threading.get_ident()
    assert (await run_handler_async(where)).result != threading.get_ident()


async def test_the_loop_of_the_test_goes_on_during_a_run() -> None:
    go = threading.Event()

    @handler
    def waits() -> str:
        assert go.wait(SOON)
        return "went on"

    running = asyncio.ensure_future(run_handler_async(waits))
    await asyncio.sleep(0)
    go.set()
    assert (await running).result == "went on"


async def test_a_run_that_nobody_waits_for_any_more_ends() -> None:
    begun, ended = threading.Event(), threading.Event()

    @handler
    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.ensure_future(run_handler_async(endless))
    await asyncio.to_thread(begun.wait, SOON)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await asyncio.to_thread(ended.wait, SOON)


# Time.


@pytest.mark.parametrize("function", [sweep, brew_later])
def test_waits_take_no_time_and_are_counted(function: Any) -> None:
    before = time.monotonic()
    outcome = run_handler(function, 3600 if function is sweep else Order("Ada"), time_limit=7200)
    assert (outcome.status, outcome.elapsed) == (Status.COMPLETED, 3600.0)
    assert time.monotonic() - before < SOON


def test_a_time_limit_ends_an_attempt_at_its_time() -> None:
    @handler(time_limit=2.5, max_attempts=2)
    def sweeps(ctx: Context) -> int:
        rooms = 0
        while not ctx.cancelled.wait(1.0):
            rooms += 1
        return rooms

    outcome = run_handler(sweeps)
    assert outcome.failure is not None
    assert (outcome.status, outcome.failure.kind, outcome.elapsed) == (Status.TIMED_OUT, FailureKind.TIMEOUT, 2.5)
    assert outcome.failure.message == "the time limit of 2.5 s ran out"
    assert (outcome.will_retry, outcome.was_killed) == (True, False)
    # The task's own limit counts more.
    assert run_handler(brew_later, Order("Ada"), time_limit=1).elapsed == 1.0


@pytest.mark.parametrize("is_async", [False, True])
def test_a_clock_that_what_the_handler_calls_moves_brings_the_limit(is_async: bool) -> None:
    clock = FakeClock()

    @handler(time_limit=10)
    def computes(ctx: Context) -> str:
        for _ in range(100):
            if ctx.cancelled:
                return "stopped"
            clock.advance(3)
        return "never stopped"

    @handler(time_limit=10)
    async def computes_async() -> None:
        for _ in range(100):
            clock.advance(3)
            await asyncio.sleep(0)

    outcome = run_handler(computes_async if is_async else computes, clock=clock)
    # A loop that was busy for 3 s runs what waited for it before its timers.
    seconds = 15.0 if is_async else 12.0
    assert (outcome.status, outcome.elapsed, clock.now) == (Status.TIMED_OUT, seconds, seconds)


def test_a_plain_handler_that_computes_does_not_come_to_its_limit() -> None:
    @handler(time_limit=1)
    def computes(ctx: Context) -> bool:
        # Long enough for a loop that jumps to come to the limit.
        threading.Event().wait(0.1)
        return bool(ctx.cancelled)

    outcome = run_handler(computes)
    assert (outcome.result, outcome.elapsed) == (False, 0.0)


def test_looks_move_the_clock_where_the_test_wants_it() -> None:
    @handler(time_limit=1)
    def computes(ctx: Context) -> None:
        while not ctx.cancelled:
            pass

    assert run_handler(computes, clock=FakeClock(check_seconds=0.25)).elapsed == 1.0


async def test_a_clock_that_does_not_jump_is_moved_by_the_test_alone() -> None:
    clock, begun = FakeClock(jumps=False), threading.Event()

    @handler
    async def sleeps() -> str:
        begun.set()
        await asyncio.sleep(30)
        return "awake"

    running = asyncio.ensure_future(run_handler_async(sleeps, clock=clock))
    await asyncio.to_thread(begun.wait, SOON)
    clock.advance(29)
    assert not running.done()
    clock.advance(1)
    assert (await running).elapsed == 30.0


async def test_a_plain_wait_lasts_until_the_test_moves_the_clock() -> None:
    clock, begun = FakeClock(jumps=False), threading.Event()

    @handler
    def waits(ctx: Context) -> bool:
        begun.set()
        return ctx.cancelled.wait(30)

    running = asyncio.ensure_future(run_handler_async(waits, clock=clock))
    await asyncio.to_thread(begun.wait, SOON)
    while not running.done():
        clock.advance(10)
        await asyncio.sleep(0)
    assert (await running).result is False


def test_what_comes_from_outside_is_waited_for_in_real_time() -> None:
    def pause() -> str:
        time.sleep(0.05)
        return "slept"

    @handler(time_limit=3600)
    async def calls() -> list[object]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import time; time.sleep(0.2); print('done')", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        in_thread = await asyncio.to_thread(pause)
        return [out.decode(), in_thread]

    outcome = run_handler(calls)
    assert outcome.result == ["done\n", "slept"]
    assert 0.2 < outcome.elapsed < SOON


def test_a_thread_that_works_past_the_time_limit_does_not_keep_the_run() -> None:
    go = threading.Event()

    @handler(time_limit=0.2)
    async def asks() -> None:
        await asyncio.to_thread(go.wait, SOON)

    before = time.monotonic()
    outcome = run_handler(asks)
    took = time.monotonic() - before
    go.set()
    assert outcome.status is Status.TIMED_OUT
    assert took < SOON / 2


def test_threads_of_the_handlers_own_are_given_a_moment() -> None:
    @handler(time_limit=3600)
    async def asks(seconds: float) -> str:
        with ThreadPoolExecutor() as pool:
            for _ in range(30):
                await asyncio.wrap_future(pool.submit(int))
            await asyncio.wrap_future(pool.submit(time.sleep, seconds))
        await asyncio.sleep(60)
        return "answered"

    outcome = run_handler(asks, 0.0)
    assert (outcome.result, outcome.elapsed) == ("answered", 60.0)
    # One that takes longer needs a longer moment.
    assert run_handler(asks, 0.3, clock=FakeClock(idle_seconds=2), patience=SOON).result == "answered"


def test_threads_that_have_nothing_to_do_with_the_run_do_not_keep_it() -> None:
    @handler
    async def sleeps() -> None:
        for _ in range(1000):
            await asyncio.sleep(1)

    with ThreadPoolExecutor() as pool:
        pool.submit(int).result()
        assert run_handler(sleeps, clock=FakeClock(idle_seconds=0.01)).elapsed == 1000.0


async def test_a_clock_is_of_one_run_at_a_time() -> None:
    clock = FakeClock(jumps=False)
    running = asyncio.ensure_future(run_handler_async(brew_later, Order("Ada"), clock=clock))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="used by another run"):
        run_handler(brew, Order("Ada"), clock=clock)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_a_clock_may_be_used_again() -> None:
    clock = FakeClock()
    for end in (2.0, 4.0):
        assert run_handler(sweep, 2, clock=clock).elapsed == 2.0
        assert clock.now == end
    clock.advance(1)
    assert clock.now == 5.0
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds"):
            clock.advance(seconds)


# Stops and faults.


@pytest.mark.parametrize("fault", [cancel(at_progress=2), cancel(at_check=3), cancel(after=2.5)])
def test_a_cancel_that_is_honoured_cancels(fault: Fault) -> None:
    outcome = run_handler(sweep, 10, faults=[fault])
    assert (outcome.status, outcome.reason) == (Status.CANCELLED, "the task was cancelled")
    assert [word.message for word in outcome.progress] == ["room 1", "room 2"]
    assert outcome.context is not None
    assert outcome.context.cancelled.reason == "the task was cancelled"


def test_a_cancel_that_is_not_seen_completes() -> None:
    assert run_handler(brew, Order("Ada"), faults=[cancel(at_progress=1)]).result["for"] == "Ada"


def test_a_cancel_ends_an_async_handler_where_it_awaits() -> None:
    cleaned: list[str] = []

    @handler
    async def works(ctx: Context, swallows: bool) -> str:
        try:
            ctx.progress(0.1)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(2)
            cleaned.append("up")
            if not swallows:
                raise
        return "swallowed"

    outcome = run_handler(works, False, faults=[cancel(at_progress=1)])
    assert (outcome.status, outcome.elapsed, cleaned) == (Status.CANCELLED, 2.0, ["up"])
    assert run_handler(works, True, faults=[cancel(at_progress=1)]).result == "swallowed"


def test_a_drain_hands_the_task_back() -> None:
    outcome = run_handler(sweep, 10, faults=[drain(after=2.5)])
    assert (outcome.status, outcome.reason) == (Status.INTERRUPTED, "the worker stopped before it had finished")
    assert (outcome.will_retry, outcome.failure) == (False, None)


def test_a_lease_that_is_lost_shows_and_stops_only_who_asked_for_it() -> None:
    def looks(ctx: Context) -> list[bool]:
        told = []
        for _ in range(4):
            ctx.progress(0)
            told.append(ctx.lease_valid)
            if ctx.cancelled:
                break
        return told

    faults = [lose_lease(at_progress=2), regain_lease(at_progress=4)]
    assert run_handler(handler(looks), faults=faults).result == [True, False, False, True]
    outcome = run_handler(handler("careful", on_lease_lost="stop")(looks), faults=faults)
    assert (outcome.status, outcome.reason) == (
        Status.INTERRUPTED,
        "the worker lost its leader for longer than the lease",
    )
    assert len(outcome.progress) == 2


async def test_a_switch_makes_a_fault_happen_when_the_test_wants_it() -> None:
    begun, switch = threading.Event(), Switch()

    @handler
    async def serves() -> None:
        begun.set()
        await asyncio.Event().wait()

    running = asyncio.ensure_future(run_handler_async(serves, faults=[cancel(on=switch)]))
    await asyncio.to_thread(begun.wait, SOON)
    switch.flip()
    assert (await running).status is Status.CANCELLED
    assert run_handler(serves, faults=[drain(on=switch)]).status is Status.INTERRUPTED


def test_a_fault_has_one_time() -> None:
    for wrong in (
        {},
        {"at_chek": 1},
        {"at_progress": 1, "after": 2.0},
        {"at_check": 0},
        {"after": -1.0},
        {"after": float("nan")},
    ):
        with pytest.raises(ValueError, match="cancel the task: "):
            cancel(**wrong)


@handler(grace=2)
def deaf(ctx: Context) -> None:
    while True:
        ctx.progress(0)
        ctx.cancelled.wait(1)


@handler(grace=2)
async def deaf_async(ctx: Context) -> None:
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass


@pytest.mark.parametrize("function", [deaf, deaf_async])
@pytest.mark.parametrize(
    ("fault", "status"), [(cancel(after=5), "cancelled"), (drain(after=5), "interrupted"), (None, "timed_out")]
)
def test_a_handler_that_does_not_stop_within_its_grace_is_ended(
    function: Any, fault: Fault | None, status: str
) -> None:
    outcome = run_handler(function, time_limit=5 if fault is None else 600, faults=[fault] if fault else [])
    assert (outcome.status, outcome.was_killed, outcome.elapsed) == (status, True, 7.0)


def test_a_handler_that_does_not_end_is_given_up() -> None:
    @handler
    async def endless() -> None:
        await asyncio.Event().wait()

    @handler(time_limit=5)
    def spins(ctx: Context) -> None:
        while not ctx.cancelled:
            pass

    with pytest.raises(HandlerStuck, match=rf"'endless' did not end within 0.2 s .* in line \d+ of {__file__}"):
        run_handler(endless, patience=0.2)
    with pytest.raises(HandlerStuck, match="looks at ctx.cancelled again and again without waiting"):
        run_handler(spins, patience=0.2)


def test_the_test_itself_is_ended_by_what_is_meant_for_it() -> None:
    @handler
    def skips() -> None:
        pytest.skip("no database here")

    @handler
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(pytest.skip.Exception):
        run_handler(skips)
    with pytest.raises(KeyboardInterrupt):
        run_handler(interrupted)


def test_a_handler_that_exits_has_failed() -> None:
    @handler
    def exits() -> None:
        sys.exit(3)

    outcome = run_handler(exits)
    assert outcome.failure is not None
    assert (outcome.status, outcome.failure.type) == (Status.FAILED, "SystemExit")


def test_a_handler_that_harms_its_loop_ends_itself_alone() -> None:
    @handler
    async def cancels_all() -> None:
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(0)

    @handler
    async def stops_the_loop() -> str:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(1)
        return "went on"

    @handler
    async def exits_beside() -> str:
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.sleep(1)
        return "went on"

    outcome = run_handler(cancels_all)
    # As in a worker: of a handler that cancels itself nothing is concluded.
    assert (outcome.status, type(outcome.error)) == (Status.FAILED, asyncio.CancelledError)
    for function in (stops_the_loop, exits_beside):
        assert run_handler(function).result == "went on"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_a_handler_forks_does_not_go_on_with_the_test() -> None:
    @handler
    def forks() -> str:
        child = os.fork()
        if not child:
            return "the child's"
        return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    assert run_handler(forks).result == "0"


# What is loaded.


def test_lifespans_are_entered_on_the_loop_of_the_handler_and_left() -> None:
    order: list[str] = []

    @lifespan
    async def pool(state: Any) -> AsyncIterator[None]:
        state.loop = asyncio.get_running_loop()
        yield
        order.append("left")

    @handler
    async def uses(ctx: Context) -> bool:
        order.append(ctx.state.name)
        return ctx.state.loop is asyncio.get_running_loop()

    assert run_handler(uses, lifespans=[pool], state={"name": "given"}).result is True
    assert order == ["given", "left"]


def test_state_may_be_an_object_of_the_test() -> None:
    class Fake:
        calls = 0

    @handler
    def counts(ctx: Context) -> None:
        ctx.state.calls += 1

    fake = Fake()
    run_handler(counts, state=fake)
    assert fake.calls == 1


def test_an_error_of_a_lifespan_is_the_tests() -> None:
    @lifespan
    def broken(state: Any) -> Iterator[None]:
        raise LookupError("no database")
        yield

    with pytest.raises(LookupError, match="no database"):
        run_handler(brew, Order("Ada"), lifespans=[broken])


def test_a_module_brings_its_handlers_by_name_and_its_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kit_plugin.py").write_text(
        "import contextlib\n"
        "from gowork.worker import handler, hookimpl\n"
        "seen = []\n"
        "@hookimpl\n"
        "def gowork_register_handlers(registry):\n"
        "    registry.add(lambda n: n * 2, 'double')\n"
        "@hookimpl\n"
        "def gowork_around_task(ctx):\n"
        "    seen.append(ctx.handler)\n"
        "    return contextlib.nullcontext()\n"
        "@hookimpl\n"
        "def gowork_runner_stopping(state):\n"
        "    seen.append('stopping')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run_handler("double", "ab", imports=["kit_plugin"]).result == "abab"
    assert run_handler(brew, Order("Ada"), imports=["kit_plugin"]).status is Status.COMPLETED
    assert sys.modules.pop("kit_plugin").seen == ["double", "stopping", "brew", "stopping"]


def test_what_cannot_be_a_handler_is_refused() -> None:
    def counts() -> Iterator[int]:
        yield 1

    class Job:
        pass

    for wrong, words in ((counts, "a generator"), (Job, "a class"), (5, "not a function")):
        with pytest.raises(HandlerDefinitionError, match=words):
            run_handler(wrong)  # type: ignore[arg-type]
    with pytest.raises(HandlerDefinitionError, match="there is no handler 'absent'; loaded are: none"):
        run_handler("absent")
    with pytest.raises(PluginError, match="No module named 'kit_absent'"):
        run_handler("absent", imports=["kit_absent"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("attempt", 0),
        ("fence", 0),
        ("time_limit", -1),
        ("max_attempts", -1),
        ("patience", 0),
        ("patience", float("nan")),
    ],
)
def test_an_option_beyond_its_limits_is_named(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        run_handler(brew, Order("Ada"), **{option: value})  # type: ignore[arg-type]


def test_an_option_that_is_not_there_is_named() -> None:
    with pytest.raises(TypeError, match="no option 'max_attempt'; it has after, attempt, checkpoint, clock"):
        run_handler(brew, Order("Ada"), max_attempt=3)  # type: ignore[call-arg]


def test_a_run_leaves_nothing_behind() -> None:
    @handler
    async def leaves() -> None:
        asyncio.get_running_loop().create_task(asyncio.sleep(1000))
        await asyncio.to_thread(int)

    def left() -> tuple[set[int | None], int, list[logging.Handler]]:
        descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        threads = {thread.ident for thread in threading.enumerate() if not thread.name.startswith("gowork-loading")}
        return threads, descriptors, list(logging.getLogger().handlers)

    for function in (leaves, sweep):
        before = left()
        run_handler(function, 2 if function is sweep else "")
        for thread in threading.enumerate():
            if thread.name.startswith("gowork-"):
                thread.join(SOON)
        assert left() == before


# A context that a test makes.


def test_a_context_can_be_made() -> None:
    ctx = FakeContext(id="a", attempt=2, labels={"x": "y"}, state={"pool": 3}, worker="nora")
    assert (ctx.id, ctx.attempt, ctx.fence, ctx.labels, ctx.worker, ctx.state.pool) == (
        "a",
        2,
        2,
        {"x": "y"},
        "nora",
        3,
    )
    assert brew(ctx, Order("Ada")) == {"for": "Ada", "served": "*"}
    assert (ctx.told[0].fraction, ctx.told[0].message) == (0.5, "grinding")
    ctx.schedule(1, handler="next")
    assert [follow_up.handler for follow_up in ctx.follow_ups] == ["next"]


def test_a_made_context_is_cancelled_and_loses_its_lease_by_the_test() -> None:
    ctx = FakeContext()
    assert sweep(ctx, 2) == 2
    assert ctx.clock.now == 2.0
    ctx.cancel("enough")
    assert (sweep(ctx, 5), ctx.cancelled.reason, ctx.clock.now) == (0, "enough", 2.0)
    assert ctx.lease_valid
    ctx.lose_lease()
    assert not ctx.lease_valid
    with pytest.raises(RuntimeError, match="wait for ever"):
        FakeContext().cancelled.wait()


# The kit and the worker say the same.


def outcomes_of_the_worker() -> list[tuple[Any, object]]:
    @handler(max_attempts=2)
    def plain(ctx: Context, order: Order) -> Order:
        ctx.schedule(order, handler="next", labels={"a": "b"})
        return order

    @handler(no_retry=[LookupError])
    async def fails(order: Order) -> None:
        raise KeyError(order.customer)

    @handler
    def snoozes() -> None:
        raise Snooze("busy", delay=5)

    @handler
    def cancels() -> None:
        raise Cancel("withdrawn")

    @handler
    async def data() -> bytes:
        return b""

    return [
        *((function, payload) for function in (plain, fails) for payload in (Order("Ada"), {"cups": 1}, "?", b"?")),
        (snoozes, ""),
        (cancels, ""),
        (data, ""),
    ]


@pytest.mark.parametrize("number", range(len(outcomes_of_the_worker())))
async def test_a_run_makes_the_report_that_the_worker_makes(make_rig: Any, number: int) -> None:
    function, payload = outcomes_of_the_worker()[number]
    outcome = await run_handler_async(function, payload, id="task-1")
    rig = make_rig(function)
    text = payload if isinstance(payload, str) else ""
    if isinstance(payload, Order):
        text = f'{{"customer":"{payload.customer}","cups":{payload.cups}}}'
    if isinstance(payload, dict):
        text = '{"cups":1}'
    data = payload if isinstance(payload, bytes) else b""
    rig.feed((1, outcome.context.handler, text), data=data, queue="default")  # type: ignore[union-attr]
    assert comparable(outcome._report) == comparable(await rig.report(1))


def comparable(report: session.Report) -> session.Report:
    copy = session.Report.FromString(report.SerializeToString())
    copy.execution_us = 0
    return copy

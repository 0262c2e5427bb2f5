from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import astuple

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Context, handler, hookimpl
from gowork.worker._core.codec import ResultError
from gowork.worker._core.context import Place
from gowork.worker._core.plugins import load
from gowork.worker._core.selection import Selection
from gowork.worker._runner import messages, outcomes, pipe
from gowork.worker._runner.completion import Completion
from gowork.worker._runner.executor import Executor
from gowork.worker._runner.job import Job
from gowork.worker._runner.messages import Running
from gowork.worker._runner.table import SlotTable, make_shared


def test_frames_are_cut_wherever_the_stream_breaks() -> None:
    sent = [(pipe.WORK, b"one"), (pipe.CONTROL, b""), (pipe.WORK, b"x" * 70_000)]
    stream = b"".join(pipe.frame(kind, body) for kind, body in sent)
    for step in (1, 3, 65_536, len(stream)):
        got: list[tuple[int, bytes]] = []
        reader = pipe.FrameReader(lambda kind, body, got=got: got.append((kind, bytes(body))))  # type: ignore[misc]
        for start in range(0, len(stream), step):
            reader.feed(stream[start : start + step])
        assert got == sent


def test_frame_over_the_limit_is_refused() -> None:
    with pytest.raises(pipe.FrameError, match=str(pipe.FRAME_BYTES_MAX)):
        pipe.FrameReader(lambda kind, body: None).feed(b"\xff" * 8)


def test_slot_table_is_seen_by_both_sides() -> None:
    ours, descriptor = make_shared(3)
    theirs = SlotTable.attach(descriptor, 3)
    theirs.start(1, 77, 5, 9)
    assert ours.running() == [Running(77, 5, 9)]
    theirs.end(1, 77)
    assert (ours.running(), ours.begun()) == ([], {77})
    theirs.start(1, 78, 6, 0)
    assert (ours.running(), ours.begun()) == ([Running(78, 6, 0)], {77, 78})
    theirs.end(1, 78)
    assert ours.begun() == {78}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    theirs.close()
    ours.close()
    # Another thread may look once more.
    assert (ours.running(), ours.begun()) == ([], set())


def test_messages_survive_the_pipe() -> None:
    setup = messages.Setup(worker="w", slots=2, spare=3, selection=Selection(), sys_path=("/x",))
    assert messages.decode_to_runner(messages.encode(setup)) == setup
    for message in (
        messages.Returned((1, 2**63)),
        messages.Waiting(3),
        messages.Stopping(3, 500, messages.StopKind.TIMEOUT),
        messages.Executed((messages.ExecutedRow("q", "h", "completed", (1, 0), 0.5),)),
        messages.Executed(
            (messages.ExecutedRow("q", "h", "failed", (0, 1), 0.5, (messages.TracedRow(1, "ab", 0.5, 9.5),)),)
        ),
    ):
        assert messages.decode_from_runner(messages.encode(message)) == message


def test_failure_carries_the_handlers_own_traceback_only() -> None:
    try:
        raise ValueError("broken " + "x" * 10_000)
    except ValueError as error:
        report = outcomes.failed(1, "t", error)
    assert (report.failure.kind, report.failure.type) == (tasks.FAILURE_KIND_HANDLER, "ValueError")
    assert len(report.failure.message.encode()) <= 4096
    assert "raise ValueError" in report.failure.traceback


def test_exception_with_a_broken_text_is_reported_all_the_same() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "RuntimeError" in outcomes.failed(1, "t", Broken()).failure.message


@pytest.mark.parametrize("value", [{"mean": float("nan")}, {"rows": [object()]}, "x" * (1 << 20)])
def test_a_result_that_cannot_be_sent_fails_at_once_and_for_good(value: object) -> None:
    with pytest.raises(ResultError) as raised:
        outcomes.completed(1, "t", value)
    failure = outcomes.failed(1, "t", raised.value).failure
    assert (failure.kind, failure.type) == (tasks.FAILURE_KIND_NO_RETRY, "ResultError")
    assert "$." in failure.message or "1,048,576" in failure.message
    assert not failure.traceback


def test_empty_bytes_are_told_from_no_result() -> None:
    told = [outcomes.completed(1, "t", value) for value in (b"", None, b"x")]
    reports = [report.message() if isinstance(report, Completion) else report for report in told]
    assert [message.result_is_empty_data for message in reports] == [True, False, False]
    assert [(message.result, message.result_data) for message in reports] == [("", b""), ("null", b""), ("", b"x")]


def test_surrogates_in_a_message_are_written_as_escapes() -> None:
    assert outcomes.failed(1, "t", ValueError("\ud800")).failure.message == "\\ud800"


def test_exception_that_is_not_to_be_retried_counts_with_its_subclasses() -> None:
    report = outcomes.failed(1, "t", FileNotFoundError("x"), ("OSError",))
    assert report.failure.kind == tasks.FAILURE_KIND_NO_RETRY


MakeRig = Callable[..., Any]


class Load:
    """Handlers of both kinds that note how many of them run, and wait until they may go on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = self.most = 0
        self.go_threads = threading.Event()
        self.go_loop = asyncio.Event()
        #: Set when the first of them runs.
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def enter(self, by: int) -> None:
        with self.lock:
            self.running += by
            self.most = max(self.most, self.running)
        if by > 0:
            self._loop.call_soon_threadsafe(self.entered.set)


def make_load() -> tuple[Load, Callable[..., Any], Callable[..., Any]]:
    held = Load()

    @handler("thread")
    def thread() -> None:
        held.enter(1)
        held.go_threads.wait(120)
        held.enter(-1)

    @handler("loop")
    async def loop() -> None:
        held.enter(1)
        await held.go_loop.wait()
        held.enter(-1)

    return held, thread, loop


async def test_threads_and_loop_together_never_exceed_the_slots(make_rig: MakeRig) -> None:
    held, thread, loop = make_load()
    rig = make_rig(thread, loop, slots=3)
    for fence in range(0, 40, 2):
        rig.feed((fence + 1, "thread"), (fence + 2, "loop"))
    held.go_threads.set()
    held.go_loop.set()
    for fence in range(1, 41):
        assert (await rig.report(fence)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert held.most <= 3
    assert rig.executor.idle
    assert rig.table.running() == []


async def test_slots_that_are_withheld_are_told_once_they_are_free(make_rig: MakeRig) -> None:
    held, _, loop = make_load()
    rig = make_rig(loop, slots=2)
    rig.feed((1, "loop"), (2, "loop"), (3, "loop"))
    rig.executor.set_slots(1)
    assert rig.withheld == []
    held.go_loop.set()
    for fence in (1, 2, 3):
        await rig.report(fence)
    assert rig.withheld == [1]
    rig.executor.set_slots(2)
    assert rig.withheld == [1, 0]


async def test_nothing_starts_without_slots(make_rig: MakeRig) -> None:
    held, thread, loop = make_load()
    held.go_threads.set()
    held.go_loop.set()
    rig = make_rig(thread, loop, slots=2)
    rig.executor.set_slots(0)
    rig.feed((1, "thread"), (2, "loop"))
    assert set(rig.executor.recall()) == {1, 2}
    rig.feed((3, "thread"), (4, "loop"))
    rig.executor.set_slots(1)
    await rig.report(3)
    await rig.report(4)
    assert sorted(rig.order) == [3, 4]


async def test_recall_gives_up_only_what_has_not_started(make_rig: MakeRig) -> None:
    held, _, loop = make_load()
    rig = make_rig(loop, slots=1)
    rig.feed((1, "loop"), (2, "loop"), (3, "loop"))
    assert rig.executor.recall() == (2, 3)
    held.go_loop.set()
    await rig.report(1)
    assert rig.executor.idle
    assert rig.order == [1]


async def test_cancel_of_a_waiting_task_is_confirmed_at_once(make_rig: MakeRig) -> None:
    held, _, loop = make_load()
    rig = make_rig(loop, slots=1)
    rig.feed((1, "loop"), (2, "loop"))
    rig.executor.cancel([2, 99], "not wanted")
    report = await rig.report(2)
    assert (report.outcome, report.reason) == (tasks.ATTEMPT_OUTCOME_CANCELLED, "not wanted")
    assert rig.stopping == []
    held.go_loop.set()
    await rig.report(1)


async def test_cancel_before_the_first_step_frees_the_slot(make_rig: MakeRig) -> None:
    held, _, loop = make_load()
    rig = make_rig(loop, slots=1)
    rig.feed((1, "loop"))
    rig.executor.cancel([1], "not wanted")
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    held.go_loop.set()
    rig.feed((2, "loop"))
    assert (await rig.report(2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_thread_that_never_looks_at_its_token_completes(make_rig: MakeRig) -> None:
    held, thread, _ = make_load()
    rig = make_rig(thread)
    rig.feed((1, "thread"))
    await held.entered.wait()
    rig.executor.cancel([1], "not wanted")
    # It is asked once: asking again would give it the grace anew.
    rig.executor.cancel([1], "not wanted")
    rig.executor.interrupt("drain")
    assert rig.stopping == [(1, 5000, messages.StopKind.CANCEL)]
    held.go_threads.set()
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_async_handler_that_swallows_its_cancellation_completes(make_rig: MakeRig) -> None:
    started = asyncio.Event()

    @handler
    async def cleans_up() -> str:
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"
        return "never"

    rig = make_rig(cleans_up)
    rig.feed((1, "cleans_up"))
    await started.wait()
    rig.executor.cancel([1], "not wanted")
    report = await rig.report(1)
    assert (report.outcome, report.result) == (tasks.ATTEMPT_OUTCOME_COMPLETED, '"saved"')


async def test_cancellation_that_a_handler_raises_itself_is_a_failure(make_rig: MakeRig) -> None:
    @handler
    async def raises() -> None:
        raise asyncio.CancelledError

    rig = make_rig(raises)
    rig.feed((1, "raises"))
    report = await rig.report(1)
    assert (report.outcome, report.failure.type) == (tasks.ATTEMPT_OUTCOME_FAILED, "CancelledError")


@pytest.mark.parametrize("name", ["thread_exits", "loop_exits"])
async def test_exit_in_a_handler_fails_the_task_and_nothing_else(make_rig: MakeRig, name: str) -> None:
    @handler
    def thread_exits() -> None:
        raise SystemExit(3)

    @handler
    async def loop_exits() -> None:
        raise SystemExit(3)

    rig = make_rig(thread_exits, loop_exits)
    rig.feed((1, name))
    assert (await rig.report(1)).failure.type == "SystemExit"
    rig.feed((2, ""))
    assert (await rig.report(2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_interrupt_hands_everything_back(make_rig: MakeRig) -> None:
    _, _, loop = make_load()
    rig = make_rig(loop, slots=1)
    rig.feed((1, "loop"), (2, "loop"))
    rig.executor.interrupt("drain")
    for fence in (1, 2):
        report = await rig.report(fence)
        assert (report.outcome, report.reason) == (tasks.ATTEMPT_OUTCOME_INTERRUPTED, "drain")


async def test_only_what_a_runner_has_not_begun_is_handed_back_as_not_started(make_rig: MakeRig) -> None:
    held, _, loop = make_load()
    rig = make_rig(loop, slots=1)
    rig.feed((1, "loop"), (2, "loop"))
    await held.entered.wait()
    rig.executor.interrupt("drain")
    assert [(await rig.report(fence)).not_started for fence in (1, 2)] == [False, True]


async def test_lost_lease_stops_only_what_asked_for_it(make_rig: MakeRig) -> None:
    @handler(on_lease_lost="stop")
    async def careful() -> None:
        await asyncio.Event().wait()

    held, _, loop = make_load()
    rig = make_rig(careful, loop)
    rig.feed((1, "careful"), (2, "loop"))
    await held.entered.wait()
    rig.executor.set_lease(False)
    assert [fence for fence, _, _ in rig.stopping] == [1]
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    held.go_loop.set()
    assert (await rig.report(2)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_threads_and_the_loop_take_turns(make_rig: MakeRig, eventually: Any) -> None:
    held, thread, loop = make_load()
    rig = make_rig(thread, loop, slots=1)
    held.go_threads.set()
    rig.feed((1, "loop"), (2, "loop"), (3, "loop"), (4, "thread"))
    await eventually(lambda: rig.executor._slots.starving)
    held.go_loop.set()
    for fence in (1, 2, 3, 4):
        await rig.report(fence)
    assert rig.order == [1, 4, 2, 3]


async def test_thread_with_more_to_do_leaves_its_slot_to_the_loop_that_waits(make_rig: MakeRig) -> None:
    held, thread, loop = make_load()
    rig = make_rig(thread, loop, slots=1)
    rig.feed((1, "thread"), (2, "thread"), (3, "thread"))
    await held.entered.wait()
    rig.feed((4, "loop"))
    held.go_loop.set()
    held.go_threads.set()
    for fence in (1, 2, 3, 4):
        await rig.report(fence)
    assert rig.order[:2] == [1, 4]


async def test_task_that_cannot_be_read_is_rejected(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.executor.feed([session.Grant(fence=1, id="t", task=b"\xff\xff")])
    assert (await rig.report(1)).failure.kind == tasks.FAILURE_KIND_REJECTED


async def test_limit_of_the_task_wins_over_the_handlers(make_rig: MakeRig) -> None:
    @handler(time_limit=100)
    async def limited() -> None:
        await asyncio.Event().wait()

    rig = make_rig(limited)
    rig.feed((1, "limited"), time_limit_ms=20)
    report = await rig.report(1)
    assert report.outcome == tasks.ATTEMPT_OUTCOME_TIMED_OUT
    assert rig.stopping == [(1, 5000, messages.StopKind.TIMEOUT)]


async def test_running_task_shows_in_the_table_with_its_deadline(make_rig: MakeRig) -> None:
    held, thread, _ = make_load()
    rig = make_rig(thread)
    rig.feed((1, "thread"), time_limit_ms=50_000)
    await held.entered.wait()
    (row,) = rig.table.running()
    assert row.fence == 1
    assert row.kill_at_ns - row.started_ns == (50_000 + 5_000) * 1_000_000
    held.go_threads.set()
    await rig.report(1)


async def test_context_variables_do_not_leak_from_task_to_task(make_rig: MakeRig) -> None:
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="clean")

    @handler
    def leaky() -> str:
        before = variable.get()
        variable.set("dirty")
        return before

    rig = make_rig(leaky, slots=1)
    rig.feed((1, "leaky"), (2, "leaky"))
    assert [(await rig.report(fence)).result for fence in (1, 2)] == ['"clean"', '"clean"']


async def test_context_variables_do_not_leak_to_an_async_handler_whose_turn_comes(make_rig: MakeRig) -> None:
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="clean")

    @handler
    async def leaky() -> str:
        before = variable.get()
        variable.set("dirty")
        return before

    rig = make_rig(leaky, slots=1)
    rig.feed((1, "leaky"), (2, "leaky"))
    assert [(await rig.report(fence)).result for fence in (1, 2)] == ['"clean"', '"clean"']


async def test_only_the_latest_progress_is_sent(make_rig: MakeRig) -> None:
    ended = asyncio.Event()

    @handler
    async def steps(ctx: Context) -> None:
        for step in range(100):
            ctx.progress(step / 100, f"step {step}" + "x" * 2000)
        await ended.wait()

    rig = make_rig(steps)
    rig.feed((1, "steps"))
    async with asyncio.timeout(120):
        while not rig.progress:
            await rig.changed.wait()
            rig.changed.clear()
    assert len(rig.progress) == 1
    assert rig.progress[0].message.startswith("step 99")
    assert len(rig.progress[0].message.encode()) <= 1024
    ended.set()
    await rig.report(1)


async def test_execution_times_are_counted_by_handler_and_outcome(make_rig: MakeRig) -> None:
    @handler
    def fails() -> None:
        raise ValueError

    rig = make_rig(fails)
    rig.feed((1, "fails"), (2, "echo"), (3, "echo"))
    for fence in (1, 2, 3):
        await rig.report(fence)
    rig.outbox.flush_executed()
    rows = {(row.queue, row.handler, row.status): sum(row.counts) for row in rig.executed[0].rows}
    assert rows == {("default", "fails", "failed"): 1, ("default", "echo", "completed"): 2}
    assert [row.exemplars for row in rig.executed[0].rows] == [(), ()]


async def test_execution_times_of_traced_attempts_carry_their_trace(make_rig: MakeRig) -> None:
    rig = make_rig()
    grant = session.Grant(fence=1, id="t")
    job = Job(grant, tasks.Task(), load(Selection(plugins=("echo",)), []).handlers["echo"])
    first, second = "a" * 32, "b" * 32
    for traceparent in (f"00-{first}-{'c' * 16}-01", f"00-{second}-{'c' * 16}-01", f"00-{first}-{'c' * 16}-00", ""):
        report = session.Report(
            fence=1, outcome=tasks.ATTEMPT_OUTCOME_COMPLETED, execution_us=2_000, traceparent=traceparent
        )
        rig.reports.clear()
        rig.outbox.add(report, job)
        rig.outbox.flush()
    rig.outbox.flush_executed()
    ((row,),) = [executed.rows for executed in rig.executed]
    ((bucket, trace_id, seconds, at),) = map(astuple, row.exemplars)
    assert (sum(row.counts), row.counts[bucket], trace_id, seconds) == (4, 4, second, 0.002)
    assert abs(time.time() - at) < 60


@pytest.mark.parametrize("name", ["plain", "on_loop"])
async def test_around_hooks_are_held_around_the_handler(make_rig: MakeRig, name: str) -> None:
    import contextlib
    from collections.abc import Iterator

    seen: list[str] = []

    @handler
    def plain() -> None:
        seen.append("handler")

    @handler
    async def on_loop() -> None:
        seen.append("handler")

    class Plugin:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl
        def gowork_around_task(self, ctx: Context) -> contextlib.AbstractContextManager[None]:
            return self.around(ctx)

        @contextlib.contextmanager
        def around(self, ctx: Context) -> Iterator[None]:
            seen.append(f"+{self.name} {ctx.id}")
            yield
            seen.append(f"-{self.name}")

    loaded = load(Selection(plugins=("echo",)), [plain, on_loop])
    for plugin in ("outer", "inner"):
        loaded.hooks.register(Plugin(plugin))
    rig = make_rig()
    rig.executor = Executor(loaded, Place("w"), SlotTable.private(1), rig.outbox, lambda *_: None, print, print, print)
    rig.feed((1, name))
    await rig.report(1)
    assert seen == ["+outer task-1", "+inner task-1", "handler", "-inner", "-outer"]

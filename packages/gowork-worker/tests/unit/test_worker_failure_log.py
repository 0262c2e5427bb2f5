"""What the log says of an attempt that has failed, and of those that it leaves out."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gowork.base.logs import JsonFormatter
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Cancel, Retry, Snooze, handler
from gowork.worker._core import logs
from gowork.worker._core.handlers import RetryOptions
from gowork.worker._runner import endings, failure_log, outcomes
from gowork.worker._runner.completion import Completion
from gowork.worker._runner.failure_log import Detail, FailureLog
from gowork.worker._runner.next_steps import next_step

MakeRig = Callable[..., Any]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What the worker's own log has written so far, as it writes it."""
    stream = io.StringIO()
    output = logging.StreamHandler(stream)
    output.setFormatter(JsonFormatter(lambda: logs._scope("w")))
    log = logging.getLogger("gowork.worker")
    log.addHandler(output)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.removeHandler(output)


def failed(error: BaseException | None = None) -> session.Report:
    try:
        raise error or ValueError("broken")
    except BaseException as raised:  # noqa: BLE001 - whatever is asked for
        return outcomes.failed(1, "t", raised)


def grant(**fields: Any) -> session.Grant:
    return session.Grant(**{"fence": 1, "id": "t", "attempt": 1, **fields})


@pytest.mark.parametrize("name", ["plain", "on_loop"])
async def test_failed_attempt_leaves_one_line_with_its_traceback_and_what_comes_next(
    make_rig: MakeRig, lines: Lines, name: str
) -> None:
    @handler(max_attempts=5, retry_delay=2)
    def plain(payload: str) -> None:
        raise ValueError("broken")

    @handler(max_attempts=5, retry_delay=2)
    async def on_loop(payload: str) -> None:
        raise ValueError("broken")

    rig = make_rig(plain, on_loop)
    rig.feed((1, name, "a secret payload"))
    await rig.report(1)
    (line,) = lines()
    trace = line.pop("exception")
    assert 'raise ValueError("broken")' in trace
    assert "secret" not in json.dumps(line)
    del line["time"]
    assert line == {
        "level": "warning",
        "logger": "gowork.worker",
        "event": "attempt failed",
        "worker": "w",
        "task_id": "task-1",
        "attempt": 1,
        "fence": 1,
        "handler": name,
        "queue": "default",
        "outcome": "failed",
        "error": "ValueError: broken",
        "next": "retry in 2 s, attempt 2 of 5",
    }


@pytest.mark.parametrize(
    ("detail", "error", "traced"),
    [
        ("type", "ValueError", False),
        ("message", "ValueError: broken", False),
        ("traceback", "ValueError: broken", True),
    ],
)
def test_line_tells_as_much_as_it_is_told_to(lines: Lines, detail: str, error: str, traced: bool) -> None:
    FailureLog(Detail(detail)).note(grant(), tasks.Task(), "h", None, failed())
    assert [(line["error"], "exception" in line) for line in lines()] == [(error, traced)]


@pytest.mark.parametrize("error", [Snooze(delay=1), Cancel()])
def test_attempt_that_has_not_failed_leaves_no_line(lines: Lines, error: BaseException) -> None:
    log = FailureLog(Detail.TRACEBACK)
    log.note(grant(), tasks.Task(), "h", None, failed(error))
    log.note(grant(), tasks.Task(), "h", None, endings.interrupted(1, "t", "drain"))
    log.note(grant(), tasks.Task(), "h", None, Completion(1, "t", "1", b"").message())
    assert lines() == []


async def test_tasks_that_no_handler_here_can_take_leave_a_line_too(make_rig: MakeRig, lines: Lines) -> None:
    rig = make_rig()
    rig.feed((1, "nobody"))
    rig.executor.feed([session.Grant(fence=2, id="task-2", attempt=1, task=b"\xff\xff")])
    await rig.report(2)
    assert [(line["task_id"], line["next"]) for line in lines()] == [
        ("task-1", "failed for good"),
        ("task-2", "failed for good"),
    ]


async def test_attempt_that_ran_out_of_time_leaves_a_line(make_rig: MakeRig, lines: Lines) -> None:
    import asyncio

    @handler
    async def slow() -> None:
        await asyncio.Event().wait()

    rig = make_rig(slow)
    rig.feed((1, "slow"), time_limit_ms=5)
    await rig.report(1)
    assert [(line["outcome"], line["next"]) for line in lines()] == [("timed_out", "failed for good")]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_of_a_flood_are_counted_where_they_are_left_out(lines: Lines) -> None:
    clock = Clock()
    log = FailureLog(Detail.TYPE, clock)
    for _ in range(1_000):
        log.note(grant(), tasks.Task(), "noisy", None, failed())
    # Another handler's are not hidden by it.
    log.note(grant(), tasks.Task(), "quiet", None, failed())
    assert [line["handler"] for line in lines()] == ["noisy"] * failure_log.HANDLER_LINES_MAX + ["quiet"]
    clock.now += 1.5
    log.note(grant(), tasks.Task(), "noisy", None, failed())
    assert lines()[-1]["suppressed"] == 1_000 - failure_log.HANDLER_LINES_MAX
    log.look_after()
    assert len(lines()) == failure_log.HANDLER_LINES_MAX + 2


def test_what_is_left_out_at_the_end_of_a_flood_is_told_soon_after(lines: Lines) -> None:
    clock = Clock()
    log = FailureLog(Detail.TYPE, clock)
    for _ in range(30):
        log.note(grant(), tasks.Task(), "noisy", None, failed())
    log.look_after()
    assert len(lines()) == failure_log.HANDLER_LINES_MAX
    clock.now += 1.5
    log.look_after()
    log.look_after()
    assert [line.get("suppressed") for line in lines()[failure_log.HANDLER_LINES_MAX :]] == [20]


def test_all_handlers_of_a_process_together_have_a_bound(lines: Lines) -> None:
    log = FailureLog(Detail.TYPE, Clock())
    for number in range(1_000):
        log.note(grant(), tasks.Task(), f"handler-{number}", None, failed())
    assert len(lines()) == failure_log.PROCESS_LINES_MAX


async def test_logging_that_raises_costs_no_task(make_rig: MakeRig) -> None:
    class Halt(BaseException):
        pass

    def halt(_: logging.LogRecord) -> bool:
        raise Halt

    @handler
    def plain() -> None:
        raise ValueError

    rig = make_rig(plain, slots=1)
    failure_log.logger.addFilter(halt)
    try:
        rig.feed((1, "plain"), (2, "plain"))
        for fence in (1, 2):
            assert (await rig.report(fence)).failure.type == "ValueError"
    finally:
        failure_log.logger.removeFilter(halt)
    assert rig.executor._attempts.failures._allowance.suppressed == {"plain": 2}


def step(
    report: session.Report, policy: tasks.RetryPolicy | None = None, own: RetryOptions | None = None, **fields: Any
) -> str:
    task = tasks.Task(retry=policy) if policy is not None else tasks.Task()
    return next_step(grant(**fields), task, own, report)


POLICY = tasks.RetryPolicy(max_attempts=3, initial_delay_ms=100, factor=10, max_delay_ms=500)


def test_next_step_follows_the_policy() -> None:
    assert step(failed()) == "failed for good"
    assert step(failed(), POLICY) == "retry in 0.1 s, attempt 2 of 3"
    assert step(failed(), POLICY, attempt=2) == "retry in 0.5 s, attempt 3 of 3"
    assert step(failed(), POLICY, attempt=3) == "failed for good"
    # Attempts that were interrupted do not count.
    assert step(failed(), POLICY, attempt=7, attempts_used=0) == "retry in 0.1 s, attempt 2 of 3"
    # The task's own policy, and not its handler's.
    assert step(failed(), POLICY, RetryOptions(max_attempts=9)) == "retry in 0.1 s, attempt 2 of 3"
    assert step(failed(), None, RetryOptions(max_attempts=9)) == "retry in 1 s, attempt 2 of 9"
    assert step(failed(Retry(delay=7)), POLICY) == "retry in 7 s, attempt 2 of 3"
    assert step(endings.timed_out(1, "t", 5), POLICY) == "retry in 0.1 s, attempt 2 of 3"


def test_next_step_of_what_is_not_tried_again() -> None:
    named = tasks.RetryPolicy(max_attempts=3, no_retry=["ValueError"])
    assert step(failed(), named) == "failed for good"
    assert step(outcomes.rejected(1, "t", "no"), POLICY) == "failed for good"


def test_next_step_of_a_lost_attempt() -> None:
    assert step(endings.lost(1, "t", "signal 11")) == "runs again, alone in its process"
    assert "three" in step(endings.lost(1, "t", "signal 11"), alone=True)
    lost = endings.lost(1, "t", "signal 11")
    for own, handlers, ends in (
        (tasks.ON_LOST_FAIL, False, True),
        (tasks.ON_LOST_UNSPECIFIED, True, True),
        (tasks.ON_LOST_UNSPECIFIED, False, False),
        (tasks.ON_LOST_AGAIN, True, False),
    ):
        said = next_step(grant(), tasks.Task(on_lost=own), None, lost, fails_if_lost=handlers)
        assert said.startswith("failed for good") is ends

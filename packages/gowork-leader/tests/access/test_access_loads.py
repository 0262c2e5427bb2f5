"""What counts against a caller's limits, and which callers are remembered."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from gowork.leader._access import loads
from gowork.leader._access.rights import Identity, Limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal

TASKS = "scheduler.v1.SchedulerService/"


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loads, "time", clock)
    return clock


def caller(name: str = "web", **limits: float) -> Identity:
    return Identity(name, frozenset(), limits=Limits(**limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "request_", "counts"),
    [
        ("ScheduleTask", pb.ScheduleTaskRequest(), True),
        ("RetryTask", pb.RetryTaskRequest(), True),
        ("RetryTasks", pb.RetryTasksRequest(), True),
        ("CancelTasks", pb.CancelTasksRequest(), False),
        ("ScheduleTasks", pb.ScheduleTasksRequest(tasks=[pb.Task()]), True),
        ("GetTask", pb.GetTaskRequest(), False),
        # A node that forwards has bytes. The leader counts the tasks in them.
        ("ScheduleTasks", b"\x0a\x00", False),
        ("ScheduleTask", b"", False),
    ],
)
def test_what_counts_as_a_task(call: str, request_: Any, counts: bool) -> None:
    counted, web = loads.Loads(), caller(tasks_per_second=0.1)
    counted.enter(web, TASKS + call, request_, streams=False)
    if counts:
        with pytest.raises(Refusal, match=r"0\.1 tasks a second; repeat this in 10\.00 s"):
            counted.enter(web, TASKS + call, request_, streams=False)
    else:
        counted.enter(web, TASKS + call, request_, streams=False)


def test_each_task_of_a_batch_counts(clock: Clock) -> None:
    counted, web = loads.Loads(), caller(tasks_per_second=10)
    batch = pb.ScheduleTasksRequest(tasks=[pb.Task()] * 20)
    counted.enter(web, f"{TASKS}ScheduleTasks", batch, streams=False)
    with pytest.raises(Refusal):
        counted.enter(web, f"{TASKS}ScheduleTask", pb.ScheduleTaskRequest(), streams=False)


def test_tasks_that_become_known_during_a_call_count_for_the_next_one(clock: Clock) -> None:
    counted, web = loads.Loads(), caller(tasks_per_second=10)

    def retry(number: int) -> None:
        counted.enter(web, f"{TASKS}RetryTasks", pb.RetryTasksRequest(), streams=False)
        loads.count_more_tasks(number - 1)

    contextvars.Context().run(retry, 500)
    with pytest.raises(Refusal, match=r"10 tasks a second; repeat this in 48\.10 s"):
        contextvars.Context().run(retry, 1)
    clock.now += 48.2
    contextvars.Context().run(retry, 1)
    # Of a caller without such a limit they are not counted, and it may have been others who were served here before.
    contextvars.Context().run(loads.count_more_tasks, 500)
    contextvars.Context().run(retry, 0)


def test_who_was_silent_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "CALLERS_MAX", 2)
    counted = loads.Loads()
    for name in ("a", "b", "a", "c"):
        counted.enter(caller(name, calls_per_second=100), f"{TASKS}Stats", b"", streams=False)
    assert list(counted._of) == ["a", "c"]


async def test_who_has_streams_open_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "CALLERS_MAX", 1)
    counted, ended = loads.Loads(), asyncio.Event()
    begun = asyncio.Event()

    async def watch() -> None:
        counted.enter(caller("a", streams=1), f"{TASKS}WatchTasks", b"", streams=True)
        begun.set()
        await ended.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        await begun.wait()
        for name in ("b", "c"):
            counted.enter(caller(name, calls_per_second=100), f"{TASKS}Stats", b"", streams=False)
        with pytest.raises(Refusal, match="1 streams open, which is its limit"):
            counted.enter(caller("a", streams=1), f"{TASKS}WatchTasks", b"", streams=True)
        ended.set()

"""Both clients and leaders that are older than they: what such a leader would drop is refused, and its version told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from gowork.client import AsyncClient, Client, LeaderTooOld, LeaderUnreachable, NewTask
from gowork.client._leader_fields import KNOWN_HERE
from gowork.proto.status import Refusal

UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_LEADING", "not leading now")
#: What the original has.
ORIGINAL_METHODS = {"ScheduleTask", "CancelTask", "GetTasks", "TaskComplete"}

#: (method of the client, its arguments by name)
Call = tuple[str, dict[str, Any]]


def blocking(address: str, *calls: Call) -> None:
    with Client(address, timeout=120) as client:
        for name, arguments in calls:
            answer = getattr(client, name)(**arguments)
            if name == "schedule_many":
                list(answer)


def with_asyncio(address: str, *calls: Call) -> None:
    async def run() -> None:
        async with AsyncClient(address, timeout=120) as client:
            for name, arguments in calls:
                answer = getattr(client, name)(**arguments)
                if name == "schedule_many":
                    [handle async for handle in answer]
                else:
                    await answer

    asyncio.run(run())


Do = Callable[..., None]


@pytest.fixture(params=[blocking, with_asyncio])
def do(request: pytest.FixtureRequest) -> Do:
    """Makes calls with one client, one after the other."""
    return request.param


def schedule(**options: Any) -> Call:
    return "schedule", {"payload": "p", **options}


def many(*payloads: object, **options: Any) -> Call:
    return "schedule_many", {"payloads": payloads or ("p",), **options}


def make_original(scripted: Any) -> None:
    scripted.lacks = {"GetLeader", "Activity", "GetTask", "ScheduleTasks", "WaitTask", "WaitTasks", "WatchTasks"}


def tasks_sent(scripted: Any) -> list[Any]:
    alone = [request.task for request in scripted.requests.get("ScheduleTask", [])]
    return alone + [task for request in scripted.requests.get("ScheduleTasks", []) for task in request.tasks]


@pytest.mark.parametrize("call", [schedule, many])
def test_lengths_of_time_are_left_for_the_leader_to_reckon(do: Do, scripted: Any, call: Callable[..., Call]) -> None:
    do(scripted.address, call(delay=60, expires_in=90))
    (task,) = tasks_sent(scripted)
    assert (task.delay_ms, task.expires_in_ms) == (60_000, 90_000)
    assert (task.run_at_ms, task.expires_at_ms) == (0, 0)


def test_the_same_task_with_a_delay_is_sent_twice_in_the_same_bytes(do: Do, scripted: Any) -> None:
    scripted.lacks.add("SubmitTasks")
    do(scripted.address, schedule(id="t", delay=60), schedule(id="t", delay=60))
    first, second = tasks_sent(scripted)
    assert first == second


@pytest.mark.parametrize("call", [schedule, many])
def test_for_0_1_0_lengths_of_time_are_reckoned_here(do: Do, scripted: Any, call: Callable[..., Call]) -> None:
    scripted.lacks = {"GetLeader"}
    before = int(time.time() * 1000)
    do(scripted.address, call(delay=60, expires_in=90))
    after = int(time.time() * 1000) + 1
    (task,) = tasks_sent(scripted)
    assert (task.delay_ms, task.expires_in_ms) == (0, 0)
    assert before + 60_000 <= task.run_at_ms <= after + 60_000
    assert before + 90_000 <= task.expires_at_ms <= after + 90_000


def test_what_the_original_reads_is_sent_to_it_without_asking(do: Do, scripted: Any) -> None:
    make_original(scripted)
    do(scripted.address, schedule(priority="high"))
    assert len(tasks_sent(scripted)) == 1


def test_what_the_original_would_drop_is_not_sent_to_it(do: Do, scripted: Any) -> None:
    make_original(scripted)
    with pytest.raises(LeaderTooOld) as raised:
        do(scripted.address, schedule(handler="resize", delay=5))
    error = raised.value
    assert str(error) == (
        f"the leader at {scripted.address} is the original go-work: it does not know Task.handler and Task.run_at_ms "
        "and would drop them. Upgrade it"
    )
    assert (error.lacks, error.version, error.address) == (
        ("Task.handler", "Task.run_at_ms"),
        "",
        scripted.address,
    )
    assert tasks_sent(scripted) == []


@pytest.mark.parametrize(
    ("call", "method"),
    [(many(), "ScheduleTasks"), (("wait", {"tasks": ["t"]}), "WaitTask"), (("get", {"id": "t"}), "GetTask")],
)
def test_a_method_that_the_original_lacks_is_named(do: Do, scripted: Any, call: Call, method: str) -> None:
    make_original(scripted)
    with pytest.raises(LeaderTooOld) as raised:
        do(scripted.address, call)
    assert str(raised.value) == (
        f"the leader at {scripted.address} is the original go-work: it has no {method}. Upgrade it, "
        "or give a leader's address"
    )
    assert raised.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_a_method_that_a_newer_leader_lacks_is_named_with_its_version(do: Do, scripted: Any) -> None:
    scripted.lacks.add("RetryTask")
    with pytest.raises(LeaderTooOld, match="is gowork-leader 9.9.9: it has no RetryTask"):
        do(scripted.address, ("retry", {"id": "t"}))


@pytest.mark.parametrize("call", [schedule(queue="q"), many(queue="q"), many("p", NewTask("p", queue="q"))])
def test_a_field_that_the_leader_does_not_name_is_not_sent(do: Do, scripted: Any, call: Call) -> None:
    scripted.request_fields = sorted(KNOWN_HERE - {"scheduler.v1.Task.queue"})
    with pytest.raises(LeaderTooOld, match=r"gowork-leader 9.9.9: it does not know Task.queue and would drop it"):
        do(scripted.address, call)
    assert [task.id for task in tasks_sent(scripted) if task.queue] == []


def test_a_field_inside_a_message_is_looked_at_too(do: Do, scripted: Any) -> None:
    scripted.request_fields = sorted(KNOWN_HERE - {"scheduler.v1.RetryPolicy.max_attempts"})
    with pytest.raises(LeaderTooOld, match=r"RetryPolicy.max_attempts"):
        do(scripted.address, schedule(retry=3))


def test_the_leader_is_asked_once_and_again_before_it_is_refused(do: Do, scripted: Any) -> None:
    do(scripted.address, schedule(queue="a"), many("p", queue="b"))
    assert len(scripted.requests["GetLeader"]) == 1

    def upgrade() -> None:
        scripted.run_next("GetLeader", lambda: scripted.request_fields.append("scheduler.v1.Task.queue"))

    scripted.request_fields = sorted(KNOWN_HERE - {"scheduler.v1.Task.queue"})
    scripted.run_next("GetLeader", upgrade)
    do(scripted.address, schedule(queue="c"))
    assert [task.queue for task in tasks_sent(scripted)] == ["a", "c", "b"]


def test_the_leader_is_asked_anew_when_the_connection_broke(do: Do, scripted: Any) -> None:
    scripted.lacks.add("SubmitTasks")
    scripted.run_next("ScheduleTask", lambda: None)
    scripted.fail_next("ScheduleTask", UNAVAILABLE)
    scripted.run_next("ScheduleTask", lambda: None)
    scripted.run_next("ScheduleTask", lambda: None)
    do(scripted.address, schedule(queue="a"), schedule(queue="b"), schedule(queue="c"))
    assert len(scripted.requests["GetLeader"]) == 2


def test_a_leader_that_does_not_answer_is_not_called_old(free_address: str) -> None:
    with Client(free_address, timeout=0.2) as client, pytest.raises(LeaderUnreachable):
        client.schedule("p", queue="q")

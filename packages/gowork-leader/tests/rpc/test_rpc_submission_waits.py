"""SubmitTasks answers each wait as WaitTask would answer a call of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from leader_serving import PATIENCE, ServedLeader, refused, serving
from submission_stream import Stream

from gowork.leader._rpc import submissions
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

#: How often the loop turns at most until all that can go on has done so.
TURNS = 30


async def test_a_wait_is_answered_when_its_task_has_finished(leader: ServedLeader) -> None:
    await leader.submit("a", "b", handler="h")
    stream = Stream(leader)
    await stream.wait_for({7: "a", 3: "b"})
    await stream.send({1: pb.Task(id="c", handler="h")})
    # Neither wait keeps it.
    assert await stream.answer(1) is None
    assert stream.finished == {}
    async with leader.worker(handlers=["h"]) as worker:
        for grant in await worker.grants(3):
            await worker.report(grant, result=f'"{grant.id}"')
        assert (await stream.finish(3)).task.result == '"b"'
        assert (await stream.finish(7)).task.result == '"a"'
        await stream.wait_for({7: "c"})
        del stream.finished[7]
        assert (await stream.finish(7)).task.result == '"c"'
    assert stream.finished[7].task == (await leader.scheduler.WaitTask(pb.WaitTaskRequest(id="c"))).task


@pytest.mark.parametrize("call", [None, pb.WaitTaskRequest(id="unknown"), pb.WaitTaskRequest(id="a", view=99)])  # type: ignore[arg-type]
async def test_a_wait_is_refused_as_a_call_of_its_own(leader: ServedLeader, call: pb.WaitTaskRequest | None) -> None:
    await leader.submit("a")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await leader.scheduler.WaitTask(call or pb.WaitTaskRequest(), timeout=PATIENCE)
    (said,) = (value for key, value in error.value.trailing_metadata() if key == "grpc-status-details-bin")
    stream = Stream(leader)
    await stream.call.write(pb.SubmitTasksRequest(waits=[pb.SubmissionWait(number=1, call=call)]))
    answer = await stream.finish(1)
    assert not answer.HasField("task")
    assert status_pb2.Status.FromString(answer.refusal) == status_pb2.Status.FromString(said)
    await stream.send({2: pb.Task(id="b", handler="h")})
    assert await stream.answer(2) is None


async def test_what_is_given_up_is_not_answered(leader: ServedLeader) -> None:
    await leader.submit("a", "b")
    stream = Stream(leader)
    await stream.wait_for({1: "a", 2: "b"})
    await stream.wait_for({}, given_up=(1, 99))
    # Its number is free again.
    await stream.wait_for({1: "b"})
    for id in "ab":
        await leader.scheduler.CancelTask(pb.CancelTaskRequest(id=id))
    assert [(await stream.finish(number)).task.id for number in (1, 2)] == ["b", "b"]
    await stream.call.done_writing()
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("field", ["submissions", "waits"])
@pytest.mark.parametrize("place", [0, 1])
async def test_a_number_that_is_unanswered_can_not_be_used_again(leader: ServedLeader, field: str, place: int) -> None:
    await leader.submit("a")
    stream = Stream(leader)
    await stream.wait_for({1: "a"})
    kind: Any = {"submissions": pb.Submission, "waits": pb.SubmissionWait}[field]
    sent: Any = {field: [*[kind(number=2)][:place], kind(number=1)]}
    await stream.call.write(pb.SubmitTasksRequest(**sent))

    async def to_the_end() -> None:
        while await stream.call.read() is not grpc.aio.EOF:
            pass

    await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="a"))
    refusal = await refused(to_the_end())
    assert [violation.field for violation in refusal.violations] == [f"{field}[{place}].number"]


@pytest.mark.parametrize(
    ("task_bytes", "tasks_bytes", "shown"),
    [(100, 1000, [True] * 3), (10, 1000, [False] * 3), (100, 100, [True, False, False])],
)
async def test_large_results_are_to_be_called_for(
    monkeypatch: pytest.MonkeyPatch, task_bytes: int, tasks_bytes: int, shown: list[bool]
) -> None:
    monkeypatch.setattr(submissions, "TASK_BYTES_MAX", task_bytes)
    monkeypatch.setattr(submissions, "TASKS_BYTES_MAX", tasks_bytes)

    async def wait(call: pb.WaitTaskRequest, context: Any) -> pb.WaitTaskResponse:
        return pb.WaitTaskResponse(task=pb.Task(id=call.id, result="x" * 50))

    served = Served(wait)
    served.send(*"abc")
    # All have finished before any is sent.
    answers = await served.answers()
    assert [answer.HasField("task") for answer in answers] == shown
    assert not any(answer.HasField("refusal") for answer in answers)
    # What was sent makes room.
    served.send("d")
    assert [answer.HasField("task") for answer in await served.answers()] == shown[:1]


async def test_more_waits_than_the_limit_are_to_be_called_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "WAITS_MAX", 2)
    monkeypatch.setattr(submissions, "WAITS_OF_ALL_MAX", 3)
    asked: list[str] = []
    held = asyncio.Event()

    async def wait(call: pb.WaitTaskRequest, context: Any) -> pb.WaitTaskResponse:
        asked.append(call.id)
        await held.wait()
        return pb.WaitTaskResponse(task=pb.Task(id=call.id))

    counted = submissions.OpenWaits()
    first, second = Served(wait, counted), Served(wait, counted)
    first.send(*"abc")
    assert [answer.HasField("task") for answer in await first.answers()] == [False]
    second.send(*"de")
    assert [answer.HasField("task") for answer in await second.answers()] == [False]
    assert asked == ["a", "b", "d"]
    held.set()
    assert [answer.task.id for answer in await first.answers()] == ["a", "b"]
    first.send("f")
    assert [answer.task.id for answer in await first.answers()] == ["f"]
    await second.stream.aclose()
    await first.stream.aclose()
    assert counted.number == 0


async def test_open_waits_keep_no_submission_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "SUBMISSIONS_MAX", 2)

    async def wait(call: pb.WaitTaskRequest, context: Any) -> pb.WaitTaskResponse:
        await asyncio.Event().wait()
        raise AssertionError

    served = Served(wait)
    served.send(*"abcd")
    for number in (98, 99):
        served.requests.put_nowait(pb.SubmitTasksRequest(submissions=[pb.Submission(number=number)]))
        assert [answer.number for answer in (await anext(served.stream)).answers] == [number]
    await served.stream.aclose()


async def test_answers_that_are_not_read_keep_the_stream_from_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "SUBMISSIONS_MAX", 4)
    monkeypatch.setattr(submissions, "WAITS_MAX", 0)
    served = Served(None)
    served.send(*"abcdef")
    assert [len(response.finished) for response in [await anext(served.stream), await anext(served.stream)]] == [4, 2]
    await served.stream.aclose()


async def test_waits_end_with_the_leadership(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("a")
        stream = Stream(leader)
        await stream.wait_for({1: "a"})
        await stream.send({2: pb.Task(id="b", handler="h")})
        await stream.answer(2)
        leader.stopped.set()
        assert await stream.call.read() is grpc.aio.EOF
        assert await stream.call.code() is grpc.StatusCode.OK


async def test_waits_are_timed_as_calls_of_their_own() -> None:
    called: list[tuple[str, str]] = []

    async def wait(call: pb.WaitTaskRequest, context: Any) -> pb.WaitTaskResponse:
        if call.id == "a":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no", (("grpc-status-details-bin", b""),))
        if call.id == "b":
            await asyncio.Event().wait()
        return pb.WaitTaskResponse()

    served = Served(wait, called=lambda method, code, seconds: called.append((method, code)))
    served.send(*"abc")
    await served.answers()
    served.requests.put_nowait(pb.SubmitTasksRequest(given_up=[2]))
    for _ in range(TURNS):
        await asyncio.sleep(0)
    await served.stream.aclose()
    name = "scheduler.v1.SchedulerService/WaitTask"
    assert called == [(name, "NOT_FOUND"), (name, "OK"), (name, "CANCELLED")]


class Served:
    """A stream that waits by `wait`, and whose tasks are all recorded at once. Numbers begin at 1."""

    def __init__(self, wait: Any, counted: submissions.OpenWaits | None = None, called: Any = None) -> None:
        async def schedule(call: pb.ScheduleTaskRequest, context: Any) -> pb.ScheduleTaskResponse:
            return pb.ScheduleTaskResponse()

        streams = submissions.Submissions(
            schedule, wait, called or (lambda method, code, seconds: None), counted or submissions.OpenWaits()
        )
        self.requests: asyncio.Queue[pb.SubmitTasksRequest] = asyncio.Queue()
        self.stream: Any = streams.serve(self._requests(), SimpleNamespace())  # type: ignore[arg-type]
        self._sent = 0

    def send(self, *ids: str) -> None:
        """Sends a wait for each, in one message."""
        waits = [
            pb.SubmissionWait(number=self._sent + n, call=pb.WaitTaskRequest(id=id)) for n, id in enumerate(ids, 1)
        ]
        self._sent += len(ids)
        self.requests.put_nowait(pb.SubmitTasksRequest(waits=waits))

    async def answers(self) -> list[pb.SubmissionWaitAnswer]:
        return list((await anext(self.stream)).finished)

    async def _requests(self) -> Any:
        while True:
            yield await self.requests.get()

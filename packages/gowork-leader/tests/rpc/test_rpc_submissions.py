"""SubmitTasks answers each submission as ScheduleTask would answer a call of its own."""

from __future__ import annotations

import asyncio
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from leader_serving import PATIENCE, ServedLeader, refused, serving, stream_refused
from submission_stream import Stream

from gowork.leader._rpc import submissions
from gowork.leader._rpc.services import Port, Switchboard
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal


def served(schedule: Any) -> submissions.Submissions:
    """Streams that carry no waits."""
    return submissions.Submissions(schedule, None, lambda method, code, seconds: None, submissions.OpenWaits())


async def test_what_is_answered_is_recorded(leader: ServedLeader) -> None:
    stream = Stream(leader)
    await stream.send({5: pb.Task(id="a", handler="h"), 3: pb.Task(id="b", payload="p")})
    await stream.send({0: pb.Task(id="c", handler="h", queue="q")})
    assert [await stream.answer(number) for number in (5, 3, 0)] == [None, None, None]
    assert [task.id for task in await leader.list()] == ["a", "b", "c"]
    assert (await leader.get("b")).payload == "p"


@pytest.mark.parametrize(
    "task",
    [
        None,
        pb.Task(),
        pb.Task(id="x" * 300, handler="h"),
        pb.Task(id="no-handler"),
        pb.Task(id="t", handler="h", traceparent="nonsense"),
        pb.Task(id="known", handler="other"),
        pb.Task(id="known", handler="h"),
        pb.Task(id="large", payload="x" * ((1 << 20) + 1)),
    ],
)
async def test_a_submission_is_refused_as_a_call_of_its_own(leader: ServedLeader, task: pb.Task | None) -> None:
    await leader.submit("known")
    request = pb.ScheduleTaskRequest(task=task)
    try:
        await leader.scheduler.ScheduleTask(request, timeout=PATIENCE)
    except grpc.aio.AioRpcError as error:
        (said,) = (value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    else:
        said = None
    stream = Stream(leader)
    await stream.send({1: pb.Task(id="before", handler="h"), 2: task, 3: pb.Task(id="behind", handler="h")})
    told = await stream.answer(2)
    assert told == (None if said is None else status_pb2.Status.FromString(said))
    assert (await stream.answer(1), await stream.answer(3)) == (None, None)


async def test_a_number_that_waits_can_not_be_used_again(leader: ServedLeader) -> None:
    stream = Stream(leader)
    await stream.send({1: pb.Task(id="a", handler="h")})
    await stream.answer(1)
    twice = pb.Submission(number=1, call=pb.ScheduleTaskRequest(task=pb.Task(id="b", handler="h")))
    await stream.call.write(pb.SubmitTasksRequest(submissions=[twice, twice]))
    # What was read before is still answered.
    assert [answer.number for answer in (await stream.read()).answers] == [1]
    refusal = await refused(stream.call.read())
    assert [violation.field for violation in refusal.violations] == ["submissions[1].number"]
    assert (await leader.get("b")).id == "b"


async def test_a_message_beyond_its_limit_is_refused_whole(leader: ServedLeader) -> None:
    stream = Stream(leader)
    await stream.send({number: pb.Task(id=f"{number}", payload="x" * 1_000_000) for number in range(5)})
    refusal = await refused(stream.call.read())
    assert [violation.field for violation in refusal.violations] == ["submissions"]
    assert str(limits.BATCH_BYTES_MAX) in refusal.message
    assert await leader.list() == []


async def test_what_was_sent_is_answered_when_the_caller_sends_no_more(leader: ServedLeader) -> None:
    stream = Stream(leader)
    await stream.send({number: pb.Task(id=f"{number}", handler="h") for number in range(500)})
    await stream.call.done_writing()
    answered = [answer.number async for response in stream.call for answer in response.answers]
    assert sorted(answered) == list(range(500))
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_tasks_of_a_caller_that_goes_away_are_recorded(leader: ServedLeader) -> None:
    stream = Stream(leader)
    await stream.send({1: pb.Task(id="a", handler="h")})
    await stream.answer(1)
    stream.call.cancel()
    await leader.submit("b")
    assert [task.id for task in await leader.list()] == ["a", "b"]


async def test_garbage_ends_the_stream(leader: ServedLeader) -> None:
    call = leader.stream_stream("/scheduler.v1.SchedulerService/SubmitTasks")(iter([b"\x0a\x7f"]), timeout=PATIENCE)
    assert (await stream_refused(call)).reason == "NOT_PROTOBUF"


@pytest.mark.parametrize("together", [1, 3, 8])
async def test_a_stream_whose_answers_are_not_read_is_not_read_either(
    monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(submissions, "SUBMISSIONS_MAX", 4)
    asked: list[str] = []
    let_go = asyncio.Event()

    async def schedule(call: pb.ScheduleTaskRequest, context: Any) -> pb.ScheduleTaskResponse:
        asked.append(call.task.id)
        await let_go.wait()
        return pb.ScheduleTaskResponse()

    async def requests() -> Any:
        for first in range(0, 8, together):
            yield pb.SubmitTasksRequest(
                submissions=[
                    pb.Submission(number=number, call=pb.ScheduleTaskRequest(task=pb.Task(id=f"{number}")))
                    for number in range(first, min(first + together, 8))
                ]
            )

    answers = served(schedule).serve(requests(), SimpleNamespace())  # type: ignore[arg-type]
    first = asyncio.ensure_future(anext(answers))
    for _ in range(20):
        await asyncio.sleep(0)
    assert asked == ["0", "1", "2", "3"]
    let_go.set()
    numbers = [answer.number for answer in (await first).answers]
    async for response in answers:
        numbers += [answer.number for answer in response.answers]
    assert sorted(numbers) == list(range(8))


async def test_a_message_that_was_read_is_not_kept() -> None:
    class Part:
        """Stands for a submission. While a part of a message is kept, all of it is."""

        number, call = 1, None

    kept: list[weakref.ref[Part]] = []
    waits = asyncio.Event()

    async def schedule(call: pb.ScheduleTaskRequest, context: Any) -> pb.ScheduleTaskResponse:
        return pb.ScheduleTaskResponse()

    async def requests() -> Any:
        part = Part()
        kept.append(weakref.ref(part))
        yield SimpleNamespace(submissions=[part], waits=(), given_up=(), ByteSize=lambda: 0)
        del part
        await waits.wait()

    answers = served(schedule).serve(requests(), SimpleNamespace())  # type: ignore[arg-type]
    assert [answer.number for answer in (await anext(answers)).answers] == [1]
    assert [each() for each in kept] == [None]
    waits.set()
    assert [response async for response in answers] == []


async def test_streams_end_with_the_leadership_when_what_was_read_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        idle, stream = Stream(leader), Stream(leader)
        for each, id in ((idle, "a"), (stream, "b")):
            await each.send({1: pb.Task(id=id, handler="h")})
            await each.answer(1)
        leader.stopped.set()
        for each in (idle, stream):
            assert await each.call.read() is grpc.aio.EOF
            assert await each.call.code() is grpc.StatusCode.OK


async def test_what_is_read_as_another_leader_takes_over_is_refused() -> None:
    switchboard = Switchboard(Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_LEADING", "another one leads"))

    async def answer(request: Any, context: Any) -> pb.ScheduleTaskResponse:
        assert isinstance(request, bytes), "calls are forwarded as bytes"
        return pb.ScheduleTaskResponse()

    async def requests() -> Any:
        yield pb.SubmitTasksRequest(submissions=[pb.Submission(number=1)])
        switchboard.forward({port: {submissions.SCHEDULE_TASK: answer} for port in Port})

    methods: dict[str, Any] = {}
    server: Any = SimpleNamespace(
        add_generic_rpc_handlers=lambda handlers: None,
        add_registered_method_handlers=lambda service, handlers: methods.update(handlers),
    )
    switchboard.add_to(server, "scheduler.v1.SchedulerService", Port.SCHEDULER)
    switchboard.connect({submissions.SCHEDULE_TASK: answer})
    context = SimpleNamespace(peer=lambda: "ipv4:127.0.0.1:1", invocation_metadata=lambda: ())
    serving = methods["SubmitTasks"].stream_stream(requests(), context)
    (told,) = [answer async for response in serving for answer in response.answers]
    assert status_pb2.Status.FromString(told.refusal).message == "another one leads"


async def test_a_stream_is_refused_by_a_leader_that_stops(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        stream = Stream(leader)
        await stream.send({1: pb.Task(id="a", handler="h")})
        await stream.answer(1)
        leader.stopped.set()
        assert await stream.call.read() is grpc.aio.EOF
        refusal = await refused(leader.scheduler.GetTask(pb.GetTaskRequest(id="a"), timeout=PATIENCE))
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        assert (await stream_refused(Stream(leader).call)).code is grpc.StatusCode.UNAVAILABLE

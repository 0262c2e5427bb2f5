"""Each submission of a stream is held to its caller's rights, as a call of its own would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from access_callers import access_file, entry, known_by_tokens, with_token
from google.rpc import status_pb2
from leader_serving import PATIENCE, ServedLeader, refused, serving

from gowork.leader._access.access import Access
from gowork.leader._app import node
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

DENIED, EXHAUSTED = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED


async def opened(leader: ServedLeader, name: str) -> Any:
    """A stream of this caller that the leader serves."""
    call = with_token(leader, name).scheduler.SubmitTasks(timeout=PATIENCE)
    await told(call, pb.Task())
    return call


async def told(call: Any, *tasks: pb.Task) -> list[str]:
    """What the leader says of each of these tasks; empty of those that are recorded."""
    requests = [pb.ScheduleTaskRequest(task=task) for task in tasks]
    submissions = [pb.Submission(number=number, call=request) for number, request in enumerate(requests)]
    await call.write(pb.SubmitTasksRequest(submissions=submissions))
    said: dict[int, str] = {}
    while len(said) < len(tasks):
        response = await call.read()
        assert response is not grpc.aio.EOF, await call.details()
        said |= {answer.number: status_pb2.Status.FromString(answer.refusal).message for answer in response.answers}
    return [said[number] for number in range(len(tasks))]


async def test_a_task_beyond_the_bounds_of_its_caller_is_denied_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with known_by_tokens(tmp_path, entry("q", "client", queues=["web"])) as leader:
        call = with_token(leader, "q").scheduler.SubmitTasks(timeout=PATIENCE)
        own, other = pb.Task(id="a", handler="h", queue="web"), pb.Task(id="b", handler="h", queue="other")
        mine, theirs = await told(call, own, other)
        assert mine == ""
        assert theirs == "client q may not have to do with tasks of queue 'other' for handler 'h'"
        (denied,) = (record.__dict__ for record in caplog.records if record.msg == "denied")
        assert denied["reason"] == theirs
        assert "ScheduleTask" in str(denied)


async def test_a_caller_who_may_not_schedule_opens_no_stream(tmp_path: Path) -> None:
    async with known_by_tokens(tmp_path, entry("r", "read-only")) as leader:
        refusal = await refused(with_token(leader, "r").scheduler.SubmitTasks(timeout=PATIENCE).read())
        assert (refusal.code, refusal.reason) == (DENIED, "ROLE_MISSING")


async def test_submissions_count_towards_the_rate_of_their_caller(tmp_path: Path) -> None:
    slow = entry("slow", "client") + "limits.tasks_per_second = 0.001"
    async with known_by_tokens(tmp_path, slow, entry("free", "client")) as leader:
        call = with_token(leader, "slow").scheduler.SubmitTasks(timeout=PATIENCE)
        tasks = [pb.Task(id=id, handler="h") for id in "abc"]
        first, *others = await told(call, *tasks)
        assert first == ""
        assert all("client slow has its 0.001 tasks a second" in other for other in others)
        assert await told(await opened(leader, "free"), *tasks) == [""] * 3


async def test_streams_of_a_caller_are_bounded_and_take_the_place_of_no_wait(tmp_path: Path) -> None:
    async with known_by_tokens(tmp_path, entry("few", "client") + "limits.streams = 1") as leader:
        call = await opened(leader, "few")
        refusal = await refused(with_token(leader, "few").scheduler.SubmitTasks(timeout=PATIENCE).read())
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "CALLER_LIMIT")
        assert "client few has 1 streams of submissions open" in refusal.message
        assert await told(call, pb.Task(id="a", handler="h")) == [""]
        watch = with_token(leader, "few").scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
        assert (await watch.read()).token


async def test_the_stream_of_a_caller_who_is_revoked_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "REFRESH_SECONDS", 0.01)
    path = access_file(tmp_path, entry("a", "client"), entry("b", "client"))
    async with serving(tmp_path, access=Access(path)) as leader:
        gone, stays = await opened(leader, "a"), await opened(leader, "b")
        new = tmp_path / "new"
        new.write_text("revoked = ['a']\n" + path.read_text())
        new.rename(path)
        assert (await refused(gone.read())).reason == "REVOKED"
        assert await told(stays, pb.Task(id="x", handler="h")) == [""]


async def test_a_wait_is_held_to_the_rights_of_its_caller(tmp_path: Path) -> None:
    slow = entry("slow", "client") + "limits.calls_per_second = 1.0"
    async with known_by_tokens(tmp_path, entry("q", "client", queues=["web"]), entry("free", "client"), slow) as leader:
        await with_token(leader, "free").scheduler.ScheduleTasks(
            pb.ScheduleTasksRequest(tasks=[pb.Task(id="other", handler="h")])
        )
        assert "client q may not have to do with" in await waited(await opened(leader, "q"), "other")
        call = await opened(leader, "slow")
        assert "client slow has its 1 calls a second" in [await waited(call, "none") for _ in range(5)][-1]


async def waited(call: Any, id: str) -> str:
    """What the leader says of a wait for this task."""
    wait = pb.SubmissionWait(number=7, call=pb.WaitTaskRequest(id=id))
    await call.write(pb.SubmitTasksRequest(waits=[wait]))
    (answer,) = (await call.read()).finished
    return status_pb2.Status.FromString(answer.refusal).message

"""What is told of tasks that go on after others, and what of their continuations is refused."""

from __future__ import annotations

from typing import Any

import pytest
from leader_serving import PATIENCE, ServedLeader

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb


def waiting(id: str, **fields: Any) -> dict[str, Any]:
    return {"outcome": pb.ATTEMPT_OUTCOME_WAITING, "continuation": pb.Task(id=id, **fields)}


async def test_a_task_that_waits_shows_what_it_asks_for_now(leader: ServedLeader) -> None:
    await leader.submit("a", "b", handler="h")
    async with leader.worker() as worker:
        first, _ = await worker.grants(2)
        fields = {"handler": "h", "data": b"next", "payload_form": pb.PAYLOAD_FORM_DATA, "after": ["b", "c"]}
        await worker.report(first, **waiting("a", **fields), follow_ups=[pb.Task(id="c", handler="nobody")])
        task = await leader.get("a")
        assert (task.status, task.is_waiting) == (pb.TASK_STATUS_PENDING, True)
        assert (task.handler, task.data) == ("h", b"next")
        assert (list(task.after), task.payload_form) == (["b", "c"], pb.PAYLOAD_FORM_DATA)
        assert list(task.changed_fields) == ["after", "payload"]
        assert [attempt.outcome for attempt in task.attempts] == [pb.ATTEMPT_OUTCOME_WAITING]
        # No client says so itself.
        await leader.scheduler.ScheduleTask(
            pb.ScheduleTaskRequest(task=pb.Task(id="d", handler="h", is_waiting=True)), timeout=PATIENCE
        )
        assert not (await leader.get("d")).is_waiting


async def test_a_grant_tells_how_often_its_task_was_continued(leader: ServedLeader) -> None:
    await leader.submit("a", handler="h")
    async with leader.worker() as worker:
        (first,) = await worker.grants(1)
        assert first.continued == 0
        await worker.report(first, **waiting("a", handler="h", payload="x"))
        (second,) = await worker.grants(1)
        assert (second.attempt, second.continued, second.attempts_used) == (2, 1, 0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"handler": ""}, "payload: is empty on a task that names no handler"),
        ({"handler": "", "payload": "x"}, "handler: it is empty; name the handler that runs next"),
        ({"handler": "x" * 129}, "handler: is 'xxx"),
        ({"handler": "h", "after": ["a\n"]}, "after[0]: "),
        ({"handler": "h", "after": [""]}, "after[0]: "),
        ({"handler": "h", "after": list(map(str, range(limits.AFTER_MAX + 1)))}, "after: "),
        ({"handler": "h", "after_rule": 9, "after": ["b"]}, "after_rule: has the unknown value 9"),
        ({"handler": "h", "payload": "x" * (limits.PAYLOAD_BYTES_MAX + 1)}, "payload: has 1048577 bytes"),
        ({"handler": "h", "payload": "x", "data": b"x"}, "data: and payload are both set"),
    ],
)
async def test_a_continuation_that_breaks_a_limit_fails_its_attempt(
    leader: ServedLeader, fields: dict[str, Any], words: str
) -> None:
    await leader.submit("a", handler="h")
    async with leader.worker() as worker:
        (grant,) = await worker.grants(1)
        await worker.report(grant, **waiting("a", **fields), follow_ups=[pb.Task(id="next", handler="h")])
        task = await leader.get("a")
        assert (task.status, task.failure.kind) == (pb.TASK_STATUS_ERROR, pb.FAILURE_KIND_REJECTED)
        assert task.failure.message.startswith(f"it can't wait: {words}"), task.failure.message
        assert [each.id for each in await leader.list()] == ["a"]

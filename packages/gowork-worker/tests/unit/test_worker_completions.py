"""What a callback worker can tell of a task, and what it cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._session.completions import Completions, Started


class Leader:
    """A leader that hears all."""

    def __init__(self) -> None:
        self.heard: list[tasks.TaskCompleteRequest] = []

    async def TaskComplete(self, request: tasks.TaskCompleteRequest, *, timeout: float) -> None:
        self.heard.append(request)


def completions(leader: Any) -> Completions:
    supervisor = SimpleNamespace(handlers=SimpleNamespace(handlers=(), default_handler=""))
    return Completions(leader, supervisor)  # type: ignore[arg-type]


async def test_follow_ups_that_cannot_be_told_fail_their_task_for_good_and_are_not_dropped() -> None:
    leader = Leader()
    report = session.Report(
        fence=5, id="a", outcome=tasks.ATTEMPT_OUTCOME_COMPLETED, follow_ups=[tasks.Task(id="next")]
    )
    assert await completions(leader).tell(Started("a", 5), report)
    (request,) = leader.heard
    assert (request.outcome, request.failure.kind) == (tasks.ATTEMPT_OUTCOME_FAILED, tasks.FAILURE_KIND_REJECTED)
    assert "follow-ups" in request.error

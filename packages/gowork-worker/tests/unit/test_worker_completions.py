"""What a callback worker can tell of a task, and what it cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._session import completions as module
from gowork.worker._session.completions import Completions, Started


class Leader:
    """A leader that hears all. The first calls, `lacking` of them, go to an address that lacks their methods."""

    def __init__(self, lacking: int = 0) -> None:
        self.heard: list[tasks.TaskCompleteRequest] = []
        self.progress: list[tasks.TaskProgressRequest] = []
        self.lacking = lacking

    async def TaskComplete(self, request: tasks.TaskCompleteRequest, *, timeout: float) -> None:
        self._lack()
        self.heard.append(request)

    async def TaskProgress(self, request: tasks.TaskProgressRequest, *, timeout: float) -> None:
        self._lack()
        self.progress.append(request)

    def _lack(self) -> None:
        if self.lacking:
            self.lacking -= 1
            none = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, none, none, "Method not found!")


@pytest.fixture(autouse=True)
def repeats_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are repeated without a delay."""
    monkeypatch.setattr(module, "RETRY_FIRST", 0.0)


def completions(leader: Any, *, addresses: int = 1) -> Completions:
    supervisor = SimpleNamespace(handlers=SimpleNamespace(handlers=(), default_handler=""))
    return Completions(leader, supervisor, addresses=addresses)  # type: ignore[arg-type]


async def test_follow_ups_that_cannot_be_told_fail_their_task_for_good_and_are_not_dropped() -> None:
    leader = Leader()
    report = session.Report(
        fence=5, id="a", outcome=tasks.ATTEMPT_OUTCOME_COMPLETED, follow_ups=[tasks.Task(id="next")]
    )
    assert await completions(leader).tell(Started("a", 5), report)
    (request,) = leader.heard
    assert (request.outcome, request.failure.kind) == (tasks.ATTEMPT_OUTCOME_FAILED, tasks.FAILURE_KIND_REJECTED)
    assert "follow-ups" in request.error


async def test_a_wait_that_cannot_be_told_fails_its_task_for_good() -> None:
    leader = Leader()
    report = session.Report(fence=5, id="a", outcome=tasks.ATTEMPT_OUTCOME_WAITING)
    assert await completions(leader).tell(Started("a", 5), report)
    (request,) = leader.heard
    assert (request.outcome, request.failure.kind) == (tasks.ATTEMPT_OUTCOME_FAILED, tasks.FAILURE_KIND_REJECTED)
    assert "the handler waits for other tasks" in request.error


COMPLETED = session.Report(fence=5, id="a", outcome=tasks.ATTEMPT_OUTCOME_COMPLETED)


async def test_a_report_gets_past_an_address_that_lacks_the_method() -> None:
    leader = Leader(lacking=3)
    assert await completions(leader, addresses=2).tell(Started("a", 5), COMPLETED)
    assert [request.id for request in leader.heard] == ["a"]


@pytest.mark.parametrize(("addresses", "calls"), [(1, 1), (2, 4)])
async def test_a_report_is_given_up_when_every_address_lacks_the_method(addresses: int, calls: int) -> None:
    leader = Leader(lacking=calls)
    assert await completions(leader, addresses=addresses).tell(Started("a", 5), COMPLETED)
    assert (leader.heard, leader.lacking) == ([], 0)


@pytest.mark.parametrize(("addresses", "told"), [(1, 0), (2, 1)])
async def test_progress_goes_on_after_an_address_that_lacks_the_method_where_there_are_others(
    addresses: int, told: int
) -> None:
    leader = Leader(lacking=1)
    telling = completions(leader, addresses=addresses)
    for _ in range(2):
        await telling.tell_progress(Started("a", 5), session.ProgressReport(fraction=0.5))
    assert len(leader.progress) == told

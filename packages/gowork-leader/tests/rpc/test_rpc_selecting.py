"""Cancels and retries of all tasks that a filter selects, over real connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving

from gowork.leader._core.state import Settings
from gowork.leader._rpc import selecting
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

FAILED = pb.ATTEMPT_OUTCOME_FAILED
PENDING, RUNNING = pb.TASK_STATUS_PENDING, pb.TASK_STATUS_RUNNING
CANCELLED, ERROR = pb.TASK_STATUS_CANCELLED, pb.TASK_STATUS_ERROR


async def cancel(leader: ServedLeader, chosen: str, page_token: str = "") -> pb.CancelTasksResponse:
    request = pb.CancelTasksRequest(filter=chosen, page_token=page_token)
    return await leader.scheduler.CancelTasks(request, timeout=PATIENCE)


async def retry(leader: ServedLeader, chosen: str, page_token: str = "") -> pb.RetryTasksResponse:
    request = pb.RetryTasksRequest(filter=chosen, page_token=page_token)
    return await leader.scheduler.RetryTasks(request, timeout=PATIENCE)


async def begin(leader: ServedLeader, chosen: str) -> str:
    """The token of the first call for retries, which runs none."""
    response = await retry(leader, chosen)
    assert (response.retried, response.left) == (0, 0)
    return response.next_page_token


async def fail(leader: ServedLeader, *ids: str) -> None:
    async with leader.worker() as session:
        for grant in await session.grants(len(ids)):
            await session.report(grant, outcome=FAILED)
    await leader.finished(*ids)


async def statuses(leader: ServedLeader) -> dict[str, int]:
    return {task.id: task.status for task in await leader.list()}


@pytest.fixture
def pages_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "PAGE_TASKS_MAX", 2)


async def test_what_waits_is_cancelled_and_what_runs_is_asked(leader: ServedLeader) -> None:
    await leader.submit("runs", labels={"team": "web"})
    async with leader.worker() as session:
        grant = await session.grant()
        await leader.submit("waits", "other", labels={"team": "web"}, handler="nobody")
        await leader.submit("of-others", handler="nobody")
        response = await cancel(leader, "labels.team = web AND id != other")
        assert (response.cancelled, response.asked, response.next_page_token) == (1, 1, "")
        while grant.fence not in session.cancelled:
            await session.frame()
    assert await statuses(leader) == {"runs": RUNNING, "waits": CANCELLED, "other": PENDING, "of-others": PENDING}


async def test_a_status_in_the_filter_is_heeded_and_finished_tasks_stay(leader: ServedLeader) -> None:
    await leader.submit("failed")
    await fail(leader, "failed")
    await leader.submit("runs")
    async with leader.worker() as session:
        await session.grant()
        await leader.submit("waits", handler="nobody")
        for chosen in ("status = ERROR", "status != PENDING AND status != RUNNING"):
            assert await cancel(leader, chosen) == pb.CancelTasksResponse()
        assert (await cancel(leader, "status = PENDING")).cancelled == 1
        assert await statuses(leader) == {"failed": ERROR, "runs": RUNNING, "waits": CANCELLED}
        assert not (await leader.get("runs")).cancel_requested
        assert (await cancel(leader, "status != COMPLETED")).asked == 1


@pytest.mark.usefixtures("pages_of_two")
async def test_pages_go_on_by_their_tokens_and_end_with_what_was_there(leader: ServedLeader) -> None:
    await leader.submit(*[f"t{number}" for number in range(5)])
    first = await cancel(leader, "status = PENDING")
    assert first.cancelled == 2
    await leader.submit("later")
    counts = []
    token = first.next_page_token
    while token:
        response = await cancel(leader, "status = PENDING", token)
        counts.append(response.cancelled)
        token = response.next_page_token
    assert counts == [2, 1]
    # A page that is asked for again finds nothing to do.
    assert (await cancel(leader, "status = PENDING", first.next_page_token)).cancelled == 0
    assert (await leader.get("later")).status == PENDING


@pytest.mark.usefixtures("pages_of_two")
async def test_failed_tasks_run_again_page_by_page(leader: ServedLeader) -> None:
    ids = [f"t{number}" for number in range(5)]
    await leader.submit(*ids)
    await fail(leader, *ids)
    token, counts = await begin(leader, "handler = h"), []
    while token:
        response = await retry(leader, "handler = h", token)
        counts.append(response.retried)
        token = response.next_page_token
    assert counts == [2, 2, 1]
    assert set((await statuses(leader)).values()) == {PENDING}


async def test_a_task_that_fails_again_does_not_run_a_third_time(leader: ServedLeader) -> None:
    await leader.submit("a")
    await fail(leader, "a")
    token = await begin(leader, "status = ERROR")
    assert (await retry(leader, "status = ERROR", token)).retried == 1
    await fail(leader, "a")
    assert (await retry(leader, "status = ERROR", token)).retried == 0
    assert len((await leader.get("a")).attempts) == 2
    assert (await retry(leader, "status = ERROR", await begin(leader, "status = ERROR"))).retried == 1


async def test_cancelled_tasks_run_again_only_if_the_filter_says_so(leader: ServedLeader) -> None:
    await leader.submit("failed")
    await fail(leader, "failed")
    await leader.submit("stopped")
    await cancel(leader, "id = stopped")
    token = await begin(leader, "handler = h")
    assert (await retry(leader, "handler = h", token)).retried == 1
    assert await statuses(leader) == {"failed": PENDING, "stopped": CANCELLED}
    assert await retry(leader, "status = PENDING") == pb.RetryTasksResponse()
    chosen = "status != COMPLETED"
    assert (await retry(leader, chosen, await begin(leader, chosen))).retried == 1
    assert await statuses(leader) == {"failed": PENDING, "stopped": PENDING}


async def test_what_has_expired_is_told(leader: ServedLeader) -> None:
    await leader.submit("late", expires_in_ms=1)
    await leader.finished("late")
    response = await retry(leader, "id = late", await begin(leader, "id = late"))
    assert (response.retried, response.left, response.next_page_token) == (0, 1, "")


async def test_without_room_for_all_some_run_and_the_token_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=Settings(pending_max=3)) as leader:
        for ids in (["a", "b"], ["c", "d"]):
            await leader.submit(*ids)
            await fail(leader, *ids)
        response = await retry(leader, "status = ERROR", await begin(leader, "status = ERROR"))
        assert response.retried == 2
        more = await retry(leader, "status = ERROR", response.next_page_token)
        assert more.retried == 1
        call = leader.scheduler.RetryTasks(
            pb.RetryTasksRequest(filter="status = ERROR", page_token=more.next_page_token), timeout=PATIENCE
        )
        assert (await refused(call)).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await fail(leader, "a", "b", "c")
        assert (await retry(leader, "status = ERROR", more.next_page_token)).retried == 1
        assert (await leader.get("d")).status == PENDING


@pytest.mark.parametrize("method", ["CancelTasks", "RetryTasks"])
async def test_bad_filters_and_tokens_are_named(leader: ServedLeader, method: str) -> None:
    request: Any = getattr(pb, f"{method}Request")
    other = "RetryTasks" if method == "CancelTasks" else "CancelTasks"
    await leader.submit("a", "b")
    token = await begin(leader, "status != COMPLETED")

    async def fields(**given: str) -> list[str]:
        call = getattr(leader.scheduler, method)(request(**given), timeout=PATIENCE)
        refusal = await refused(call)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        return [violation.field for violation in refusal.violations]

    assert await fields() == ["filter"]
    assert await fields(filter=" ") == ["filter"]
    assert await fields(filter="nonsense") == ["filter"]
    assert await fields(filter="status = ERROR", page_token="x") == ["page_token"]
    assert await fields(filter="status = ERROR", page_token=token) == ["page_token"]
    assert set((await statuses(leader)).values()) == {PENDING}
    if other == "RetryTasks":
        # The same filter, but of the other call.
        assert await fields(filter="status != COMPLETED", page_token=token) == ["page_token"]

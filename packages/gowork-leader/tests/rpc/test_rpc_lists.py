"""Lists: pages, filters and order, and what is said where not all fits."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from leader_serving import PATIENCE, ServedLeader, serving

from gowork.leader.store.protocol import Query, Record
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

MIB = 1 << 20


@pytest.fixture
async def mixed(leader: ServedLeader) -> AsyncIterator[ServedLeader]:
    """A leader with 48 tasks of all kinds."""
    statuses = ["done", "failed", "held", "waiting"]
    kinds = itertools.product(
        statuses, ["resize", "h"], [pb.TASK_PRIORITY_LOW, pb.TASK_PRIORITY_HIGH], ["web", "db", ""]
    )
    tasks = [
        pb.Task(
            id=f"{status}-{number:02}",
            handler=handler,
            priority=priority,
            queue=team and f"{team} queue",
            labels={"team": team, "with space": "a b"} if team else {},
            payload=f"{number}",
            # Only those that are to be run can be.
            selector={"side": "nobody"} if status == "waiting" else {},
        )
        for number, (status, handler, priority, team) in enumerate(kinds)
    ]
    await leader.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)
    async with leader.worker(handlers=["resize", "h"]) as session:
        for grant in await session.grants(36):
            if grant.id.startswith("done"):
                await session.report(grant, result=grant.id)
            elif grant.id.startswith("failed"):
                await session.report(grant, outcome=pb.ATTEMPT_OUTCOME_FAILED, failure=pb.Failure(message="m"))
        yield leader


FILTERS: dict[str, Any] = {
    "": lambda task: True,
    "status = RUNNING": lambda task: task.status == pb.TASK_STATUS_RUNNING,
    "status = running": lambda task: task.status == pb.TASK_STATUS_RUNNING,
    "status != COMPLETED": lambda task: task.status != pb.TASK_STATUS_COMPLETED,
    "status != COMPLETED AND status != ERROR": lambda task: task.status in (1, 2),
    "status = COMPLETED AND status = ERROR": lambda task: False,
    'handler = "resize"': lambda task: task.handler == "resize",
    "handler != resize": lambda task: task.handler != "resize",
    "priority = HIGH AND handler = h": lambda task: task.priority == 3 and task.handler == "h",
    'queue = "web queue"': lambda task: task.queue == "web queue",
    "queue = default": lambda task: task.queue == "default",
    "labels.team = web": lambda task: task.labels.get("team") == "web",
    "labels.team != web": lambda task: task.labels.get("team") != "web",
    'labels."with space" = "a b"': lambda task: "with space" in task.labels,
    "id = done-00": lambda task: task.id == "done-00",
    "id != done-00": lambda task: task.id != "done-00",
    'id = "done*"': lambda task: task.id.startswith("done"),
    'id != "done*" AND status = PENDING': lambda task: task.id.startswith("waiting"),
    'handler = "resize" AND handler = "h"': lambda task: False,
    'handler = "it\'s \\"quoted\\""': lambda task: False,
}


async def test_every_filter_selects_what_it_says_in_both_orders_and_over_pages(mixed: ServedLeader) -> None:
    everything = await mixed.list(view=pb.TASK_VIEW_FULL)
    assert len(everything) == 48
    assert [int(task.payload) for task in everything] == list(range(48))
    for text, selects in FILTERS.items():
        expected = [task for task in everything if selects(task)]
        for page_size in (0, 1, 7):
            listed = await mixed.list(filter=text, page_size=page_size, view=pb.TASK_VIEW_FULL)
            assert listed == expected, text
        newest = await mixed.list(filter=text, newest_first=True, page_size=5, view=pb.TASK_VIEW_FULL)
        assert newest == expected[::-1], text


async def test_a_listed_task_is_the_task_that_get_answers(mixed: ServedLeader) -> None:
    for task in await mixed.list(view=pb.TASK_VIEW_FULL):
        alone = await mixed.get(task.id)
        assert bool(alone.waiting_reason) is (task.status == pb.TASK_STATUS_PENDING)
        alone.ClearField("waiting_reason")
        assert alone == task


async def test_a_view_leaves_out_what_it_says(mixed: ServedLeader) -> None:
    one = {"filter": "id = failed-12"}
    (full,) = await mixed.list(view=pb.TASK_VIEW_FULL, **one)
    (basic,) = await mixed.list(view=pb.TASK_VIEW_BASIC, **one)
    (default,) = await mixed.list(**one)
    (result,) = await mixed.list(view=pb.TASK_VIEW_RESULT, **one)
    assert default == basic
    for field in ("payload", "data", "attempts", "result", "result_data"):
        full.ClearField(field)
    full.failure.ClearField("traceback")
    assert basic == full
    assert (result.handler, result.status, result.failure.message) == ("", pb.TASK_STATUS_ERROR, "m")


async def test_the_last_page_has_no_token_even_when_it_is_full(leader: ServedLeader) -> None:
    await leader.submit("a", "b", "c", "d")
    first = await leader.scheduler.ListTasks(pb.ListTasksRequest(page_size=2), timeout=PATIENCE)
    assert first.next_page_token
    request = pb.ListTasksRequest(page_size=2, page_token=first.next_page_token)
    second = await leader.scheduler.ListTasks(request, timeout=PATIENCE)
    assert ([task.id for task in second.tasks], second.next_page_token) == (["c", "d"], "")


async def test_pages_neither_repeat_nor_leave_out_tasks_while_others_come(leader: ServedLeader) -> None:
    await leader.submit("a", "b", "c")
    first = await leader.scheduler.ListTasks(pb.ListTasksRequest(page_size=2), timeout=PATIENCE)
    await leader.submit("d")
    rest = await leader.list(page_token=first.next_page_token, page_size=2)
    assert [task.id for task in (*first.tasks, *rest)] == ["a", "b", "c", "d"]


async def test_a_page_ends_at_its_bytes_and_the_next_goes_on(leader: ServedLeader) -> None:
    for id in "abcdefg":
        await leader.submit(id, payload="x" * MIB)
    request = pb.ListTasksRequest(view=pb.TASK_VIEW_FULL)
    sizes: list[int] = []
    ids: list[str] = []
    while True:
        page = await leader.scheduler.ListTasks(request, timeout=PATIENCE)
        sizes.append(page.ByteSize())
        ids += [task.id for task in page.tasks]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert ids == list("abcdefg")
    assert max(sizes) <= limits.PAGE_BYTES_MAX + 1000
    assert len(sizes) == 4


async def get_tasks(leader: ServedLeader) -> tuple[list[pb.Task], bool]:
    call = leader.scheduler.GetTasks(pb.GetTasksRequest(), timeout=PATIENCE)
    response = await call
    return list(response.tasks), dict(tuple(await call.trailing_metadata())).get("gowork-truncated") == "true"


async def test_get_tasks_answers_unfinished_ones_first_and_all_that_is_known(mixed: ServedLeader) -> None:
    tasks, truncated = await get_tasks(mixed)
    assert not truncated
    finished = [task.status not in (pb.TASK_STATUS_PENDING, pb.TASK_STATUS_RUNNING) for task in tasks]
    assert finished == [False] * 24 + [True] * 24
    everything = {task.id: task for task in await mixed.list(view=pb.TASK_VIEW_FULL)}
    assert {task.id: task for task in tasks} == everything


async def test_get_tasks_says_when_more_bytes_would_not_fit(leader: ServedLeader) -> None:
    for id in "abcd":
        await leader.submit(id, payload="x" * MIB)
        tasks, truncated = await get_tasks(leader)
        assert [task.id for task in tasks] == list("ab" if id > "b" else "ab"[: ord(id) - 96])
        assert truncated is (id > "b")


async def test_get_tasks_says_when_more_tasks_would_not_fit(leader: ServedLeader) -> None:
    await leader.submit(*(f"{n:05}" for n in range(limits.PAGE_ITEMS_MAX)))
    tasks, truncated = await get_tasks(leader)
    assert (len(tasks), truncated) == (limits.PAGE_ITEMS_MAX, False)
    await leader.submit("more")
    tasks, truncated = await get_tasks(leader)
    assert (len(tasks), truncated) == (limits.PAGE_ITEMS_MAX, True)


async def test_get_tasks_says_so_when_only_finished_ones_are_left_out(leader: ServedLeader) -> None:
    await leader.submit("done")
    async with leader.worker() as session:
        await session.report(await session.grant(), result="x" * MIB)
    await leader.submit("a", "b", payload="x" * MIB)
    tasks, truncated = await get_tasks(leader)
    assert ([task.id for task in tasks], truncated) == (["a", "b"], True)


async def join(leader: ServedLeader, *ids: str) -> None:
    for id in ids:
        await leader.cluster.Join(cpb.JoinRequest(id=id, address="127.0.0.1:1"), timeout=PATIENCE)


async def test_members_are_paged_in_the_order_of_their_ids(leader: ServedLeader) -> None:
    await join(leader, *"dbca")
    request = cpb.MembersRequest(page_size=3)
    ids: list[list[str]] = []
    while True:
        page = await leader.cluster.Members(request, timeout=PATIENCE)
        ids.append([member.id for member in page.members])
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert ids == [["a", "b", "c"], ["d"]]


async def test_pages_of_members_leave_nobody_out_while_others_come(leader: ServedLeader) -> None:
    await join(leader, *"bdf")
    first = await leader.cluster.Members(cpb.MembersRequest(page_size=2), timeout=PATIENCE)
    await join(leader, *"ac")
    rest = await leader.cluster.Members(
        cpb.MembersRequest(page_size=9, page_token=first.next_page_token), timeout=PATIENCE
    )
    assert [[member.id for member in page.members] for page in (first, rest)] == [["b", "d"], ["f"]]


async def test_members_that_do_not_fit_are_announced(leader: ServedLeader) -> None:
    labels = {f"{n:063}": "v" * 253 for n in range(64)}
    async with leader.worker("a", labels=labels):
        call = leader.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)
        size = (await call).ByteSize()
        assert dict(await call.trailing_metadata()) == {}
        number = limits.PAGE_BYTES_MAX // size
        sessions = [leader.session() for _ in range(number)]
        for place, session in enumerate(sessions):
            await session.hello(f"b{place:03}", labels=labels)
            await session.welcome()
        call = leader.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)
        response = await call
        assert len(response.members) < number + 1
        assert response.ByteSize() <= limits.PAGE_BYTES_MAX
        assert ("gowork-truncated", "true") in list(await call.trailing_metadata())
        for session in sessions:
            session.call.cancel()


async def test_get_tasks_lists_a_task_once_that_ends_meanwhile(
    leader: ServedLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leader.submit("a", "b")
    read = SqliteStore.page

    async def ends(store: SqliteStore, query: Query, *limits: Any) -> list[Record]:
        """Reads a page; before finished tasks are read, one ends."""
        if query.newest_first:
            await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="a"), timeout=PATIENCE)
        return await read(store, query, *limits)

    monkeypatch.setattr(SqliteStore, "page", ends)
    tasks, truncated = await get_tasks(leader)
    assert [(task.id, task.status) for task in tasks] == [(id, pb.TASK_STATUS_PENDING) for id in "ab"]
    assert not truncated


async def test_a_task_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("a", "b", "c")
        async with leader.worker() as session:
            await session.report(*await session.grants(3), outcome=pb.ATTEMPT_OUTCOME_FAILED)
    with closing(apsw.Connection(str(tmp_path / "leader.db"))) as connection, connection:
        connection.execute("UPDATE specs SET body = x'ff' WHERE id = 'b'")
    async with serving(tmp_path) as leader:
        listed = await leader.list()
        answers = [
            listed,
            (await leader.scheduler.GetTasks(pb.GetTasksRequest(), timeout=PATIENCE)).tasks,
            (await leader.scheduler.Activity(pb.ActivityRequest(failures_max=9), timeout=PATIENCE)).failures,
        ]
    for answer in answers:
        assert sorted((task.id, task.status) for task in answer) == [(id, pb.TASK_STATUS_ERROR) for id in "abc"]
    assert "its record of task 'b' can't be read" in listed[1].waiting_reason

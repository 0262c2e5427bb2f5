"""What binds callers: queues, handlers, the members that they joined as, and the networks that may join."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from access_callers import access_file, entry, known_by_tokens, with_token
from leader_serving import PATIENCE, ServedLeader, refused, serving, stream_refused

from gowork.base.identities import Role
from gowork.leader._access.access import Access
from gowork.leader._access.rights import Identity
from gowork.leader._app import node
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import session_pb2 as spb

DENIED = grpc.StatusCode.PERMISSION_DENIED
IDLE = cpb.HEARTBEAT_STATUS_IDLE
EVERYBODY = (
    entry("web", "client", queues=["web", "mail-*"], handlers=["thumbnail", "mail.*"]),
    entry("queue", "client", "admin", queues=["web"]),
    entry("free", "client", "admin"),
    entry("w", "worker", handlers=["thumbnail"]),
    entry("mailer", "worker", queues=["mail-*"]),
    entry("w1", "worker"),
    entry("w2", "worker"),
)


@pytest.fixture
async def leader(tmp_path: Path) -> AsyncIterator[ServedLeader]:
    async with known_by_tokens(tmp_path, *EVERYBODY) as leader:
        yield leader


async def out_of_bounds(call: Awaitable[Any]) -> None:
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (DENIED, "OUT_OF_BOUNDS"), refusal


async def test_only_tasks_within_bounds_are_scheduled(leader: ServedLeader) -> None:
    web = with_token(leader, "web")
    await web.submit("a", queue="web", handler="thumbnail")
    await web.submit("b", queue="mail-eu", handler="mail.send")
    for queue, handler in (
        ("web", "shell"),
        ("other", "thumbnail"),
        ("", "thumbnail"),
        ("web", ""),
        ("webx", "mail.x"),
    ):
        await out_of_bounds(web.submit("c", queue=queue, handler=handler))
        request = pb.ScheduleTaskRequest(task=pb.Task(id="c", payload="x", queue=queue, handler=handler))
        await out_of_bounds(web.scheduler.ScheduleTask(request, timeout=PATIENCE))
    batch = [pb.Task(id="ok", queue="web", handler="thumbnail"), pb.Task(id="no", queue="web", handler="shell")]
    await out_of_bounds(web.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=batch), timeout=PATIENCE))
    assert [task.id for task in await with_token(leader, "free").list()] == ["a", "b"]


CALLS: dict[str, Callable[[ServedLeader, str], Awaitable[Any]]] = {
    "get": lambda caller, id: caller.get(id),
    "wait": lambda caller, id: caller.scheduler.WaitTask(pb.WaitTaskRequest(id=id), timeout=PATIENCE),
    "explain": lambda caller, id: caller.scheduler.ExplainTask(pb.ExplainTaskRequest(id=id), timeout=PATIENCE),
    "cancel": lambda caller, id: caller.scheduler.CancelTask(pb.CancelTaskRequest(id=id), timeout=PATIENCE),
    "retry": lambda caller, id: caller.scheduler.RetryTask(pb.RetryTaskRequest(id=id), timeout=PATIENCE),
    "wait for several": lambda caller, id: caller.finished("a", id),
}


@pytest.mark.parametrize("call", CALLS)
async def test_tasks_of_others_are_neither_seen_nor_changed(leader: ServedLeader, call: str) -> None:
    free, web = with_token(leader, "free"), with_token(leader, "web")
    await free.submit("a", queue="web", handler="thumbnail")
    await free.submit("x", queue="web", handler="shell")
    # A task that has ended is looked up in the store.
    await free.submit("y", queue="other", handler="thumbnail")
    await free.scheduler.CancelTask(pb.CancelTaskRequest(id="y"), timeout=PATIENCE)
    for id in ("x", "y"):
        await out_of_bounds(CALLS[call](web, id))
    if call in ("get", "explain", "cancel"):
        await CALLS[call](web, "a")
        assert (await refused(CALLS[call](web, "unknown"))).code is grpc.StatusCode.NOT_FOUND


async def test_lists_and_watches_name_what_the_caller_may_see(leader: ServedLeader) -> None:
    web = with_token(leader, "web")
    for chosen in ("", "queue = web", "handler = thumbnail", "queue = other AND handler = thumbnail", "queue != x"):
        await out_of_bounds(web.list(filter=chosen))
        watch = web.scheduler.WatchTasks(pb.WatchTasksRequest(filter=chosen), timeout=PATIENCE)
        assert (await stream_refused(watch)).reason == "OUT_OF_BOUNDS"
    chosen = "queue = web AND handler = thumbnail"
    assert await web.list(filter=chosen) == []
    watch = web.scheduler.WatchTasks(pb.WatchTasksRequest(filter=chosen), timeout=PATIENCE)
    token = (await anext(aiter(watch))).token
    watch.cancel()
    again = web.scheduler.WatchTasks(pb.WatchTasksRequest(filter=chosen, token=token), timeout=PATIENCE)
    assert (await stream_refused(again)).code is grpc.StatusCode.OUT_OF_RANGE
    await out_of_bounds(web.scheduler.GetTasks(pb.GetTasksRequest(), timeout=PATIENCE))


async def test_an_admin_of_a_queue_has_that_queue_alone(leader: ServedLeader) -> None:
    queue = with_token(leader, "queue").scheduler
    await queue.PauseQueue(pb.PauseQueueRequest(name="web"), timeout=PATIENCE)
    await out_of_bounds(queue.PauseQueue(pb.PauseQueueRequest(name="other"), timeout=PATIENCE))
    await out_of_bounds(queue.ConfigureQueue(pb.ConfigureQueueRequest(name="other"), timeout=PATIENCE))
    await out_of_bounds(queue.PurgeTasks(pb.PurgeTasksRequest(finished_before_ms=1), timeout=PATIENCE))
    await queue.PurgeTasks(pb.PurgeTasksRequest(filter="queue = web", finished_before_ms=1), timeout=PATIENCE)
    refusal = await stream_refused(queue.BackupStore(pb.BackupStoreRequest(), timeout=PATIENCE))
    assert refusal.reason == "OUT_OF_BOUNDS"


async def test_activity_leaves_failures_of_others_out(leader: ServedLeader) -> None:
    free = with_token(leader, "free")
    async with with_token(leader, "w1").worker(handlers=["thumbnail", "shell"]) as session:
        for id, handler in (("a", "thumbnail"), ("b", "shell")):
            await free.submit(id, queue="web", handler=handler)
        for grant in await session.grants(2):
            await session.report(grant, outcome=pb.ATTEMPT_OUTCOME_FAILED)
    for name, seen in (("free", {"a", "b"}), ("web", {"a"})):
        request = pb.ActivityRequest(failures_max=10)
        answer = await with_token(leader, name).scheduler.Activity(request, timeout=PATIENCE)
        assert {task.id for task in answer.failures} == seen


async def test_a_bound_caller_schedules_nothing_after_tasks_of_others(leader: ServedLeader) -> None:
    await with_token(leader, "free").submit("theirs", queue="other", handler="shell")
    web = with_token(leader, "web")
    await web.submit("mine", queue="web", handler="thumbnail")
    for after, allowed in (("theirs", False), ("mine", True)):
        new = pb.Task(id=f"after-{after}", payload="1", queue="web", handler="thumbnail", after=[after])
        call = web.scheduler.ScheduleTask(pb.ScheduleTaskRequest(task=new), timeout=PATIENCE)
        await (call if allowed else out_of_bounds(call))


async def test_a_worker_offers_only_handlers_that_it_may_run(leader: ServedLeader) -> None:
    worker = with_token(leader, "w")
    async with worker.worker(handlers=["thumbnail"]):
        pass
    refused = ((["shell"], False, "by --handler"), (["thumbnail"], True, '--default-handler ""'))
    for handlers, default, advice in refused:
        session = worker.session()
        infos = [{"name": name, "is_default": default} for name in handlers]
        await session.send(hello={"name": "w", "instance": "i", "slots": 1, "handlers": infos})
        refusal = await session.refusal()
        assert (refusal.reason, advice in refusal.message) == ("OUT_OF_BOUNDS", True), refusal
    await out_of_bounds(worker.cluster.Join(cpb.JoinRequest(id="w", address="127.0.0.1:1"), timeout=PATIENCE))


async def test_a_worker_schedules_follow_ups_within_its_bounds_alone(leader: ServedLeader) -> None:
    free = with_token(leader, "free")
    await free.submit("a", "b", handler="thumbnail")
    async with with_token(leader, "w").worker(handlers=["thumbnail"]) as session:
        first, second = await session.grants(2)
        await session.report(first, follow_ups=[pb.Task(id="next", handler="shell")])
        message = (await free.get(first.id)).failure.message
        assert message.endswith("worker w may not schedule for handler 'shell' in queue 'default'")
        await session.report(second, follow_ups=[pb.Task(id="next", handler="thumbnail")])
        assert (await free.get("next")).handler == "thumbnail"


async def test_a_bound_worker_continues_with_its_own_handlers_alone(leader: ServedLeader) -> None:
    free = with_token(leader, "free")
    await free.submit("a", "b", handler="thumbnail")
    async with with_token(leader, "w").worker(handlers=["thumbnail"]) as session:
        first, second = await session.grants(2)
        for grant, handler in ((first, "shell"), (second, "thumbnail")):
            following = pb.Task(id=grant.id, handler=handler)
            await session.report(grant, outcome=pb.ATTEMPT_OUTCOME_WAITING, continuation=following)
        message = (await free.get(first.id)).failure.message
        assert message.endswith("worker w may not schedule for handler 'shell'")
        assert (await free.get(second.id)).failure.message == ""


async def test_a_worker_that_is_bound_to_queues_takes_from_these_alone(leader: ServedLeader) -> None:
    mailer, free = with_token(leader, "mailer"), with_token(leader, "free")
    refused: tuple[tuple[list[str], str], ...] = (
        ([], "takes tasks of all; name its queues by --queue"),
        (["mail-in", "web"], "the queue 'web'"),
    )
    for queues, advice in refused:
        session = mailer.session()
        infos = [{"name": "thumbnail"}]
        await session.send(hello={"name": "m", "instance": "i", "slots": 1, "handlers": infos, "queues": queues})
        refusal = await session.refusal()
        assert (refusal.reason, advice in refusal.message) == ("OUT_OF_BOUNDS", True), refusal
    await free.submit("a", queue="web", handler="thumbnail")
    await free.submit("b", "c", queue="mail-in", handler="thumbnail")
    async with mailer.worker(handlers=["thumbnail"], queues=["mail-in"]) as session:
        first, second = await session.grants(2)
        assert {first.id, second.id} == {"b", "c"}
        await session.report(first, follow_ups=[pb.Task(id="next", queue="web", handler="thumbnail")])
        message = (await free.get(first.id)).failure.message
        assert message.endswith("worker mailer may not schedule for handler 'thumbnail' in queue 'web'")
        await session.report(second, follow_ups=[pb.Task(id="next", queue="mail-out", handler="thumbnail")])
        assert (await free.get("next")).queue == "mail-out"


async def test_a_worker_declares_schedules_for_its_queues_alone(leader: ServedLeader) -> None:
    declared = [
        pb.Schedule(name=queue, every=pb.EveryTimes(every_ms=3_600_000), task=pb.Task(payload="1", queue=queue))
        for queue in ("mail-in", "web", "")
    ]
    async with with_token(leader, "mailer").worker(
        queues=["mail-in"], handlers=[spb.HandlerInfo(name="thumbnail", schedules=declared)]
    ):
        answer = await with_token(leader, "free").cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)
        for name, error in zip(("web", ""), answer.members[0].plugin_errors, strict=True):
            assert f"schedule {name!r} of handler 'thumbnail': " in error
            assert "task.queue is none into which worker mailer may schedule" in error
    found = await with_token(leader, "free").scheduler.ListSchedules(pb.ListSchedulesRequest(), timeout=PATIENCE)
    assert [schedule.name for schedule in found.schedules] == ["mail-in"]


# Callback workers.


async def test_who_joined_as_a_member_alone_speaks_for_it(leader: ServedLeader) -> None:
    first, second = with_token(leader, "w1"), with_token(leader, "w2")
    await join(first, "m")
    for call in (
        join(second, "m"),
        second.cluster.Leave(cpb.LeaveRequest(id="m"), timeout=PATIENCE),
        beat(second, "m"),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (DENIED, "NOT_THE_OWNER"), refusal
    await beat(first, "m")
    # An administrator may have any member leave, and then the id is free.
    await with_token(leader, "free").cluster.Leave(cpb.LeaveRequest(id="m"), timeout=PATIENCE)
    await join(second, "m")
    assert (await refused(beat(first, "m"))).reason == "NOT_THE_OWNER"


async def test_a_member_leaves_when_its_owner_may_not_be_there_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "REFRESH_SECONDS", 0.01)
    changes = (
        ("revoked = ['w1']", entry("w1", "worker")),
        (entry("w1", "worker", handlers=["h"]),),
        (entry("w1", "client"),),
        ("join_networks = ['10.0.0.0/8']", entry("w1", "worker")),
    )
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        folder.mkdir()
        ops = entry("ops", "admin")
        async with known_by_tokens(folder, entry("w1", "worker"), ops) as leader:
            await join(with_token(leader, "w1"), "m")
            path = access_file(folder / "..", *change, ops)
            path.rename(folder / "access.toml")
            admin = with_token(leader, "ops").cluster
            async with asyncio.timeout(PATIENCE):
                while True:
                    (member,) = (await admin.Members(cpb.MembersRequest(), timeout=PATIENCE)).members
                    if member.liveness == cpb.MEMBER_LIVENESS_LEFT:
                        break


async def test_a_member_of_a_leader_that_asked_nobody_belongs_to_who_speaks_for_it_first(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await join(leader, "m")
    async with known_by_tokens(tmp_path, *EVERYBODY) as leader:
        await beat(with_token(leader, "w1"), "m")
        assert (await refused(beat(with_token(leader, "w2"), "m"))).reason == "NOT_THE_OWNER"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1%3A80#.workers.example:80",
        "a?.workers.example:1",
        "//10.9.9.9/x.workers.example:1",
        "a,b.workers.example:1",
    ],
)
async def test_an_address_that_grpc_would_read_otherwise_is_refused(tmp_path: Path, address: str) -> None:
    async with known_by_tokens(tmp_path, "join_networks = ['*.workers.example']", entry("w1", "worker")) as leader:
        refusal = await refused(join(with_token(leader, "w1"), "m", address))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_owner_of_a_member_outlives_the_leader(tmp_path: Path) -> None:
    for expected in (None, "NOT_THE_OWNER"):
        async with known_by_tokens(tmp_path, *EVERYBODY) as leader:
            if expected is None:
                await join(with_token(leader, "w1"), "m")
            else:
                assert (await refused(beat(with_token(leader, "w2"), "m"))).reason == expected
                await beat(with_token(leader, "w1"), "m")


async def join(caller: ServedLeader, id: str, address: str = "127.0.0.1:9") -> None:
    await caller.cluster.Join(cpb.JoinRequest(id=id, address=address), timeout=PATIENCE)


async def beat(caller: ServedLeader, id: str) -> None:
    stream = caller.cluster.Heartbeat(timeout=PATIENCE)
    await stream.write(cpb.HeartbeatRequest(id=id, status=IDLE))
    await stream.done_writing()
    async for _ in stream:
        pass


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3:1", True),
        ("[fd00::1]:1", True),
        ("a.workers.example:1", True),
        ("A.B.Workers.Example:1", True),
        ("host.example:1", True),
        ("11.0.0.1:1", False),
        ("[::ffff:11.0.0.1]:1", False),
        ("169.254.169.254:1", False),
        ("workers.example:1", False),
        ("x.example:1", False),
        (":1", False),
        ("10.0.0.1.evil.example:1", False),
    ],
)
async def test_members_are_dialled_in_allowed_networks_alone(tmp_path: Path, address: str, allowed: bool) -> None:
    networks = 'join_networks = ["10.0.0.0/8", "fd00::/8", "*.workers.example", "host.example"]'
    async with known_by_tokens(tmp_path, networks, entry("w1", "worker")) as leader:
        worker = with_token(leader, "w1")
        if allowed:
            await join(worker, "m", address)
        else:
            refusal = await refused(join(worker, "m", address))
            assert (refusal.code, refusal.reason) == (DENIED, "ADDRESS_NOT_ALLOWED")


# The HTTP port.


async def test_metrics_can_want_a_token_and_probes_do_not(tmp_path: Path) -> None:
    async with serving(tmp_path, http_token=lambda: "secret") as leader:

        def page(path: str, **headers: str) -> int:
            request = urllib.request.Request(f"http://{leader.addresses.http}{path}", headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code

        for path, headers, status in (
            ("/metrics", {}, 401),
            ("/metrics", {"Authorization": "Bearer other"}, 401),
            ("/metrics", {"Authorization": "Basic secret"}, 401),
            ("/metrics", {"Authorization": "Bearer secret"}, 200),
            ("/healthz", {}, 200),
            ("/readyz", {}, 200),
        ):
            assert await asyncio.to_thread(page, path, **headers) == status, (path, headers)


def test_an_access_object_is_made_of_a_file(tmp_path: Path) -> None:
    assert not Access(access_file(tmp_path, *EVERYBODY)).refresh()


def test_only_stars_and_question_marks_are_special_in_patterns() -> None:
    bound = Identity("a", frozenset({Role.CLIENT}), ("jobs[1]", "a.*", "x?"))
    for queue, allowed in (
        ("jobs[1]", True),
        ("jobs1", False),
        ("a.b", True),
        ("ab", False),
        ("xy", True),
        ("x", False),
    ):
        assert bound.may_queue(queue) is allowed, queue

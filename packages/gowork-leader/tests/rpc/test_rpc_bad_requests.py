"""Every other request that breaks a rule is refused by name: ids, pages, tokens, filters, views, and bytes that are no
protobuf.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving, stream_refused

from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal
from gowork.proto.worker.v1 import session_pb2 as spb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
BAD_IDS = {"": "is empty", "x" * 257: "257 bytes; the limit is 256", "a\x7f": "U+007F"}

#: Every method of the three services: whether (requests, responses) are streams.
METHODS = {
    f"/{service.full_name}/{method.name}": (method.client_streaming, method.server_streaming)
    for file in (cpb, pb, spb)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def fields_of(refusal: Refusal) -> list[str]:
    return [violation.field for violation in refusal.violations]


@pytest.mark.parametrize("id", BAD_IDS, ids=["empty", "long", "unprintable"])
async def test_a_bad_id_is_refused_wherever_one_is_taken(leader: ServedLeader, id: str) -> None:
    scheduler, cluster = leader.scheduler, leader.cluster
    calls = [
        scheduler.GetTask(pb.GetTaskRequest(id=id), timeout=PATIENCE),
        scheduler.CancelTask(pb.CancelTaskRequest(id=id), timeout=PATIENCE),
        scheduler.TaskComplete(pb.TaskCompleteRequest(id=id), timeout=PATIENCE),
        scheduler.TaskProgress(pb.TaskProgressRequest(id=id), timeout=PATIENCE),
        cluster.Join(cpb.JoinRequest(id=id, address="127.0.0.1:1"), timeout=PATIENCE),
        cluster.Leave(cpb.LeaveRequest(id=id), timeout=PATIENCE),
        cluster.Drain(cpb.DrainRequest(id=id), timeout=PATIENCE),
    ]
    refusals = [await refused(call) for call in calls]
    refusals.append(
        await stream_refused(
            cluster.Heartbeat(iter([cpb.HeartbeatRequest(id=id, status=cpb.HEARTBEAT_STATUS_IDLE)]), timeout=PATIENCE)
        )
    )
    for refusal in refusals:
        assert (refusal.code, refusal.reason, fields_of(refusal)) == (INVALID, "INVALID_ARGUMENT", ["id"])
        assert BAD_IDS[id] in refusal.violations[0].description


async def test_an_unknown_task_is_not_found(leader: ServedLeader) -> None:
    scheduler = leader.scheduler
    calls = [
        scheduler.GetTask(pb.GetTaskRequest(id="no"), timeout=PATIENCE),
        scheduler.CancelTask(pb.CancelTaskRequest(id="no"), timeout=PATIENCE),
        scheduler.TaskComplete(pb.TaskCompleteRequest(id="no"), timeout=PATIENCE),
    ]
    for refusal in [await refused(call) for call in calls]:
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN")
        assert "'no'" in refusal.message


async def test_an_unknown_member_is_not_found(leader: ServedLeader) -> None:
    cluster = leader.cluster
    left = await refused(cluster.Leave(cpb.LeaveRequest(id="no"), timeout=PATIENCE))
    beat = await stream_refused(
        cluster.Heartbeat(iter([cpb.HeartbeatRequest(id="no", status=cpb.HEARTBEAT_STATUS_IDLE)]), timeout=PATIENCE)
    )
    for refusal in (left, beat):
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "MEMBER_UNKNOWN")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "is empty; HOST:PORT"),
        ("nowhere", "not HOST:PORT"),
        ("host:0", "port 0"),
        ("host:65536", "not HOST:PORT"),
        ("::1:4000", "brackets"),
        ("h\nost:1", "unprintable"),
        ("h" * 300 + ":1", "the limit is 262"),
    ],
)
async def test_a_bad_address_is_refused(leader: ServedLeader, address: str, words: str) -> None:
    refusal = await refused(leader.cluster.Join(cpb.JoinRequest(id="m", address=address), timeout=PATIENCE))
    assert (refusal.code, fields_of(refusal)) == (INVALID, ["address"])
    assert words in refusal.violations[0].description


async def test_all_fields_at_fault_are_named_at_once(leader: ServedLeader) -> None:
    refusal = await refused(leader.cluster.Join(cpb.JoinRequest(), timeout=PATIENCE))
    assert fields_of(refusal) == ["id", "address"]
    assert refusal.message.endswith("(and 1 more)")


@pytest.mark.parametrize("size", [-1, limits.PAGE_ITEMS_MAX + 1])
async def test_a_bad_page_size_is_refused(leader: ServedLeader, size: int) -> None:
    calls = [
        leader.scheduler.ListTasks(pb.ListTasksRequest(page_size=size), timeout=PATIENCE),
        leader.cluster.Members(cpb.MembersRequest(page_size=size), timeout=PATIENCE),
    ]
    for refusal in [await refused(call) for call in calls]:
        assert (refusal.code, fields_of(refusal)) == (INVALID, ["page_size"])
        assert f"is {size}; 0 to 10000" in refusal.violations[0].description


@pytest.mark.parametrize("token", ["x", "garbage", "AAAAAAAAAAAAAAAAAAAAAA", "ü", "A" * 5000])
async def test_a_token_that_no_leader_made_is_refused(leader: ServedLeader, token: str) -> None:
    scheduler = leader.scheduler
    page = await refused(scheduler.ListTasks(pb.ListTasksRequest(page_token=token), timeout=PATIENCE))
    members = await refused(leader.cluster.Members(cpb.MembersRequest(page_token=token), timeout=PATIENCE))
    watch = await stream_refused(scheduler.WatchTasks(pb.WatchTasksRequest(token=token), timeout=PATIENCE))
    for refusal, field in ((page, "page_token"), (members, "page_token"), (watch, "token")):
        assert (refusal.code, fields_of(refusal)) == (INVALID, [field])
        assert "is not a token of this request" in refusal.violations[0].description


async def test_a_token_of_another_request_is_refused(leader: ServedLeader) -> None:
    await leader.submit("a", "b")
    request = pb.ListTasksRequest(page_size=1, filter="status = PENDING")
    token = (await leader.scheduler.ListTasks(request, timeout=PATIENCE)).next_page_token
    assert token
    others = [
        pb.ListTasksRequest(page_token=token),
        pb.ListTasksRequest(page_token=token, filter="status = RUNNING"),
        pb.ListTasksRequest(page_token=token, filter="status = PENDING", newest_first=True),
    ]
    calls = [leader.scheduler.ListTasks(other, timeout=PATIENCE) for other in others]
    calls.append(leader.cluster.Members(cpb.MembersRequest(page_token=token), timeout=PATIENCE))
    for refusal in [await refused(call) for call in calls]:
        assert (refusal.code, fields_of(refusal)) == (INVALID, ["page_token"])
    watched = await stream_refused(
        leader.scheduler.WatchTasks(pb.WatchTasksRequest(token=token, filter="status = PENDING"), timeout=PATIENCE)
    )
    assert (watched.code, fields_of(watched)) == (INVALID, ["token"])


async def test_a_token_of_another_store_is_refused(leader: ServedLeader, tmp_path: Path) -> None:
    await leader.submit("a", "b")
    token = (await leader.scheduler.ListTasks(pb.ListTasksRequest(page_size=1), timeout=PATIENCE)).next_page_token
    (tmp_path / "other").mkdir()
    async with serving(tmp_path / "other") as other:
        await other.submit("a", "b")
        refusal = await refused(other.scheduler.ListTasks(pb.ListTasksRequest(page_token=token), timeout=PATIENCE))
    assert (refusal.code, fields_of(refusal)) == (INVALID, ["page_token"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("status", "can't be read from 'status'"),
        ("= RUNNING", "can't be read"),
        ("status RUNNING", "can't be read"),
        ("status > RUNNING", "can't be read"),
        ('handler = "open', "can't be read"),
        ("status = RUNNING handler = x", "needs AND before 'handler = x'"),
        ("status = RUNNING OR status = PENDING", "needs AND before 'OR"),
        ("status = RUNNING AND", "ends after AND"),
        ("AND status = RUNNING", "can't be read from 'AND"),
        ("status = LOUD", "unknown status 'LOUD'; use PENDING, RUNNING"),
        ("priority = 9", "unknown priority '9'; use LOW, MEDIUM, HIGH"),
        ("colour = red", "unknown field 'colour'; fields are id, status"),
        ("labels = red", "unknown field 'labels'"),
        ("labels. = red", "can't be read"),
        (f'handler = "{"x" * 4096}"', "has 4108 bytes; the limit is 4096"),
    ],
)
async def test_a_filter_that_does_not_parse_is_refused_with_its_place(
    leader: ServedLeader, text: str, words: str
) -> None:
    listed = await refused(leader.scheduler.ListTasks(pb.ListTasksRequest(filter=text), timeout=PATIENCE))
    watched = await stream_refused(leader.scheduler.WatchTasks(pb.WatchTasksRequest(filter=text), timeout=PATIENCE))
    for refusal in (listed, watched):
        assert (refusal.code, fields_of(refusal)) == (INVALID, ["filter"])
        assert words in refusal.violations[0].description


@pytest.mark.parametrize("view", [-1, 4])
async def test_an_unknown_view_is_refused(leader: ServedLeader, view: Any) -> None:
    scheduler = leader.scheduler
    refusals = [
        await refused(scheduler.ListTasks(pb.ListTasksRequest(view=view), timeout=PATIENCE)),
        await stream_refused(scheduler.WaitTasks(pb.WaitTasksRequest(ids=["a"], view=view), timeout=PATIENCE)),
        await refused(scheduler.WaitTask(pb.WaitTaskRequest(id="a", view=view), timeout=PATIENCE)),
        await stream_refused(scheduler.WatchTasks(pb.WatchTasksRequest(view=view), timeout=PATIENCE)),
    ]
    for refusal in refusals:
        assert (refusal.code, fields_of(refusal)) == (INVALID, ["view"])
        assert f"unknown value {view}; use 1 (BASIC), 2 (RESULT) or 3 (FULL)" in refusal.violations[0].description


async def test_an_unknown_heartbeat_status_is_refused(leader: ServedLeader) -> None:
    await leader.cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:1"), timeout=PATIENCE)
    requests = iter([cpb.HeartbeatRequest(id="m", status=9)])  # type: ignore[arg-type]
    refusal = await stream_refused(leader.cluster.Heartbeat(requests, timeout=PATIENCE))
    assert (refusal.code, fields_of(refusal)) == (INVALID, ["status"])
    assert "unknown value 9; use 1 (IDLE), 2 (BUSY) or 3 (FAILED)" in refusal.violations[0].description


async def test_too_many_ids_to_wait_for_are_refused(leader: ServedLeader) -> None:
    ids = [str(n) for n in range(limits.BATCH_TASKS_MAX + 1)]
    refusal = await stream_refused(leader.scheduler.WaitTasks(pb.WaitTasksRequest(ids=ids), timeout=PATIENCE))
    assert (refusal.code, fields_of(refusal)) == (INVALID, ["ids"])
    assert "10001 ids; the limit is 10000" in refusal.violations[0].description


@pytest.mark.parametrize(("ids", "field"), [([], "ids"), (["a", ""], "ids[1]")])
async def test_empty_ids_to_wait_for_are_refused(leader: ServedLeader, ids: list[str], field: str) -> None:
    refusal = await stream_refused(leader.scheduler.WaitTasks(pb.WaitTasksRequest(ids=ids), timeout=PATIENCE))
    assert (refusal.code, fields_of(refusal)) == (INVALID, [field])


async def test_an_empty_id_to_wait_for_is_refused(leader: ServedLeader) -> None:
    refusal = await refused(leader.scheduler.WaitTask(pb.WaitTaskRequest(), timeout=PATIENCE))
    assert (refusal.code, fields_of(refusal)) == (INVALID, ["id"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\x05ab"], ids=["tag", "cut"])
async def test_bytes_that_are_no_protobuf_are_refused_by_every_method(
    leader: ServedLeader, method: str, garbage: bytes
) -> None:
    takes_stream, gives_stream = METHODS[method]
    if takes_stream:
        refusal = await stream_refused(leader.stream_stream(method)(iter([garbage]), timeout=PATIENCE))
    elif gives_stream:
        refusal = await stream_refused(leader.unary_stream(method)(garbage, timeout=PATIENCE))
    else:
        refusal = await refused(leader.unary_unary(method)(garbage, timeout=PATIENCE))
    assert (refusal.code, refusal.reason) == (INVALID, "NOT_PROTOBUF")


async def test_text_that_is_not_utf_8_is_refused(leader: ServedLeader) -> None:
    method = leader.unary_unary("/scheduler.v1.SchedulerService/CancelTask")
    refusal = await refused(method(b"\x0a\x02\xff\xfe", timeout=PATIENCE))
    assert (refusal.code, refusal.reason) == (INVALID, "NOT_PROTOBUF")


async def test_an_unknown_method_says_so(leader: ServedLeader) -> None:
    refusal = await refused(leader.unary_unary("/scheduler.v1.SchedulerService/No")(b"", timeout=PATIENCE))
    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED


async def test_unknown_fields_are_let_through(leader: ServedLeader) -> None:
    # From a newer client; a leader that refused them could not be told of by an older one.
    newer = pb.GetTasksRequest().SerializeToString() + b"\xf8\x3f\x01"
    answer = await leader.unary_unary("/scheduler.v1.SchedulerService/GetTasks")(newer, timeout=PATIENCE)
    assert answer == b""

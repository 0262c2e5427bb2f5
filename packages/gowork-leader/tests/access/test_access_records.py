"""The record of who had the cluster changed, and of who was denied what."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from access_callers import (
    calling,
    code_of,
    entry,
    known_by_certificates,
    known_by_tokens,
    metadata,
    token_of,
    with_token,
)
from leader_serving import PATIENCE, serving
from node_following import following
from tls_authority import Authority

from gowork.leader._access import audit
from gowork.leader._access.audit import DENIALS_MAX, Audit
from gowork.leader._app import node
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal

CLUSTER, TASKS = "cluster.v1.LeaderService/", "scheduler.v1.SchedulerService/"
#: What is recorded whoever asks for it.
CHANGES = [
    *(f"{TASKS}{name}" for name in ("PurgeTasks", "PauseQueue", "ResumeQueue", "ConfigureQueue", "BackupStore")),
    *(f"{CLUSTER}{name}" for name in ("Drain", "StepDown", "RemoveLeader", "CompareStores")),
]
REFUSAL = Refusal(grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING", "web may not")


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gowork.leader.audit")


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [record.__dict__ for record in caplog.records if (record.name, record.msg) == ("gowork.leader.audit", event)]


async def test_each_call_that_changes_the_cluster_is_recorded_with_who_made_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with known_by_tokens(tmp_path, entry("ops", "admin"), entry("w", "worker")) as leader:
        for call in CHANGES:
            await code_of(with_token(leader, "ops"), call)
        worker = with_token(leader, "w").cluster
        for member in ("m", "n"):
            await worker.Join(cpb.JoinRequest(id=member, address="127.0.0.1:9"), timeout=PATIENCE)
        await worker.Leave(cpb.LeaveRequest(id="n"), timeout=PATIENCE)
        await with_token(leader, "ops").cluster.Leave(cpb.LeaveRequest(id="m"), timeout=PATIENCE)
    done = lines(caplog, "admin call")
    assert [(line["call"], line["caller"]) for line in done] == [
        (call, "admin ops") for call in (*CHANGES, f"{CLUSTER}Leave")
    ]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in done)
    assert done[-1]["about"] == 'id: "m"'


async def test_where_nobody_is_asked_anybody_is_recorded_with_the_peer_that_was_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as leader:
        forged = metadata(gowork_forwarded="ipv4:10.9.9.9:1")
        for call in CHANGES:
            await code_of(leader, call, *forged)
    done = lines(caplog, "admin call")
    assert [(line["call"], line["caller"]) for line in done] == [(call, "anybody") for call in CHANGES]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in done)


async def test_who_is_handed_on_is_recorded_with_the_peer_that_the_other_leader_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    async with (
        known_by_certificates(tmp_path, authority) as leader,
        calling(leader, authority.client("l2", "leader")) as other,
    ):
        given = metadata(gowork_forwarded="ipv4:10.9.9.9:1", gowork_caller="admin/ops")
        await code_of(other, f"{TASKS}PauseQueue", *given)
    (done,) = lines(caplog, "admin call")
    assert (done["caller"], done["peer"]) == ("admin ops", "ipv4:10.9.9.9:1")


async def test_a_leader_that_forwards_records_only_what_it_answers_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as leader, following(leader.addresses) as follower:
        await follower.scheduler.PauseQueue(pb.PauseQueueRequest(name="mail"), timeout=PATIENCE)
        with pytest.raises(grpc.aio.AioRpcError):
            await follower.cluster.RemoveLeader(cpb.RemoveLeaderRequest(store_id="s1"), timeout=PATIENCE)
    done = lines(caplog, "admin call")
    # The leader has one line of each, and the one that forwards has one of the call that each leader answers.
    assert [(line["call"].partition("/")[2], line["about"]) for line in done] == [
        ("PauseQueue", 'name: "mail"'),
        ("RemoveLeader", 'store_id: "s1"'),
        ("RemoveLeader", 'store_id: "s1"'),
    ]


async def test_a_request_is_recorded_in_one_line_of_bounded_length(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with known_by_tokens(tmp_path, entry("ops", "admin")) as leader:
        purge = pb.PurgeTasksRequest(ids=[f"task-{number}" for number in range(1000)])
        await with_token(leader, "ops").scheduler.PurgeTasks(purge, timeout=PATIENCE)
    (done,) = lines(caplog, "admin call")
    assert done["about"].startswith('ids: "task-0" ids: "task-1"')
    assert len(done["about"]) == 300


async def test_a_stream_that_ends_because_of_its_caller_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "REFRESH_SECONDS", 0.01)
    async with known_by_tokens(tmp_path, entry("w", "worker")) as leader:
        async with with_token(leader, "w").worker() as session:
            (tmp_path / "new").write_text("revoked = ['w']\n" + entry("w", "worker"))
            (tmp_path / "new").rename(tmp_path / "access.toml")
            assert (await session.refusal()).reason == "REVOKED"
    (denied,) = lines(caplog, "denied")
    assert denied["call"] == "worker.v1.SessionService/Connect"
    assert (denied["code"], denied["reason"]) == ("UNAUTHENTICATED", "'w' is revoked")
    assert denied["peer"].startswith("ipv4:127.0.0.1:")


async def test_a_denial_is_recorded_without_the_token_and_what_is_beyond_a_limit_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with known_by_tokens(tmp_path, entry("web", "client") + "limits.calls_per_second = 0.001") as leader:
        web = with_token(leader, "web")
        assert (await code_of(web, f"{TASKS}Stats"))[0] is grpc.StatusCode.OK
        # What is beyond a limit is no denial: it is not about who calls, and it may come a thousand times a second.
        assert (await code_of(web, f"{TASKS}Stats"))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        await code_of(leader, f"{TASKS}Stats", *metadata(authorization="Bearer not-this-one"))
    (denied,) = lines(caplog, "denied")
    assert denied["code"] == "UNAUTHENTICATED"
    assert "not-this-one" not in str(denied)
    assert token_of("web") not in caplog.text


# How many there are.


def test_denials_are_written_again_after_a_second_with_how_many_were_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    monkeypatch.setattr(audit, "time", clock)
    record = Audit()

    def deny(times: int) -> list[str]:
        caplog.clear()
        for _ in range(times):
            record.note("s/m", REFUSAL, "ipv4:10.0.0.1:1")
        return [line.get("denials_left_out", "") for line in lines(caplog, "denied")]

    assert deny(DENIALS_MAX + 5) == [""] * DENIALS_MAX
    clock.now += 0.9
    assert deny(2) == []
    clock.now += 0.1
    assert deny(2) == ["7", ""]
    clock.now += 1
    assert deny(1) == [""]

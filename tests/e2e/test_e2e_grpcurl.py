"""The calls with which somebody takes a first look at a leader, made by the real grpcurl."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from clusters import RunningLeader

pytestmark = pytest.mark.tool("grpcurl")


def grpcurl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["grpcurl", "-plaintext", *arguments], capture_output=True, text=True, timeout=120)


def answer(*arguments: str) -> Any:
    done = grpcurl(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_describe_shows_the_services_with_their_comments(leader: RunningLeader) -> None:
    cluster = grpcurl(leader.cluster, "describe", "cluster.v1.LeaderService").stdout
    assert "// Join adds a callback worker, or replaces the one of the same id." in cluster
    assert (
        "rpc Heartbeat ( stream .cluster.v1.HeartbeatRequest ) returns ( stream .cluster.v1.HeartbeatResponse );"
        in cluster
    )
    scheduler = grpcurl(leader.scheduler, "describe", "scheduler.v1.SchedulerService").stdout
    assert "// ScheduleTask adds one task." in scheduler
    assert "rpc TaskComplete" in scheduler


def test_a_new_leader_has_no_members_and_no_tasks(leader: RunningLeader) -> None:
    assert answer(leader.cluster, "cluster.v1.LeaderService.Members") == {}
    assert answer(leader.scheduler, "scheduler.v1.SchedulerService.GetTasks") == {}


def test_a_task_is_scheduled_listed_and_cancelled(leader: RunningLeader) -> None:
    task = json.dumps({"task": {"id": "1", "payload": "do some work"}})
    assert answer("-d", task, leader.scheduler, "scheduler.v1.SchedulerService.ScheduleTask") == {}
    (listed,) = answer(leader.scheduler, "scheduler.v1.SchedulerService.GetTasks")["tasks"]
    assert (listed["id"], listed["payload"]) == ("1", "do some work")
    assert (listed["priority"], listed["status"]) == ("TASK_PRIORITY_LOW", "TASK_STATUS_PENDING")
    assert answer("-d", '{"id":"1"}', leader.scheduler, "scheduler.v1.SchedulerService.CancelTask") == {}
    (listed,) = answer(leader.scheduler, "scheduler.v1.SchedulerService.GetTasks")["tasks"]
    assert listed["status"] == "TASK_STATUS_CANCELLED"


def test_both_ports_serve_all_services_and_their_health(leader: RunningLeader) -> None:
    for address in (leader.cluster, leader.scheduler):
        services = set(grpcurl(address, "list").stdout.split())
        assert services >= {"cluster.v1.LeaderService", "scheduler.v1.SchedulerService", "worker.v1.SessionService"}
        for service in ("", "cluster.v1.LeaderService", "scheduler.v1.SchedulerService"):
            question = json.dumps({"service": service})
            assert answer("-d", question, address, "grpc.health.v1.Health.Check") == {"status": "SERVING"}


REFUSED = [
    ("{}", "ScheduleTask", "InvalidArgument", '"field": "task"'),
    ('{"task": {"payload": "x"}}', "ScheduleTask", "InvalidArgument", '"field": "task.id"'),
    ('{"task": {"id": "1"}}', "ScheduleTask", "InvalidArgument", '"field": "task.payload"'),
    ('{"id": ""}', "CancelTask", "InvalidArgument", '"field": "id"'),
    ('{"id": "nobody"}', "CancelTask", "NotFound", '"domain": "gowork"'),
    ('{"id": "nobody"}', "TaskComplete", "NotFound", '"domain": "gowork"'),
]


def test_errors_say_which_field_is_wrong(leader: RunningLeader) -> None:
    for request, method, code, words in REFUSED:
        done = grpcurl("-d", request, leader.scheduler, f"scheduler.v1.SchedulerService.{method}")
        assert done.returncode != 0, method
        assert f"Code: {code}" in done.stderr
        assert words in done.stderr

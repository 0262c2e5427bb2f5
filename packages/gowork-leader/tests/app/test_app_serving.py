"""The running leader from outside: its ports, its pages, its health, and how it stops."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from leader_process import COMMAND, RunningLeader, running
from leader_serving import PATIENCE, refused, serving, stream_refused

from gowork.base.channels import open_blocking_channel, open_channel, parse_address
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.cluster.v1 import leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc

SERVICES = ("cluster.v1.LeaderService", "scheduler.v1.SchedulerService", "worker.v1.SessionService")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def schedule(leader: RunningLeader, *ids: str) -> None:
    with open_blocking_channel([leader.scheduler]) as channel:
        tasks = [pb.Task(id=id, handler="h") for id in ids]
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        stub.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)


def test_help_and_version_name_the_command(tmp_path: Path) -> None:
    for option, words in (("--version", "gowork-leader, version "), ("--help", "--scheduler-listen HOST:PORT")):
        done = subprocess.run([COMMAND, option], capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
        assert done.returncode == 0
        assert words in done.stdout


def test_the_addresses_are_one_line_of_json_with_the_ports_that_were_taken(tmp_path: Path) -> None:
    with running(tmp_path) as leader:
        for address in (leader.cluster, leader.scheduler, leader.http):
            host, port = parse_address(address)
            assert host == "127.0.0.1"
            assert port > 0
        assert len({leader.cluster, leader.scheduler, leader.http}) == 3
        code, log = leader.stop()
        assert code == 0
        assert leader.process.stdout is not None
        assert "Traceback" not in log


def test_its_pages_tell_that_it_lives_and_what_it_measures(tmp_path: Path) -> None:
    with running(tmp_path) as leader:
        schedule(leader, "a", "b")
        assert leader.page("/healthz") == (200, "alive\n")
        assert leader.page("/readyz") == (200, "ready\n")
        status, metrics = leader.page("/metrics")
        assert status == 200
        assert "gowork_leader_is_leader 1.0" in metrics
        assert "gowork_leader_term 1.0" in metrics
        assert "gowork_store_commit_tasks_sum 2.0" in metrics
        assert leader.page("/")[0] == 404


def test_a_leader_that_was_killed_has_kept_what_it_acknowledged(tmp_path: Path) -> None:
    for n in range(3):
        with running(tmp_path) as leader:
            schedule(leader, f"a{n}", f"b{n}")
            leader.process.kill()
            leader.process.communicate()
    with running(tmp_path) as leader, open_blocking_channel([leader.scheduler]) as channel:
        tasks = scheduler_pb2_grpc.SchedulerServiceStub(channel).GetTasks(pb.GetTasksRequest(), timeout=PATIENCE).tasks
        assert [task.id for task in tasks] == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_its_log_is_json_when_asked_for(tmp_path: Path) -> None:
    with running(tmp_path, "--log-format=json", "--log-level=debug") as leader:
        log = leader.stop()[1]
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert {"store opened", "stopping"} <= set(events)


async def test_its_log_tells_who_comes_and_who_is_lost(tmp_path: Path) -> None:
    with running(tmp_path, "--log-format=json") as process:
        async with open_channel([process.cluster]) as channel:
            cluster = leader_pb2_grpc.LeaderServiceStub(channel)
            await cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:1"), timeout=PATIENCE)
            await cluster.Leave(cpb.LeaveRequest(id="m"), timeout=PATIENCE)
        log = [json.loads(line) for line in process.stop()[1].splitlines()]
    assert [entry["event"] for entry in log if entry.get("worker") == "m"] == ["worker connected", "worker left"]


async def test_calls_that_are_under_way_are_answered_when_it_stops(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        async with open_channel([process.scheduler]) as channel:
            scheduler = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            sent = [
                asyncio.ensure_future(
                    scheduler.ScheduleTask(
                        pb.ScheduleTaskRequest(task=pb.Task(id=str(n), handler="h")), timeout=PATIENCE
                    )
                )
                for n in range(300)
            ]
            await sent[0]
            stopping = asyncio.get_running_loop().run_in_executor(None, process.stop)
            answers = await asyncio.gather(*sent, return_exceptions=True)
            code, log = await stopping
    assert code == 0
    assert "Traceback" not in log
    acknowledged = set()
    for n, answer in enumerate(answers):
        if isinstance(answer, grpc.aio.AioRpcError):
            assert answer.code() is grpc.StatusCode.UNAVAILABLE
        else:
            assert isinstance(answer, pb.ScheduleTaskResponse)
            acknowledged.add(str(n))
    (tmp_path / "gowork.db").rename(tmp_path / "leader.db")
    async with serving(tmp_path) as leader:
        assert acknowledged <= {task.id for task in await leader.list(page_size=1000)}


@pytest.mark.parametrize("port", ["cluster", "scheduler"])
async def test_both_ports_serve_all_services_and_their_health(tmp_path: Path, port: str) -> None:
    async with serving(tmp_path, port=port) as leader:
        await leader.submit("a")
        async with leader.worker() as session:
            await session.report(await session.grant())
        await leader.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)
        health = health_pb2_grpc.HealthStub(leader.channel)
        for service in ("", *SERVICES):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
            assert answer.status == SERVING
        unknown = await refused(health.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=PATIENCE))
        assert unknown.code is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[1]), timeout=PATIENCE)
        assert (await watch.read()).status == SERVING
        # Whoever watches hears that it stops before its connection ends.
        leader.stopped.set()
        assert (await watch.read()).status == NOT_SERVING


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_can_be_switched_off(tmp_path: Path, version: str) -> None:
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    list_services = b"\x3a\x01*"
    async with serving(tmp_path) as leader:
        call = leader.stream_stream(method)(iter([list_services]), timeout=PATIENCE)
        answer = await call.read()
        assert isinstance(answer, bytes)
        assert all(service.encode() in answer for service in (*SERVICES, "grpc.health.v1.Health"))
    async with serving(tmp_path, reflection=False) as leader:
        # Sends nothing: gRPC may take the end of a call that it is just writing to for an error of its own, INTERNAL.
        call = leader.stream_stream(method)(timeout=PATIENCE)
        assert (await stream_refused(call)).code is grpc.StatusCode.UNIMPLEMENTED
        await leader.submit("a")


async def test_a_leader_that_stops_takes_nothing_more(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("a")
        leader.stopped.set()
        refusal = await refused(leader.submit("b"))
    assert refusal.code is grpc.StatusCode.UNAVAILABLE


def test_it_says_where_it_serves_and_keeps_tasks_in_a_line_each(tmp_path: Path) -> None:
    with running(tmp_path, "--log-format=json") as leader:
        code, log = leader.stop()
    assert code == 0
    entries = {entry["event"]: entry for entry in map(json.loads, log.splitlines())}
    assert entries["serves workers"]["address"] == leader.cluster
    assert entries["serves clients"]["address"] == leader.scheduler
    assert entries["serves probes and metrics"]["address"] == leader.http
    assert entries["keeps tasks"]["store"] == f"sqlite:///{tmp_path / 'gowork.db'}"
    assert entries["stopping"]["waits_for"] == "calls that are under way"
    assert list(entries)[-1] == "stopped"


def test_an_interrupt_stops_it_in_order(tmp_path: Path) -> None:
    with running(tmp_path) as leader:
        leader.process.send_signal(signal.SIGINT)
        _, log = leader.process.communicate(timeout=PATIENCE)
    assert leader.process.returncode == 0
    assert "stopped" in log
    assert "Traceback" not in log

"""What /metrics says of a leader, after the things that it counts have happened."""

from __future__ import annotations

import asyncio
import subprocess
import urllib.request
from pathlib import Path

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from gowork.leader._core.state import Settings
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

#: The label values of a series by name, and its value.
Samples = dict[tuple[str, frozenset[str]], float]


def read_page(leader: ServedLeader, accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://{leader.addresses.http}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=PATIENCE) as page:
        text: str = page.read().decode()
    return text


async def scrape(leader: ServedLeader) -> Samples:
    text = await asyncio.to_thread(read_page, leader)
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in plain(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, *labels: str) -> float | None:
    return samples.get((name, frozenset(labels)))


async def test_unique_keys_that_are_taken_and_tasks_that_were_not_made_are_counted(leader: ServedLeader) -> None:
    for id in "abc":
        await leader.submit(id, queue="mail", handler="h", unique_key="k")
    samples = await scrape(leader)
    assert value(samples, "gowork_unique_keys") == 1
    assert value(samples, "gowork_tasks_submitted_total", "mail", "h", "accepted") == 1
    assert value(samples, "gowork_tasks_submitted_total", "mail", "h", "unique") == 2


async def test_tasks_are_counted_by_queue_and_handler_from_submit_to_end(leader: ServedLeader) -> None:
    async with leader.worker() as session:
        await leader.submit("a", "b", "c", queue="mail", handler="h")
        await leader.submit("a", queue="mail", handler="h")
        other = pb.ScheduleTasksRequest(tasks=[pb.Task(id="a", queue="mail", handler="other")])
        await refused(leader.scheduler.ScheduleTasks(other, timeout=PATIENCE))
        a, b, c = await session.grants(3)
        await session.report(a)
        await session.report(b, outcome=pb.ATTEMPT_OUTCOME_FAILED)
        await session.report(c, outcome=pb.ATTEMPT_OUTCOME_INTERRUPTED)
        again = await session.grant()
        await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="c"), timeout=PATIENCE)
        await session.report(again, outcome=pb.ATTEMPT_OUTCOME_CANCELLED)
        samples = await scrape(leader)
    for outcome, number in (("accepted", 3), ("duplicate", 1)):
        assert value(samples, "gowork_tasks_submitted_total", "mail", "h", outcome) == number
    assert value(samples, "gowork_tasks_submitted_total", "mail", "other", "refused") == 1
    for status in ("completed", "error", "cancelled"):
        assert value(samples, "gowork_tasks_finished_total", "mail", "h", status) == 1
    for outcome in ("completed", "failed", "interrupted", "cancelled"):
        assert value(samples, "gowork_task_attempts_total", "mail", outcome) == 1
    assert value(samples, "gowork_tasks_reassigned_total", "interrupted") == 1
    assert value(samples, "gowork_tasks_reassigned_total", "lost") == 0
    # The second grant of a task is no first start.
    assert value(samples, "gowork_task_schedule_to_start_seconds_count", "mail") == 3


async def test_a_task_that_keeps_killing_its_runner_is_counted_once(leader: ServedLeader) -> None:
    async with leader.worker() as session:
        await leader.submit("a")
        lost = pb.ATTEMPT_OUTCOME_LOST
        for _ in range(4):
            await session.report(await session.grant(), outcome=lost, failure=pb.Failure(message="signal 11"))
        samples = await scrape(leader)
    assert value(samples, "gowork_tasks_quarantined_total") == 1
    assert value(samples, "gowork_tasks_finished_total", "default", "h", "error") == 1
    assert value(samples, "gowork_task_attempts_total", "default", "lost") == 4
    assert value(samples, "gowork_tasks_reassigned_total", "lost") == 3


async def test_what_stands_in_a_queue_is_shown_and_goes_with_it(leader: ServedLeader) -> None:
    async with leader.worker(credit=1) as session:
        await leader.submit("a", "b", "c", queue="q", handler="h")
        await leader.submit("later", queue="q", handler="h", run_at_ms=4_000_000_000_000)
        grant = await session.grant()
        samples = await scrape(leader)
        for state, number in (("waiting", 2), ("delayed", 1), ("running", 1)):
            assert value(samples, "gowork_queue_tasks", "q", state) == number
        assert (value(samples, "gowork_queue_oldest_seconds", "q") or 0) > 0
        await session.report(grant)
        for id in ("b", "c", "later"):
            await leader.scheduler.CancelTask(pb.CancelTaskRequest(id=id), timeout=PATIENCE)
        samples = await scrape(leader)
    assert value(samples, "gowork_queue_tasks", "q", "waiting") is None
    assert value(samples, "gowork_queue_oldest_seconds", "q") is None


async def test_members_are_up_until_they_are_lost_and_gone_when_they_have_left(tmp_path: Path) -> None:
    settings = Settings(reconnect_grace=0.01)
    async with serving(tmp_path, settings=settings) as leader:
        async with leader.worker("stays"), leader.worker("vanishes") as session, leader.worker("leaves") as leaving:
            samples = await scrape(leader)
            for name in ("stays", "vanishes", "leaves"):
                assert value(samples, "gowork_member_up", name) == 1
            await leaving.send(conditions=[{"leaving": True}])
            with pytest.raises(EOFError):
                await leaving.refusal()
            session.call.cancel()
            while value(samples, "gowork_members", "lost") != 1:
                samples = await scrape(leader)
            assert value(samples, "gowork_member_up", "vanishes") == 0
            assert value(samples, "gowork_member_up", "leaves") is None
            assert value(samples, "gowork_member_up", "stays") == 1


async def test_heartbeats_are_counted_with_the_gaps_between_them(leader: ServedLeader) -> None:
    async def counted(frames: int) -> Samples:
        """Waits until `frames` frames are counted, each with its batch. A heartbeat is answered before that."""
        async with asyncio.timeout(PATIENCE):
            while value(samples := await scrape(leader), "gowork_worker_heartbeat_gap_seconds_count") != frames:
                pass
        return samples

    async with leader.worker() as session:
        # The first frame is the one with the credit.
        samples = await counted(1)
        for frames in range(2, 7):
            await session.send()
            await session.frame()
            samples = await counted(frames)
        await leader.cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:1"), timeout=PATIENCE)
        beats = leader.cluster.Heartbeat(
            iter([cpb.HeartbeatRequest(id="m", status=cpb.HEARTBEAT_STATUS_IDLE)]), timeout=PATIENCE
        )
        await beats.read()
        stranger = leader.cluster.Heartbeat(
            iter([cpb.HeartbeatRequest(id="nobody", status=cpb.HEARTBEAT_STATUS_IDLE)]), timeout=PATIENCE
        )
        assert (await refused(stranger.read())).code is grpc.StatusCode.NOT_FOUND
        after = await scrape(leader)
    name = "gowork_worker_heartbeats_total"
    assert (value(after, name, "accepted") or 0) - (value(samples, name, "accepted") or 0) == 1
    assert value(after, name, "refused") == 1


async def test_calls_are_timed_by_method_and_code(leader: ServedLeader) -> None:
    await leader.submit("a")
    await refused(leader.scheduler.GetTask(pb.GetTaskRequest(id="no"), timeout=PATIENCE))
    watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
    await watch.read()
    watch.cancel()
    name, service = "rpc_server_call_duration_seconds_count", "scheduler.v1.SchedulerService"
    samples = await scrape(leader)
    while value(samples, name, f"{service}/WatchTasks", "CANCELLED") != 1:
        samples = await scrape(leader)
    assert value(samples, name, f"{service}/ScheduleTasks", "OK") == 1
    assert value(samples, name, f"{service}/GetTask", "NOT_FOUND") == 1


async def test_submissions_of_a_stream_are_timed_as_calls_of_their_own(leader: ServedLeader) -> None:
    calls = (pb.ScheduleTaskRequest(task=pb.Task(id="a", handler="h")), pb.ScheduleTaskRequest())
    stream = leader.scheduler.SubmitTasks(timeout=PATIENCE)
    submissions = [pb.Submission(number=number, call=call) for number, call in enumerate(calls)]
    await stream.write(pb.SubmitTasksRequest(submissions=submissions))
    await stream.done_writing()
    assert sum([len(response.answers) async for response in stream]) == 2
    samples = await scrape(leader)
    name, method = "rpc_server_call_duration_seconds_count", "scheduler.v1.SchedulerService/ScheduleTask"
    assert value(samples, name, method, "OK") == 1
    assert value(samples, name, method, "INVALID_ARGUMENT") == 1


async def test_a_leader_that_serves_has_come_to_lead_once(leader: ServedLeader) -> None:
    samples = await scrape(leader)
    assert value(samples, "gowork_leader_is_leader") == 1
    assert value(samples, "gowork_leader_transitions_total") == 1
    assert value(samples, "gowork_leader_failover_seconds_count") == 1


async def test_the_page_is_openmetrics_for_who_asks_for_it(leader: ServedLeader) -> None:
    async with leader.worker() as session:
        await leader.submit("a")
        await session.report(await session.grant())
        text = await asyncio.to_thread(read_page, leader, "application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert "gowork_tasks_finished" in {family.name for family in openmetrics(text)}


@pytest.mark.tool("promtool")
async def test_promtool_finds_nothing_wrong_with_the_page(leader: ServedLeader) -> None:
    async with leader.worker() as session:
        await leader.submit("a", "b")
        await session.report(await session.grant())
        text = await asyncio.to_thread(read_page, leader)
    command = ["promtool", "check", "metrics"]
    checked = await asyncio.to_thread(subprocess.run, command, input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


async def test_histograms_name_the_trace_of_a_task_that_they_have_counted(leader: ServedLeader) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with leader.worker() as session:
        await leader.submit("a", traceparent=f"00-{trace_id}-00f067aa0ba902b7-01")
        await session.report(await session.grant())
        text = await asyncio.to_thread(read_page, leader, "application/openmetrics-text; version=1.0.0")
    exemplars = {
        family.name: sample.exemplar.labels
        for family in openmetrics(text)
        for sample in family.samples
        if sample.exemplar is not None
    }
    for name in ("task_schedule_to_start_seconds", "store_commit_seconds", "store_commit_tasks"):
        assert exemplars[f"gowork_{name}"] == {"trace_id": trace_id}

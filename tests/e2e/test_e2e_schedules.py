"""A schedule ticks over leaders that are killed, and loses no tick and repeats none."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from clusters import kill, start_leader

from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc

KILLS = 20
PATIENCE = 60.0


@pytest.mark.longer
def test_no_tick_is_lost_or_repeated_when_the_leader_is_killed_again_and_again(tmp_path: Path) -> None:
    every, task = pb.EveryTimes(every_ms=1000), pb.Task(handler="nobody's")
    wanted = pb.Schedule(name="s", every=every, task=task, overlap=pb.SCHEDULE_OVERLAP_ALLOW)
    leader = start_leader(tmp_path)
    addresses = (leader.cluster, leader.scheduler, leader.http)
    tasks, schedule = list[pb.Task](), pb.Schedule()
    for number in range(KILLS + 1):
        with grpc.insecure_channel(leader.scheduler) as channel:
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            if number == 0:
                stub.AddSchedule(pb.AddScheduleRequest(schedule=wanted), timeout=PATIENCE)
            # The first tick that comes while somebody watches.
            changes = stub.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
            assert any(change.tasks for change in changes)
            changes.cancel()
            if number == KILLS:
                tasks = list(stub.ListTasks(pb.ListTasksRequest(), timeout=PATIENCE).tasks)
                schedule = stub.GetSchedule(pb.GetScheduleRequest(name="s"), timeout=PATIENCE).schedule
        kill(leader.process)
        if number < KILLS:
            leader = start_leader(tmp_path, *addresses)
    ticks = [run.tick_ms for run in reversed(schedule.runs)]
    assert all(later - earlier == 1000 for earlier, later in pairwise(ticks))
    first_ms = schedule.created_at_ms // 1000 * 1000 + 1000
    assert schedule.made_ticks == (schedule.dealt_with_until_ms - first_ms) // 1000 + 1
    assert not schedule.skipped
    assert len({task.id for task in tasks}) == len(tasks)
    assert len(tasks) in (schedule.made_ticks - 1, schedule.made_ticks)

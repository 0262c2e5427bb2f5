"""Writes the schedules that handlers declare into the leader's messages."""

from __future__ import annotations

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker._core.schedules import DeclaredSchedule
from gowork.worker._runner.outcomes import fill_follow_up


def schedule_bytes(declared: DeclaredSchedule) -> bytes:
    """Returns a schedule as a serialized scheduler.v1.Schedule."""
    schedule = tasks.Schedule(
        name=declared.name,
        catch_up_window_ms=declared.catch_up_window_ms,
        jitter_ms=declared.jitter_ms,
        start_at_ms=declared.start_at_ms,
        end_at_ms=declared.end_at_ms,
    )
    match declared.when:
        case [str() as expression, str() as zone]:
            schedule.cron.CopyFrom(tasks.CronTimes(expression=expression, time_zone=zone))
        case (int() as every_ms, int() as anchor_ms) if isinstance(declared.when, tuple):
            schedule.every.CopyFrom(tasks.EveryTimes(every_ms=every_ms, anchor_ms=anchor_ms))
        case _:
            schedule.at.at_ms.extend(int(at) for at in declared.when)
    if declared.overlap:
        schedule.overlap = tasks.ScheduleOverlap.Value(f"SCHEDULE_OVERLAP_{declared.overlap.upper()}")
    if declared.on_orphaned:
        schedule.on_orphaned = tasks.ScheduleOrphaned.Value(f"SCHEDULE_ORPHANED_{declared.on_orphaned.upper()}")
    fill_follow_up(schedule.task, declared.task)
    return schedule.SerializeToString()

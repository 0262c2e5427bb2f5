"""Converts what a caller says of a schedule to protobuf's messages. `_responses` converts them back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any, cast
from zoneinfo import ZoneInfo

from gowork.base import schedule_times
from gowork.base.encryption import Encryption
from gowork.client import _arguments as arguments
from gowork.client import _schedule_models as models
from gowork.client._models import Duration, Moment, NewTask, TaskOptions
from gowork.client._requests import TaskEncoder, duration_ms, moment_ms
from gowork.client.errors import InvalidArgument
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

#: {option of a task that a schedule's task cannot have: why}
_NOT_OF_A_SCHEDULE = {
    "id": "each tick gives its task an id, NAME/TIME",
    "run_at": "its ticks say when a task is made; jitter spreads the starts",
    "delay": "its ticks say when a task is made; jitter spreads the starts",
    "expires_at": "each tick makes a new task; give expires_in",
    "after": "its ticks say when a task is made; have the handler schedule what comes after it",
    "after_rule": "its ticks say when a task is made; have the handler schedule what comes after it",
    "group": "its ticks say when a task is made; have the handler schedule the group",
}


def schedule_encoder(payload: object, options: models.ScheduleOptions, encryption: Encryption | None) -> TaskEncoder:
    """Returns what encodes the task of each tick.

    Raises:
        InvalidArgument: when an option is at fault, is none of a schedule's tasks, or the payload would be encrypted.
    """
    own = payload if isinstance(payload, NewTask) else NewTask(payload=payload)
    for name, why in _NOT_OF_A_SCHEDULE.items():
        if options.get(name) is not None or getattr(own, name) is not None:
            raise InvalidArgument.of(name, f"is set; the task of a schedule has none: {why}")
    if encryption is not None and own.payload not in ("", b"", None):
        raise InvalidArgument.of(
            "payload",
            "it cannot be encrypted, because that needs the task's id, which each tick makes anew; leave the payload "
            "out and have the handler fetch it, or send it in plain text by a client with keys=''",
        )
    return TaskEncoder(cast("TaskOptions", options))


def add_request(
    name: str,
    when: schedule_times.Cron | schedule_times.Every | schedule_times.At,
    task: scheduler.Task,
    *,
    overlap: models.ScheduleOverlap | str | None,
    catch_up_window: Duration | None,
    jitter: Duration | None,
    start_at: Moment | None,
    end_at: Moment | None,
    paused: bool,
    pause_reason: str,
    replace: bool,
) -> scheduler.AddScheduleRequest:
    """Makes the request that adds a schedule.

    Raises:
        InvalidArgument: when an argument is at fault.
    """
    schedule = arguments.message(
        scheduler.Schedule,
        name=name,
        overlap=_overlap(overlap),
        catch_up_window_ms=0 if catch_up_window is None else duration_ms(catch_up_window, "catch_up_window"),
        jitter_ms=0 if jitter is None else duration_ms(jitter, "jitter"),
        start_at_ms=0 if start_at is None else moment_ms(start_at, "start_at"),
        end_at_ms=0 if end_at is None else moment_ms(end_at, "end_at"),
        paused=paused,
        pause_reason=pause_reason,
    )
    if catch_up_window is not None and not schedule.catch_up_window_ms:
        # 0 on the wire means the default, which is an hour.
        least = limits.CATCH_UP_MS_MIN // 1000
        raise InvalidArgument.of("catch_up_window", f"is {catch_up_window!r}; at least {least} seconds are needed")
    _fill_when(schedule, when)
    schedule.task.CopyFrom(task)
    schedule.task.ClearField("id")
    return arguments.message(scheduler.AddScheduleRequest, schedule=schedule, replace=replace)


def backfill_request(name: str, start: Moment, end: Moment) -> scheduler.BackfillScheduleRequest:
    """Makes the request that has the tasks of past ticks made.

    Raises:
        InvalidArgument: when an argument is at fault.
    """
    return arguments.message(
        scheduler.BackfillScheduleRequest,
        name=name,
        from_ms=moment_ms(start, "start"),
        until_ms=moment_ms(end, "end"),
    )


def _fill_when(schedule: scheduler.Schedule, when: object) -> None:
    match when:
        case schedule_times.Cron():
            zone = when.tz.key if isinstance(when.tz, ZoneInfo) else when.tz
            # A name of None is that of a zone which was made from a file.
            arguments.text(zone, "when.tz")
            expression = arguments.text(when.expression, "when.expression")
            schedule.cron.CopyFrom(scheduler.CronTimes(expression=expression, time_zone=zone))
        case schedule_times.Every():
            schedule.every.every_ms = duration_ms(when.interval, "when.interval")
            if when.anchor is not None:
                schedule.every.anchor_ms = _second_ms(when.anchor, "when.anchor")
        case schedule_times.At():
            times: Any = when.times
            if isinstance(times, (datetime, int, float)):
                times = (times,)
            found = {_second_ms(time, "when.times") for time in _few(arguments.many(times, "when.times"))}
            schedule.at.at_ms.extend(sorted(found))
        case _:
            raise InvalidArgument.of("when", f"is {when!r}; a Cron, an Every or an At is needed")


def _few(times: Iterable[Moment]) -> Iterable[Moment]:
    """Yields the times, and no endless number of them."""
    for number, time in enumerate(times):
        if number == limits.SCHEDULE_TIMES_MAX:
            raise InvalidArgument.of("when.times", f"has more than {limits.SCHEDULE_TIMES_MAX} times")
        yield time


def _second_ms(moment: Moment, field: str) -> int:
    return math.ceil(moment_ms(moment, field) / 1000) * 1000


def _overlap(overlap: models.ScheduleOverlap | str | None) -> scheduler.ScheduleOverlap.ValueType:
    if overlap is None:
        return scheduler.SCHEDULE_OVERLAP_UNSPECIFIED
    known = models.ScheduleOverlap.__members__.get(arguments.text(overlap, "overlap").upper())
    if known is None or known is models.ScheduleOverlap.UNSPECIFIED:
        raise InvalidArgument.of("overlap", f"{overlap!r} is none of SKIP, QUEUE_ONE, ALLOW and CANCEL_RUNNING")
    return scheduler.ScheduleOverlap.Value(f"SCHEDULE_OVERLAP_{known}")

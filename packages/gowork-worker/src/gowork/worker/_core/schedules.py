"""Schedules that are declared beside a handler. The leader makes tasks for the handler at their times.

What the leader alone can tell, such as whether a cron expression can be read, it tells in the member's record. This
module imports no protobuf.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from gowork.base.schedule_times import At, Cron, Every, Moment
from gowork.proto import limits
from gowork.worker._core.bounds import duration_ms
from gowork.worker._core.codec import encode_payload
from gowork.worker._core.new_tasks import FollowUp, OnLostName, PriorityName, RetryPolicy, checked, moment_ms, word
from gowork.worker._core.steering import Delay

OverlapName = Literal["skip", "queue_one", "allow", "cancel_running"]
OrphanedName = Literal["go_on", "stop"]
_OVERLAPS = ("skip", "queue_one", "allow", "cancel_running")
_ORPHANED = ("go_on", "stop")
#: The fields of a cron expression, without and with seconds.
_CRON_FIELDS = (5, 6)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a handler runs by itself, with which payload and how; for the option `schedule` of @handler.

    The leader adopts it under its name from the first worker that offers the handler. It does not replace a schedule
    that somebody has added under that name.
    """

    #: When: a Cron, an Every or an At.
    when: Cron | Every | At
    #: What the handler gets, as for a task.
    payload: Any = ""
    #: The schedule's name, without a slash; None: the handler's.
    name: str | None = None
    #: What happens at a tick while an earlier run has not finished; None: it is skipped.
    overlap: OverlapName | None = None
    #: For how long ticks that nobody could make are made up for, in seconds; None: an hour.
    catch_up_window: Delay | None = None
    #: Over how long the starts of the tasks are spread, in seconds.
    jitter: Delay | None = None
    #: The schedule has no ticks before, or after, these times.
    start_at: Moment | None = None
    end_at: Moment | None = None
    #: What happens when no connected worker has the handler any more; None: it goes on, and its tasks wait.
    on_orphaned: OrphanedName | None = None
    # How its tasks are run: see TaskOptions.
    priority: PriorityName | None = None
    queue: str | None = None
    labels: Mapping[str, str] | None = None
    selector: Mapping[str, str] | None = None
    time_limit: Delay | None = None
    expires_in: Delay | None = None
    retry: RetryPolicy | int | None = None
    concurrency_key: str | None = None
    unique: str | None = None
    unique_for: Delay | None = None
    on_lost: OnLostName | None = None


_OF_ITS_TASKS = tuple(
    field.name
    for field in fields(Schedule)
    if field.name
    not in (
        "when",
        "payload",
        "name",
        "overlap",
        "catch_up_window",
        "jitter",
        "start_at",
        "end_at",
        "on_orphaned",
    )
)


@dataclass(frozen=True, slots=True)
class DeclaredSchedule:
    """A schedule that was checked; see scheduler.v1.Schedule."""

    name: str
    #: A cron expression with its zone, (milliseconds, anchor), or single times in milliseconds.
    when: tuple[str, str] | tuple[int, int] | list[int]
    task: FollowUp
    overlap: str
    catch_up_window_ms: int
    jitter_ms: int
    start_at_ms: int
    end_at_ms: int
    on_orphaned: str

    @property
    def has_payload(self) -> bool:
        """Whether its tasks have a payload."""
        return bool(self.task.payload or self.task.data)


def declared(schedule: object, handler: str) -> tuple[DeclaredSchedule, ...]:
    """Returns the schedules that a handler declares, checked.

    Args:
        schedule: the option of @handler: one, or several; None: none.
        handler: the handler's name.

    Raises:
        ValueError, TypeError: when something in it is wrong. The text names it.
    """
    if schedule is None:
        return ()
    several = schedule if isinstance(schedule, (list, tuple)) else (schedule,)
    if len(several) > limits.HANDLER_SCHEDULES_MAX:
        raise ValueError(f"schedule: at most {limits.HANDLER_SCHEDULES_MAX} are taken, not {len(several)}")
    found = [_declared(each, handler) for each in several]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"schedule: {name!r} is there twice; give each Schedule a name of its own")
    return tuple(found)


def _declared(given: object, handler: str) -> DeclaredSchedule:
    schedule = given if isinstance(given, Schedule) else Schedule(given)  # type: ignore[arg-type] # Checked below.
    options = {name: value for name in _OF_ITS_TASKS if (value := getattr(schedule, name)) is not None}
    text, data, form = encode_payload(schedule.payload)
    task = checked({**options, "handler": handler}, 0)
    # Each tick gives its task an id, and the leader reckons its expiry.
    task["expires_at_ms"] = 0
    name: Any = handler if schedule.name is None else schedule.name
    if not isinstance(name, str) or not name or "/" in name or not name.isprintable():
        raise ValueError(f"schedule.name: {name!r:.200} is not printable text without a slash")
    if len(name.encode()) > limits.NAME_BYTES_MAX:
        raise ValueError(f"schedule.name: {name!r:.200} has more than {limits.NAME_BYTES_MAX} bytes")
    window_ms = 0 if schedule.catch_up_window is None else _ms("catch_up_window", schedule.catch_up_window)
    if schedule.catch_up_window is not None and window_ms < limits.CATCH_UP_MS_MIN:
        raise ValueError(f"schedule.catch_up_window: at least {limits.CATCH_UP_MS_MIN // 1000} seconds are needed")
    return DeclaredSchedule(
        name=name,
        when=_when(schedule.when),
        task=FollowUp("", payload=text, data=data, payload_form=form, **task),
        overlap=word("schedule.overlap", schedule.overlap, _OVERLAPS),
        catch_up_window_ms=window_ms,
        jitter_ms=0 if schedule.jitter is None else _ms("jitter", schedule.jitter, limits.JITTER_MS_MAX),
        start_at_ms=0 if schedule.start_at is None else moment_ms("schedule.start_at", schedule.start_at),
        end_at_ms=0 if schedule.end_at is None else moment_ms("schedule.end_at", schedule.end_at),
        on_orphaned=word("schedule.on_orphaned", schedule.on_orphaned, _ORPHANED),
    )


def _when(when: object) -> tuple[str, str] | tuple[int, int] | list[int]:
    match when:
        case Cron():
            return _cron(when)
        case Every():
            every_ms = _ms("when.interval", when.interval)
            if every_ms < 1000 or every_ms % 1000:
                raise ValueError(f"schedule.when.interval: {when.interval!r:.100} is not whole seconds, 1 or more")
            return every_ms, 0 if when.anchor is None else _second_ms("when.anchor", when.anchor)
        case At():
            times: Any = when.times
            if isinstance(times, (datetime, int, float)):
                times = (times,)
            if isinstance(times, str) or not isinstance(times, Iterable):
                raise ValueError(f"schedule.when.times: {times!r:.100} is no list of times")
            found = {_second_ms("when.times", time) for time in times}
            if not 1 <= len(found) <= limits.SCHEDULE_TIMES_MAX:
                raise ValueError(f"schedule.when.times: 1 to {limits.SCHEDULE_TIMES_MAX} are taken, not {len(found)}")
            return sorted(found)
        case _:
            raise ValueError(
                f"schedule: {when!r:.200} is no Cron, Every or At, nor a Schedule with one; "
                'write schedule=Cron("0 3 * * *", tz="Europe/Berlin")'
            )


def _cron(when: Cron) -> tuple[str, str]:
    # The name of a zone that was made from a file is None.
    zone: object = when.tz.key if isinstance(when.tz, ZoneInfo) else when.tz
    expression: object = when.expression
    if not isinstance(zone, str) or not isinstance(expression, str):
        raise ValueError(f"schedule.when: {when!r:.200} has an expression or a time zone that is not text")
    expression = expression.strip()
    if len(expression.split()) not in _CRON_FIELDS or not expression.isascii():
        raise ValueError(
            f'schedule.when.expression: {expression!r:.200} is not five fields, as in "0 3 * * MON-FRI", or six with '
            "seconds first"
        )
    if len(expression) > limits.CRON_BYTES_MAX:
        raise ValueError(f"schedule.when.expression: it has more than {limits.CRON_BYTES_MAX} bytes")
    return expression, zone


def _ms(field: str, duration: Delay, ms_max: int = limits.DURATION_MS_MAX) -> int:
    return duration_ms(f"schedule.{field}", duration, ms_max)


def _second_ms(field: str, moment: Moment) -> int:
    return math.ceil(moment_ms(f"schedule.{field}", moment) / 1000) * 1000

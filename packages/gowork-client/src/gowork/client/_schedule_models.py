"""The values that describe schedules: when they tick, the tasks of their ticks, and what became of these.

Times are datetimes in UTC, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict

from gowork.base.schedule_times import At, Cron, Every
from gowork.client._models import (
    Duration,
    NewTask,
    OnLost,
    OnLostName,
    Priority,
    PriorityName,
    RetryPolicy,
    TaskStatus,
)


class ScheduleOverlap(StrEnum):
    """What happens at a tick while the task of an earlier run has not finished."""

    UNSPECIFIED = "UNSPECIFIED"
    #: The tick is skipped. This is the default.
    SKIP = "SKIP"
    #: The tick waits until the earlier runs have finished. At most one waits; the next ones are skipped.
    QUEUE_ONE = "QUEUE_ONE"
    #: Its task is made, and both may run at the same time.
    ALLOW = "ALLOW"
    #: The earlier tasks are cancelled, and its task is made.
    CANCEL_RUNNING = "CANCEL_RUNNING"


class ScheduleOrphaned(StrEnum):
    """What happens to a schedule that was declared in code when no connected worker declares it any more."""

    UNSPECIFIED = "UNSPECIFIED"
    #: It makes tasks as before.
    GO_ON = "GO_ON"
    #: Its ticks are skipped until a worker declares it again.
    STOP = "STOP"


class SkipReason(StrEnum):
    """Why a tick had no task made."""

    #: A reason of a newer leader that this client does not know.
    UNSPECIFIED = "UNSPECIFIED"
    #: The task of an earlier run had not finished.
    OVERLAP = "OVERLAP"
    PAUSED = "PAUSED"
    #: It was older than the catch-up window when a leader could make it.
    MISSED = "MISSED"
    #: A limit of the leader left no room for its task.
    REFUSED = "REFUSED"
    #: No connected worker declared the schedule, and its policy is STOP.
    ORPHANED = "ORPHANED"


class ScheduleOptions(TypedDict, total=False):
    """How to run the tasks of a schedule. An option that is None, or is not given, is not set.

    They are options of TaskOptions. A schedule's tasks have no run_at, delay and expires_at.
    """

    handler: Any
    priority: Priority | PriorityName | None
    queue: str | None
    labels: Mapping[str, str] | None
    selector: Mapping[str, str] | None
    time_limit: Duration | None
    #: For how long after its task was made a tick may be started, in seconds.
    expires_in: Duration | None
    retry: RetryPolicy | int | None
    concurrency_key: str | None
    plugin_version: str | None
    #: While a task with this key is pending or running, a tick is skipped as if its own schedule's task were.
    unique: str | None
    unique_for: Duration | None
    on_lost: OnLost | OnLostName | None


@dataclass(frozen=True, slots=True)
class ScheduleRun:
    """A task that a schedule has made."""

    #: The tick; for a triggered run the time of the call.
    tick: datetime
    task_id: str
    #: When the task was made.
    made_at: datetime
    #: Whether it was made by trigger.
    triggered: bool
    #: How far the task is; None when it has been removed, and in a list.
    status: TaskStatus | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule: when it ticks, the task of each tick, and what became of the last ones."""

    name: str
    #: When it ticks; None for a kind of times that only a newer client knows. At.times is a tuple of datetimes.
    when: Cron | Every | At | None
    #: The task of each tick, with its payload as text or bytes. In a list it has no payload.
    task: NewTask
    overlap: ScheduleOverlap
    #: How old a tick may be that is made late, in seconds.
    catch_up_window: float
    #: By how much the start of a task may be later than its tick, in seconds.
    jitter: float
    start_at: datetime | None
    end_at: datetime | None
    on_orphaned: ScheduleOrphaned
    paused: bool
    pause_reason: str
    #: Who paused it, where callers have identities.
    paused_by: str
    paused_at: datetime | None
    #: The next ticks: at most 10, or 1 in a list. While it is paused, those that it would have.
    next_ticks: tuple[datetime, ...]
    #: Its last 10 runs, the latest first.
    runs: tuple[ScheduleRun, ...]
    #: How many ticks had a task made since it was added.
    made_ticks: int
    #: {reason: how many ticks were skipped since it was added}
    skipped_ticks: Mapping[SkipReason, int]
    #: A tick that waits for the run before it.
    waiting_tick: datetime | None
    #: The handler that declared it in code, with its plugin and that plugin's version; empty when somebody added it.
    declared_by_handler: str
    declared_by_plugin: str
    declared_by_version: str
    #: Whether it was declared in code, and no connected worker declares it.
    orphaned: bool
    #: Why declarations of this name by workers do not hold; empty when there are none.
    declaration_ignored: str
    created_at: datetime | None
    changed_at: datetime | None
    #: No tick up to this time is made any more.
    dealt_with_until: datetime | None


@dataclass(frozen=True, slots=True)
class AddedSchedule:
    """What became of a call that adds a schedule. With neither created nor replaced, the same one was there already."""

    #: As it is now.
    schedule: Schedule
    created: bool
    replaced: bool


@dataclass(frozen=True, slots=True)
class Backfill:
    """What became of past ticks."""

    #: The ids of the tasks that were made, by their ticks.
    task_ids: tuple[str, ...]
    #: How many ticks had tasks already.
    existing: int

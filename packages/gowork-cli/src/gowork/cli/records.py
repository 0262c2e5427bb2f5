"""Converts the client's values to JSON. The names are an interface: names may be added, and none is removed.

Times are ISO 8601 in UTC with milliseconds, durations are seconds, bytes are base64. A value that has not happened or
was not set is null. Fields that were not asked for are left out. `result` is the value itself, not JSON in a string.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from gowork.client import (
    AfterRule,
    At,
    Attempt,
    Cron,
    Every,
    Explanation,
    GroupState,
    HandlerInfo,
    LeaderInfo,
    Leaders,
    Member,
    OnLost,
    Queue,
    QueueCounts,
    ResultError,
    Schedule,
    Stats,
    TaskInfo,
    TaskView,
    WaitCode,
)
from gowork.client.frames import Frame, QueueRow
from gowork.client.rates import Flow

Record = dict[str, Any]

#: How many levels of lists and objects a result may have. json.dumps recurses, and a few hundred levels would end the
#: listing with an error.
_LEVELS_MAX = 200


def task_record(task: TaskInfo, view: TaskView = TaskView.FULL, *, explained: bool = False) -> Record:
    """Converts a task. The record has only the fields that its view holds, so that null never means "not asked for".

    Args:
        task: the task.
        view: the view in which it was fetched.
        explained: whether it was fetched alone, so that the leader said why it waits.
    """
    record: Record = {"id": task.id, "status": task.status}
    if view is not TaskView.RESULT:
        record |= _asked(task)
    record |= {
        "worker": task.worker,
        "attempts_used": task.attempts_used,
        "fence": task.fence,
        "created_at": _time(task.created_at),
        "started_at": _time(task.started_at),
        "finished_at": _time(task.finished_at),
        "failure": _failure(task, whole=view is not TaskView.BASIC),
    }
    if view is TaskView.BASIC:
        return record
    record["result"] = result_value(task)
    record["result_data"] = None if "result" in task.encrypted else _base64(task.result_data)
    if view is TaskView.FULL:
        record["payload"] = task.payload
        record["data"] = None if "payload" in task.encrypted else _base64(task.data)
        record["attempts"] = [_attempt(attempt) for attempt in task.attempts]
        record["traceparent"] = task.traceparent or None
    if task.encrypted:
        # Instead of the ciphertexts, which say nothing to anybody.
        record["encrypted"] = dict(task.encrypted)
    if explained:
        record["waiting_reason"] = task.waiting_reason or None
    return record


def member_record(member: Member) -> Record:
    """Converts a member."""
    return {
        "id": member.id,
        "status": member.status,
        "liveness": member.liveness,
        "kind": member.kind,
        "address": member.address,
        "slots": member.slots,
        "running": member.running,
        "handlers": list(member.handlers),
        "labels": dict(member.labels),
        "version": member.version,
        "joined_at": _time(member.joined_at),
        "seen_at": _time(member.seen_at),
        "plugin_errors": list(member.plugin_errors),
        "plugins": [{"name": plugin.name, "version": plugin.version} for plugin in member.plugins],
        "queues": list(member.queues),
    }


def leaders_record(found: Leaders) -> Record:
    """Converts the leaders and their log."""
    log = found.log
    return {
        "leaders": [leader_record(leader) for leader in found.leaders],
        "log": None if log is None else dataclasses.asdict(log),
        "answered_by": found.answered_by,
    }


def leader_record(leader: LeaderInfo) -> Record:
    """Converts a leader."""
    times = {"leads_since": _time(leader.leads_since), "seen_at": _time(leader.seen_at)}
    return dataclasses.asdict(leader) | times


def explanation_record(explanation: Explanation) -> Record:
    """Converts an explanation."""
    return {
        "id": explanation.id,
        "status": explanation.status,
        "reasons": [
            {
                "code": reason.code,
                "message": reason.message,
                "advice": reason.advice,
                "until": _time(reason.until),
            }
            for reason in explanation.reasons
        ],
        "ahead": explanation.ahead,
        "workers": [
            {
                "worker": verdict.worker,
                "code": None if verdict.code is WaitCode.UNSPECIFIED else verdict.code,
                "message": verdict.message,
            }
            for verdict in explanation.workers
        ],
    }


def queue_record(queue: Queue) -> Record:
    """Converts a queue."""
    return dataclasses.asdict(queue)


#: Fields of a NewTask that the task of a schedule does not have.
_NOT_OF_A_SCHEDULE = ("id", "run_at", "delay", "expires_at", "after", "after_rule", "group")


def group_record(group: GroupState) -> Record:
    """Converts a group."""
    return {
        "id": group.id,
        "status": group.status,
        "after_rule": group.after_rule,
        "expected": group.expected,
        "children": group.children,
        "unfinished": group.unfinished,
        "completed": group.completed,
        "failed": group.failed,
        "cancelled": group.cancelled,
        "created_at": _time(group.created_at),
    }


def schedule_record(schedule: Schedule) -> Record:
    """Converts a schedule."""
    when = schedule.when
    times: Record | None
    match when:
        case Cron():
            times = {"cron": when.expression, "tz": str(when.tz)}
        case Every():
            anchor = when.anchor if isinstance(when.anchor, datetime) else None
            times = {"every": when.interval, "anchor": _time(anchor)}
        case At():
            moments: Any = when.times
            times = {"at": [_time(moment) for moment in moments]}
        case None:
            times = None
    record = {
        name: getattr(schedule, name) for name in Schedule.__dataclass_fields__ if name not in ("when", "task", "runs")
    }
    record = {name: _time(value) if isinstance(value, datetime) else value for name, value in record.items()}
    task = dataclasses.asdict(schedule.task)
    data = task["payload"] if isinstance(task["payload"], bytes) else b""
    return {
        **record,
        "next_ticks": [_time(tick) for tick in schedule.next_ticks],
        "skipped_ticks": dict(schedule.skipped_ticks),
        "when": times,
        "task": {
            # What the task of a schedule does not have is left out.
            **{name: task[name] for name in task if name not in _NOT_OF_A_SCHEDULE},
            "payload": "" if data else task["payload"],
            "data": _base64(data),
        },
        "runs": [
            {
                "tick": _time(run.tick),
                "task_id": run.task_id,
                "made_at": _time(run.made_at),
                "triggered": run.triggered,
                "status": run.status,
            }
            for run in schedule.runs
        ],
    }


def handler_record(handler: HandlerInfo) -> Record:
    """Converts a handler and its versions."""
    return dataclasses.asdict(handler)


def stats_record(stats: Stats) -> Record:
    """Converts the counts of Stats."""
    return {
        "version": stats.version,
        "term": stats.term,
        "started_at": _time(stats.started_at),
        "queues": [
            {"queue": row.queue, "handler": row.handler, "status": row.status, "tasks": row.tasks}
            for row in stats.queues
        ],
        "members": [
            {"liveness": row.liveness, "members": row.members, "slots": row.slots, "running": row.running}
            for row in stats.members
        ],
    }


def activity_record(frame: Frame) -> Record:
    """Converts one frame of `gowork top`."""
    activity = frame.activity
    return {
        "leader": frame.address,
        "error": frame.error or None,
        "version": activity.version,
        "term": activity.term,
        "at": _time(activity.now),
        "uptime": activity.uptime,
        "finished_tasks": activity.finished_tasks,
        "failed_tasks": activity.failed_tasks,
        "total": _flow(frame.total),
        "members": [member_record(member) for member in frame.members],
        "start_bounds": list(activity.start_bounds),
        "queues_total": activity.queues_total,
        "queues": [_queue_activity(row) for row in frame.queues],
        "other_counts": _counts(activity.other_counts),
        "failures": [task_record(task, TaskView.BASIC) for task in activity.failures],
    }


def _queue_activity(row: QueueRow) -> Record:
    return {
        **queue_record(row.activity.queue),
        "oldest_waiting": row.activity.oldest_waiting,
        "reasons": {
            "NEXT" if code is WaitCode.UNSPECIFIED else code: tasks for code, tasks in row.activity.waiting.items()
        },
        "counts": _counts(row.activity.counts),
        "flow": _flow(row.flow),
    }


def _counts(counts: QueueCounts | None) -> Record | None:
    return None if counts is None else {**dataclasses.asdict(counts), "start_counts": list(counts.start_counts)}


def _flow(flow: Flow | None) -> Record | None:
    return None if flow is None else dataclasses.asdict(flow)


def result_value(task: TaskInfo) -> Any:
    """Returns what the handler returned as JSON; a string if it is not JSON, or nested too deeply; None for bytes."""
    if not task.result or task.result_data:
        return None
    try:
        value = task.value()
    except (ResultError, RecursionError):
        return task.result
    return task.result if _is_deeper(value, _LEVELS_MAX) else value


def line(record: Mapping[str, Any]) -> str:
    """Returns a record as one line of JSON."""
    return _dumps(record, None, (",", ":"))


def document(record: Mapping[str, Any]) -> str:
    """Returns a record as JSON in several lines."""
    return _dumps(record, 2, None)


def _dumps(record: Mapping[str, Any], indent: int | None, separators: tuple[str, str] | None) -> str:
    try:
        return json.dumps(record, ensure_ascii=False, indent=indent, separators=separators, allow_nan=False)
    except ValueError:
        # JSON has no NaN and no infinity. Python would write them without allow_nan=False.
        return json.dumps(_finite(record), ensure_ascii=False, indent=indent, separators=separators)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more than `levels` levels."""
    level = [value]
    for _ in range(levels):
        level = [part for whole in level for part in _parts(whole) if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _asked(task: TaskInfo) -> Record:
    """Converts the fields that describe how a task is to run, and its progress. A wait does not fetch them."""
    return {
        "handler": task.handler,
        "queue": task.queue,
        "priority": task.priority,
        "labels": dict(task.labels),
        "selector": dict(task.selector),
        "plugin_version": task.plugin_version or None,
        "on_lost": None if task.on_lost is OnLost.UNSPECIFIED else task.on_lost,
        "after": list(task.after),
        "after_rule": None if task.after_rule is AfterRule.UNSPECIFIED else task.after_rule,
        "group": task.group,
        "is_waiting": task.is_waiting,
        "run_at": _time(task.run_at),
        "expires_at": _time(task.expires_at),
        "time_limit": task.time_limit,
        "retry": _retry(task),
        "concurrency_key": task.concurrency_key,
        "unique_key": task.unique_key or None,
        "unique_for": task.unique_for,
        "changed_at": _time(task.changed_at),
        "changed_fields": list(task.changed_fields),
        "cancel_requested": task.cancel_requested,
        "progress": _progress(task),
    }


def _attempt(attempt: Attempt) -> Record:
    return {
        "number": attempt.number,
        "worker": attempt.worker,
        "outcome": attempt.outcome,
        "started_at": _time(attempt.started_at),
        "ended_at": _time(attempt.ended_at),
        "reason": attempt.reason,
        "fence": attempt.fence,
        "traceparent": attempt.traceparent or None,
        "plugin": attempt.plugin or None,
        "plugin_version": attempt.plugin_version or None,
    }


def _retry(task: TaskInfo) -> Record | None:
    retry = task.retry
    if retry is None:
        return None
    return {
        "max_attempts": retry.max_attempts,
        "initial_delay": retry.initial_delay,
        "factor": retry.factor,
        "max_delay": retry.max_delay,
        "jitter": retry.jitter,
        "no_retry": list(retry.no_retry),
    }


def _progress(task: TaskInfo) -> Record | None:
    progress = task.progress
    if progress is None:
        return None
    return {
        "fraction": progress.fraction,
        "message": progress.message,
        "updated_at": _time(progress.updated_at),
    }


def _failure(task: TaskInfo, *, whole: bool) -> Record | None:
    failure = task.failure
    if failure is None:
        return None
    record: Record = {"kind": failure.kind, "message": failure.message, "type": failure.type}
    if whole:
        record["traceback"] = failure.traceback
    return record


def failures_record(tasks: int, first: datetime | None, last: datetime | None, example: str) -> Record:
    """Converts what is known of failed tasks that were grouped: how many, when, and the id of one of them."""
    return {"tasks": tasks, "first_failed_at": _time(first), "last_failed_at": _time(last), "example": example}


def _time(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _base64(data: bytes) -> str | None:
    return base64.b64encode(data).decode() if data else None

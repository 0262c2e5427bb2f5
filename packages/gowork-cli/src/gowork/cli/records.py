"""The JSON form of what the client answers. These names are an interface: they are only added to.

Times are ISO 8601 in UTC with milliseconds, durations seconds, bytes base64; what has not happened or was not set is
null. `result` is the value itself, not JSON in a string.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gowork.cli.frames import Frame, QueueRow
from gowork.cli.rates import Flow
from gowork.client import (
    Attempt,
    Explanation,
    Member,
    Queue,
    QueueCounts,
    ResultError,
    Stats,
    TaskInfo,
    TaskView,
    WaitCode,
)

Record = dict[str, Any]


def task_record(task: TaskInfo, view: TaskView = TaskView.FULL) -> Record:
    """A task, with the fields that its view holds."""
    record: Record = {
        "id": task.id,
        "status": task.status,
        "handler": task.handler,
        "queue": task.queue,
        "priority": task.priority,
        "labels": dict(task.labels),
        "selector": dict(task.selector),
        "worker": task.worker,
        "attempts_used": task.attempts_used,
        "fence": task.fence,
        "cancel_requested": task.cancel_requested,
        "created_at": _time(task.created_at),
        "started_at": _time(task.started_at),
        "finished_at": _time(task.finished_at),
        "run_at": _time(task.run_at),
        "expires_at": _time(task.expires_at),
        "time_limit": task.time_limit,
        "retry": _retry(task),
        "concurrency_key": task.concurrency_key,
        "progress": _progress(task),
        "failure": _failure(task, whole=view is not TaskView.BASIC),
    }
    if view is TaskView.BASIC:
        return record
    record["result"] = result_value(task)
    record["result_data"] = _base64(task.result_data)
    if view is TaskView.FULL:
        record["payload"] = task.payload
        record["data"] = _base64(task.data)
        record["attempts"] = [_attempt(attempt) for attempt in task.attempts]
        record["waiting_reason"] = task.waiting_reason or None
        record["traceparent"] = task.traceparent or None
    return record


def member_record(member: Member) -> Record:
    """A member."""
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
    }


def explanation_record(explanation: Explanation) -> Record:
    """Why a task waits."""
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
    """A queue."""
    return dataclasses.asdict(queue)


def stats_record(stats: Stats) -> Record:
    """The counts."""
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
    """One update of what goes on."""
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
    """What the handler returned, when that was JSON; a text that is no JSON as a string."""
    if not task.result:
        return None
    try:
        return None if task.result_data else task.value()
    except ResultError:
        return task.result


def line(record: Mapping[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


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


def _time(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _base64(data: bytes) -> str | None:
    return base64.b64encode(data).decode() if data else None

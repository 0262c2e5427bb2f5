"""Converts protobuf's messages to the client's values. No other module does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from gowork.base import schedule_times
from gowork.base.encryption import Encryption
from gowork.client import _activity_models as activity_models
from gowork.client import _arguments as arguments
from gowork.client import _group_models as group_models
from gowork.client import _handler_models as handler_models
from gowork.client import _leader_models as leader_models
from gowork.client import _models as models
from gowork.client import _queue_models as queue_models
from gowork.client import _schedule_models as schedule_models
from gowork.client._encrypting import decrypt, open_texts
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The first and the last moment that a datetime can hold, in milliseconds since the epoch.
_MOMENT_MS_MIN = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_MOMENT_MS_MAX = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
EnumT = TypeVar("EnumT", bound=StrEnum)


def task_info(task: scheduler.Task, encryption: Encryption | None = None) -> models.TaskInfo:
    """Converts a task, fetched in any TaskView. Its encrypted parts are decrypted, where that is possible."""
    undecrypted = decrypt(task, encryption)
    return models.TaskInfo(
        id=task.id,
        status=_STATUS(task.status),
        handler=task.handler,
        queue=task.queue,
        priority=_PRIORITY(task.priority),
        payload=task.payload,
        data=task.data,
        labels=arguments.pairs(task.labels, "labels"),
        selector=arguments.pairs(task.selector, "selector"),
        run_at=_moment(task.run_at_ms),
        time_limit=task.time_limit_ms / 1000 if task.time_limit_ms else None,
        expires_at=_moment(task.expires_at_ms),
        retry=_retry(task.retry) if task.HasField("retry") else None,
        concurrency_key=task.concurrency_key,
        created_at=_moment(task.created_at_ms),
        started_at=_moment(task.started_at_ms),
        finished_at=_moment(task.finished_at_ms),
        worker=task.worker,
        attempts=tuple(map(_attempt, task.attempts)),
        attempts_used=task.attempts_used,
        fence=task.fence,
        result=task.result,
        result_data=task.result_data,
        result_is_empty_data=task.result_is_empty_data,
        failure=_failure(task.failure) if task.HasField("failure") else None,
        progress=_progress(task.progress) if task.HasField("progress") else None,
        cancel_requested=task.cancel_requested,
        waiting_reason=task.waiting_reason,
        traceparent=task.traceparent,
        tracestate=task.tracestate,
        encrypted=undecrypted,
        plugin_version=task.plugin_version,
        unique_key=task.unique_key,
        unique_for=task.unique_for_ms / 1000 if task.unique_for_ms else None,
        changed_at=_moment(task.changed_at_ms),
        changed_fields=tuple(name.removesuffix("_ms") for name in task.changed_fields),
        on_lost=_ON_LOST(task.on_lost),
        after=tuple(task.after),
        after_rule=_AFTER_RULE(task.after_rule),
        group=_group(task.group) if task.HasField("group") else None,
        is_waiting=task.is_waiting,
    )


def _group(message: scheduler.GroupOptions) -> int:
    return message.children if message.HasField("children") else True


def group(message: scheduler.Group) -> group_models.GroupState:
    """Converts a group."""
    return group_models.GroupState(
        id=message.id,
        status=_STATUS(message.status),
        after_rule=_AFTER_RULE(message.after_rule),
        expected=message.expected if message.HasField("expected") else None,
        unfinished=message.unfinished,
        completed=message.completed,
        failed=message.failed,
        cancelled=message.cancelled,
        created_at=_moment(message.created_at_ms),
    )


def member(message: cluster.Member) -> models.Member:
    """Converts a member."""
    return models.Member(
        id=message.id,
        address=message.address,
        status=message.status,
        liveness=_LIVENESS(message.liveness),
        kind=_MEMBER_KIND(message.kind),
        slots=message.slots,
        running=message.running,
        handlers=tuple(message.handlers),
        labels=dict(message.labels),
        version=message.version,
        joined_at=_moment(message.joined_at_ms),
        seen_at=_moment(message.seen_at_ms),
        plugin_errors=tuple(message.plugin_errors),
        plugins=tuple(models.Plugin(plugin.name, plugin.version) for plugin in message.plugins),
        queues=tuple(message.queues),
    )


def leader(message: cluster.Leader) -> leader_models.LeaderInfo:
    """Converts a leader."""
    return leader_models.LeaderInfo(
        name=message.name,
        store_id=message.store_id,
        leads=message.leads,
        term=message.term,
        leads_since=_moment(message.leads_since_ms),
        applied_index=message.applied_index,
        forced_index=message.forced_index,
        lag_entries=message.lag_entries,
        cluster_address=message.cluster_address,
        scheduler_address=message.scheduler_address,
        http_address=message.http_address,
        version=message.version,
        seen_at=_moment(message.seen_at_ms),
    )


def leaders(message: cluster.LeadersResponse) -> leader_models.Leaders:
    """Converts the response of Leaders."""
    log = message.log
    return leader_models.Leaders(
        leaders=tuple(map(leader, message.leaders)),
        log=leader_models.LogInfo(log.generation, log.first_index, log.last_index) if message.HasField("log") else None,
        answered_by=message.answered_by,
    )


def comparison(message: cluster.CompareStoresResponse) -> leader_models.StoreComparison:
    """Converts a comparison of stores."""
    stores = (leader_models.ComparedStore(s.name, s.store_id, _VERDICT(s.verdict)) for s in message.stores)
    return leader_models.StoreComparison(message.index, tuple(stores))


def stats(message: scheduler.StatsResponse) -> models.Stats:
    """Converts the response of Stats."""
    return models.Stats(
        queues=tuple(models.QueueStats(q.queue, q.handler, _STATUS(q.status), q.tasks) for q in message.queues),
        members=tuple(map(_member_stats, message.members)),
        version=message.version,
        term=message.term,
        started_at=_moment(message.started_at_ms),
    )


def activity(message: scheduler.ActivityResponse, encryption: Encryption | None = None) -> activity_models.Activity:
    """Converts the response of Activity."""
    return activity_models.Activity(
        queues=tuple(
            activity_models.QueueActivity(
                queue=queue(row.queue),
                oldest_waiting=row.oldest_waiting_ms / 1000 if row.oldest_waiting_ms else None,
                waiting=_waiting(row.waiting),
                counts=_queue_counts(row.counts) if row.HasField("counts") else None,
            )
            for row in message.queues
        ),
        queues_total=message.queues_total,
        other_counts=_queue_counts(message.other_counts),
        start_bounds=tuple(message.start_bounds),
        failures=tuple(task_info(task, encryption) for task in message.failures),
        members=tuple(map(_member_stats, message.members)),
        finished_tasks=message.finished_tasks,
        failed_tasks=message.failed_tasks,
        version=message.version,
        term=message.term,
        now=_moment(message.now_ms),
        uptime=message.uptime_ms / 1000,
    )


def explanation(
    message: scheduler.ExplainTaskResponse, encryption: Encryption | None = None
) -> queue_models.Explanation:
    """Converts the response of ExplainTask."""
    return queue_models.Explanation(
        id=message.id,
        status=_STATUS(message.status),
        reasons=tuple(
            queue_models.WaitReason(
                _WAIT_CODE(r.code), open_texts(message.id, r.message, encryption), r.advice, _moment(r.until_ms)
            )
            for r in message.reasons
        ),
        workers=tuple(queue_models.WorkerVerdict(w.worker, _WAIT_CODE(w.code), w.message) for w in message.workers),
        ahead=message.ahead,
    )


def queue(message: scheduler.Queue) -> queue_models.Queue:
    """Converts a queue."""
    return queue_models.Queue(
        name=message.name,
        paused=message.paused,
        weight=message.weight,
        concurrency_limit=message.concurrency_limit,
        key_concurrency_limit=message.key_concurrency_limit,
        rate_limit=message.rate_limit,
        rate_burst=message.rate_burst,
        waiting=message.waiting,
        delayed=message.delayed,
        running=message.running,
    )


def handler(message: cluster.Handler) -> handler_models.HandlerInfo:
    """Converts a handler."""
    return handler_models.HandlerInfo(message.name, tuple(map(_handler_version, message.versions)))


def _handler_version(message: cluster.HandlerVersion) -> handler_models.HandlerVersion:
    try:
        told = json.loads(message.description) if message.description else None
    except (ValueError, RecursionError):
        told = None
    described: dict[str, Any] = told if isinstance(told, dict) else {}

    def schema(name: str) -> Mapping[str, Any] | None:
        found = described.get(name)
        return found if isinstance(found, dict) else None

    return handler_models.HandlerVersion(
        plugin=message.plugin,
        plugin_version=message.plugin_version,
        workers=message.workers,
        worker_names=tuple(message.worker_names),
        is_described=isinstance(told, dict),
        doc=str(described.get("doc", "")),
        takes_payload=described.get("takes_payload") is not False,
        payload_optional=described.get("payload_optional") is True,
        payload_schema=schema("payload"),
        result_schema=schema("result"),
    )


def schedule(message: scheduler.Schedule) -> schedule_models.Schedule:
    """Converts a schedule, as GetSchedule or ListSchedules answers it."""
    return schedule_models.Schedule(
        name=message.name,
        when=_when(message),
        task=_template(message.task),
        overlap=_OVERLAP(message.overlap),
        catch_up_window=message.catch_up_window_ms / 1000,
        jitter=message.jitter_ms / 1000,
        start_at=_moment(message.start_at_ms),
        end_at=_moment(message.end_at_ms),
        on_orphaned=_ORPHANED(message.on_orphaned),
        paused=message.paused,
        pause_reason=message.pause_reason,
        paused_by=message.paused_by,
        paused_at=_moment(message.paused_at_ms),
        next_ticks=tuple(map(_known_moment, message.next_at_ms)),
        runs=tuple(map(_run, message.runs)),
        made_ticks=message.made_ticks,
        skipped_ticks=_skipped(message.skipped),
        waiting_tick=_moment(message.waiting_tick_ms),
        declared_by_handler=message.declared_by_handler,
        declared_by_plugin=message.declared_by_plugin,
        declared_by_version=message.declared_by_version,
        orphaned=message.orphaned,
        declaration_ignored=message.declaration_ignored,
        created_at=_moment(message.created_at_ms),
        changed_at=_moment(message.changed_at_ms),
        dealt_with_until=_moment(message.dealt_with_until_ms),
    )


def _when(
    message: scheduler.Schedule,
) -> schedule_times.Cron | schedule_times.Every | schedule_times.At | None:
    match message.WhichOneof("when"):
        case "cron":
            return schedule_times.Cron(message.cron.expression, message.cron.time_zone or "UTC")
        case "every":
            return schedule_times.Every(message.every.every_ms / 1000, _moment(message.every.anchor_ms))
        case "at":
            return schedule_times.At(tuple(map(_known_moment, message.at.at_ms)))
        case _:
            return None


def _template(task: scheduler.Task) -> models.NewTask:
    """Converts the task of each tick. What is not set is None, as when the schedule was added."""
    return models.NewTask(
        payload=task.data or task.payload,
        handler=task.handler or None,
        priority=_PRIORITY(task.priority) if task.priority else None,
        queue=task.queue or None,
        labels=dict(task.labels) or None,
        selector=dict(task.selector) or None,
        time_limit=task.time_limit_ms / 1000 if task.time_limit_ms else None,
        retry=_retry(task.retry) if task.HasField("retry") else None,
        concurrency_key=task.concurrency_key or None,
        expires_in=task.expires_in_ms / 1000 if task.expires_in_ms else None,
        plugin_version=task.plugin_version or None,
        unique=task.unique_key or None,
        unique_for=task.unique_for_ms / 1000 if task.unique_for_ms else None,
        on_lost=_ON_LOST(task.on_lost) if task.on_lost else None,
    )


def _run(message: scheduler.ScheduleRun) -> schedule_models.ScheduleRun:
    return schedule_models.ScheduleRun(
        tick=_known_moment(message.tick_ms),
        task_id=message.task_id,
        made_at=_known_moment(message.made_at_ms),
        triggered=message.triggered,
        status=_STATUS(message.status) if message.status else None,
    )


def _skipped(rows: Iterable[scheduler.SkippedTicks]) -> dict[schedule_models.SkipReason, int]:
    """Returns {reason: ticks}. It sums up, because unknown reasons of a newer leader all read as UNSPECIFIED."""
    counts: dict[schedule_models.SkipReason, int] = {}
    for row in rows:
        reason = _SKIP_REASON(row.reason)
        counts[reason] = counts.get(reason, 0) + row.ticks
    return counts


def _member_stats(message: scheduler.MemberStats) -> models.MemberStats:
    liveness = _named(models.Liveness, message.liveness)
    return models.MemberStats(liveness, message.members, message.slots, message.running)


def _waiting(rows: Iterable[scheduler.WaitingTasks]) -> dict[queue_models.WaitCode, int]:
    """Returns {reason: tasks}. It sums up, because unknown codes of a newer leader all read as OTHER."""
    counts: dict[queue_models.WaitCode, int] = {}
    for row in rows:
        code = _WAIT_CODE(row.code)
        counts[code] = counts.get(code, 0) + row.tasks
    return counts


def _queue_counts(message: scheduler.QueueCounts) -> activity_models.QueueCounts:
    return activity_models.QueueCounts(
        submitted=message.submitted,
        completed=message.completed,
        cancelled=message.cancelled,
        failed=message.failed,
        start_counts=tuple(message.start_counts),
    )


def _retry(message: scheduler.RetryPolicy) -> models.RetryPolicy:
    # On the wire, 0 means the contract's default.
    return models.RetryPolicy(
        max_attempts=message.max_attempts or 1,
        initial_delay=(message.initial_delay_ms or 1_000) / 1000,
        factor=message.factor or 2.0,
        max_delay=(message.max_delay_ms or 300_000) / 1000,
        jitter=message.jitter,
        no_retry=tuple(message.no_retry),
    )


def _attempt(message: scheduler.Attempt) -> models.Attempt:
    return models.Attempt(
        number=message.number,
        worker=message.worker,
        outcome=_OUTCOME(message.outcome),
        started_at=_moment(message.started_at_ms),
        ended_at=_moment(message.ended_at_ms),
        reason=message.reason,
        fence=message.fence,
        traceparent=message.traceparent,
        plugin=message.plugin,
        plugin_version=message.plugin_version,
    )


def _failure(message: scheduler.Failure) -> models.Failure:
    return models.Failure(_FAILURE_KIND(message.kind), message.message, message.type, message.traceback)


def _progress(message: scheduler.Progress) -> models.Progress:
    return models.Progress(message.fraction, message.message, _moment(message.updated_at_ms))


def _moment(ms: int) -> datetime | None:
    return _known_moment(ms) if ms else None


def _known_moment(ms: int) -> datetime:
    """Converts a time that is always set, so that 0 is the beginning of 1970."""
    # Clamped, because one time for which Python has no year must not make a whole listing unreadable.
    return _EPOCH + timedelta(milliseconds=min(max(ms, _MOMENT_MS_MIN), _MOMENT_MS_MAX))


def _named(kind: type[EnumT], name: str) -> EnumT:
    """Returns the enum's member of this name; UNSPECIFIED for a name of a newer leader."""
    return kind.__members__.get(name, kind["UNSPECIFIED"])


def _reader(kind: type[EnumT], wire: Any, prefix: str, unknown: str = "UNSPECIFIED") -> Callable[[int], EnumT]:
    """Returns what converts numbers of a wire enum; a number of a newer leader becomes `unknown`."""
    by_number = {number: _named(kind, name.removeprefix(prefix)) for name, number in wire.items()}
    other = kind[unknown]
    return lambda number: by_number.get(number, other)


_STATUS = _reader(models.TaskStatus, scheduler.TaskStatus, "TASK_STATUS_")
_PRIORITY = _reader(models.Priority, scheduler.TaskPriority, "TASK_PRIORITY_")
_ON_LOST = _reader(models.OnLost, scheduler.OnLost, "ON_LOST_")
_AFTER_RULE = _reader(models.AfterRule, scheduler.AfterRule, "AFTER_RULE_")
_OUTCOME = _reader(models.AttemptOutcome, scheduler.AttemptOutcome, "ATTEMPT_OUTCOME_")
_FAILURE_KIND = _reader(models.FailureKind, scheduler.FailureKind, "FAILURE_KIND_")
# An unknown code of a newer leader is a reason to wait, so that it must not read as UNSPECIFIED, which is none.
_WAIT_CODE = _reader(queue_models.WaitCode, scheduler.WaitCode, "WAIT_CODE_", "OTHER")
_LIVENESS = _reader(models.Liveness, cluster.MemberLiveness, "MEMBER_LIVENESS_")
_VERDICT = _reader(leader_models.StoreVerdict, cluster.StoreVerdict, "STORE_VERDICT_")
_MEMBER_KIND = _reader(models.MemberKind, cluster.MemberKind, "MEMBER_KIND_")
_OVERLAP = _reader(schedule_models.ScheduleOverlap, scheduler.ScheduleOverlap, "SCHEDULE_OVERLAP_")
_ORPHANED = _reader(schedule_models.ScheduleOrphaned, scheduler.ScheduleOrphaned, "SCHEDULE_ORPHANED_")
_SKIP_REASON = _reader(schedule_models.SkipReason, scheduler.SkipReason, "SKIP_REASON_")

"""Converts protobuf's messages to the client's values, and back. No other module does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from gowork.base.encryption import Encryption
from gowork.client import _activity_models as activity_models
from gowork.client import _arguments as arguments
from gowork.client import _leader_models as leader_models
from gowork.client import _models as models
from gowork.client import _queue_models as queue_models
from gowork.client._encrypting import decrypt, encrypt, open_texts
from gowork.client._ids import new_task_id
from gowork.client._leader_fields import LeaderFields
from gowork.client._payloads import encode_payload
from gowork.client.errors import InvalidArgument
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The first and the last moment that a datetime can hold, in milliseconds since the epoch.
_MOMENT_MS_MIN = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_MOMENT_MS_MAX = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
#: {field of a task: the field that may be set instead}
_INSTEAD = {
    "run_at_ms": "delay_ms",
    "delay_ms": "run_at_ms",
    "expires_at_ms": "expires_in_ms",
    "expires_in_ms": "expires_at_ms",
}
#: Most ids in one PurgeTasks call.
_PURGE_IDS_MAX = 10_000

EnumT = TypeVar("EnumT", bound=StrEnum)


class TaskEncoder:
    """Turns payloads and NewTasks into serialized tasks. It encodes a call's options once, not for every task."""

    def __init__(
        self,
        options: models.TaskOptions,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        encryption: Encryption | None = None,
    ) -> None:
        self._now = now
        self._encryption = encryption
        self._options = self._fields(models.NewTask(**options))
        self._template = scheduler.ScheduleTasksRequest(tasks=(arguments.message(scheduler.Task, **self._options),))
        self._leader: LeaderFields | None = None
        self._address = ""

    def fit(self, leader: LeaderFields, address: str) -> None:
        """Makes all later tasks in a form that this leader reads correctly.

        Raises:
            LeaderTooOld: when the leader would drop an option of the call. A NewTask's options are checked when it is
                encoded.
        """
        leader.fit(self._template.tasks[0], self.now_ms(), address)
        self._leader, self._address = leader, address

    def task(self, item: object, id: str | None = None) -> scheduler.Task:
        """Makes one task.

        Args:
            item: a payload, or a NewTask.
            id: the task's id; None for a new one. A NewTask has its own.

        Raises:
            InvalidArgument: when a field cannot be sent.
            LeaderTooOld: when the leader of `fit` would drop a field.
        """
        if isinstance(item, models.NewTask):
            text, data, form = encode_payload(item.payload)
            own = self._fields(item)
            options = {name: value for name, value in self._options.items() if _INSTEAD.get(name) not in own} | own
            id = item.id
        else:
            text, data, form = encode_payload(item)
            options = self._options
        task = arguments.message(
            scheduler.Task,
            id=new_task_id() if id is None else id,
            payload=text,
            data=data,
            payload_form=form,
            **options,
        )
        if self._encryption is not None:
            encrypt(task, self._encryption)
        if self._leader is not None:
            self._leader.fit(task, self.now_ms(), self._address)
        return task

    def entry(self, item: object) -> tuple[str, bytes]:
        """Returns (id, serialized ScheduleTasksRequest of one task). Such requests may be concatenated to one."""
        request = scheduler.ScheduleTasksRequest()
        if isinstance(item, models.NewTask):
            request.tasks.append(self.task(item))
            return request.tasks[0].id, request.SerializeToString()
        # Programs that schedule many tasks spend most of their time here. This way takes half the time of task().
        text, data, form = encode_payload(item)
        request.CopyFrom(self._template)
        task = request.tasks[0]
        task.id = id = new_task_id()
        if data:
            task.data = data
        else:
            task.payload = text
        if form:
            task.payload_form = form  # type: ignore[assignment] # The number of the enum's value.
        if self._encryption is not None:
            encrypt(task, self._encryption)
        return id, request.SerializeToString()

    def now_ms(self) -> int:
        """The time of this machine, in milliseconds since the epoch."""
        return _moment_ms(self._now(), "delay")

    def _fields(self, task: models.NewTask) -> dict[str, Any]:
        if task.run_at is not None and task.delay is not None:
            raise InvalidArgument.of("run_at", "give run_at or delay, not both")
        if task.expires_at is not None and task.expires_in is not None:
            raise InvalidArgument.of("expires_at", "give expires_at or expires_in, not both")
        fields: dict[str, Any] = {}
        if task.handler is not None:
            fields["handler"] = handler_name(task.handler)
        if task.priority is not None:
            fields["priority"] = _priority(task.priority)
        if task.queue is not None:
            fields["queue"] = task.queue
        if task.labels is not None:
            fields["labels"] = arguments.pairs(task.labels, "labels")
        if task.selector is not None:
            fields["selector"] = arguments.pairs(task.selector, "selector")
        if task.run_at is not None:
            fields["run_at_ms"] = _moment_ms(task.run_at, "run_at")
        if task.delay is not None:
            fields["delay_ms"] = duration_ms(task.delay, "delay")
        if task.time_limit is not None:
            fields["time_limit_ms"] = duration_ms(task.time_limit, "time_limit")
        if task.expires_at is not None:
            fields["expires_at_ms"] = _moment_ms(task.expires_at, "expires_at")
        if task.expires_in is not None:
            fields["expires_in_ms"] = duration_ms(task.expires_in, "expires_in")
        if task.retry is not None:
            fields["retry"] = _retry_to_wire(task.retry)
        if task.concurrency_key is not None:
            fields["concurrency_key"] = task.concurrency_key
        return fields


def handler_name(handler: Any) -> str:
    """Returns the name of a handler, which is given by name or as the function that gowork.worker's @handler decorated.

    Raises:
        InvalidArgument: when it is neither.
    """
    if isinstance(handler, str):
        return handler
    name = getattr(getattr(handler, "__gowork_handler__", None), "name", None)
    if not isinstance(name, str):
        raise InvalidArgument.of("handler", f"{handler!r} is neither a name nor a function decorated with @handler")
    return name


def duration_ms(duration: models.Duration, field: str) -> int:
    """Returns a duration in whole milliseconds; at least 1 if it is above zero, because 0 on the wire means "not set".

    Raises:
        InvalidArgument: when the duration is negative or not a number.
    """
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not _between(0, seconds, 1e12):
        raise InvalidArgument.of(
            field, f"{duration!r} is not a length of time; write seconds, 0 or more, or a timedelta"
        )
    return max(round(seconds * 1000), 1) if seconds else 0


def _between(least: float, value: Any, end: float) -> bool:
    """Whether the value is a number from `least` to below `end`. NaN is not."""
    try:
        return bool(least <= value < end)
    except TypeError:
        return False


def drain_request(id: str, budget: models.Duration | None) -> cluster.DrainRequest:
    """Makes a request to drain. A budget of 0 is sent as 1 ms, because 0 on the wire means the worker's own setting.

    Raises:
        InvalidArgument: when the budget is negative or not a number.
    """
    budget_ms = 0 if budget is None else max(1, duration_ms(budget, "budget"))
    return arguments.message(cluster.DrainRequest, id=id, budget_ms=budget_ms)


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


def purge_requests(
    ids: Iterable[str], expression: str, older_than: models.Duration
) -> Iterator[scheduler.PurgeTasksRequest]:
    """Yields the requests that remove these tasks, or those that the expression selects.

    Raises:
        InvalidArgument: when there are neither ids nor an expression, or both.
    """
    wanted = [arguments.text(id, "ids") for id in dict.fromkeys(arguments.many(ids, "ids"))]
    if not wanted and not expression:
        raise InvalidArgument.of("ids", "give ids, or a filter for what to remove")
    if wanted and expression:
        raise InvalidArgument.of("filter", "give ids or a filter, not both")
    if not wanted:
        age_ms = duration_ms(older_than, "older_than")
        before_ms = round(datetime.now(UTC).timestamp() * 1000) - age_ms if age_ms else 0
        yield scheduler.PurgeTasksRequest(filter=expression, finished_before_ms=before_ms)
    for start in range(0, len(wanted), _PURGE_IDS_MAX):
        yield scheduler.PurgeTasksRequest(ids=wanted[start : start + _PURGE_IDS_MAX])


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


def view_to_wire(view: models.TaskView) -> scheduler.TaskView.ValueType:
    """Converts a TaskView to the wire."""
    return scheduler.TaskView.Value(f"TASK_VIEW_{models.TaskView(view)}")


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


def _retry_to_wire(retry: models.RetryPolicy | int) -> scheduler.RetryPolicy:
    if isinstance(retry, int):
        return arguments.message(scheduler.RetryPolicy, within="retry.", max_attempts=retry)
    if not isinstance(retry, models.RetryPolicy):
        raise InvalidArgument.of("retry", f"is {retry!r}; a RetryPolicy, or a number of attempts, is needed")
    no_retry = [arguments.text(name, "retry.no_retry") for name in arguments.many(retry.no_retry, "retry.no_retry")]
    return arguments.message(
        scheduler.RetryPolicy,
        within="retry.",
        max_attempts=retry.max_attempts,
        initial_delay_ms=duration_ms(retry.initial_delay, "retry.initial_delay"),
        factor=retry.factor,
        max_delay_ms=duration_ms(retry.max_delay, "retry.max_delay"),
        jitter=retry.jitter,
        no_retry=no_retry,
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
    )


def _failure(message: scheduler.Failure) -> models.Failure:
    return models.Failure(_FAILURE_KIND(message.kind), message.message, message.type, message.traceback)


def _progress(message: scheduler.Progress) -> models.Progress:
    return models.Progress(message.fraction, message.message, _moment(message.updated_at_ms))


def _priority(priority: models.Priority | str) -> scheduler.TaskPriority.ValueType:
    known = _named(models.Priority, arguments.text(priority, "priority").upper())
    if known is models.Priority.UNSPECIFIED:
        raise InvalidArgument.of("priority", f"{priority!r} is none of LOW, MEDIUM and HIGH")
    return scheduler.TaskPriority.Value(f"TASK_PRIORITY_{known}")


def _moment_ms(moment: models.Moment, field: str) -> int:
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise InvalidArgument.of(
                field, f"{moment} has no time zone; use datetime.now(timezone.utc) or .astimezone()"
            )
        moment = moment.timestamp()
    if not _between(0, moment, 1e12):
        raise InvalidArgument.of(field, f"{moment!r} is neither a datetime nor a time in seconds since 1970")
    return round(moment * 1000)


def _moment(ms: int) -> datetime | None:
    # Clamped, because one time for which Python has no year must not make a whole listing unreadable.
    return _EPOCH + timedelta(milliseconds=min(max(ms, _MOMENT_MS_MIN), _MOMENT_MS_MAX)) if ms else None


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
_OUTCOME = _reader(models.AttemptOutcome, scheduler.AttemptOutcome, "ATTEMPT_OUTCOME_")
_FAILURE_KIND = _reader(models.FailureKind, scheduler.FailureKind, "FAILURE_KIND_")
# An unknown code of a newer leader is a reason to wait, so that it must not read as UNSPECIFIED, which is none.
_WAIT_CODE = _reader(queue_models.WaitCode, scheduler.WaitCode, "WAIT_CODE_", "OTHER")
_LIVENESS = _reader(models.Liveness, cluster.MemberLiveness, "MEMBER_LIVENESS_")
_VERDICT = _reader(leader_models.StoreVerdict, cluster.StoreVerdict, "STORE_VERDICT_")
_MEMBER_KIND = _reader(models.MemberKind, cluster.MemberKind, "MEMBER_KIND_")

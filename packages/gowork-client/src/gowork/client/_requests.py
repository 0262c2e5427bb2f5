"""Converts the client's values to protobuf's messages. `_responses` converts them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from gowork.base.encryption import Encryption
from gowork.client import _arguments as arguments
from gowork.client import _models as models
from gowork.client._encrypting import encrypt
from gowork.client._ids import TASK_IDS, new_task_id
from gowork.client._leader_fields import LeaderFields
from gowork.client._payloads import encode_payload
from gowork.client.errors import InvalidArgument
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

#: {field of a task: the field that may be set instead}
_INSTEAD = {
    "run_at_ms": "delay_ms",
    "delay_ms": "run_at_ms",
    "expires_at_ms": "expires_in_ms",
    "expires_in_ms": "expires_at_ms",
}
#: Most ids in one PurgeTasks call.
_PURGE_IDS_MAX = 10_000


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
        self._options = task_fields(models.NewTask(**options))
        self._template = scheduler.ScheduleTasksRequest(tasks=(arguments.message(scheduler.Task, **self._options),))
        #: What follows payload in a serialized task.
        self._rest = self._template.tasks[0].SerializeToString()
        self._leader: LeaderFields | None = None
        self._address = ""

    def fit(self, leader: LeaderFields, address: str) -> None:
        """Makes all later tasks in a form that this leader reads correctly.

        Raises:
            LeaderTooOld: when the leader would drop an option of the call. A NewTask's options are checked when it is
                encoded.
        """
        leader.fit(self._template.tasks[0], self.now_ms(), address)
        self._rest = self._template.tasks[0].SerializeToString()
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
            own = task_fields(item)
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
        if isinstance(item, models.NewTask):
            request = scheduler.ScheduleTasksRequest(tasks=(self.task(item),))
            return request.tasks[0].id, request.SerializeToString()
        text, data, form = encode_payload(item)
        id = TASK_IDS.new()
        if text and not form and self._encryption is None:
            return id, _entry(id.encode(), text.encode(), self._rest)
        request = scheduler.ScheduleTasksRequest()
        request.CopyFrom(self._template)
        task = request.tasks[0]
        task.id = id
        if data:
            task.data = data
        else:
            task.payload = text
        if form:
            task.payload_form = form  # type: ignore[assignment] # The number of the enum's value.
        if self._encryption is not None:
            encrypt(task, self._encryption)
        return id, request.SerializeToString()

    def unencrypted(self, item: object) -> tuple[str, str, tuple[str, bytes, int]]:
        """Returns (handler, range of versions, (text, data, form)) of a payload, or a NewTask.

        They are as `task` would make them without a codec.

        Raises:
            InvalidArgument: when it cannot be encoded.
        """
        handler, wanted = self._options.get("handler", ""), self._options.get("plugin_version", "")
        if isinstance(item, models.NewTask):
            if item.handler is not None:
                handler = handler_name(item.handler)
            if item.plugin_version is not None:
                wanted = version_range(item.plugin_version)
            item = item.payload
        return handler, wanted, encode_payload(item)

    def now_ms(self) -> int:
        """The time of this machine, in milliseconds since the epoch."""
        return moment_ms(self._now(), "delay")


def task_fields(task: models.NewTask) -> dict[str, Any]:
    """Returns the fields of a Task that a NewTask sets, except its id and its payload: {name: value}.

    Raises:
        InvalidArgument: when a field is at fault.
    """
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
        fields["run_at_ms"] = moment_ms(task.run_at, "run_at")
    if task.delay is not None:
        fields["delay_ms"] = duration_ms(task.delay, "delay")
    if task.time_limit is not None:
        fields["time_limit_ms"] = duration_ms(task.time_limit, "time_limit")
    if task.expires_at is not None:
        fields["expires_at_ms"] = moment_ms(task.expires_at, "expires_at")
    if task.expires_in is not None:
        fields["expires_in_ms"] = duration_ms(task.expires_in, "expires_in")
    if task.retry is not None:
        fields["retry"] = _retry_to_wire(task.retry)
    if task.concurrency_key is not None:
        fields["concurrency_key"] = task.concurrency_key
    if task.plugin_version is not None:
        fields["plugin_version"] = version_range(task.plugin_version)
    if task.unique is not None:
        if not arguments.text(task.unique, "unique"):
            raise InvalidArgument.of("unique", "is empty; 1 to 256 bytes are needed, or None for no key")
        fields["unique_key"] = task.unique
    if task.unique_for is not None:
        fields["unique_for_ms"] = duration_ms(task.unique_for, "unique_for")
    if task.on_lost is not None:
        fields["on_lost"] = _on_lost(task.on_lost)
    if task.after is not None:
        fields["after"] = _ids(task.after, "after")
    if task.after_rule is not None:
        fields["after_rule"] = _after_rule(task.after_rule)
    if task.group is not None and task.group is not False:
        children = None if task.group is True else task.group
        fields["group"] = arguments.message(scheduler.GroupOptions, within="group.", children=children)
    return fields


def _varint(number: int) -> bytes:
    said = bytearray()
    while number > 0x7F:
        said.append(number & 0x7F | 0x80)
        number >>= 7
    said.append(number)
    return bytes(said)


#: The lengths that most fields have, as they precede them.
_LENGTHS = tuple(map(_varint, range(256)))


def _entry(id: bytes, payload: bytes, rest: bytes) -> bytes:
    """Serializes a ScheduleTasksRequest of one task, byte for byte as protobuf does.

    Programs that schedule many tasks spend much of their time here; to make messages takes three times as long.

    Args:
        id: the task's id, of 36 bytes.
        payload: its payload, of at least one byte.
        rest: the fields after payload, serialized.
    """
    size = len(payload)
    task = b"\x0a\x24%b\x12%b%b%b" % (id, _LENGTHS[size] if size < 256 else _varint(size), payload, rest)
    size = len(task)
    return b"\x0a%b%b" % (_LENGTHS[size] if size < 256 else _varint(size), task)


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


def version_range(wanted: str) -> str:
    """Returns a range of versions, which may be empty.

    Raises:
        InvalidArgument: when it is none.
    """
    # packaging is imported by those who use it.
    from gowork.base.version_ranges import fault_of

    if arguments.text(wanted, "plugin_version") and (fault := fault_of(wanted)):
        raise InvalidArgument.of("plugin_version", fault)
    return wanted


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


def drain_request(id: str, budget: models.Duration | None) -> cluster.DrainRequest:
    """Makes a request to drain. A budget of 0 is sent as 1 ms, because 0 on the wire means the worker's own setting.

    Raises:
        InvalidArgument: when the budget is negative or not a number.
    """
    budget_ms = 0 if budget is None else max(1, duration_ms(budget, "budget"))
    return arguments.message(cluster.DrainRequest, id=id, budget_ms=budget_ms)


def update_request(
    id: str,
    *,
    priority: models.Priority | str | None,
    queue: str | None,
    run_at: models.Moment | None,
    delay: models.Duration | None,
    expires_at: models.Moment | None,
    expires_in: models.Duration | None,
) -> scheduler.UpdateTaskRequest:
    """Makes a request to change a task. None leaves a field as it is.

    Raises:
        InvalidArgument: when nothing is to be changed, or a field is at fault.
    """
    changed = models.NewTask(
        priority=priority,  # type: ignore[arg-type] # Any text is checked.
        queue=queue,
        run_at=run_at,
        delay=delay,
        expires_at=expires_at,
        expires_in=expires_in,
    )
    fields = task_fields(changed)
    if not fields:
        names = "priority, queue, run_at, delay, expires_at or expires_in"
        raise InvalidArgument.of("priority", f"and all others are None; give {names}")
    return arguments.message(scheduler.UpdateTaskRequest, id=id, **fields)


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


def view_to_wire(view: models.TaskView) -> scheduler.TaskView.ValueType:
    """Converts a TaskView to the wire."""
    return scheduler.TaskView.Value(f"TASK_VIEW_{models.TaskView(view)}")


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


def _priority(priority: models.Priority | str) -> scheduler.TaskPriority.ValueType:
    known = models.Priority.__members__.get(arguments.text(priority, "priority").upper())
    if known is None or known is models.Priority.UNSPECIFIED:
        raise InvalidArgument.of("priority", f"{priority!r} is none of LOW, MEDIUM and HIGH")
    return scheduler.TaskPriority.Value(f"TASK_PRIORITY_{known}")


def _on_lost(word: models.OnLost | str) -> scheduler.OnLost.ValueType:
    known = models.OnLost.__members__.get(arguments.text(word, "on_lost").upper())
    if known is None or known is models.OnLost.UNSPECIFIED:
        raise InvalidArgument.of("on_lost", f"{word!r} is neither AGAIN nor FAIL")
    return scheduler.OnLost.Value(f"ON_LOST_{known}")


def _after_rule(word: models.AfterRule | str) -> scheduler.AfterRule.ValueType:
    known = models.AfterRule.__members__.get(arguments.text(word, "after_rule").upper())
    if known is None or known is models.AfterRule.UNSPECIFIED:
        raise InvalidArgument.of("after_rule", f"{word!r} is neither ALL_COMPLETED, ALL_FINISHED nor ANY_FAILED")
    return scheduler.AfterRule.Value(f"AFTER_RULE_{known}")


def _ids(tasks: Iterable[Any], field: str) -> list[str]:
    """Returns the ids of tasks, which are given by ids or by handles."""
    found = [getattr(each, "id", each) for each in arguments.many(tasks, field)]
    return [arguments.text(id, f"{field}[{place}]") for place, id in enumerate(found)]


def moment_ms(moment: models.Moment, field: str) -> int:
    """Returns a moment in milliseconds since the Unix epoch.

    Raises:
        InvalidArgument: when it is neither a number nor a datetime with a time zone.
    """
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise InvalidArgument.of(
                field, f"{moment} has no time zone; use datetime.now(timezone.utc) or .astimezone()"
            )
        moment = moment.timestamp()
    if not _between(0, moment, 1e12):
        raise InvalidArgument.of(field, f"{moment!r} is neither a datetime nor a time in seconds since 1970")
    return round(moment * 1000)


def _between(least: float, value: Any, end: float) -> bool:
    """Whether the value is a number from `least` to below `end`. NaN is not."""
    try:
        return bool(least <= value < end)
    except TypeError:
        return False

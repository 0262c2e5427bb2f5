"""Translates scheduler.v1.Task, as it is sent and stored, into the core's Spec and back.

Owns which fields of a task say what is asked for. A stored task is `Spec.body + Spec.trace`, because messages merge by
concatenation. Equal bodies mean the same task, so bodies are serialized deterministically.
"""

from __future__ import annotations

from typing import Literal

from gowork.leader._core.model import AfterRule, Group, LaneKey, OnLost, Priority, RetryPolicy, Spec
from gowork.leader._core.ranges import RANGE_KEY
from gowork.leader._wire.rests import Rests, behind_payload
from gowork.proto.limits import TIME_MS_MAX
from gowork.proto.scheduler.v1 import scheduler_pb2

#: The queue of a task that names none.
DEFAULT_QUEUE = "default"
#: Fields of Task that only the leader sets.
_OUTPUT_ONLY = tuple(
    field.name
    for field in scheduler_pb2.Task.DESCRIPTOR.fields
    if 20 <= field.number <= 33 or field.name in ("status", "changed_at_ms", "changed_fields", "is_waiting")
)
#: Fields that go to Spec.trace: they travel with a task, and tasks that differ in them are the same task.
_ASIDE: tuple[Literal["traceparent", "tracestate", "payload_form"], ...] = ("traceparent", "tracestate", "payload_form")
#: A task with no higher field, and no status, has nothing to take out.
_HIGHEST_PLAIN_FIELD = 14

_ON_LOST = {int(known): known for known in OnLost}
_AFTER_RULES = {int(known): known for known in AfterRule}

_RawKey = tuple[str, int, str, tuple[tuple[str, str], ...], str]
#: Equal keys share one object, because lanes are few and tasks are many.
_lanes: dict[_RawKey, LaneKey] = {}
_LANES_KEPT_MAX = 100_000
#: What stored tasks asked for.
_stored = Rests()


def spec_from(task: scheduler_pb2.Task, trace: bytes = b"") -> Spec:
    """Returns what a checked task asks for.

    It drops output-only fields from the message, and puts the range of versions into the selector. Unknown fields go
    through to the worker, which may know them.

    Args:
        task: the message, which is changed.
        trace: the trace context, as Spec.trace has it, of a task without one of its own.
    """
    fields = task.ListFields()
    if fields and (fields[-1][0].number > _HIGHEST_PLAIN_FIELD or task.HasField("status")):
        for name in _OUTPUT_ONLY:
            task.ClearField(name)  # type: ignore[arg-type]
        trace = (trace_from(task) or trace) + _form_bytes(task)
        for name in _ASIDE:
            task.ClearField(name)
        if task.plugin_version:
            # Kept in the selector: see `ranges`.
            task.selector[RANGE_KEY] = task.plugin_version
            task.ClearField("plugin_version")
    return _spec_of(task, task.SerializeToString(deterministic=True), trace)


def stored_spec(stored: bytes, created_ms: int) -> Spec:
    """Returns what a stored task asked for.

    Args:
        stored: its `Spec.body + Spec.trace`.
        created_ms: when it was submitted; its lengths of time count from then.

    Raises:
        google.protobuf.message.DecodeError: the bytes are not a task.
    """
    behind = behind_payload(stored)
    known = _stored.spec(stored, behind)
    if known is not None:
        return known.reckoned(created_ms)
    task = scheduler_pb2.Task.FromString(stored)
    body, trace = stored, b""
    if task.traceparent or task.payload_form:
        trace = trace_from(task) + _form_bytes(task)
        body = stored.removesuffix(trace)
        if len(body) == len(stored):
            # A leader that did not know these fields kept them inside the body. There they stay.
            trace = b""
    spec = _spec_of(task, body, trace)
    if not task.traceparent:
        _stored.remember(stored, behind, spec)
    return spec.reckoned(created_ms)


def form_of(spec: Spec, task: scheduler_pb2.Task) -> int:
    """Returns the form of a task's payload. `task` is its body as a message."""
    return scheduler_pb2.Task.FromString(spec.trace).payload_form or task.payload_form


def respecified(task: scheduler_pb2.Task, before: Spec, created_ms: int, form: int | None = None) -> Spec:
    """Returns what a task asks for that was changed.

    Args:
        task: `before.body` as a message, with other fields.
        before: what it asked for until now.
        created_ms: when it was submitted; its lengths of time count from then.
        form: the form of its payload; None: that of before.
    """
    trace = before.trace
    if form is not None:
        task.ClearField("payload_form")
        aside = scheduler_pb2.Task.FromString(trace)
        trace = trace_from(aside) + _form_bytes(scheduler_pb2.Task(payload_form=form))  # type: ignore[arg-type]
    return _spec_of(task, task.SerializeToString(deterministic=True), trace).reckoned(created_ms)


def trace_from(message: scheduler_pb2.Task | scheduler_pb2.ScheduleTasksRequest) -> bytes:
    """Returns the checked trace context of a task, or of a batch, as Spec.trace has it."""
    return trace_bytes(message.traceparent, message.tracestate)


def trace_bytes(traceparent: str, tracestate: str) -> bytes:
    """Returns a trace context as Spec.trace has it. Both arguments are empty when there is none."""
    if not traceparent:
        return b""
    return scheduler_pb2.Task(traceparent=traceparent, tracestate=tracestate).SerializeToString(deterministic=True)


def retry_of(policy: scheduler_pb2.RetryPolicy) -> RetryPolicy:
    """Returns a checked policy as the core has it, with defaults filled in."""
    return RetryPolicy(
        policy.max_attempts or 1,
        policy.initial_delay_ms or 1000,
        policy.factor or 2.0,
        policy.max_delay_ms or 300_000,
        policy.jitter,
        tuple(policy.no_retry),
    )


def on_lost_of(number: int) -> OnLost | None:
    """Returns what a task, or its handler, says of losses; None: nothing, or what only a later version knows."""
    return _ON_LOST.get(number)


def _form_bytes(task: scheduler_pb2.Task) -> bytes:
    """Returns the form of the payload, which follows the trace context in Spec.trace."""
    form = task.payload_form
    return scheduler_pb2.Task(payload_form=form).SerializeToString(deterministic=True) if form else b""


def _spec_of(task: scheduler_pb2.Task, body: bytes, trace: bytes) -> Spec:
    """Returns the Spec of a message. `body` is its serialized form without the fields that go to `trace`."""
    selector = tuple(sorted(task.selector.items())) if task.selector else ()
    key = (task.queue, task.priority, task.handler, selector, task.concurrency_key)
    run_at_ms, expires_at_ms = task.run_at_ms, task.expires_at_ms
    return Spec(
        task.id,
        _lanes.get(key) or _lane_of(key),
        body,
        # Stores of gowork 0.1.0 may hold later times than a leader accepts today.
        run_at_ms if run_at_ms < TIME_MS_MAX else TIME_MS_MAX,
        expires_at_ms if expires_at_ms < TIME_MS_MAX else TIME_MS_MAX,
        retry_of(task.retry) if task.HasField("retry") else None,
        tuple(sorted(task.labels.items())) if task.labels else (),
        bool(task.data),
        trace,
        task.delay_ms,
        task.expires_in_ms,
        task.time_limit_ms,
        task.unique_key,
        task.unique_for_ms,
        on_lost_of(task.on_lost),
        tuple(dict.fromkeys(task.after)) if task.after else (),
        _AFTER_RULES.get(task.after_rule, AfterRule.ALL_COMPLETED),
        group_of(task) if task.HasField("group") else None,
    )


def group_of(task: scheduler_pb2.Task) -> Group:
    """Returns what makes the task a group."""
    return Group(task.group.children if task.group.HasField("children") else None)


def _lane_of(key: _RawKey) -> LaneKey:
    queue, priority, handler, selector, concurrency_key = key
    if len(_lanes) >= _LANES_KEPT_MAX:
        _lanes.clear()
    lane = _lanes[key] = LaneKey(
        queue or DEFAULT_QUEUE, Priority(priority or Priority.LOW), handler, selector, concurrency_key
    )
    return lane

"""Turns stored bytes into the core's values and back.

Standings and settings of queues are msgpack arrays that only grow at their end; bodies are scheduler.v1.Task.

Beside `rpc.mapping` the only place of the leader that touches protobuf: a record is parsed when a task comes back
into memory.
"""

from __future__ import annotations

import msgspec
from google.protobuf.message import DecodeError

from gowork.leader._core.model import PENDING, LaneKey, Priority, QueueSettings, RetryPolicy, Spec, Standing, Task
from gowork.leader.store.protocol import MovedTask, NewTask, Record, StoreFormatError
from gowork.proto.limits import TIME_MS_MAX
from gowork.proto.scheduler.v1 import scheduler_pb2

DEFAULT_QUEUE = "default"

_decoder = msgspec.msgpack.Decoder(Standing)
_settings_decoder = msgspec.msgpack.Decoder(QueueSettings)
_RawKey = tuple[str, int, str, tuple[tuple[str, str], ...], str]
#: Lanes are few and tasks are many: equal keys are one object.
_lanes: dict[_RawKey, LaneKey] = {}
_LANES_KEPT_MAX = 100_000

encode_standing = encode_settings = msgspec.msgpack.Encoder().encode


def decode_standing(data: bytes) -> Standing:
    """Reads what encode_standing wrote.

    Raises:
        msgspec.DecodeError: when the bytes are no standing.
    """
    return _decoder.decode(data)


def decode_settings(data: bytes) -> QueueSettings:
    """Reads what encode_settings wrote.

    Raises:
        msgspec.DecodeError: when the bytes are no settings.
    """
    return _settings_decoder.decode(data)


def at_ms(standing: Standing) -> int:
    """The one time of a standing that scans go by: when a pending task is due, when a finished one finished, else 0."""
    return standing.not_before_ms if standing.status is PENDING else standing.finished_ms


def spec_of(task: scheduler_pb2.Task, body: bytes, trace: bytes = b"") -> Spec:
    """The core's view of a checked task.

    Args:
        task: the message; output-only fields and the trace context are ignored.
        body: its serialized form without them.
        trace: as Spec.trace.
    """
    selector = tuple(sorted(task.selector.items())) if task.selector else ()
    key = (task.queue, task.priority, task.handler, selector, task.concurrency_key)
    return Spec(
        task.id,
        _lanes.get(key) or _lane_of(key),
        body,
        # Stores of gowork 0.1.0 may hold later moments than are taken today.
        min(task.run_at_ms, TIME_MS_MAX),
        min(task.expires_at_ms, TIME_MS_MAX),
        retry_of(task.retry) if task.HasField("retry") else None,
        tuple(sorted(task.labels.items())) if task.labels else (),
        bool(task.data),
        trace,
        task.delay_ms,
        task.expires_in_ms,
        task.time_limit_ms,
    )


def trace_bytes(traceparent: str, tracestate: str) -> bytes:
    """A trace context as Spec.trace has it; both are empty where there is none."""
    if not traceparent:
        return b""
    return scheduler_pb2.Task(traceparent=traceparent, tracestate=tracestate).SerializeToString(deterministic=True)


def form_bytes(task: scheduler_pb2.Task) -> bytes:
    """What Spec.trace has behind the trace context: the form of the payload."""
    form = task.payload_form
    return scheduler_pb2.Task(payload_form=form).SerializeToString(deterministic=True) if form else b""


def _lane_of(key: _RawKey) -> LaneKey:
    queue, priority, handler, selector, concurrency_key = key
    if len(_lanes) >= _LANES_KEPT_MAX:
        _lanes.clear()
    lane = _lanes[key] = LaneKey(
        queue or DEFAULT_QUEUE, Priority(priority or Priority.LOW), handler, selector, concurrency_key
    )
    return lane


def retry_of(policy: scheduler_pb2.RetryPolicy) -> RetryPolicy:
    """The core's view of a checked policy, with defaults filled in."""
    return RetryPolicy(
        policy.max_attempts or 1,
        policy.initial_delay_ms or 1000,
        policy.factor or 2.0,
        policy.max_delay_ms or 300_000,
        policy.jitter,
        tuple(policy.no_retry),
    )


def restore(record: Record) -> Task:
    """The task of a record.

    Raises:
        StoreFormatError: when its body can't be read.
    """
    try:
        task = scheduler_pb2.Task.FromString(record.body)
    except DecodeError as error:
        message = f"the store is damaged: what it has of task {record.id!r} can't be read; start from a backup"
        raise StoreFormatError(message) from error
    body, trace = record.body, b""
    if task.traceparent or task.payload_form:
        whole, trace = body, trace_bytes(task.traceparent, task.tracestate) + form_bytes(task)
        body = whole.removesuffix(trace)
        if len(body) == len(whole):
            # It is among the fields of the body, as a leader kept it that did not know it: there it stays.
            trace = b""
    spec = spec_of(task, body, trace).reckoned(record.standing.created_ms)
    return Task(record.seq, spec, record.standing, record.changed)


def new_task(task: Task) -> NewTask:
    """What the store writes of a task that it does not have yet."""
    spec = task.spec
    record = Record(task.seq, spec.id, task.changed, spec.body + spec.trace, task.standing)
    return NewTask(record, spec.lane, spec.labels, spec.expires_at_ms)


def moved_task(task: Task) -> MovedTask:
    """What the store writes of a task that it has."""
    standing = task.standing
    if standing.status is PENDING:
        # Whether it had finished before can't be seen any more.
        return MovedTask(task.seq, task.changed, standing, task.spec.lane, task.spec.expires_at_ms)
    return MovedTask(task.seq, task.changed, standing)

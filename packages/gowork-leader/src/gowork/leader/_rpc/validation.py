"""Checks requests against the limits of the contract. Every error names the field and the limit.

It knows nothing of the cluster's state. The core decides what depends on that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from operator import attrgetter

from gowork.base import version_ranges
from gowork.base.channels import AddressError, parse_address
from gowork.base.trace_context import is_traceparent, is_tracestate
from gowork.leader.log.protocol import TERM_BITS
from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.status import FieldViolation, invalid
from gowork.proto.worker.v1 import session_pb2

Violations = list[FieldViolation]
_PRIORITIES = frozenset(scheduler_pb2.TaskPriority.values())
_ON_LOST = frozenset(scheduler_pb2.OnLost.values())
_AFTER_RULES = frozenset(scheduler_pb2.AfterRule.values())
_VIEWS = frozenset(scheduler_pb2.TaskView.values())
_HEARTBEATS = frozenset(leader_pb2.HeartbeatStatus.values()) - {leader_pb2.HEARTBEAT_STATUS_UNSPECIFIED}
_HELD_STATES = frozenset(session_pb2.HeldState.values())
#: (field of a task, its maximum in milliseconds)
_TIMES = (
    ("run_at_ms", limits.TIME_MS_MAX),
    ("time_limit_ms", limits.DURATION_MS_MAX),
    ("expires_at_ms", limits.TIME_MS_MAX),
    ("delay_ms", limits.DURATION_MS_MAX),
    ("expires_in_ms", limits.DURATION_MS_MAX),
    ("unique_for_ms", limits.DURATION_MS_MAX),
)
_times_of = attrgetter(*(name for name, _ in _TIMES))
#: A name, or an IP address.
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
#: The longest HOST:PORT: a name of 253 bytes (RFC 1035), brackets, a colon and a port.
_ADDRESS_BYTES_MAX = 262


def check_id(id: str, field: str, violations: Violations) -> None:
    """Checks the id of a task or a member: 1 to 256 bytes, printable."""
    if not id:
        violations.append(FieldViolation(field, "is empty; 1 to 256 bytes are needed"))
    elif not id.isprintable():
        violations.append(FieldViolation(field, f"has the unprintable character {_unprintable(id)}"))
    elif len(id) > limits.ID_BYTES_MAX or (not id.isascii() and len(id.encode()) > limits.ID_BYTES_MAX):
        violations.append(FieldViolation(field, f"has {len(id.encode())} bytes; the limit is {limits.ID_BYTES_MAX}"))


def check_term(term: int, violations: Violations, field: str = "term") -> None:
    """Checks the number of a term, which may be 0."""
    if not 0 <= term < 1 << TERM_BITS:
        violations.append(FieldViolation(field, f"is {term}; 0 to {(1 << TERM_BITS) - 1} are allowed"))


def check_wait_for_leader(request: leader_pb2.LeadersRequest, violations: Violations) -> None:
    """Checks how long a caller waits for a leader of a later term, and of which."""
    if not 0 <= request.wait_ms <= limits.LEADERS_WAIT_MS_MAX:
        violations.append(
            FieldViolation("wait_ms", f"is {request.wait_ms}; 0 to {limits.LEADERS_WAIT_MS_MAX} are allowed")
        )
    check_term(request.after_term, violations, "after_term")


def require_id(id: str) -> None:
    """Checks the id of a call whose only argument is the field `id`.

    Raises:
        Refusal: INVALID_ARGUMENT: it is not a valid id.
    """
    violations: Violations = []
    check_id(id, "id", violations)
    if violations:
        raise invalid(violations)


def check_task(task: scheduler_pb2.Task, prefix: str, violations: Violations) -> None:
    """Checks a task that a client schedules. `prefix` goes before the names of its fields, as in `tasks[3].`."""
    check_id(task.id, f"{prefix}id", violations)
    payload, data = task.payload, task.data
    if payload:
        # A character takes at most 4 bytes, so most payloads need not be encoded to be counted.
        if len(payload) * 4 > limits.PAYLOAD_BYTES_MAX:
            _check_size(len(payload.encode()), f"{prefix}payload", violations)
        if data:
            violations.append(FieldViolation(f"{prefix}data", "and payload are both set; set one of them"))
    elif not data and not task.handler and not task.HasField("group"):
        violations.append(
            FieldViolation(f"{prefix}payload", "is empty on a task that names no handler; set payload, data or handler")
        )
    if data:
        _check_size(len(data), f"{prefix}data", violations)
    if task.priority not in _PRIORITIES:
        violations.append(
            FieldViolation(
                f"{prefix}priority", f"has the unknown value {task.priority}; use 1 (LOW), 2 (MEDIUM) or 3 (HIGH)"
            )
        )
    if task.on_lost not in _ON_LOST:
        violations.append(
            FieldViolation(f"{prefix}on_lost", f"has the unknown value {task.on_lost}; use 1 (AGAIN) or 2 (FAIL)")
        )
    _check_name(task.handler, f"{prefix}handler", violations)
    _check_name(task.queue, f"{prefix}queue", violations)
    if task.concurrency_key:
        _check_name(task.concurrency_key, f"{prefix}concurrency_key", violations)
    if task.unique_key:
        _check_name(task.unique_key, f"{prefix}unique_key", violations, limits.UNIQUE_KEY_BYTES_MAX)
    elif task.unique_for_ms:
        violations.append(FieldViolation(f"{prefix}unique_for_ms", "is set without a unique_key; set both, or none"))
    if task.after or task.after_rule or task.HasField("group"):
        _check_after(task, prefix, violations)
    if task.labels:
        check_labels(task.labels, f"{prefix}labels", violations)
    if task.selector:
        check_labels(task.selector, f"{prefix}selector", violations)
    if task.plugin_version and (fault := version_ranges.fault_of(task.plugin_version)):
        violations.append(FieldViolation(f"{prefix}plugin_version", fault))
    times = _times_of(task)
    # Most tasks have none.
    if any(times):
        for (name, most), value in zip(_TIMES, times, strict=True):
            if not 0 <= value <= most:
                violations.append(FieldViolation(f"{prefix}{name}", _out_of_time(value, most)))
        if task.delay_ms and task.run_at_ms:
            violations.append(FieldViolation(f"{prefix}delay_ms", "and run_at_ms are both set; set one of them"))
        if task.expires_in_ms and task.expires_at_ms:
            violations.append(
                FieldViolation(f"{prefix}expires_in_ms", "and expires_at_ms are both set; set one of them")
            )
    if task.HasField("retry"):
        check_retry(task.retry, f"{prefix}retry.", violations)
    if task.traceparent or task.tracestate:
        check_trace(task.traceparent, task.tracestate, prefix, violations)


def _check_after(task: scheduler_pb2.Task, prefix: str, violations: Violations) -> None:
    if len(task.after) > limits.AFTER_MAX:
        message = f"has {len(task.after)} ids; the limit is {limits.AFTER_MAX}"
        violations.append(FieldViolation(f"{prefix}after", message))
    for place, id in enumerate(task.after[: limits.AFTER_MAX]):
        check_id(id, f"{prefix}after[{place}]", violations)
        if id == task.id:
            violations.append(FieldViolation(f"{prefix}after[{place}]", "is the id of the task itself"))
    if task.HasField("group"):
        _check_group(task, prefix, violations)
    elif task.after_rule and not task.after:
        violations.append(
            FieldViolation(f"{prefix}after_rule", "is set without after and group; set one of these, too")
        )
    if task.after_rule not in _AFTER_RULES:
        message = f"has the unknown value {task.after_rule}; use 1 (ALL_COMPLETED), 2 (ALL_FINISHED) or 3 (ANY_FAILED)"
        violations.append(FieldViolation(f"{prefix}after_rule", message))


def _check_group(task: scheduler_pb2.Task, prefix: str, violations: Violations) -> None:
    check_children(task.group, f"{prefix}group.children", violations)
    if not task.handler and (task.payload or task.data):
        field = "payload" if task.payload else "data"
        violations.append(
            FieldViolation(
                f"{prefix}{field}", "is set on a group that names no handler, which nobody runs; set a handler"
            )
        )


def check_children(
    message: scheduler_pb2.GroupOptions | scheduler_pb2.SealGroupRequest, field: str, violations: Violations
) -> None:
    """Checks how many children a group is to have."""
    if not 0 <= message.children <= limits.CHILDREN_MAX:
        violations.append(FieldViolation(field, f"is {message.children}; it must be from 0 to {limits.CHILDREN_MAX}"))


def check_update(request: scheduler_pb2.UpdateTaskRequest, violations: Violations) -> None:
    """Checks what is to be changed of a task."""
    check_id(request.id, "id", violations)
    if not any(field.name != "id" for field, _ in request.ListFields()):
        names = "priority, queue, run_at_ms, delay_ms, expires_at_ms, expires_in_ms"
        violations.append(FieldViolation("priority", f"and all other fields are missing; set one of {names}"))
    if request.HasField("priority") and request.priority not in _PRIORITIES - {0}:
        description = f"has the unknown value {request.priority}; use 1 (LOW), 2 (MEDIUM) or 3 (HIGH)"
        violations.append(FieldViolation("priority", description))
    _check_name(request.queue, "queue", violations)
    for name, most in _TIMES:
        value = getattr(request, name, 0)
        if not 0 <= value <= most:
            violations.append(FieldViolation(name, _out_of_time(value, most)))
    if request.HasField("expires_in_ms") and not request.expires_in_ms:
        # As a time, 0 means never. Nobody means "at once" by it.
        violations.append(
            FieldViolation("expires_in_ms", "is 0; at least 1 is needed. For never, set expires_at_ms to 0")
        )
    if request.HasField("delay_ms") and request.HasField("run_at_ms"):
        violations.append(FieldViolation("delay_ms", "and run_at_ms are both set; set one of them"))
    if request.HasField("expires_in_ms") and request.HasField("expires_at_ms"):
        violations.append(FieldViolation("expires_in_ms", "and expires_at_ms are both set; set one of them"))


def check_retry_task(request: scheduler_pb2.RetryTaskRequest, violations: Violations) -> None:
    """Checks which task is to run again, and with what."""
    check_id(request.id, "id", violations)
    has_payload, has_data = request.HasField("payload"), request.HasField("data")
    if has_payload and has_data:
        violations.append(FieldViolation("data", "and payload are both set; set one of them"))
    if (has_payload or has_data) and not (request.payload or request.data or request.handler):
        description = "is empty and no handler is named; set payload, data or handler"
        violations.append(FieldViolation("payload" if has_payload else "data", description))
    _check_size(len(request.payload.encode()), "payload", violations)
    _check_size(len(request.data), "data", violations)
    _check_name(request.handler, "handler", violations)


def check_trace(traceparent: str, tracestate: str, prefix: str, violations: Violations) -> None:
    """Checks the trace context of a task or a batch."""
    if not traceparent:
        violations.append(FieldViolation(f"{prefix}traceparent", "is empty beside a tracestate; set both, or none"))
    elif not is_traceparent(traceparent):
        violations.append(
            FieldViolation(
                f"{prefix}traceparent",
                f"is {traceparent[:80]!r}; the form of the W3C is needed, of at most {limits.TRACEPARENT_BYTES_MAX} "
                f"bytes, as in 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
        )
    if not is_tracestate(tracestate):
        violations.append(
            FieldViolation(
                f"{prefix}tracestate",
                f"has {len(tracestate.encode())} bytes; printable ASCII is needed, and the limit is "
                f"{limits.TRACESTATE_BYTES_MAX} bytes",
            )
        )


def check_follow_ups(tasks: Sequence[scheduler_pb2.Task]) -> str:
    """Returns what is wrong with the first follow-up at fault, with its place; empty when nothing is."""
    if len(tasks) > limits.FOLLOW_UPS_MAX:
        return f"there are {len(tasks)}; the limit is {limits.FOLLOW_UPS_MAX}"
    violations: Violations = []
    for place, task in enumerate(tasks):
        check_task(task, f"follow_ups[{place}].", violations)
        if violations:
            return f"{violations[0].field}: {violations[0].description}"
    return ""


def check_retry(policy: scheduler_pb2.RetryPolicy, prefix: str, violations: Violations) -> None:
    """Checks a retry policy, in which zeros mean the defaults."""
    bounds: list[tuple[str, float, float]] = [
        ("max_attempts", 0, limits.ATTEMPTS_MAX),
        ("initial_delay_ms", 0, limits.RETRY_DELAY_MS_MAX),
        ("max_delay_ms", 0, limits.RETRY_DELAY_MS_MAX),
        ("jitter", 0, 1),
    ]
    if policy.factor:
        bounds.append(("factor", 1, limits.RETRY_FACTOR_MAX))
    for name, least, most in bounds:
        value = getattr(policy, name)
        # Written so that a NaN is out of bounds too.
        if not least <= value <= most:
            violations.append(FieldViolation(f"{prefix}{name}", f"is {value:g}; {least:g} to {most:g} is needed"))
    if len(policy.no_retry) > limits.NO_RETRY_NAMES_MAX:
        violations.append(
            FieldViolation(
                f"{prefix}no_retry", f"has {len(policy.no_retry)} names; the limit is {limits.NO_RETRY_NAMES_MAX}"
            )
        )
    for place, name in enumerate(policy.no_retry[: limits.NO_RETRY_NAMES_MAX]):
        _check_name(name, f"{prefix}no_retry[{place}]", violations)


def check_labels(labels: Mapping[str, str], field: str, violations: Violations) -> None:
    """Checks the labels of a task or a member, or a selector."""
    if len(labels) > limits.LABELS_MAX:
        violations.append(FieldViolation(field, f"has {len(labels)} entries; the limit is {limits.LABELS_MAX}"))
        return
    for key, value in labels.items():
        if not key or len(key.encode()) > limits.LABEL_KEY_BYTES_MAX or not key.isprintable():
            violations.append(
                FieldViolation(
                    field, f"has the key {key[:80]!r}; keys are 1 to {limits.LABEL_KEY_BYTES_MAX} bytes, printable"
                )
            )
        if len(value.encode()) > limits.LABEL_VALUE_BYTES_MAX or not value.isprintable():
            violations.append(
                FieldViolation(
                    f"{field}[{key[:80]!r}]",
                    f"is too long or unprintable; values are up to {limits.LABEL_VALUE_BYTES_MAX} bytes, printable",
                )
            )


def check_address(address: str, field: str, violations: Violations) -> None:
    """Checks the address at which a callback worker is dialled."""
    if not address:
        violations.append(FieldViolation(field, "is empty; HOST:PORT is needed"))
        return
    if not address.isprintable():
        violations.append(FieldViolation(field, f"has the unprintable character {_unprintable(address)}"))
        return
    if len(address.encode()) > _ADDRESS_BYTES_MAX:
        violations.append(
            FieldViolation(field, f"has {len(address.encode())} bytes; the limit is {_ADDRESS_BYTES_MAX}")
        )
        return
    try:
        host, port = parse_address(address)
    except AddressError as error:
        violations.append(FieldViolation(field, str(error)[:200]))
        return
    if not _HOST.fullmatch(host):
        # gRPC takes addresses for URIs, and would go elsewhere than their host says.
        violations.append(FieldViolation(field, f"has the host {host[:80]!r}, which is no IP address and no name"))
        return
    if port == 0:
        violations.append(FieldViolation(field, "has the port 0; the port that the member listens on is needed"))


def check_handler_name(name: str, field: str, violations: Violations) -> None:
    """Checks the name of a handler that is looked for; empty: any."""
    _check_name(name, field, violations)


def check_hello(hello: session_pb2.Hello, violations: Violations) -> None:
    """Checks a worker's Hello."""
    check_id(hello.name, "hello.name", violations)
    check_id(hello.instance, "hello.instance", violations)
    if not 1 <= hello.slots <= limits.SLOTS_MAX:
        violations.append(FieldViolation("hello.slots", f"is {hello.slots}; 1 to {limits.SLOTS_MAX} is needed"))
    if len(hello.handlers) > limits.HANDLERS_MAX:
        violations.append(
            FieldViolation("hello.handlers", f"has {len(hello.handlers)} handlers; the limit is {limits.HANDLERS_MAX}")
        )
    for place, handler in enumerate(hello.handlers[: limits.HANDLERS_MAX]):
        prefix = f"hello.handlers[{place}]."
        if not handler.name:
            violations.append(FieldViolation(f"{prefix}name", "is empty"))
        _check_name(handler.name, f"{prefix}name", violations)
        if handler.HasField("retry"):
            check_retry(handler.retry, f"{prefix}retry.", violations)
        if len(handler.schedules) > limits.HANDLER_SCHEDULES_MAX:
            message = f"has {len(handler.schedules)} schedules; the limit is {limits.HANDLER_SCHEDULES_MAX}"
            violations.append(FieldViolation(f"{prefix}schedules", message))
    schedules = sum(len(handler.schedules) for handler in hello.handlers)
    if schedules > limits.WORKER_SCHEDULES_MAX:
        message = f"declare {schedules} schedules; the limit is {limits.WORKER_SCHEDULES_MAX}"
        violations.append(FieldViolation("hello.handlers", message))
    check_labels(hello.labels, "hello.labels", violations)
    _check_name(hello.version, "hello.version", violations)
    if len(hello.ended_instances) > limits.ENDED_INSTANCES_MAX:
        violations.append(
            FieldViolation(
                "hello.ended_instances",
                f"has {len(hello.ended_instances)} instances; the limit is {limits.ENDED_INSTANCES_MAX}",
            )
        )
    for place, instance in enumerate(hello.ended_instances[: limits.ENDED_INSTANCES_MAX]):
        check_id(instance, f"hello.ended_instances[{place}]", violations)
    if len(hello.queues) > limits.WORKER_QUEUES_MAX:
        message = f"has {len(hello.queues)} queues; the limit is {limits.WORKER_QUEUES_MAX}"
        violations.append(FieldViolation("hello.queues", message))
    for place, queue in enumerate(hello.queues[: limits.WORKER_QUEUES_MAX]):
        if not queue:
            violations.append(FieldViolation(f"hello.queues[{place}]", "is empty"))
        _check_name(queue, f"hello.queues[{place}]", violations)
    for place, held in enumerate(hello.held):
        check_id(held.id, f"hello.held[{place}].id", violations)
        if held.state not in _HELD_STATES:
            violations.append(
                FieldViolation(
                    f"hello.held[{place}].state",
                    f"has the unknown value {held.state}; use 1 (BUFFERED), 2 (RUNNING) or 3 (FINISHED)",
                )
            )


def check_queue(name: str, violations: Violations) -> None:
    """Checks the name of a queue that is to be paused, resumed or set."""
    if not name:
        violations.append(FieldViolation("name", f"is empty; 1 to {limits.NAME_BYTES_MAX} bytes are needed"))
    _check_name(name, "name", violations)


def check_queue_settings(request: scheduler_pb2.ConfigureQueueRequest, violations: Violations) -> None:
    """Checks what is to be set for a queue."""
    check_queue(request.name, violations)
    bounds = [
        ("weight", 1, limits.QUEUE_WEIGHT_MAX),
        ("concurrency_limit", 0, limits.QUEUE_LIMIT_MAX),
        ("key_concurrency_limit", 0, limits.QUEUE_LIMIT_MAX),
        ("rate_burst", 0, limits.QUEUE_LIMIT_MAX),
    ]
    for name, least, most in bounds:
        value = getattr(request, name)
        if request.HasField(name) and not least <= value <= most:  # type: ignore[arg-type]
            violations.append(FieldViolation(name, f"is {value}; {least} to {most} is needed"))
    rate = request.rate_limit
    # Written so that a NaN is out of bounds too.
    if rate != 0 and not limits.QUEUE_RATE_MIN <= rate <= limits.QUEUE_RATE_MAX:
        wanted = f"{limits.QUEUE_RATE_MIN:g} to {limits.QUEUE_RATE_MAX:g} a second, or 0 for no limit, is needed"
        violations.append(FieldViolation("rate_limit", f"is {rate:g}; {wanted}"))


def check_purge(request: scheduler_pb2.PurgeTasksRequest, violations: Violations) -> None:
    """Checks which tasks are to be removed: those with these ids, or those that a filter selects."""
    if not request.ids and not request.filter:
        violations.append(FieldViolation("ids", "and filter are both empty; give ids, or a filter"))
    if request.ids and request.filter:
        violations.append(FieldViolation("filter", "and ids are both set; set one of them"))
    if len(request.ids) > limits.BATCH_TASKS_MAX:
        violations.append(
            FieldViolation("ids", f"has {len(request.ids)} ids; the limit is {limits.BATCH_TASKS_MAX} in one call")
        )
    if not 0 <= request.finished_before_ms <= limits.TIME_MS_MAX:
        description = _out_of_time(request.finished_before_ms, limits.TIME_MS_MAX)
        violations.append(FieldViolation("finished_before_ms", description))


def check_page_size(size: int, violations: Violations) -> None:
    """Checks how many items a caller wants on a page; 0 leaves it to the leader."""
    if not 0 <= size <= limits.PAGE_ITEMS_MAX:
        violations.append(FieldViolation("page_size", f"is {size}; 0 to {limits.PAGE_ITEMS_MAX} is needed"))


def check_failures_max(number: int, violations: Violations) -> None:
    """Checks how many failed tasks a caller wants to see."""
    if not 0 <= number <= limits.FAILURES_MAX:
        violations.append(FieldViolation("failures_max", f"is {number}; 0 to {limits.FAILURES_MAX} is needed"))


def check_view(view: int, violations: Violations) -> None:
    """Checks how much of each task a caller wants to see."""
    if view not in _VIEWS:
        violations.append(
            FieldViolation("view", f"has the unknown value {view}; use 1 (BASIC), 2 (RESULT) or 3 (FULL)")
        )


def check_fraction(fraction: float, violations: Violations) -> None:
    """Checks how far a task has come."""
    # Written so that a NaN is out of bounds too.
    if not 0 <= fraction <= 1:
        violations.append(FieldViolation("fraction", f"is {fraction:g}; 0 to 1 is needed"))


def check_budget(budget_ms: int, violations: Violations) -> None:
    """Checks how long a drain may take; 0 leaves it to the worker."""
    if not 0 <= budget_ms <= limits.DRAIN_BUDGET_MS_MAX:
        violations.append(
            FieldViolation("budget_ms", f"is {budget_ms}; 0 to {limits.DRAIN_BUDGET_MS_MAX} milliseconds are needed")
        )


def check_completion(request: scheduler_pb2.TaskCompleteRequest, violations: Violations) -> None:
    """Checks a callback worker's report of how a task ended."""
    check_id(request.id, "id", violations)
    completed = request.outcome == scheduler_pb2.ATTEMPT_OUTCOME_COMPLETED
    if completed and request.HasField("error"):
        violations.append(FieldViolation("error", "must not be set with the outcome COMPLETED"))
    if request.outcome and not completed and not request.HasField("error"):
        # Without an error, a leader that does not know the outcome would take the task for done.
        violations.append(
            FieldViolation("error", "is missing; with any outcome except COMPLETED, say why the task is not done")
        )
    if request.HasField("retry"):
        check_retry(request.retry, "retry.", violations)


def check_heartbeat(status: int, violations: Violations) -> None:
    """Checks the status that a callback worker gives of itself."""
    if status not in _HEARTBEATS:
        what = f"has the unknown value {status}" if status else "is missing"
        violations.append(FieldViolation("status", f"{what}; use 1 (IDLE), 2 (BUSY) or 3 (FAILED)"))


def _check_name(name: str, field: str, violations: Violations, bytes_max: int = limits.NAME_BYTES_MAX) -> None:
    if name and (not name.isprintable() or len(name.encode()) > bytes_max):
        violations.append(FieldViolation(field, f"is {name[:80]!r}; up to {bytes_max} bytes, printable, are needed"))


def _out_of_time(value: int, most: int) -> str:
    until = "the year 9999" if most == limits.TIME_MS_MAX else "10 years"
    return f"is {value}; 0 to {most} milliseconds ({until}) are needed"


def _check_size(size: int, field: str, violations: Violations) -> None:
    if size > limits.PAYLOAD_BYTES_MAX:
        violations.append(FieldViolation(field, f"has {size} bytes; the limit is {limits.PAYLOAD_BYTES_MAX}"))


def _unprintable(text: str) -> str:
    character = next(c for c in text if not c.isprintable())
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()

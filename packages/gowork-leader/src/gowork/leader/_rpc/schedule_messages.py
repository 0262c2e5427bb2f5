"""Translates messages about schedules into the core's values and back, and checks them.

What a schedule's task may be, `validation` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from gowork.leader._access.rights import CALLER
from gowork.leader._core.calendars import SECOND_MS, At, Calendar, CalendarError, Cron, Every, check_cron
from gowork.leader._core.model import Status
from gowork.leader._core.ranges import RANGE_KEY, range_of
from gowork.leader._core.schedules import (
    Declared,
    Declarer,
    Definition,
    Overlap,
    Schedule,
    SkipReason,
    Ticks,
    tick_id,
    ticks_of,
)
from gowork.leader._rpc.validation import Violations, check_handler_name, check_task
from gowork.leader._wire.specs import DEFAULT_QUEUE, spec_from
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import FieldViolation
from gowork.proto.worker.v1 import session_pb2

#: Fields of a task that a schedule gives itself, or that say nothing of a task that is made again and again.
_NOT_OF_A_TEMPLATE = (
    "id",
    "run_at_ms",
    "delay_ms",
    "expires_at_ms",
    "traceparent",
    "tracestate",
    "after",
    "after_rule",
    "group",
)


def definition_from(
    schedule: pb.Schedule, now_ms: int | None, violations: Violations, prefix: str
) -> Definition | None:
    """Returns what a message asks for; None when something in it is wrong.

    Args:
        schedule: the message, which is changed.
        now_ms: the time; there must be a tick after it. None: there need not be any.
        violations: what is wrong goes here.
        prefix: goes before the names of its fields there, as in `schedule.`.
    """
    before = len(violations)
    check_schedule_name(schedule.name, f"{prefix}name", violations)
    calendar = _calendar_from(schedule, violations, prefix)
    _check_task(schedule, violations, f"{prefix}task")
    _check_numbers(schedule, violations, prefix)
    if len(violations) > before or calendar is None:
        return None
    definition = Definition(
        calendar,
        spec_from(schedule.task),
        Overlap(schedule.overlap or Overlap.SKIP),
        schedule.catch_up_window_ms or limits.CATCH_UP_MS_DEFAULT,
        schedule.jitter_ms,
        schedule.start_at_ms,
        schedule.end_at_ms,
        schedule.on_orphaned == pb.SCHEDULE_ORPHANED_STOP,
    )
    if now_ms is not None and next(ticks_of(definition, now_ms), None) is None:
        which = schedule.WhichOneof("when") or ""
        violations.append(FieldViolation(f"{prefix}{which}", "has no time that is to come; name a later one"))
        return None
    return definition


def declared_from(hello: session_pb2.Hello) -> tuple[tuple[Declared, ...], list[str]]:
    """Returns the schedules that a worker's handlers declare, and what is wrong with those that are left out.

    A schedule at fault must not keep a worker from its tasks.
    """
    caller = CALLER.get()
    found: dict[str, Declared] = {}
    faults: list[str] = []
    for info in hello.handlers:
        for schedule in info.schedules:
            violations: Violations = []
            if schedule.task.handler not in ("", info.name):
                violations.append(FieldViolation("task.handler", f"is not {info.name!r}, whose schedule it is"))
            if schedule.name in found:
                violations.append(FieldViolation("name", "is declared twice"))
            if caller is not None and not caller.may_queue(schedule.task.queue or DEFAULT_QUEUE):
                violations.append(FieldViolation("task.queue", f"is none into which {caller.words} may schedule"))
            schedule.task.handler = info.name
            definition = definition_from(schedule, None, violations, "")
            if violations or definition is None:
                words = "; ".join(f"{violation.field} {violation.description}" for violation in violations)
                faults.append(f"schedule {schedule.name[:80]!r} of handler {info.name!r}: {words}")
            else:
                declarer = Declarer(info.name, info.plugin, info.plugin_version)
                found[schedule.name] = Declared(schedule.name, definition, declarer)
    return tuple(found.values()), faults


def check_schedule_name(name: str, field: str, violations: Violations) -> None:
    """Checks the name of a schedule."""
    if not name:
        violations.append(FieldViolation(field, f"is empty; 1 to {limits.NAME_BYTES_MAX} bytes are needed"))
    elif "/" in name:
        violations.append(FieldViolation(field, f"is {name[:80]!r}; a name without a slash is needed"))
    check_handler_name(name, field, violations)


def check_reason(reason: str, field: str, violations: Violations) -> None:
    """Checks why a schedule is paused."""
    size = len(reason.encode())
    if size > limits.PAUSE_REASON_BYTES_MAX:
        violations.append(FieldViolation(field, f"has {size} bytes; the limit is {limits.PAUSE_REASON_BYTES_MAX}"))


def check_request_id(request_id: str, violations: Violations) -> None:
    """Checks the id of a call that triggers a schedule; empty: the leader makes one."""
    if "/" in request_id or not request_id.isprintable() or len(request_id.encode()) > limits.REQUEST_ID_BYTES_MAX:
        wanted = f"up to {limits.REQUEST_ID_BYTES_MAX} bytes, printable, without a slash, are needed"
        violations.append(FieldViolation("request_id", f"is {request_id[:80]!r}; {wanted}"))


def check_span(from_ms: int, until_ms: int, now_ms: int, violations: Violations) -> None:
    """Checks the times between which ticks are made."""
    if not 0 <= from_ms < until_ms:
        violations.append(FieldViolation("from_ms", f"is {from_ms}; a time from 0 on and before until_ms is needed"))
    if until_ms > now_ms:
        violations.append(FieldViolation("until_ms", f"is {until_ms}, which is to come; {now_ms} is the time now"))


def _calendar_from(schedule: pb.Schedule, violations: Violations, prefix: str) -> Calendar | None:
    match schedule.WhichOneof("when"):
        case "cron":
            try:
                check_cron(schedule.cron.expression, schedule.cron.time_zone)
            except CalendarError as error:
                violations.append(FieldViolation(f"{prefix}cron.{error.field}", error.description))
                return None
            return Cron(schedule.cron.expression, schedule.cron.time_zone)
        case "every":
            every, anchor = schedule.every.every_ms, schedule.every.anchor_ms
            _check_second(every, SECOND_MS, limits.DURATION_MS_MAX, f"{prefix}every.every_ms", violations)
            _check_second(anchor, 0, limits.TIME_MS_MAX, f"{prefix}every.anchor_ms", violations)
            return Every(every, anchor)
        case "at":
            return _at_from(schedule.at.at_ms, violations, f"{prefix}at.at_ms")
        case _:
            violations.append(FieldViolation(f"{prefix}cron", "and every and at are missing; set one of them"))
            return None


def _at_from(times: Iterable[int], violations: Violations, field: str) -> At:
    at = At(tuple(times))
    if not 1 <= len(at.at_ms) <= limits.SCHEDULE_TIMES_MAX:
        wanted = f"1 to {limits.SCHEDULE_TIMES_MAX} are needed"
        violations.append(FieldViolation(field, f"has {len(at.at_ms)} times; {wanted}"))
        return at
    before = len(violations)
    for place, time in enumerate(at.at_ms):
        _check_second(time, 0, limits.TIME_MS_MAX, f"{field}[{place}]", violations)
        if place and time <= at.at_ms[place - 1]:
            violations.append(FieldViolation(f"{field}[{place}]", f"is {time}, which is not after the one before it"))
        if len(violations) > before:
            # One is enough, of a thousand.
            break
    return at


def _check_second(value: int, least: int, most: int, field: str, violations: Violations) -> None:
    if not least <= value <= most or value % SECOND_MS:
        wanted = f"{least} to {most} milliseconds, in whole seconds, are needed"
        violations.append(FieldViolation(field, f"is {value}; {wanted}"))


def _check_task(schedule: pb.Schedule, violations: Violations, field: str) -> None:
    task = schedule.task
    if not schedule.HasField("task"):
        violations.append(FieldViolation(field, "is missing"))
        return
    before = len(violations)
    given = {descriptor.name for descriptor, _ in task.ListFields()}
    for name in _NOT_OF_A_TEMPLATE:
        if name in given:
            violations.append(FieldViolation(f"{field}.{name}", "is set; the task of a schedule has none"))
    if len(violations) == before:
        # The id of any tick will do.
        task.id = "tick"
        check_task(task, f"{field}.", violations)
        task.ClearField("id")
    if task.unique_key and schedule.overlap == pb.SCHEDULE_OVERLAP_CANCEL_RUNNING:
        why = "is set; leave it out, or use another overlap, because a task that is cancelled has its key until its end"
        violations.append(FieldViolation(f"{field}.unique_key", why))


def _check_numbers(schedule: pb.Schedule, violations: Violations, prefix: str) -> None:
    if schedule.overlap not in (0, *Overlap):
        wanted = "use 1 (SKIP), 2 (QUEUE_ONE), 3 (ALLOW) or 4 (CANCEL_RUNNING)"
        violations.append(FieldViolation(f"{prefix}overlap", f"has the unknown value {schedule.overlap}; {wanted}"))
    if schedule.on_orphaned not in (0, 1, 2):
        wanted = "use 1 (GO_ON) or 2 (STOP)"
        violations.append(
            FieldViolation(f"{prefix}on_orphaned", f"has the unknown value {schedule.on_orphaned}; {wanted}")
        )
    for name, least, most in (
        ("catch_up_window_ms", limits.CATCH_UP_MS_MIN, limits.DURATION_MS_MAX),
        ("jitter_ms", 0, limits.JITTER_MS_MAX),
        ("start_at_ms", 0, limits.TIME_MS_MAX),
        ("end_at_ms", 0, limits.TIME_MS_MAX),
    ):
        value = getattr(schedule, name)
        if value and not least <= value <= most:
            wanted = f"{least} to {most} milliseconds are needed"
            violations.append(FieldViolation(f"{prefix}{name}", f"is {value}; {wanted}"))
    if 0 < schedule.end_at_ms <= schedule.start_at_ms:
        violations.append(
            FieldViolation(f"{prefix}end_at_ms", f"is {schedule.end_at_ms}, which is not after the start")
        )
    check_reason(schedule.pause_reason, f"{prefix}pause_reason", violations)


def schedule_message(
    name: str,
    schedule: Schedule,
    ticks: Ticks,
    now_ms: int,
    *,
    orphaned: bool = False,
    ignored: str = "",
    statuses: Mapping[str, Status] | None = None,
) -> pb.Schedule:
    """Returns a schedule as a client sees it.

    Args:
        name: its name.
        schedule: what was asked for.
        ticks: how far it has come.
        now_ms: the time; the next ticks are after it.
        orphaned: whether it was declared in code and no worker declares it.
        ignored: why declarations of it do not hold.
        statuses: of its runs, {task id: status}; None: it is for a list, without payload, and with one next tick.
    """
    definition, pause, declarer = schedule.definition, ticks.pause, schedule.declarer
    message = pb.Schedule(
        name=name,
        task=_template_message(definition, is_whole=statuses is not None),
        overlap=int(definition.overlap),  # type: ignore[arg-type]
        catch_up_window_ms=definition.catch_up_ms,
        jitter_ms=definition.jitter_ms,
        start_at_ms=definition.start_ms,
        end_at_ms=definition.end_ms,
        on_orphaned=pb.SCHEDULE_ORPHANED_STOP if definition.stops_orphaned else pb.SCHEDULE_ORPHANED_GO_ON,
        next_at_ms=islice(
            ticks_of(definition, max(ticks.last_ms, now_ms)), limits.SCHEDULE_NEXT_MAX if statuses is not None else 1
        ),
        made_ticks=ticks.made,
        waiting_tick_ms=ticks.waiting_ms,
        orphaned=orphaned,
        declaration_ignored=ignored,
        created_at_ms=schedule.created_ms,
        changed_at_ms=schedule.changed_ms,
        dealt_with_until_ms=ticks.last_ms,
    )
    _fill_calendar(message, definition.calendar)
    for run in reversed(ticks.runs):
        message.runs.add(
            tick_ms=run.tick_ms,
            task_id=run.id,
            made_at_ms=run.made_ms,
            triggered=run.triggered,
            status=int((statuses or {}).get(run.id, 0)),
        )
    for reason, number in zip(SkipReason, ticks.skipped, strict=False):
        if number:
            message.skipped.add(reason=int(reason), ticks=number)
    if pause is not None:
        message.paused, message.pause_reason = True, pause.reason
        message.paused_by, message.paused_at_ms = pause.by, pause.at_ms
    if declarer is not None:
        message.declared_by_handler = declarer.handler
        message.declared_by_plugin, message.declared_by_version = declarer.plugin, declarer.version
    return message


def _fill_calendar(message: pb.Schedule, calendar: Calendar) -> None:
    match calendar:
        case Cron():
            message.cron.expression, message.cron.time_zone = calendar.expression, calendar.time_zone
        case Every():
            message.every.every_ms, message.every.anchor_ms = calendar.every_ms, calendar.anchor_ms
        case At():
            message.at.at_ms.extend(calendar.at_ms)


def _template_message(definition: Definition, *, is_whole: bool) -> pb.Task:
    template = definition.template
    task = pb.Task.FromString(template.body + template.trace)
    if wanted := range_of(template.lane.selector):
        del task.selector[RANGE_KEY]
        task.plugin_version = wanted
    if not is_whole:
        task.ClearField("payload")
        task.ClearField("data")
    return task


def manual_request_id(now_ms: int, nonce: str) -> str:
    """Returns what names a triggered run whose caller names none: the time, and something that no other call has."""
    return f"{tick_id('', now_ms)[1:]}-{nonce}"

"""Draws a frame of `gowork top`: members, queues and what they wait for, and the last failures."""

from __future__ import annotations

from datetime import datetime

from rich.console import Group, RenderableType
from rich.styled import Styled
from rich.text import Text

from gowork.cli.columns import Column, fitted, shared
from gowork.cli.output import plain, span, styled
from gowork.cli.tables import outcome
from gowork.client import Member, TaskInfo, WaitCode
from gowork.client.frames import Frame, QueueRow

#: A frame is called old when it is older than the interval plus this, in seconds.
_OLD_S = 2.0
#: The length of the bar of busy slots, in cells.
_BAR_CELLS = 10
#: The lines of the smallest table: a blank line, a heading, a row, and the line that counts the other rows.
_SECTION_LINES_MIN = 4
#: The most lines that are not rows: the head, and the blank lines, headings and counts of the tables.
_OTHER_LINES_MAX = 16

_MEMBERS = (
    Column("MEMBER"),
    Column("LIVENESS", 1),
    Column("BUSY", 3),
    Column("", 2, number=True),
    Column("SEEN", 4, number=True),
    Column("HANDLERS", 5, gives_way=True),
    Column("LABELS", 6, gives_way=True),
)
_QUEUES = (
    Column("QUEUE"),
    Column("", 3),
    Column("WAITING", 1, number=True),
    Column("DELAYED", 8, number=True),
    Column("RUNNING", 2, number=True),
    Column("OLDEST", 4, number=True),
    Column("IN/S", 6, number=True),
    Column("OUT/S", 6, number=True),
    Column("FAILED/S", 7, number=True),
    Column("START P50", 9, number=True),
    Column("P99", 7, number=True),
    Column("LIMITS", 10),
    Column("WAITS FOR", 5, gives_way=True),
)
_FAILURES = (
    Column("FAILED TASK"),
    Column("AGO", 1, number=True),
    Column("HANDLER", 3),
    Column("QUEUE", 4),
    Column("WORKER", 5),
    Column("WHY", 2, gives_way=True),
)
#: The styles of reasons that do not end by themselves.
_STYLES = {
    WaitCode.NO_HANDLER: "bold red",
    WaitCode.SELECTOR: "bold red",
    WaitCode.UNREACHABLE: "bold red",
    WaitCode.MEMBER_FAILED: "bold red",
    WaitCode.UNFIT: "bold red",
    WaitCode.PLUGIN_VERSION: "bold red",
    WaitCode.QUEUE_NOT_TAKEN: "bold red",
    WaitCode.STORE_FULL: "bold red",
    WaitCode.QUEUE_PAUSED: "yellow",
}


def screen(frame: Frame, width: int, height: int, age: float, interval: float) -> RenderableType:
    """Draws a frame in `width` cells and `height` lines.

    Args:
        frame: what to show.
        width: at least 1.
        height: at least 1.
        age: how old the frame is, in seconds.
        interval: the time between two updates, in seconds.
    """
    head = _head(frame, age if frame.error or age > interval + _OLD_S else None)
    head += [Text()] * bool(height > len(head))
    now = frame.activity.now
    # In the order in which they get room: queues matter most.
    wants = (frame.activity.queues_total, len(frame.members), len(frame.activity.failures))
    given = shared(height - len(head) + 1, [2 + rows for rows in wants], _SECTION_LINES_MIN)
    for_queues, for_members, for_failures = (lines - 1 for lines in given)
    # Only rows that may be shown are made, because this runs several times a second.
    members = [_member_row(member, now) for member in frame.members[:for_members]] if for_members > 0 else []
    queues = [_queue_row(row) for row in frame.queues[:for_queues]] if for_queues > 0 else []
    failures = [_failure_row(task, now) for task in frame.activity.failures[:for_failures]] if for_failures > 0 else []
    body: list[RenderableType] = []
    for columns, rows, total, lines, none in (
        (_MEMBERS, members, wants[1], for_members, "no members"),
        (_QUEUES, queues, wants[0], for_queues, "no queues"),
        (_FAILURES, failures, wants[2], for_failures, "no failed tasks"),
    ):
        if lines > 0:
            body += [Text()] * bool(body)
            body.append(fitted(columns, rows, total, width, lines) if rows else _one_line(Text(none, style="dim")))
    return Group(*map(_one_line, head[:height]), Styled(Group(*body), "dim") if frame.error else Group(*body))


def pages(frame: Frame, width: int, age: float) -> RenderableType:
    """Draws a frame in `width` cells, in as many lines as it takes."""
    lines = len(frame.members) + frame.activity.queues_total + len(frame.activity.failures)
    return screen(frame, width, lines + _OTHER_LINES_MAX, age, age)


def _head(frame: Frame, old: float | None) -> list[Text]:
    activity = frame.activity
    first = Text.assemble(
        ("gowork top", "bold"),
        f"  {frame.address}  version {activity.version}  term {activity.term}  up {span(activity.uptime)}",
    )
    members = Text("members ")
    for row in activity.members:
        members.append_text(Text.assemble(f" {row.members:,} ", styled(row.liveness), " "))
    if not activity.members:
        members.append(" none", "yellow")
    slots = sum(row.slots for row in activity.members)
    held = sum(row.running for row in activity.members)
    members.append(f"  slots  {slots:,}, {held:,} tasks held   ")
    members.append(f"kept  {activity.finished_tasks:,} finished, {activity.failed_tasks:,} of them failed")
    waiting, delayed, running = (
        sum(getattr(row.activity.queue, name) for row in frame.queues) for name in ("waiting", "delayed", "running")
    )
    tasks = Text(f"tasks    {waiting:,} waiting  {delayed:,} delayed  {running:,} running")
    if frame.total is not None:
        total = frame.total
        tasks.append(f"   {_rate(total.submitted)} in/s  {_rate(total.finished)} out/s  ")
        tasks.append(f"{_rate(total.failed)} failed/s", "bold red" if total.failed else "")
        if total.start_p50 is not None:
            tasks.append(f"   start after {span(total.start_p50)} (p50)  {span(total.start_p99)} (p99)")
    if old is None:
        return [first, members, tasks]
    warning = f"as of {span(old)} ago: {frame.error or f'the leader at {frame.address} does not answer'}"
    return [Text(warning, style="bold red"), first, members, tasks]


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _member_row(member: Member, now: datetime | None) -> list[Text]:
    seen = (now - member.seen_at).total_seconds() if now and member.seen_at else None
    return [
        plain(member.id),
        styled(member.liveness),
        _bar(member.running, member.slots),
        plain(f"{member.running:,}/{member.slots:,}" if member.slots else ""),
        plain("" if seen is None else f"{span(max(seen, 0))} ago"),
        plain(", ".join(member.handlers)),
        plain(", ".join(f"{key}={value}" for key, value in member.labels.items())),
    ]


def _bar(busy: int, slots: int) -> Text:
    if not slots:
        return Text()
    # A member that holds a task has at least one full cell. One with a free slot has at least one empty cell.
    full = min(_BAR_CELLS, busy * _BAR_CELLS // slots) or int(busy > 0)
    colour = "green" if busy < slots else "yellow"
    return Text.assemble(("━" * full, colour), ("━" * (_BAR_CELLS - full), "bright_black"))


def _queue_row(row: QueueRow) -> list[Text]:
    queue, flow = row.activity.queue, row.flow
    oldest = row.activity.oldest_waiting
    return [
        plain(queue.name),
        Text("paused" if queue.paused else "", style="yellow"),
        plain(f"{queue.waiting:,}"),
        plain(f"{queue.delayed:,}"),
        plain(f"{queue.running:,}"),
        plain(span(oldest)),
        plain(_rate(flow.submitted) if flow else ""),
        plain(_rate(flow.finished) if flow else ""),
        Text(_rate(flow.failed) if flow else "", style="bold red" if flow and flow.failed else ""),
        plain(span(flow.start_p50) if flow else ""),
        plain(span(flow.start_p99) if flow else ""),
        plain(_limits(row)),
        _reasons(row),
    ]


def _limits(row: QueueRow) -> str:
    queue = row.activity.queue
    limits = (
        (queue.concurrency_limit, f"{queue.concurrency_limit:,} at once"),
        (queue.key_concurrency_limit, f"{queue.key_concurrency_limit:,} a key"),
        (queue.rate_limit, f"{queue.rate_limit:g}/s"),
        (queue.weight != 1, f"weight {queue.weight:,}"),
    )
    return ", ".join(words for limit, words in limits if limit)


def _reasons(row: QueueRow) -> Text:
    # Delayed tasks have a column of their own.
    waiting = {code: tasks for code, tasks in row.activity.waiting.items() if code is not WaitCode.DELAYED}
    words = Text()
    for code, tasks in sorted(waiting.items(), key=lambda item: -item[1]):
        name = "next" if code is WaitCode.UNSPECIFIED else code.lower().replace("_", " ")
        words.append(", " if words else "").append(f"{name} {tasks:,}", _STYLES.get(code, ""))
    return words


def _failure_row(task: TaskInfo, now: datetime | None) -> list[Text]:
    passed = (now - task.finished_at).total_seconds() if now and task.finished_at else None
    return [
        plain(task.id),
        plain("" if passed is None else span(max(passed, 0))),
        plain(task.handler or "(default)"),
        plain(task.queue),
        plain(task.worker),
        outcome(task),
    ]


def _rate(tasks: float) -> str:
    if tasks and tasks < 0.1:
        return f"{tasks:.2g}"
    return f"{tasks:,.1f}" if 0 < tasks < 100 else f"{tasks:,.0f}"

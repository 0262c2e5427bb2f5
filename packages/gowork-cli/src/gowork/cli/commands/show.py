"""The command `gowork show` shows one task with its attempts."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gowork.base.trace_context import sampled_trace_id
from gowork.cli.completions import complete_task_id
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import STYLES, ago, console, harmless, local, plain, span, styled, table, write_record
from gowork.cli.records import result_value, task_record
from gowork.cli.tables import status_of
from gowork.cli.upstream import upstream_tree
from gowork.client import AfterRule, Attempt, AttemptOutcome, OnLost, TaskInfo

#: The width of the timeline, in characters.
_TIMELINE_COLUMNS = 40
#: How many of the tasks after which a task runs are named.
_AFTER_NAMED_MAX = 20
_RULES = {
    AfterRule.UNSPECIFIED: "when all have completed",
    AfterRule.ALL_COMPLETED: "when all have completed",
    AfterRule.ALL_FINISHED: "when all have ended",
    AfterRule.ANY_FAILED: "if one has failed",
}
_IF_LOST = {OnLost.AGAIN: "it runs again", OnLost.FAIL: "it ends with ERROR, and is not run again"}


@click.command(
    epilog="""\b
Examples:
  gowork show nightly-report
  gowork show nightly-report -o json | jq .failure.traceback -r"""
)
@click.argument("task_id", metavar="ID", shell_complete=complete_task_id)
@common_options
@pass_common
def show(common: CommonOptions, task_id: str) -> None:
    """Show one task in full, with a timeline of its attempts, and the tasks before it."""
    with common.client() as client:
        task = client.get(task_id)
        tree = upstream_tree(client, task) if task.after and common.output is OutputFormat.TABLE else None
    if common.output is OutputFormat.TABLE:
        print_task(console(), task)
        if tree is not None:
            console().print()
            console().print(tree)
    else:
        write_record(task_record(task, explained=True), common.output)


def print_task(out: Console, task: TaskInfo) -> None:
    """Prints everything about a task, for people."""
    out.print(_facts(task))
    if task.attempts:
        out.print()
        out.print(_timeline(task.attempts, datetime.now(UTC)))
    if task.failure and task.failure.traceback:
        out.print()
        out.print(Text(harmless(task.failure.traceback.rstrip("\n")), style="red"))


def _after(task: TaskInfo) -> str:
    """Returns the tasks after which it runs, and how those must have ended."""
    if not task.after:
        its = f"its children, {_RULES[task.after_rule]}; see gowork groups show {task.id}"
        return "" if task.group is None else its
    named = ", ".join(task.after[:_AFTER_NAMED_MAX])
    more = f" and {len(task.after) - _AFTER_NAMED_MAX} more" if len(task.after) > _AFTER_NAMED_MAX else ""
    if task.group is not None:
        more += " and its children"
    return f"{named}{more}, {_RULES[task.after_rule]}"


def _facts(task: TaskInfo) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    # Long payloads and results are folded, not cut, because this command is for seeing all of them.
    rows.add_column(overflow="fold")

    def add(name: str, value: object) -> None:
        if value or value == 0:
            rows.add_row(name, value if isinstance(value, Text) else Text(harmless(str(value))))

    add("id", task.id)
    status = status_of(task)
    if task.cancel_requested and not task.status.finished:
        status.append(" (asked to stop)")
    add("status", status)
    add("waits because", task.waiting_reason)
    none = "(none: it is a group)" if task.group is not None else "(the worker's default)"
    add("handler", task.handler or none)
    add("queue", task.queue)
    add("priority", task.priority)
    add("concurrency key", task.concurrency_key)
    add("unique key", task.unique_key)
    add("labels", _pairs(dict(task.labels)))
    add("selector", _pairs(dict(task.selector)))
    add("plugin version", task.plugin_version)
    add("if lost", _IF_LOST.get(task.on_lost))
    add("runs after", _after(task))
    add("payload", _content(task, "payload", task.data) or task.payload)
    for name, moment in (
        ("scheduled", task.created_at),
        ("not before", task.run_at),
        ("expires", task.expires_at),
        ("started", task.started_at),
        ("finished", task.finished_at),
    ):
        if moment is not None:
            add(name, f"{local(moment)} ({ago(moment)})")
    if task.changed_at is not None:
        add("changed", f"{', '.join(task.changed_fields)}, {local(task.changed_at)} ({ago(task.changed_at)})")
    if task.started_at and task.finished_at:
        add("took", span(task.finished_at - task.started_at))
    add("time limit", span(task.time_limit))
    attempts_max = f" of {task.retry.max_attempts}" if task.retry else ""
    add("attempts used", f"{task.attempts_used}{attempts_max}")
    add("worker", task.worker)
    add("fence", task.fence or "")
    add("trace", sampled_trace_id(task.traceparent))
    if task.progress:
        add("progress", f"{task.progress.fraction:.0%} {task.progress.message} ({ago(task.progress.updated_at)})")
    if task.result:
        add("result", json.dumps(result_value(task), ensure_ascii=False, indent=2))
    add("result", _content(task, "result", task.result_data))
    if task.failure:
        name = f"{task.failure.type}: " if task.failure.type else ""
        add("failure", Text(harmless(f"{task.failure.kind}: {name}{task.failure.message}"), style="red"))
    return rows


def _content(task: TaskInfo, part: str, data: bytes) -> str:
    """Returns what is said of bytes, or of what could not be decrypted; empty for a text."""
    if part in task.encrypted:
        return f"({task.encrypted[part]})"
    return f"{len(data):,} bytes of data" if data else ""


def _timeline(attempts: tuple[Attempt, ...], now: datetime) -> Table:
    """Makes a table of the attempts, each with a bar that shows when it ran, all on one scale."""
    traces = [sampled_trace_id(attempt.traceparent) for attempt in attempts]
    plugins = [f"{attempt.plugin} {attempt.plugin_version}".strip() for attempt in attempts]
    names = (
        "ATTEMPT",
        "OUTCOME",
        "WORKER",
        "STARTED",
        "TOOK",
        "TIMELINE",
        "REASON",
        *(["PLUGIN"] if any(plugins) else []),
        *(["TRACE"] if any(traces) else []),
    )
    rows = table(*names, numbers=("ATTEMPT", "TOOK"))
    starts = [attempt.started_at or now for attempt in attempts]
    ends = [attempt.ended_at or now for attempt in attempts]
    first, last = min(starts), max(*ends, *starts)
    scale = _TIMELINE_COLUMNS / max((last - first).total_seconds(), 0.001)
    for attempt, start, end, plugin, trace in zip(attempts, starts, ends, plugins, traces, strict=True):
        running = attempt.outcome is AttemptOutcome.UNSPECIFIED
        word = "RUNNING" if running else attempt.outcome
        offset = min(int((start - first).total_seconds() * scale), _TIMELINE_COLUMNS - 1)
        length = max(min(round((end - start).total_seconds() * scale), _TIMELINE_COLUMNS - offset), 1)
        bar = Text(" " * offset + "━" * length + ("▶" if running else ""), style=STYLES.get(word, ""))
        rows.add_row(
            str(attempt.number),
            styled(word),
            plain(attempt.worker),
            local(attempt.started_at),
            span(end - start) if attempt.started_at else "",
            bar,
            plain(attempt.reason),
            *([plain(plugin)] if any(plugins) else []),
            *([trace] if any(traces) else []),
        )
    return rows


def _pairs(values: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(values.items()))

"""The command `gowork add` schedules a task, or the tasks of a file."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any, cast

import click
import msgspec

from gowork.cli.bulk import add_file
from gowork.cli.group import EXIT_FAILED
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import harmless, write_record
from gowork.cli.parameters import duration, pairs, time
from gowork.cli.payload_checks import PayloadChecks
from gowork.cli.payloads import payload_of
from gowork.cli.records import task_record
from gowork.cli.task_options import RULES, task_options
from gowork.cli.waiting import spinning
from gowork.client import TaskInfo, TaskOptions, TaskStatus, TaskView


@click.command(
    epilog="""\b
Examples:
  gowork add 'some work' --wait
  gowork add --handler hello '{"name": "Ada"}' --wait
  gowork add nightly-report --handler report --at 2026-12-24T03:00 --max-attempts 3
  gowork add --handler cleanup --in 10m
  gowork add --handler report --unique report-17 17 # unless a task with that key is pending or running
  gowork add --handler publish --after build --after test 17 # when both have completed
  cat photo.jpg | gowork add --handler thumbnail - --wait > thumbnail.jpg
  gowork add --file tasks.jsonl --handler resize --wait

\b
A FILE has a task on each line. The options of a line replace those given here:
  {"payload": {"image": "a.png"}}
  {"payload": "text", "id": "b", "handler": "crop", "priority": "HIGH", "queue": "images",
   "labels": {"team": "web"}, "selector": {"gpu": "yes"}, "in": "10m", "at": "2026-12-24T03:00",
   "time_limit": "30s", "expires_in": "1h", "max_attempts": 3, "concurrency_key": "user-7",
   "plugin_version": ">=1.2,<2", "unique": "crop-b", "unique_for": "1h",
   "on_lost": "fail", "after": ["a"], "after_rule": "all_finished"}"""
)
@click.argument("words", metavar="[ID] PAYLOAD", nargs=-1)
@task_options
@click.option(
    "--in",
    "delay",
    type=duration,
    metavar="DURATION",
    help="Start the task no earlier than this long from now, as in 90s, 10m, 1h30m.",
)
@click.option(
    "--at", "run_at", type=time, metavar="TIME", help="Start the task no earlier than this, as in 2026-12-24T18:00."
)
@click.option(
    "--unique",
    metavar="KEY",
    help="If a task with this key is pending or running, schedule none, and print the id of that task.",
)
@click.option(
    "--unique-for",
    type=duration,
    metavar="DURATION",
    help="With --unique: the key stays taken for this long after the task was scheduled, even if it ends before.",
)
@click.option(
    "--after",
    metavar="ID",
    multiple=True,
    help="Run the task after this one, which must have completed. Repeatable.",
)
@click.option(
    "--after-rule",
    type=click.Choice(RULES, case_sensitive=False),
    help="With --after: run the task when all of those have ended (all_finished), or if one of them has failed "
    "(any_failed). When the rule can't hold any more, the task is cancelled.  [default: all_completed]",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Print the id on standard error, wait until the task has finished, and print its result. Exit with 1 if it "
    "did not complete.",
)
@click.option(
    "--timeout", type=duration, metavar="DURATION", help="With --wait: stop waiting after this time. The task goes on."
)
@click.option(
    "--no-check",
    is_flag=True,
    help="Send payloads even if their handler, as workers describe it, does not take them.",
)
@click.option(
    "--file",
    type=click.File("rb"),
    help="Add all tasks of this file, one JSON object on each line. - is standard input.",
)
@common_options
@pass_common
def add(
    common: CommonOptions,
    /,
    words: tuple[str, ...],
    labels: tuple[str, ...],
    selector: tuple[str, ...],
    after: tuple[str, ...],
    max_attempts: int | None,
    wait: bool,
    timeout: float | None,
    file: Any,
    no_check: bool,
    **others: str | float | datetime | None,
) -> None:
    """Schedule a task, and print its id.

    PAYLOAD is text, or JSON if the handler takes JSON. If it is -, it is read from standard input, unchanged. A single
    argument is the PAYLOAD, and the task gets a new id. Adding the same task under the same ID again changes nothing.
    """
    if others["delay"] is not None and others["run_at"] is not None:
        raise click.UsageError("give --in or --at, not both")
    if others["unique_for"] is not None and others["unique"] is None and file is None:
        raise click.UsageError("give --unique with --unique-for, which says for how long that key stays taken")
    if others["after_rule"] is not None and not after and file is None:
        raise click.UsageError("give --after with --after-rule, which says how those tasks must have ended")
    # The other options have the names that the client gives them.
    own = {
        "labels": pairs(labels, "--label"),
        "selector": pairs(selector, "--selector"),
        "retry": max_attempts,
        "after": after or None,
    }
    options = cast("TaskOptions", {**others, **own})
    if file is not None:
        if words:
            raise click.UsageError("give a PAYLOAD or a --file, not both")
        add_file(common, file, options, wait=wait, timeout=timeout, checks=not no_check)
        return
    task_id, payload = _words(words, options)
    with common.client() as client:
        if (handler := options.get("handler")) and not no_check:
            PayloadChecks(client).check(payload, handler, options.get("plugin_version") or "")
        handle = client.schedule(payload, id=task_id, **options)
    if not handle.is_new:
        click.echo(harmless(f"gowork: task {handle.id} has this unique key, so none was scheduled"), err=True)
    if wait:
        # The id is printed at once, so that the task can be found if the wait is interrupted. Standard output is kept
        # for the result.
        click.echo(f"task {handle.id}", err=True)
        with common.waiting_client() as client:
            (task,) = spinning(client, [handle.id], timeout)
        _print_result(common, task)
    elif common.output is OutputFormat.TABLE:
        click.echo(handle.id)
    else:
        write_record({"id": handle.id} | ({} if handle.is_new else {"is_new": False}), common.output)


def _words(words: tuple[str, ...], options: TaskOptions) -> tuple[str | None, msgspec.Raw | bytes]:
    if len(words) > 2:
        raise click.UsageError("too many words: give [ID] PAYLOAD, with the payload in quotes")
    if not words and not options.get("handler"):
        raise click.UsageError("give a PAYLOAD, or a --handler that needs no payload")
    return words[0] if len(words) == 2 else None, payload_of(words[-1] if words else "")


def _print_result(common: CommonOptions, task: TaskInfo) -> None:
    if common.output is not OutputFormat.TABLE:
        write_record(task_record(task, TaskView.RESULT), common.output)
    elif "result" in task.encrypted:
        click.echo(f"gowork: the result of task {task.id} is {task.encrypted['result']}", err=True)
        click.get_current_context().exit(EXIT_FAILED)
    elif task.result_data:
        sys.stdout.buffer.write(task.result_data)
    elif task.status is TaskStatus.COMPLETED:
        click.echo(task.result)
    if task.status is TaskStatus.COMPLETED:
        return
    failure = task.failure
    what = f" {failure.kind}: {failure.type + ': ' if failure.type else ''}{failure.message}" if failure else ""
    click.echo(harmless(f"gowork: task {task.id} ended as {task.status}{what}"), err=True)
    if failure and failure.traceback and common.output is OutputFormat.TABLE:
        click.echo(harmless(failure.traceback), err=True)
    click.get_current_context().exit(EXIT_FAILED)

"""The command `gowork retry` runs finished tasks again."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from gowork.cli import questions, selections
from gowork.cli.completions import complete_handler, complete_task_id
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, styled, table, write_record, write_records
from gowork.cli.payloads import payload_of
from gowork.cli.seen import do_to_each
from gowork.client import CallError, Client, RetriedTasks

#: Select the tasks that may run again: those that failed, and with a term for the status in the filter also those that
#: were cancelled.
_FAILED = "status = ERROR"
_FAILED_OR_CANCELLED = "status != PENDING AND status != RUNNING AND status != COMPLETED"


@click.command(
    epilog="""\b
Examples:
  gowork retry nightly-report
  gowork retry nightly-report --payload '{"day": "2026-12-24"}'
  gowork retry --filter 'handler = "resize"' --dry-run
  gowork retry --filter 'handler = "resize"'
  gowork retry --filter 'status = CANCELLED AND queue = "mail"' --yes"""
)
@click.argument("ids", metavar="[ID...]", nargs=-1, shell_complete=complete_task_id)
@click.option(
    "--filter",
    "expression",
    metavar="EXPRESSION",
    help="All failed tasks that this filter selects. Cancelled ones only if it names that status.",
)
@click.option(
    "--payload",
    metavar="PAYLOAD",
    help="Run the task with this payload from now on; - reads it from standard input. It takes a single ID.",
)
@click.option(
    "--handler",
    metavar="NAME",
    shell_complete=complete_handler,
    help="Have this handler run the task from now on. It takes a single ID.",
)
@click.option("--yes", "-y", is_flag=True, help="With --filter, don't ask.")
@click.option("--dry-run", is_flag=True, help="With --filter, only say how many tasks would run again.")
@common_options
@pass_common
def retry(
    common: CommonOptions,
    ids: tuple[str, ...],
    expression: str | None,
    payload: str | None,
    handler: str | None,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    """Run tasks that ended with ERROR or CANCELLED again.

    Each goes back into its queue like a new task. Its attempts stay on record. With another --payload or --handler it
    is the same task, and gowork show tells that it was changed.

    With --filter, the command asks before it runs more than 10 tasks again. Without a terminal to ask on, it runs none
    unless --yes is given. A task that fails again meanwhile does not run once more.
    """
    selections.check_choice(ids, expression, yes=yes, dry_run=dry_run, verb="run", example=_FAILED)
    edits: dict[str, Any] = {} if handler is None else {"handler": handler}
    if payload is not None:
        edits["payload"] = payload_of(payload)
    if edits and len(ids) != 1:
        raise click.UsageError("--payload and --handler take a single ID")
    with common.client() as client:
        if expression is not None:
            _retry_selected(common, client, expression, yes=yes, dry_run=dry_run)
            return
        outcome = do_to_each(client, ids, partial(client.retry, **edits))
    if common.output is not OutputFormat.TABLE:
        write_records(outcome.records(), common.output)
    elif outcome.done:
        rows = table("ID", "STATUS")
        for task_id, task in outcome.done:
            rows.add_row(plain(task_id), styled(task.status if task else ""))
        console().print(rows)
    outcome.exit()


def _retry_selected(common: CommonOptions, client: Client, expression: str, *, yes: bool, dry_run: bool) -> None:
    total = None
    if dry_run or not yes:
        names_status = selections.names_status(expression)
        among = _FAILED_OR_CANCELLED if names_status else _FAILED
        found = client.tasks(f"{expression} AND {among}", page_size=1_000)
        selection = selections.counted("failed or cancelled" if names_status else "failed", found)
        if dry_run:
            selection.write(common, "run again")
            return
        if selection.tasks > selections.UNASKED_MAX:
            questions.confirm(f"Run again {selection}?", "give --yes")
        total = selection.tasks
    done = RetriedTasks()
    with selections.progress_bar("retried", total) as show:

        def note(so_far: RetriedTasks) -> None:
            nonlocal done
            done = so_far
            show(done.retried + done.left)

        try:
            client.retry_many(expression, progress=note)
        except CallError:
            if done != RetriedTasks():
                click.echo(f"gowork: {_words(done)}, before this:", err=True)
            raise
    if common.output is not OutputFormat.TABLE:
        write_record({"retried": done.retried, "left": done.left}, common.output)
    else:
        click.echo(_words(done))


def _words(done: RetriedTasks) -> str:
    words = f"retried {done.retried:,} {'task' if done.retried == 1 else 'tasks'}"
    return (
        f"{words}, left {done.left:,} alone that expired, or whose unique key another task has" if done.left else words
    )

"""The command `gowork cancel` cancels tasks; `gowork remove` is its other name."""

from __future__ import annotations

import click

from gowork.cli import questions, selections
from gowork.cli.completions import complete_task_id
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, styled, table, write_record, write_records
from gowork.cli.seen import do_to_each
from gowork.client import CallError, CancelledTasks, Client

#: Selects all unfinished tasks. Others are never cancelled.
_UNFINISHED = "status != COMPLETED AND status != CANCELLED AND status != ERROR"


@click.command(
    epilog="""\b
Examples:
  gowork cancel nightly-report
  gowork cancel --filter 'queue = "old" AND status = PENDING' --dry-run
  gowork cancel --filter 'queue = "old" AND status = PENDING'
  gowork cancel --filter 'labels.tenant = "17"' --yes"""
)
@click.argument("ids", metavar="[ID...]", nargs=-1, shell_complete=complete_task_id)
@click.option("--filter", "expression", metavar="EXPRESSION", help="All unfinished tasks that this filter selects.")
@click.option("--yes", "-y", is_flag=True, help="With --filter, don't ask.")
@click.option("--dry-run", is_flag=True, help="With --filter, only say how many tasks would be cancelled.")
@common_options
@pass_common
def cancel(common: CommonOptions, ids: tuple[str, ...], expression: str | None, *, yes: bool, dry_run: bool) -> None:
    """Cancel tasks.

    A pending task is cancelled at once. A running one is asked to stop, and is cancelled when its worker has stopped
    it.

    With --filter, the command asks before it cancels more than 10 tasks. Without a terminal to ask on, it cancels
    nothing unless --yes is given.
    """
    selections.check_choice(ids, expression, yes=yes, dry_run=dry_run, verb="cancel", example="status != COMPLETED")
    with common.client() as client:
        if expression is not None:
            _cancel_selected(common, client, expression, yes=yes, dry_run=dry_run)
            return
        outcome = do_to_each(client, ids, client.cancel)
    if common.output is not OutputFormat.TABLE:
        write_records(outcome.records(), common.output)
    elif outcome.done:
        rows = table("ID", "STATUS", "")
        for task_id, task in outcome.done:
            asked = task is None or task.cancel_requested
            rows.add_row(plain(task_id), styled(task.status if task else ""), "asked to stop" if asked else "")
        console().print(rows)
    outcome.exit()


def _cancel_selected(common: CommonOptions, client: Client, expression: str, *, yes: bool, dry_run: bool) -> None:
    total = None
    if dry_run or not yes:
        found = client.tasks(f"{expression} AND {_UNFINISHED}", page_size=1_000)
        selection = selections.counted("unfinished", found)
        if dry_run:
            selection.write(common, "cancel")
            return
        if selection.tasks > selections.UNASKED_MAX:
            questions.confirm(f"Cancel {selection}?", "give --yes")
        total = selection.tasks
    done = CancelledTasks()
    with selections.progress_bar("cancelled", total) as show:

        def note(so_far: CancelledTasks) -> None:
            nonlocal done
            done = so_far
            show(done.cancelled + done.asked)

        try:
            client.cancel_many(expression, progress=note)
        except CallError:
            if done != CancelledTasks():
                click.echo(f"gowork: {_words(done)}, before this:", err=True)
            raise
    if common.output is not OutputFormat.TABLE:
        write_record({"cancelled": done.cancelled, "asked": done.asked}, common.output)
    else:
        click.echo(_words(done))


def _words(done: CancelledTasks) -> str:
    words = f"cancelled {done.cancelled:,} {'task' if done.cancelled == 1 else 'tasks'}"
    if done.asked:
        words += f", asked {done.asked:,} running {'one' if done.asked == 1 else 'ones'} to stop"
    return words


remove = click.Command(
    "remove",
    params=cancel.params,
    callback=cancel.callback,
    help="Another name for cancel.",
    epilog=cancel.epilog,
)

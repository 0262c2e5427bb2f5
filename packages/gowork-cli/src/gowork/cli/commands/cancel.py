"""The command `gowork cancel` cancels tasks; `gowork remove` is its other name."""

from __future__ import annotations

import click

from gowork.cli.completions import complete_task_id
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, styled, table, write_records
from gowork.cli.seen import do_to_each


@click.command(
    epilog="""\b
Examples:
  gowork cancel nightly-report
  gowork tasks --status PENDING --queue old -o jsonl | jq -r .id | xargs gowork cancel"""
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_task_id)
@common_options
@pass_common
def cancel(common: CommonOptions, ids: tuple[str, ...]) -> None:
    """Cancel tasks.

    A pending task is cancelled at once. A running one is asked to stop, and is cancelled when its worker has stopped
    it.
    """
    with common.client() as client:
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


remove = click.Command(
    "remove",
    params=cancel.params,
    callback=cancel.callback,
    help="Another name for cancel.",
    epilog=cancel.epilog,
)

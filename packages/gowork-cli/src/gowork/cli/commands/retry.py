"""The command `gowork retry` runs finished tasks again."""

from __future__ import annotations

import click

from gowork.cli.completions import complete_task_id
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, styled, table, write_records
from gowork.cli.seen import do_to_each


@click.command(
    epilog="""\b
Examples:
  gowork retry nightly-report
  gowork tasks --status ERROR --handler resize -o jsonl | jq -r .id | xargs gowork retry"""
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_task_id)
@common_options
@pass_common
def retry(common: CommonOptions, ids: tuple[str, ...]) -> None:
    """Run tasks that ended with ERROR or CANCELLED again.

    Each goes back into its queue like a new task. Its attempts stay on record.
    """
    with common.client() as client:
        outcome = do_to_each(client, ids, client.retry)
    if common.output is not OutputFormat.TABLE:
        write_records(outcome.records(), common.output)
    elif outcome.done:
        rows = table("ID", "STATUS")
        for task_id, task in outcome.done:
            rows.add_row(plain(task_id), styled(task.status if task else ""))
        console().print(rows)
    outcome.exit()

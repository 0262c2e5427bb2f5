"""`gowork retry`."""

from __future__ import annotations

import click

from gowork.cli.completions import complete_task_id
from gowork.cli.group import EXIT_FAILED
from gowork.cli.output import console, plain, styled, table, write_records
from gowork.cli.seen import seen, seen_record
from gowork.cli.settings import OutputFormat, Settings, common_options, pass_settings
from gowork.client import FailedPrecondition, NotFound


@click.command(
    epilog="""\b
Examples:
  gowork retry nightly-report
  gowork tasks --status ERROR --handler resize -o jsonl | jq -r .id | xargs gowork retry"""
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_task_id)
@common_options
@pass_settings
def retry(settings: Settings, ids: tuple[str, ...]) -> None:
    """Run tasks again that ended with ERROR or CANCELLED.

    Each goes back into its queue as if it were new; its attempts stay on record.
    """
    done, refused = [], []
    with settings.client() as client:
        for task_id in dict.fromkeys(ids):
            try:
                client.retry(task_id)
                done.append((task_id, seen(client, task_id)))
            except (NotFound, FailedPrecondition) as error:
                refused.append(error)
    if settings.output is not OutputFormat.TABLE:
        write_records((seen_record(task_id, task) for task_id, task in done), settings.output)
    elif done:
        rows = table("ID", "STATUS")
        for task_id, task in done:
            rows.add_row(plain(task_id), styled(task.status if task else ""))
        console().print(rows)
    for refusal in refused:
        click.echo(f"gowork: {refusal}", err=True)
    if refused:
        click.get_current_context().exit(EXIT_FAILED)

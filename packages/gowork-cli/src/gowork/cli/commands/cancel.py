"""`gowork cancel`, and its other name `gowork remove`."""

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
  gowork cancel nightly-report
  gowork tasks --status PENDING --queue old -o jsonl | jq -r .id | xargs gowork cancel"""
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_task_id)
@common_options
@pass_settings
def cancel(settings: Settings, ids: tuple[str, ...]) -> None:
    """Cancel tasks.

    A pending task is cancelled at once. A running one is asked to stop, and is cancelled when its worker has stopped
    it.
    """
    done, refused = [], []
    with settings.client() as client:
        for task_id in dict.fromkeys(ids):
            try:
                client.cancel(task_id)
                done.append((task_id, seen(client, task_id)))
            except (NotFound, FailedPrecondition) as error:
                refused.append(error)
    if settings.output is not OutputFormat.TABLE:
        write_records((seen_record(task_id, task) for task_id, task in done), settings.output)
    elif done:
        rows = table("ID", "STATUS", "")
        for task_id, task in done:
            asked = task is None or task.cancel_requested
            rows.add_row(plain(task_id), styled(task.status if task else ""), "asked to stop" if asked else "")
        console().print(rows)
    for refusal in refused:
        click.echo(f"gowork: {refusal}", err=True)
    if refused:
        click.get_current_context().exit(EXIT_FAILED)


remove = click.Command(
    "remove",
    params=cancel.params,
    callback=cancel.callback,
    help="Another name for cancel.",
    epilog=cancel.epilog,
)

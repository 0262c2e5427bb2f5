"""`gowork cancel`, and its other name `gowork remove`."""

from __future__ import annotations

import click

from gowork.cli.completions import complete_task_id
from gowork.cli.group import EXIT_FAILED
from gowork.cli.output import console, plain, styled, table, write_records
from gowork.cli.records import task_record
from gowork.cli.settings import OutputFormat, Settings, common_options, pass_settings
from gowork.client import FailedPrecondition, NotFound, TaskInfo


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
    tasks: list[TaskInfo] = []
    refused: list[Exception] = []
    with settings.client() as client:
        for task_id in dict.fromkeys(ids):
            try:
                client.cancel(task_id)
                tasks.append(client.get(task_id))
            except (NotFound, FailedPrecondition) as error:
                refused.append(error)
    if settings.output is not OutputFormat.TABLE:
        write_records((task_record(task, explained=True) for task in tasks), settings.output)
    elif tasks:
        rows = table("ID", "STATUS", "")
        for task in tasks:
            rows.add_row(plain(task.id), styled(task.status), "asked to stop" if task.cancel_requested else "")
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

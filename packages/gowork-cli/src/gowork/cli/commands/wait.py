"""The command `gowork wait` waits until tasks have finished."""

from __future__ import annotations

import click

from gowork.cli.completions import complete_task_id
from gowork.cli.group import EXIT_FAILED
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, write_records
from gowork.cli.parameters import duration
from gowork.cli.records import task_record
from gowork.cli.tables import finished_table
from gowork.cli.waiting import spinning
from gowork.client import TaskStatus, TaskView


@click.command(
    epilog="""\b
Examples:
  gowork wait nightly-report && echo done
  gowork wait a b c --timeout 5m -o jsonl"""
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_task_id)
@click.option("--timeout", type=duration, metavar="DURATION", help="Stop waiting after this time. The tasks go on.")
@common_options
@pass_common
def wait(common: CommonOptions, ids: tuple[str, ...], timeout: float | None) -> None:
    """Wait until tasks have finished, and print their results.

    After a second the command says why a task does not start. It exits with 1 if a task did not complete, is
    unknown, or has not finished in time.
    """
    with common.patient_client() as client:
        tasks = spinning(client, ids, timeout)
    if common.output is OutputFormat.TABLE:
        console().print(finished_table(tasks))
    else:
        write_records((task_record(task, TaskView.RESULT) for task in tasks), common.output)
    if any(task.status is not TaskStatus.COMPLETED for task in tasks):
        click.get_current_context().exit(EXIT_FAILED)

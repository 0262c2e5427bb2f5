"""The command `gowork change` changes tasks that wait."""

from __future__ import annotations

from datetime import datetime
from functools import partial

import click

from gowork.cli.completions import complete_task_id
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, write_records
from gowork.cli.parameters import duration, time
from gowork.cli.seen import do_to_each
from gowork.cli.tables import tasks_table
from gowork.client import Priority

_PRIORITIES = [priority for priority in Priority if priority is not Priority.UNSPECIFIED]


@click.command(
    epilog="""\b
Examples:
  gowork change nightly-report --priority high
  gowork change nightly-report --queue slow --in 2h
  gowork change nightly-report --now
  gowork tasks --status PENDING --queue old -o jsonl | jq -r .id | xargs gowork change --queue new"""
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_task_id)
@click.option("--priority", type=click.Choice(_PRIORITIES, case_sensitive=False), help="The priority from now on.")
@click.option("--queue", metavar="NAME", help="The queue in which the task waits from now on.")
@click.option(
    "--in",
    "--delay",
    "delay",
    type=duration,
    metavar="DURATION",
    help="Start the task no earlier than this long from now, as in 90s, 10m, 1h30m.",
)
@click.option(
    "--at", "run_at", type=time, metavar="TIME", help="Start the task no earlier than this, as in 2026-12-24T18:00."
)
@click.option("--now", is_flag=True, help="Start the task as soon as it can be, also if it waits for its next attempt.")
@click.option(
    "--expires-in",
    type=duration,
    metavar="DURATION",
    help="If the task has not started within this time from now, it ends as expired.",
)
@click.option("--never-expires", is_flag=True, help="The task waits for as long as it takes.")
@common_options
@pass_common
def change(
    common: CommonOptions,
    ids: tuple[str, ...],
    priority: Priority | None,
    queue: str | None,
    delay: float | None,
    run_at: datetime | None,
    expires_in: float | None,
    *,
    now: bool,
    never_expires: bool,
) -> None:
    """Change tasks that wait: their queue, their priority, or when they start and expire.

    Each goes behind the tasks that wait already in its queue and priority. A task that runs or has finished is refused.
    """
    if (delay is not None) + (run_at is not None) + now > 1:
        raise click.UsageError("give one of --in, --at and --now")
    if expires_in is not None and never_expires:
        raise click.UsageError("give --expires-in or --never-expires, not both")
    if (priority, queue, delay, run_at, expires_in, now, never_expires) == (None, None, None, None, None, False, False):
        raise click.UsageError("give what to change: --priority, --queue, --in, --at, --now or --expires-in")
    with common.client() as client:
        update = partial(
            client.update,
            priority=priority,
            queue=queue,
            delay=0 if now else delay,
            run_at=run_at,
            expires_in=expires_in,
            expires_at=0 if never_expires else None,
        )
        outcome = do_to_each(client, ids, update)
    if common.output is not OutputFormat.TABLE:
        write_records(outcome.records(), common.output)
    elif outcome.done:
        console().print(tasks_table(task for _, task in outcome.done if task is not None))
    outcome.exit()

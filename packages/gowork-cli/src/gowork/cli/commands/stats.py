"""The command `gowork stats` counts tasks by queue, handler and status, and members by condition."""

from __future__ import annotations

import click

from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import ago, console, plain, styled, table, write_record
from gowork.cli.records import stats_record
from gowork.client import Stats, TaskStatus

_COLUMNS = (TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.COMPLETED, TaskStatus.CANCELLED, TaskStatus.ERROR)


@click.command(
    epilog="""\b
Examples:
  gowork stats
  gowork stats -o json | jq '[.queues[] | select(.status == "PENDING") | .tasks] | add'"""
)
@common_options
@pass_common
def stats(common: CommonOptions) -> None:
    """Count tasks by queue, handler and status, and members by condition."""
    with common.client() as client:
        found = client.stats()
        address = client.address
    if common.output is not OutputFormat.TABLE:
        write_record(stats_record(found), common.output)
        return
    _print_stats(found, address)


def _print_stats(stats: Stats, address: str) -> None:
    out = console()
    out.print(
        f"leader {address}, version {stats.version}, term {stats.term}, started {ago(stats.started_at)}", markup=False
    )
    counts: dict[tuple[str, str], dict[TaskStatus, int]] = {}
    for row in stats.queues:
        counts.setdefault((row.queue, row.handler), {})[row.status] = row.tasks
    tasks = table("QUEUE", "HANDLER", *_COLUMNS, numbers=_COLUMNS)
    for (queue, handler), by_status in sorted(counts.items()):
        tasks.add_row(
            plain(queue), plain(handler or "(default)"), *(f"{by_status.get(status, 0):,}" for status in _COLUMNS)
        )
    out.print()
    out.print(tasks if counts else "no tasks")
    members = table("MEMBERS", "COUNT", "SLOTS", "RUNNING", numbers=("COUNT", "SLOTS", "RUNNING"))
    for member in stats.members:
        members.add_row(styled(member.liveness), f"{member.members:,}", f"{member.slots:,}", f"{member.running:,}")
    out.print()
    out.print(members if stats.members else "no members")

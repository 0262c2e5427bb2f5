"""The command `gowork members` lists the workers of the cluster."""

from __future__ import annotations

from collections.abc import Iterable

import click
from rich.table import Table

from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import ago, console, plain, styled, table, write_records
from gowork.cli.records import member_record
from gowork.client import Member, MemberKind


@click.command(
    epilog="""\b
Examples:
  gowork members
  gowork members -o json | jq '.[] | select(.liveness != "LIVE")'"""
)
@common_options
@pass_common
def members(common: CommonOptions) -> None:
    """List the workers of the cluster."""
    with common.client() as client:
        found = client.members()
    if common.output is not OutputFormat.TABLE:
        write_records(map(member_record, found), common.output)
        return
    out = console()
    if not found:
        out.print("no members; start a worker with 'gowork worker', or a whole cluster with 'gowork up'")
        return
    out.print(_members_table(found))
    for member in found:
        for error in member.plugin_errors:
            out.print(plain(f"{member.id}: plugin {error}", "red"))


def _members_table(members: Iterable[Member]) -> Table:
    rows = table(
        "ID",
        "LIVENESS",
        "STATUS",
        "RUNNING",
        "SLOTS",
        "HANDLERS",
        "QUEUES",
        "LABELS",
        "VERSION",
        "SEEN",
        "ADDRESS",
        numbers=("RUNNING", "SLOTS"),
    )
    for member in members:
        rows.add_row(
            plain(member.id),
            styled(member.liveness),
            # Of a worker that is gone it is unknown what it does, and the word says nothing.
            plain(member.status.removesuffix(", unknown")),
            str(member.running),
            str(member.slots),
            plain(", ".join(member.handlers)),
            plain(", ".join(member.queues)),
            plain(", ".join(f"{key}={value}" for key, value in member.labels.items())),
            # Callback workers have no version, and lost members and those that left have none any more.
            plain(member.version or ("callback" if member.kind is MemberKind.CALLBACK else "")),
            ago(member.seen_at),
            plain(member.address),
        )
    return rows

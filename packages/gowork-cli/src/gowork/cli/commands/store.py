"""The command `gowork store`: `backup` copies the leader's store, `compare` compares those of several leaders.

gowork-leader contributes the others.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from gowork.cli.group import Contributed, OpenGroup
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, table, write_record
from gowork.client import Client, StoreComparison, StoreVerdict

#: How long to wait before the leader is asked again, in seconds.
AGAIN_SECONDS = 1.0
#: The entry point group in which packages contribute commands of `gowork store`: name = "module:click_command".
ENTRY_POINT_GROUP = "gowork.store_commands"
_CONTRIBUTED: Contributed = {
    "detach": ("gowork-leader", "Make a store usable without the log that it belongs to."),
    "force-lead": ("gowork-leader", "Have a store lead that lacks entries which its log has no more."),
    "show": ("gowork-leader", "Say what a store's file is: its format, term, and place in a log."),
    "skip": ("gowork-leader", "Have a store go past an entry of the log that it can't apply."),
}


@click.group(
    cls=OpenGroup,
    own={"backup": "gowork.cli.commands.store:backup", "compare": "gowork.cli.commands.store:compare"},
    entry_points=ENTRY_POINT_GROUP,
    contributed=_CONTRIBUTED,
    epilog="""\b
Examples:
  gowork store backup gowork-$(date +%F).backup
  gowork store compare
  gowork store show /var/lib/gowork/gowork.db""",
)
def store() -> None:
    """Back up the leader's store; compare those of several leaders; look at a store's file, help it past its log."""


@click.command(
    epilog="""\b
Examples:
  gowork store backup gowork-$(date +%F).backup
  gowork-leader --store sqlite:////var/lib/gowork/gowork.db --restore gowork-2026-11-24.backup"""
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@common_options
@pass_common
def backup(common: CommonOptions, file: Path) -> None:
    """Write a copy of the store to FILE while work goes on.

    The copy shows the store as it is at one moment. FILE appears when the copy is complete.
    `gowork-leader --restore FILE` starts a leader from it.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console(stderr=True),
        disable=not console(stderr=True).is_terminal,
    )
    with common.client() as client, bars:
        bar = bars.add_task("copying", total=None)
        try:
            client.backup(file, lambda done, total: bars.update(bar, completed=done, total=total))
        except OSError as error:
            # Its own text names the file under which the copy is built.
            told = f"{file} can't be written: {error.strerror}" if error.strerror else str(error)
            raise click.ClickException(told) from None
    size = file.stat().st_size
    if common.output is not OutputFormat.TABLE:
        write_record({"file": str(file), "bytes": size}, common.output)
    else:
        click.echo(f"wrote {file}, {size:,} bytes")


@click.command(
    epilog="""\b
Examples:
  gowork store compare
  gowork store compare --wait 600 -o json | jq -r '.stores[] | select(.verdict != "EQUAL").name'"""
)
@click.option(
    "--wait", type=click.FloatRange(min=0), default=300.0, metavar="SECONDS", help="How long to wait at most."
)
@common_options
@pass_common
def compare(common: CommonOptions, *, wait: float) -> None:
    """Compare what the stores of leaders that share a log hold.

    Each store makes a digest at the same entry of the log while work goes on, which takes minutes with millions of
    tasks. A store that is not as most are is replaced by a copy. Leaders do this daily by themselves.

    Exits with 1 if a store differs, or is still pending after --wait.
    """
    with common.client() as client:
        found = _compared(client, time.monotonic() + wait)
    if common.output is not OutputFormat.TABLE:
        stores = [{"name": s.name, "store_id": s.store_id, "verdict": s.verdict} for s in found.stores]
        write_record({"index": found.index, "stores": stores}, common.output)
    else:
        rows = table("NAME", "VERDICT", "STORE")
        for store in found.stores:
            style = "green" if store.verdict is StoreVerdict.EQUAL else "bold red"
            rows.add_row(
                plain(store.name), plain(store.verdict.lower().replace("_", " "), style), plain(store.store_id)
            )
        out = console()
        out.print(rows)
        out.print(plain(f"compared at entry {found.index:,} of the log"))
    if any(store.verdict in (StoreVerdict.DIFFERS, StoreVerdict.PENDING) for store in found.stores):
        raise click.exceptions.Exit(1)


def _compared(client: Client, until: float) -> StoreComparison:
    """Returns a comparison when nothing is pending, or at this time."""
    found = client.compare_stores()
    while any(each.verdict is StoreVerdict.PENDING for each in found.stores) and time.monotonic() < until:
        time.sleep(AGAIN_SECONDS)
        found = client.compare_stores(found.index)
    return found

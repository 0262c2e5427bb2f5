"""The command `gowork store`: `backup` writes a copy of the leader's store. gowork-leader contributes the others."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from gowork.cli.group import Contributed, OpenGroup
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, write_record

#: The entry point group in which packages contribute commands of `gowork store`: name = "module:click_command".
ENTRY_POINT_GROUP = "gowork.store_commands"
_CONTRIBUTED: Contributed = {
    "detach": ("gowork-leader", "Make a store usable without the log that it belongs to."),
    "show": ("gowork-leader", "Say what a store's file is: its format, term, and place in a log."),
}


@click.group(
    cls=OpenGroup,
    own={"backup": "gowork.cli.commands.store:backup"},
    entry_points=ENTRY_POINT_GROUP,
    contributed=_CONTRIBUTED,
    epilog="""\b
Examples:
  gowork store backup gowork-$(date +%F).backup
  gowork store show /var/lib/gowork/gowork.db""",
)
def store() -> None:
    """Back up the leader's store; look at a store's file, take it out of a log."""


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

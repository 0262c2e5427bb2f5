"""The commands `gowork store skip` and `gowork store force-lead`, entry points of gowork.store_commands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from gowork.leader._app.store_commands import SETTINGS, confirm
from gowork.leader._core.model import Position
from gowork.leader._replication import overrides
from gowork.leader._replication.overrides import OverrideError
from gowork.leader.log.entries import ChainError, NewerFormatError
from gowork.leader.log.protocol import Log, LogError
from gowork.leader.log.registry import open_log
from gowork.leader.store._sqlite_outline import outline
from gowork.leader.store.protocol import StoreError
from gowork.leader.store.sqlite import SqliteStore

_T = TypeVar("_T")

_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_log = click.option(
    "--log", metavar="URL", envvar="GOWORK_LOG", show_envvar=True, required=True, help="The log, as for gowork-leader."
)
_yes = click.option("--yes", "-y", is_flag=True, help="Don't ask.")


@click.command(
    epilog="""\b
Examples:
  gowork store skip 4711 /var/lib/gowork/gowork.db --log etcd://10.0.0.1:2379/gowork
  gowork store skip 4711 gowork.db --log etcd://10.0.0.1:2379/gowork --yes""",
    context_settings=SETTINGS,
)
@click.argument("index", type=click.IntRange(min=1))
@_file
@_log
@_yes
def skip(index: int, file: Path, log: str, *, yes: bool) -> None:
    """Have the store in FILE go past entry INDEX of its log without applying it.

    Do so when no store can apply an entry, so that nobody leads: /readyz of each leader names it then. Stop the leader,
    run this as its user, and start it. When it leads, the other leaders take copies of its store.
    What the entry wrote is lost: the command names it, and asks.

    Exits with 1 if the entry does not come next, if the store can apply it, or if a leader uses the store.
    """
    if _position(file) is None:
        raise click.ClickException(f"{file} belongs to no log, so it stops at no entry")
    store = SqliteStore(file)
    found = _with(log, lambda opened: overrides.skippable(opened, store, index))
    click.echo(f"{file} can't apply entry {index:,}, of term {found.entry.term:,}: {found.why}", err=True)
    click.echo(f"Lost with it: {found.loss}", err=True)
    if not yes:
        confirm(f"Skip entry {index:,}?")
    _with(log, lambda opened: overrides.skip(opened, store, found))
    click.echo(f"{file} is past entry {index:,} now; start its leader, and then the others")


@click.command(
    "force-lead",
    epilog="""\b
Examples:
  gowork store force-lead /var/lib/gowork/gowork.db --log etcd://10.0.0.1:2379/gowork
  gowork store force-lead gowork.db --log etcd://10.0.0.1:2379/gowork --yes""",
    context_settings=SETTINGS,
)
@_file
@_log
@_yes
def force_lead(file: Path, log: str, *, yes: bool) -> None:
    """Have the store in FILE lead, though it lacks entries that its log has no more.

    Do so when every store that has come further is lost. Take the one that has come furthest, which `gowork store show`
    tells. Stop all leaders, run this as the leader's user, and start that leader first. Move the stores of the others
    away, so that they take copies.
    The log begins anew with what FILE has. All later entries are lost: the command says how many, and asks.

    Exits with 1 if a leader leads, or if the store can lead by itself.
    """
    position = _position(file)
    found = _with(log, lambda opened: overrides.forceable(opened, position))
    click.echo(f"Lost: {found.loss}", err=True)
    for each in found.further:
        words = f"{each.leader.name}, with the store {each.leader.store_id}, had come to entry {each.applied:,}"
        click.echo(f"{words}: if that store is still there, start its leader instead", err=True)
    if not yes:
        confirm(f"Have {file} lead without them?")
    generation = _with(log, lambda opened: overrides.force(opened, SqliteStore(file), found))
    click.echo(
        f"the log begins anew, with generation {generation.id}; start the leader of {file}, move the other stores "
        f"away, and start their leaders"
    )


def _position(file: Path) -> Position | None:
    """Returns where the store in this file stands in a log.

    Raises:
        click.ClickException: it is no store.
    """
    try:
        return outline(file).position
    except StoreError as error:
        raise click.ClickException(str(error)) from None


def _with(url: str, work: Callable[[Log], Awaitable[_T]]) -> _T:
    """Runs this with the log.

    Raises:
        click.ClickException: it can't be done. The message says why.
    """

    async def run() -> _T:
        log = open_log(url)
        try:
            await log.open()
            return await work(log)
        finally:
            await log.close()

    try:
        return asyncio.run(run())
    except (OverrideError, StoreError, LogError, ChainError, NewerFormatError) as error:
        raise click.ClickException(str(error)) from None

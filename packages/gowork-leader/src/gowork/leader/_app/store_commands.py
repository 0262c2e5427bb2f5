"""The commands `gowork store show`, `detach` and `downgrade`, entry points of gowork.store_commands."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import msgspec

from gowork.leader.store import _sqlite_lower
from gowork.leader.store._sqlite_outline import Outline, outline
from gowork.leader.store.protocol import StoreError
from gowork.leader.store.sqlite import SqliteStore

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}

_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command(
    epilog="""\b
Examples:
  gowork store show /var/lib/gowork/gowork.db
  gowork store show gowork.db -o json | jq .log.index""",
    context_settings=SETTINGS,
)
@_file
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", help="How to print it.")
def show(file: Path, output: str) -> None:
    """Say what the store in FILE is: its format, its term, and where it stands in a log.

    The store is not changed, and a leader may use it meanwhile.

    Exits with 1 if FILE is no store.
    """
    try:
        found = outline(file)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(_record(file, found))).decode())
        return
    position = found.position
    rows = {
        "file": f"{file}, {found.size:,} bytes",
        "format": f"{found.format}",
        "store id": found.store_id or "none yet",
        "term": f"{found.term:,}",
        "log": "belongs to none"
        if position is None
        else f"index {position.index:,} of generation {position.generation}, hash {position.hash.hex()}",
    }
    for name, words in rows.items():
        click.echo(f"{name:<10}{words}")


def _record(file: Path, found: Outline) -> dict[str, object]:
    position = found.position
    return {
        "file": str(file),
        "bytes": found.size,
        "format": found.format,
        "store_id": found.store_id,
        "term": found.term,
        "log": None
        if position is None
        else {"generation": position.generation, "index": position.index, "hash": position.hash.hex()},
    }


@click.command(
    epilog="""\b
Examples:
  gowork store detach /var/lib/gowork/gowork.db
  gowork store detach gowork.db --yes && gowork-leader --store sqlite:///gowork.db""",
    context_settings=SETTINGS,
)
@_file
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
def detach(file: Path, *, yes: bool) -> None:
    """Take the store in FILE out of its log. A leader can use it without --log then, or begin a new log with it.

    Do so when the log is lost, or to go back to a single leader. Stop all leaders first, and run this as the leader's
    user. What the log has beyond this store is not in it: take the store that has come furthest, which
    `gowork store show` tells. The store can't go back to its log. Terms go on far above the old ones, and clients that
    watch list their tasks anew.

    Exits with 1 if FILE is no store that belongs to a log, or a leader uses it.
    """
    try:
        position = outline(file).position
        if position is None:
            raise click.ClickException(f"{file} belongs to no log, so there is nothing to detach")
        if not yes:
            confirm(f"{file} is at index {position.index:,} of its log, and can't go back to it. Detach it?")
        asyncio.run(SqliteStore(file).detach())
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{file} belongs to no log now; a leader may use it without --log, or begin a new log with it")


@click.command(
    epilog="""\b
Examples:
  gowork store downgrade /var/lib/gowork/gowork.db
  gowork store downgrade gowork.db && pip install gowork-leader==0.1.0""",
    context_settings=SETTINGS,
)
@_file
def downgrade(file: Path) -> None:
    """Bring the store in FILE to the format that older versions of gowork-leader use.

    Do so before you go back to a version that refuses the store because of its format. Stop the leader first, and run
    this as the leader's user, with the newer version still installed. Nothing is lost, and it takes less than a second
    for a store of any size. A store that belongs to a log still belongs to it. A newer version brings the store to its
    own format again when it opens it. Backups need no such step: each version can restore them.

    Exits with 1 if FILE is no store, has that format already, or a leader uses it.
    """
    try:
        version = _sqlite_lower.downgrade(file)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{file} has format {version} now; start the older version on it")


def confirm(question: str) -> None:
    """Asks a question on a terminal.

    Raises:
        click.Abort: the answer is no.
        click.UsageError: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise click.UsageError("this command asks a question, and standard input is not a terminal; give --yes")
    click.confirm(question, abort=True, err=True)

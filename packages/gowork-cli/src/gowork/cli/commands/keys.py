"""The command `gowork keys` makes and arranges the keys with which payloads are encrypted."""

from __future__ import annotations

from pathlib import Path

import click

from gowork.base.key_files import ID_PATTERN, KEYS_MAX, new_key, read_file, write_file
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, table, write_records
from gowork.cli.suggestions import SuggestingGroup

_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.group(
    cls=SuggestingGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  gowork keys new tasks.keys
  gowork --keys tasks.keys add --handler hello Ada --wait
  gowork-worker --keys tasks.keys

\b
To change keys, on all machines one step after the other:
  gowork keys new tasks.keys             # everybody can decrypt with the new key
  gowork keys first tasks.keys ID        # everybody encrypts with it
  gowork keys remove tasks.keys OLD_ID   # when no task of the old key is needed any more""",
)
def keys() -> None:
    """Make and arrange the keys with which payloads are encrypted.

    A file has a key on each line. The first one encrypts, all of them decrypt. Clients and workers read the file again
    when it has changed. Keep a copy of it: without a task's key nobody can read the task.
    """


@keys.command(
    short_help="Add a new key to a file.",
    epilog="""\b
Examples:
  gowork keys new tasks.keys
  gowork keys new tasks.keys --id 2026-12 --first""",
)
@_FILE
@click.option(
    "--id", "key_id", metavar="ID", help="The key's id, which everybody sees.  [default: the day, and a random part]"
)
@click.option(
    "--first", "is_first", is_flag=True, help="Encrypt with it at once. Do so only if nobody else has the file."
)
def new(file: Path, key_id: str | None, *, is_first: bool) -> None:
    """Add a new key to the end of FILE, and print its id. The file is made if it is not there.

    Only the owner of a new file may read it.
    """
    known = read_file(file) if file.exists() else {}
    made_id, key = new_key()
    key_id = made_id if key_id is None else key_id
    if not ID_PATTERN.fullmatch(key_id):
        raise click.UsageError(f"--id: {key_id!r} is not 1 to 64 letters, digits, dots, dashes and underscores")
    if key_id in known:
        raise click.UsageError(f"--id: {file} has a key {key_id!r} already")
    if len(known) >= KEYS_MAX:
        raise click.UsageError(f"{file} has {KEYS_MAX} keys already: remove those that no task needs any more")
    _write(file, {key_id: key, **known} if is_first else {**known, key_id: key})
    click.echo(key_id)


@keys.command("list", short_help="List the ids of the keys in a file.")
@_FILE
@common_options
@pass_common
def list_keys(common: CommonOptions, file: Path) -> None:
    """List the ids of the keys in FILE, and which of them encrypts. Keys themselves are never printed."""
    ids = list(read_file(file))
    if common.output is not OutputFormat.TABLE:
        write_records(({"id": id, "encrypts": id == ids[0]} for id in ids), common.output)
        return
    rows = table("ID", "USE")
    for id in ids:
        rows.add_row(plain(id), "encrypts, decrypts" if id == ids[0] else "decrypts")
    console().print(rows)


@keys.command(short_help="Encrypt with another key of a file.")
@_FILE
@click.argument("key_id", metavar="ID")
def first(file: Path, key_id: str) -> None:
    """Make the key ID the first one of FILE, so that it encrypts from now on."""
    known = read_file(file)
    _check_known(file, known, key_id)
    _write(file, {key_id: known[key_id], **known})


@keys.command(short_help="Remove a key from a file.")
@_FILE
@click.argument("key_id", metavar="ID")
def remove(file: Path, key_id: str) -> None:
    """Remove the key ID from FILE. Tasks that were encrypted with it can't be read or run with this file any more."""
    known = read_file(file)
    _check_known(file, known, key_id)
    if len(known) == 1:
        raise click.UsageError(f"{key_id!r} is the only key of {file}: delete the file if nobody needs it any more")
    del known[key_id]
    _write(file, known)


def _check_known(file: Path, known: dict[str, bytes], key_id: str) -> None:
    if key_id not in known:
        raise click.UsageError(f"{file} has no key {key_id!r}, only {', '.join(known)}")


def _write(file: Path, known: dict[str, bytes]) -> None:
    try:
        write_file(file, known)
    except OSError as error:
        raise click.ClickException(f"can't write {file}: {error.strerror or error}") from None

"""The command `gowork tokens` makes the tokens with which callers show who they are."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import click

from gowork.base.bearer import read_token
from gowork.base.certificates import CertificateError
from gowork.base.file_writing import write_new
from gowork.cli.suggestions import SuggestingGroup

#: How many random bytes a token has: nobody guesses it, so its plain hash tells nothing.
_TOKEN_BYTES = 32
_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.group(
    cls=SuggestingGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  gowork tokens new web.token            # prints sha256:…, for the access file
  gowork --token-file web.token tasks
  GOWORK_TOKEN_FILE=web.token python app.py

\b
In the access file of the leaders (--access):
  [[identity]]
  name = "web"
  roles = ["client"]
  tokens = ["sha256:…"]""",
)
def tokens() -> None:
    """Make the tokens with which callers show leaders who they are.

    Leaders know the hashes of tokens alone. To replace a token, add the new one's hash to the access file of all
    leaders, give the new file to the caller, and then remove the old hash.
    """


@tokens.command(
    short_help="Make a token.",
    epilog="""\b
Examples:
  gowork tokens new web.token""",
)
@_FILE
def new(file: Path) -> None:
    """Write a new token to FILE, which must not be there, and print its hash for the leaders' access file.

    Only the owner may read the file.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    try:
        write_new({file: (f"{token}\n".encode(), True)})
    except FileExistsError:
        raise click.UsageError(f"{file} is there already; choose another name, or remove it") from None
    except OSError as error:
        raise click.ClickException(f"{file} can't be written: {error.strerror or error}") from None
    click.echo(_hash_of(token))


@tokens.command(
    "hash",
    short_help="Print the hash of a token.",
    epilog="""\b
Examples:
  gowork tokens hash web.token""",
)
@_FILE
def show_hash(file: Path) -> None:
    """Print the hash of the token in FILE, for the leaders' access file."""
    try:
        click.echo(_hash_of(read_token(file)))
    except CertificateError as error:
        raise click.UsageError(str(error)) from None


def _hash_of(token: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"

"""The command `gowork protos` writes the contract's protos, for clients and workers in other languages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import click

#: The folder with which the protos' import paths begin.
_ROOT = "gowork/proto"
_BUF = """\
# The contract of gowork, as `gowork protos` wrote it. https://github.com/gowork/gowork
version: v2
modules:
  - path: .
lint:
  use: [STANDARD]
  except:
    # The files lie under gowork/proto, the packages keep the names of the original contract.
    - PACKAGE_DIRECTORY_MATCH
breaking:
  use: [WIRE]
"""


@click.command(
    short_help="Write the protos for clients and workers in any language.",
    epilog="""\b
Examples:
  gowork protos --out protos
  buf build protos                                  # it is a buf module
  protoc -I protos --python_out=gen $(find protos -name '*.proto')

\b
The protos' comments are the reference. What a worker must do, message by message, is on
the page that `gowork docs protocol` opens. `gowork worker-check` checks a worker.""",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The directory to write to. A buf.yaml in it is kept. Protos of the same names are replaced.",
)
def protos(out: Path) -> None:
    """Write the contract's protos as a buf module, for clients and workers in any language."""
    try:
        written = [_write(out / _ROOT / name, text) for name, text in _protos(resources.files("gowork.proto"))]
        module = out / "buf.yaml"
        kept = module.exists() and module.read_text(encoding="utf-8", errors="replace") != _BUF
        if not kept:
            written.append(_write(module, _BUF.encode()))
    except OSError as error:
        raise click.ClickException(f"can't write to {error.filename or out}: {error.strerror or error}") from None
    for path in written:
        click.echo(path)
    if kept:
        click.echo(f"gowork: {module} was there and is kept", err=True)


def _protos(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _protos(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".proto"):
            yield prefix + entry.name, entry.read_bytes()


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path

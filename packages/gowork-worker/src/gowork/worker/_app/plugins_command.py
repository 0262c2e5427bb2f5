"""The command `gowork plugins`, an entry point of gowork.commands. It lists what is installed, without a leader."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click
import msgspec

from gowork.worker._authoring.listing import Row, rows_of_all
from gowork.worker._core.around import ALL
from gowork.worker._core.options import check_environments
from gowork.worker._core.selection import Selection
from gowork.worker.errors import ConfigurationError


@click.command(
    "plugins",
    epilog="""\b
Examples:
  gowork plugins
  gowork plugins --import hello             # with the handlers of ./hello.py too
  gowork plugins --plugin-env /srv/envs/a   # with the plugins of another virtual environment too
  gowork plugins -o json | jq -r '.[].handlers[].name'
""",
)
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="List a module with handlers too, also one in the working directory. May be repeated.",
)
@click.option("--plugin", "plugins", multiple=True, metavar="NAME", help="List only these plugins. May be repeated.")
@click.option(
    "--plugin-env",
    "paths",
    multiple=True,
    metavar="PATH",
    help="List the plugins of this virtual environment too. May be repeated.",
)
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "jsonl"]),
    envvar="GOWORK_OUTPUT",
    default="table",
    show_default=True,
    help="The form of the list.",
)
def main(*, imports: Sequence[str], plugins: Sequence[str], paths: Sequence[str], output: str) -> None:
    """List the plugins that are installed here, their handlers and hooks, and what is wrong with them.

    They are loaded in another process, by the Python of their environment. Exits with 1 when something is wrong.
    """
    selection = Selection(plugins=tuple(plugins) or None, imports=tuple(imports))
    places = [path and os.path.abspath(path) for path in paths]
    try:
        check_environments(places)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    rows = rows_of_all(selection, places)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(rows)).decode())
    elif output == "jsonl":
        for row in rows:
            click.echo(msgspec.json.encode(row).decode())
    else:
        _print_table(rows, places=bool(paths))
    if any(row.errors for row in rows):
        raise click.exceptions.Exit(1)


def _told(hook: str) -> str:
    return f"{hook} (around the tasks of all plugins)" if hook == ALL else hook


def _print_table(rows: Sequence[Row], *, places: bool) -> None:
    lines = [("ENVIRONMENT", "PLUGIN", "VERSION", "HANDLER", "RUNS AS", "WHAT IT DOES")]
    for row in rows:
        first = (row.environment or "(own)", row.plugin or "-", row.version or "-")
        for handler in row.handlers:
            name = handler.name + (" (default)" if handler.default else "")
            lines.append((*first, name, handler.isolation, handler.summary))
            first = ("", "", "")
        if row.hooks:
            lines.append((*first, "-", "HOOKS", ", ".join(map(_told, row.hooks))))
            first = ("", "", "")
        for error in row.errors:
            lines.append((*first, "-", "ERROR", error))
            first = ("", "", "")
        if not row.handlers and not row.errors and not row.hooks:
            lines.append((*first, "-", "-", "no handlers"))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    for number, line in enumerate(lines):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        text = "  ".join([*(cells if places else cells[1:]), line[5]])
        color = "red" if line[4] == "ERROR" else None
        click.echo(click.style(text.rstrip(), bold=number == 0, fg=color))

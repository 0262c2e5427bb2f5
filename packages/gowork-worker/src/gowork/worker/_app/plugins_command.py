"""The command `gowork plugins`, an entry point of gowork.commands. It lists what is installed, without a leader."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from gowork.worker._core.around import ALL
from gowork.worker._core.plugins import Loaded, add_search_path, load
from gowork.worker._core.selection import Selection


@click.command(
    "plugins",
    epilog="""\b
Examples:
  gowork plugins
  gowork plugins --import hello             # with the handlers of ./hello.py too
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
    "--output",
    "-o",
    type=click.Choice(["table", "json", "jsonl"]),
    envvar="GOWORK_OUTPUT",
    default="table",
    show_default=True,
    help="The form of the list.",
)
def main(*, imports: Sequence[str], plugins: Sequence[str], output: str) -> None:
    """List the plugins that are installed here, their handlers and hooks, and what is wrong with them.

    Exits with 1 when something is wrong.
    """
    if imports:
        add_search_path(os.getcwd())
    loaded = load(Selection(plugins=tuple(plugins) or None, imports=tuple(imports)))
    rows = [_row(loaded, plugin.name) for plugin in loaded.plugins]
    known = {row["plugin"] for row in rows}
    rows += [
        {"plugin": error.plugin, "version": "", "handlers": [], "hooks": [], "errors": [error.reason]}
        for error in loaded.errors
        if error.plugin not in known
    ]
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(rows)).decode())
    elif output == "jsonl":
        for row in rows:
            click.echo(msgspec.json.encode(row).decode())
    else:
        _print_table(rows)
    if any(row["errors"] for row in rows):
        raise click.exceptions.Exit(1)


def _row(loaded: Loaded, name: str) -> dict[str, Any]:
    plugin = next(plugin for plugin in loaded.plugins if plugin.name == name)
    handlers = [loaded.handlers[handler] for handler in plugin.handlers if handler in loaded.handlers]
    return {
        "plugin": plugin.name,
        "version": plugin.version,
        "handlers": [
            {
                "name": handler.name,
                "isolation": handler.options.isolation.value,
                "default": handler is loaded.default,
                "time_limit_ms": handler.options.time_limit_ms,
                "max_attempts": handler.options.retry.max_attempts if handler.options.retry is not None else None,
                "summary": _summary(handler.function.__doc__),
            }
            for handler in handlers
        ],
        "hooks": list(plugin.hooks),
        "errors": list(plugin.errors),
    }


def _summary(text: str | None) -> str:
    """Returns the first sentence of a docstring, in one line."""
    return " ".join((text or "").split()).partition(". ")[0].rstrip(".")


def _told(hook: str) -> str:
    return f"{hook} (around the tasks of all plugins)" if hook == ALL else hook


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    lines = [("PLUGIN", "VERSION", "HANDLER", "RUNS AS", "WHAT IT DOES")]
    for row in rows:
        first = (row["plugin"], row["version"] or "-")
        for handler in row["handlers"]:
            name = handler["name"] + (" (default)" if handler["default"] else "")
            lines.append((*first, name, handler["isolation"], handler["summary"]))
            first = ("", "")
        if row["hooks"]:
            lines.append((*first, "-", "HOOKS", ", ".join(map(_told, row["hooks"]))))
            first = ("", "")
        for error in row["errors"]:
            lines.append((*first, "-", "ERROR", error))
            first = ("", "")
        if not row["handlers"] and not row["errors"] and not row["hooks"]:
            lines.append((*first, "-", "-", "no handlers"))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)) + "  " + line[4]
        color = "red" if line[3] == "ERROR" else None
        click.echo(click.style(text.rstrip(), bold=number == 0, fg=color))

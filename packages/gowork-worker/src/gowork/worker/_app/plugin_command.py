"""The commands `gowork plugin …`, an entry point of gowork.commands. They help authors of plugins, without a leader."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from gowork.worker._authoring.check import Check, Result
from gowork.worker._authoring.scaffold import ScaffoldError, names_of, write_plugin


@click.group("plugin")
def main() -> None:
    """Write a plugin of your own, and check it."""


@main.command(
    epilog="""\b
Examples:
  gowork plugin new thumbnails
  gowork plugin new thumbnails --directory ~/src/thumbnails
""",
)
@click.argument("name")
@click.option(
    "--directory",
    "-d",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="PATH",
    help="Where to write it: a folder that is empty or not there.  [default: gowork-plugin-NAME]",
)
def new(*, name: str, directory: Path | None) -> None:
    """Write a package with a handler NAME, its tests and a CI file. It can be installed, tested and run at once."""
    try:
        names = names_of(name)
        folder = directory or Path(names.distribution)
        written = write_plugin(names, folder)
    except ScaffoldError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{folder}:")
    for path in written:
        click.echo(f"  {path}")
    click.echo(
        f"""
Next:
  cd {shlex.quote(str(folder))}
  python3 -m pip install -e '.[test]' && python3 -m pytest
  gowork up                           # runs a leader, and a worker with the handler {names.plugin}, until Ctrl-C
  gowork add --handler {names.plugin} '{{"text": "tick", "times": 3}}' --wait    # in another terminal"""
    )


@main.command(
    epilog="""\b
Examples:
  gowork plugin check thumbnails
  gowork plugin check thumbnails --try thumbnails '{"text": "tick", "times": 1000}'
  gowork plugin check --import hello        # the handlers of ./hello.py
  gowork plugin check thumbnails -o json | jq -r '.[] | select(.faults != []).check'
""",
)
@click.argument("plugin", required=False)
@click.option("--import", "module", metavar="MODULE", help="Check a module that is not installed.")
@click.option(
    "--try",
    "tries",
    type=(str, str),
    multiple=True,
    metavar="HANDLER PAYLOAD",
    help="Run this handler with this payload, as text: once to its end, once to be cancelled, once to run out of time. "
    "May be repeated.",
)
@click.option(
    "--load-seconds",
    type=click.FloatRange(0.1, 600.0),
    default=5.0,
    show_default=True,
    help="How long loading may take.",
)
@click.option(
    "--run-seconds",
    type=click.FloatRange(0.1, 3600.0),
    default=5.0,
    show_default=True,
    help="How long each run of a handler may take.",
)
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "jsonl"]),
    envvar="GOWORK_OUTPUT",
    default="table",
    show_default=True,
    help="The form of the findings.",
)
def check(
    *,
    plugin: str | None,
    module: str | None,
    tries: Sequence[tuple[str, str]],
    load_seconds: float,
    run_seconds: float,
    output: str,
) -> None:
    """Check the plugin or package PLUGIN: how it loads, what it leaves behind, how its handlers run and stop.

    Each check has a process of its own. Handlers are run only with the payloads of --try. Exits with 1 when something
    is wrong.
    """
    if (plugin is None) is (module is None):
        raise click.UsageError("name either a plugin or a module, as in `gowork plugin check --import hello`")
    checks = Check(
        plugin or module or "",
        is_module=module is not None,
        tries=tries,
        load_seconds=load_seconds,
        run_seconds=run_seconds,
    )
    results: list[Result] = []
    for result in checks.run():
        results.append(result)
        if output == "jsonl":
            click.echo(msgspec.json.encode(result).decode())
        elif output == "table":
            _print(result)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(results)).decode())
    if any(result.faults and not result.is_skipped for result in results):
        raise click.exceptions.Exit(1)


def _print(result: Result) -> None:
    word, color = ("skipped", "yellow") if result.is_skipped else ("FAULT", "red") if result.faults else ("ok", "green")
    what = f"{result.handler}: {result.check}" if result.handler else result.check
    note = f" ({result.note})" if result.note and not result.faults else ""
    click.echo(f"{click.style(word.ljust(7), fg=color)}  {what}{note}")
    for fault in result.faults:
        click.echo(f"         {fault}")

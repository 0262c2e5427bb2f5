"""`gowork queues`: what waits in each queue, and how it is served."""

from __future__ import annotations

from collections.abc import Iterable

import click
from rich.table import Table

from gowork.cli.completions import complete_queue
from gowork.cli.output import console, plain, table, write_record, write_records
from gowork.cli.records import queue_record
from gowork.cli.settings import OutputFormat, Settings, common_options, pass_settings
from gowork.client import Queue

_name = click.argument("name", metavar="QUEUE", shell_complete=complete_queue)


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  gowork queues
  gowork queues pause mail
  gowork queues set mail --concurrency 10 --rate 50
  gowork queues set reports --weight 5 --key-concurrency 1""",
)
@common_options
@click.pass_context
def queues(context: click.Context) -> None:
    """List the queues; pause and resume them, set their weights and limits."""
    if context.invoked_subcommand is None:
        context.invoke(list_queues)


@queues.command("list")
@common_options
@pass_settings
def list_queues(settings: Settings) -> None:
    """List the queues that have tasks or settings."""
    with settings.client() as client:
        found = client.queues()
    if settings.output is not OutputFormat.TABLE:
        write_records(map(queue_record, found), settings.output)
    elif found:
        console().print(_table(found))
    else:
        console().print("no queue has tasks waiting or running, or settings of its own")


@queues.command(
    epilog="""\b
Example:
  gowork queues pause mail"""
)
@_name
@common_options
@pass_settings
def pause(settings: Settings, name: str) -> None:
    """Start no more tasks of a queue; what runs goes on."""
    with settings.client() as client:
        client.pause_queue(name)


@queues.command(
    epilog="""\b
Example:
  gowork queues resume mail"""
)
@_name
@common_options
@pass_settings
def resume(settings: Settings, name: str) -> None:
    """End a pause."""
    with settings.client() as client:
        client.resume_queue(name)


@queues.command(
    "set",
    epilog="""\b
Examples:
  gowork queues set reports --weight 5
  gowork queues set mail --concurrency 10 --key-concurrency 1
  gowork queues set api --rate 100 --burst 20
  gowork queues set api --rate 0""",
)
@_name
@click.option("--weight", type=int, metavar="N", help="Its share of the slots beside other queues that have work.")
@click.option("--concurrency", "concurrency_limit", type=int, metavar="N", help="Most tasks at once; 0 for no limit.")
@click.option(
    "--key-concurrency",
    "key_concurrency_limit",
    type=int,
    metavar="N",
    help="Most tasks of one concurrency key at once; 0 for no limit.",
)
@click.option("--rate", "rate_limit", type=float, metavar="N", help="Most starts a second, over time; 0 for no limit.")
@click.option("--burst", "rate_burst", type=int, metavar="N", help="Most starts at once under --rate.")
@common_options
@pass_settings
def set_queue(settings: Settings, /, name: str, rate_limit: float | None, **limits: int | None) -> None:
    """Set how a queue is served. What is not named stays as it is."""
    if rate_limit is None and all(value is None for value in limits.values()):
        raise click.UsageError("name at least one of --weight, --concurrency, --key-concurrency, --rate, --burst")
    with settings.client() as client:
        queue = client.configure_queue(name, rate_limit=rate_limit, **limits)
    if settings.output is not OutputFormat.TABLE:
        write_record(queue_record(queue), settings.output)
    else:
        console().print(_table([queue]))


def _table(found: Iterable[Queue]) -> Table:
    numbers = ("WAITING", "DELAYED", "RUNNING", "WEIGHT", "CONCURRENCY", "PER KEY", "RATE", "BURST")
    rows = table("QUEUE", "", *numbers, numbers=numbers)
    for queue in found:
        rows.add_row(
            plain(queue.name),
            "paused" if queue.paused else "",
            f"{queue.waiting:,}",
            f"{queue.delayed:,}",
            f"{queue.running:,}",
            str(queue.weight),
            str(queue.concurrency_limit or ""),
            str(queue.key_concurrency_limit or ""),
            f"{queue.rate_limit:g}/s" if queue.rate_limit else "",
            str(queue.rate_burst or ""),
        )
    return rows

"""The command `gowork queues` lists the queues, pauses and resumes them, and sets their weights and limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
from click.types import IntParamType
from rich.text import Text

from gowork.base.suggestions import meant
from gowork.cli import questions
from gowork.cli.completions import complete_queue
from gowork.cli.group import Refused
from gowork.cli.listing import print_rows
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, write_record, write_records
from gowork.cli.records import queue_record
from gowork.cli.suggestions import SuggestingGroup
from gowork.client import Client, Queue


class _Number(IntParamType):
    """A whole number of 32 bits. The leader has bounds of its own, which the help does not repeat."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number: int = super().convert(value, param, ctx)
        if not -(1 << 31) <= number < 1 << 31:
            self.fail(f"{number} is not in the range of 32-bit numbers.", param, ctx)
        return number


_NUMBER = _Number()

_name = click.argument("name", metavar="QUEUE", shell_complete=complete_queue)


@click.group(
    cls=SuggestingGroup,
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
@pass_common
def list_queues(common: CommonOptions) -> None:
    """List the queues that have tasks or settings."""
    with common.client() as client:
        found = client.queues()
    if common.output is not OutputFormat.TABLE:
        write_records(map(queue_record, found), common.output)
    elif found:
        _print_table(found)
    else:
        console().print("no queue has waiting or running tasks, or settings of its own")


@queues.command(
    epilog="""\b
Examples:
  gowork queues pause mail
  gowork queues pause reports --new      # before its first task comes"""
)
@_name
@click.option("--new", is_flag=True, help="Pause the queue even if it has no tasks and no settings yet.")
@common_options
@pass_common
def pause(common: CommonOptions, name: str, *, new: bool) -> None:
    """Pause a queue: no more of its tasks are started. Running tasks go on.

    The name of a queue without tasks and settings may be mistyped. The command asks before it pauses such a queue.
    Without a terminal to ask on, it refuses to, unless --new is given.
    """
    with common.client() as client:
        if not new and (known := _unknown(client, name)) is not None:
            words = f"the queue {name!r} has no tasks and no settings{meant(name, known)}"
            if not questions.can_ask():
                raise Refused(f"{words}; --new pauses it all the same")
            click.echo(f"gowork: {words}", err=True)
            questions.confirm(f"Pause {name!r} before its first task comes?", "give --new")
        client.pause_queue(name)


@queues.command(
    epilog="""\b
Example:
  gowork queues resume mail"""
)
@_name
@common_options
@pass_common
def resume(common: CommonOptions, name: str) -> None:
    """End the pause of a queue."""
    with common.client() as client:
        known = _unknown(client, name)
        client.resume_queue(name)
    _note(name, known)


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
@click.option(
    "--weight", type=_NUMBER, metavar="N", help="The queue's share of the slots while others have work, 1 to 1,000."
)
@click.option(
    "--concurrency",
    "concurrency_limit",
    type=_NUMBER,
    metavar="N",
    help="How many of the queue's tasks run at once, at most. 0 means no limit.",
)
@click.option(
    "--key-concurrency",
    "key_concurrency_limit",
    type=_NUMBER,
    metavar="N",
    help="How many tasks of one concurrency key run at once, at most. 0 means no limit.",
)
@click.option(
    "--rate", "rate_limit", type=float, metavar="N", help="How many tasks start per second, at most. 0 means no limit."
)
@click.option(
    "--burst", "rate_burst", type=_NUMBER, metavar="N", help="With a rate, how many tasks start at once, at most."
)
@common_options
@pass_common
def set_queue(common: CommonOptions, /, name: str, rate_limit: float | None, **limits: int | None) -> None:
    """Set a queue's weight and limits. A setting whose option is left out stays as it is."""
    if rate_limit is None and all(value is None for value in limits.values()):
        raise click.UsageError("name at least one of --weight, --concurrency, --key-concurrency, --rate, --burst")
    with common.client() as client:
        known = _unknown(client, name)
        queue = client.configure_queue(name, rate_limit=rate_limit, **limits)
    if common.output is not OutputFormat.TABLE:
        write_record(queue_record(queue), common.output)
    else:
        _print_table([queue])
    _note(name, known)


def _unknown(client: Client, name: str) -> list[str] | None:
    """Returns the names of all queues if this one has no tasks, not even finished ones, and no settings; else None."""
    known = [queue.name for queue in client.queues()]
    if name in known or next(client.tasks(queue=name, page_size=1), None) is not None:
        return None
    return known


def _note(name: str, known: list[str] | None) -> None:
    """Says that a queue was not known. It does not ask, because limits are often set before the first task comes."""
    if known is not None:
        click.echo(f"gowork: the queue {name!r} had no tasks and no settings before{meant(name, known)}", err=True)


def _print_table(found: Iterable[Queue]) -> None:
    numbers = ("WAITING", "DELAYED", "RUNNING", "WEIGHT", "CONCURRENCY", "PER KEY", "RATE", "BURST")
    print_rows(console(), ("QUEUE", "", *numbers), map(_row, found), numbers)


def _row(queue: Queue) -> list[Text]:
    cells = (
        queue.name,
        "paused" if queue.paused else "",
        f"{queue.waiting:,}",
        f"{queue.delayed:,}",
        f"{queue.running:,}",
        queue.weight,
        queue.concurrency_limit or "",
        queue.key_concurrency_limit or "",
        f"{queue.rate_limit:g}/s" if queue.rate_limit else "",
        queue.rate_burst or "",
    )
    return [plain(cell) for cell in cells]

"""The command `gowork queues` shows what waits in each queue and changes how a queue is served."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
from click.types import IntParamType
from rich.text import Text

from gowork.cli import questions
from gowork.cli.completions import complete_queue
from gowork.cli.listing import print_rows
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, write_record, write_records
from gowork.cli.records import queue_record
from gowork.cli.suggestions import SuggestingGroup, meant
from gowork.client import Client, Queue


class _Number(IntParamType):
    """What a field of the contract holds. The leader has bounds of its own, which the help must not seem to know."""

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
        console().print("no queue has tasks waiting or running, or settings of its own")


@queues.command(
    epilog="""\b
Examples:
  gowork queues pause mail
  gowork queues pause reports --new      # before its first task comes"""
)
@_name
@click.option("--new", is_flag=True, help="Do it even if the queue does not exist yet.")
@common_options
@pass_common
def pause(common: CommonOptions, name: str, *, new: bool) -> None:
    """Start no more tasks of a queue; what runs goes on.

    A queue without tasks and settings may be a typing mistake. The command asks before it pauses one. Where nobody can
    be asked, it pauses none without --new.
    """
    with common.client() as client:
        if not new and (known := _unknown(client, name)) is not None:
            words = f"there is no task and no setting of a queue {name!r}{meant(name, known)}"
            if not questions.can_ask():
                raise click.ClickException(f"{words}; --new pauses it all the same")
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
    """End a pause."""
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
    "--weight", type=_NUMBER, metavar="N", help="Its share of the slots while other queues have work too, 1 to 1,000."
)
@click.option(
    "--concurrency",
    "concurrency_limit",
    type=_NUMBER,
    metavar="N",
    help="How many of its tasks run at once, at most. 0 means no limit.",
)
@click.option(
    "--key-concurrency",
    "key_concurrency_limit",
    type=_NUMBER,
    metavar="N",
    help="How many tasks of one concurrency key run at once, at most. 0 means no limit.",
)
@click.option(
    "--rate", "rate_limit", type=float, metavar="N", help="How many tasks start in a second, at most. 0 means no limit."
)
@click.option(
    "--burst", "rate_burst", type=_NUMBER, metavar="N", help="With a rate: how many tasks start at once, at most."
)
@common_options
@pass_common
def set_queue(common: CommonOptions, /, name: str, rate_limit: float | None, **limits: int | None) -> None:
    """Set how a queue is served. Options that are left out change nothing."""
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
    """The queues that are known, when this one is not among them and none of the tasks that are kept was in it."""
    known = [queue.name for queue in client.queues()]
    if name in known or next(client.tasks(queue=name, page_size=1), None) is not None:
        return None
    return known


def _note(name: str, known: list[str] | None) -> None:
    """Says that a queue was not known. It asks nothing, because limits are often set before the first task comes."""
    if known is not None:
        click.echo(f"gowork: there was no task and no setting of a queue {name!r} before{meant(name, known)}", err=True)


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

"""The command `gowork groups` opens groups, tells how far they are, seals and cancels them."""

from __future__ import annotations

from typing import cast

import click
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gowork.cli.completions import complete_group
from gowork.cli.listing import print_rows
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import ago, console, harmless, local, plain, styled, write_record, write_records
from gowork.cli.parameters import pairs
from gowork.cli.payload_checks import PayloadChecks
from gowork.cli.payloads import payload_of
from gowork.cli.records import group_record
from gowork.cli.suggestions import SuggestingGroup
from gowork.cli.task_options import RULES, task_options
from gowork.client import GroupState, TaskOptions

_NUMBERS = ("CHILDREN", "OF", "UNFINISHED", "COMPLETED", "FAILED", "CANCELLED")
#: How wide the bar of `show` is, in columns.
_BAR_COLUMNS = 40

_id = click.argument("group_id", metavar="ID", shell_complete=complete_group)


@click.group(
    cls=SuggestingGroup,
    invoke_without_command=True,
    epilog="""\b
Examples:
  gowork groups
  gowork groups open pictures --handler publish
  gowork add pictures/1 --handler resize '{"name": "a.png"}'
  gowork groups seal pictures
  gowork groups show pictures
  gowork wait pictures""",
)
@common_options
@click.pass_context
def groups(context: click.Context) -> None:
    """List the groups, which are tasks that run after their children; open, show, seal and cancel them."""
    if context.invoked_subcommand is None:
        context.invoke(list_groups)


@groups.command("list")
@common_options
@pass_common
def list_groups(common: CommonOptions) -> None:
    """List the groups that have not ended, and how far each is.

    A group that was cancelled because of its children is among them as long as a retry of a child has it wait again.
    """
    with common.client() as client:
        found = list(client.groups.list())
    if common.output is not OutputFormat.TABLE:
        write_records(map(group_record, found), common.output)
    elif found:
        print_rows(console(), ("ID", "STATUS", *_NUMBERS, "AGE"), map(_row, found), _NUMBERS)
    else:
        console().print("there are no unfinished groups; gowork groups open makes one")


@groups.command(
    "open",
    epilog="""\b
Examples:
  gowork groups open pictures                      # completes when its children have, and it is sealed
  gowork groups open pictures --handler publish '{"album": 17}' --children 200
  gowork groups open pictures --handler tidy-up --after-rule all_finished""",
)
@click.argument("words", metavar="ID [PAYLOAD]", nargs=-1)
@click.option(
    "--children",
    type=click.IntRange(0),
    metavar="N",
    help="How many children it has. Without it, the group is open until gowork groups seal.",
)
@click.option(
    "--after-rule",
    type=click.Choice(RULES, case_sensitive=False),
    help="Run the handler when all children have ended (all_finished), or if one of them has failed (any_failed). When "
    "the rule can't hold any more, the group is cancelled.  [default: all_completed]",
)
@task_options
@click.option("--no-check", is_flag=True, help="As for gowork add.")
@common_options
@pass_common
def open_group(
    common: CommonOptions,
    /,
    words: tuple[str, ...],
    children: int | None,
    labels: tuple[str, ...],
    selector: tuple[str, ...],
    max_attempts: int | None,
    no_check: bool,
    **others: str | float | None,
) -> None:
    """Open a group, and print its id. The same one again changes nothing.

    Its children are the tasks that are added later and whose ids are ID/NAME, with any NAME without a slash. When they
    have ended, --handler runs with the PAYLOAD. Without a handler, the group completes when its children have.
    """
    if not words:
        raise click.UsageError("give the ID of the group; those of its children are ID/NAME")
    if len(words) > 2:
        raise click.UsageError("too many words: give ID [PAYLOAD], with the payload in quotes")
    if len(words) == 2 and not others["handler"]:
        raise click.UsageError("give a --handler with a PAYLOAD; without a handler nobody works on it")
    payload = payload_of(words[1]) if len(words) == 2 else ""
    own = {"labels": pairs(labels, "--label"), "selector": pairs(selector, "--selector"), "retry": max_attempts}
    options = cast("TaskOptions", {**others, **own})
    with common.client() as client:
        if (handler := options.get("handler")) and not no_check:
            PayloadChecks(client).check(payload, handler, options.get("plugin_version") or "")
        handle = client.groups.open(payload, id=words[0], children=children, **options)
    if common.output is OutputFormat.TABLE:
        click.echo(harmless(handle.id))
    else:
        write_record({"id": handle.id}, common.output)


@groups.command(
    epilog="""\b
Examples:
  gowork groups show pictures
  watch gowork groups show pictures
  gowork tasks --filter 'id = "pictures/*" AND status = ERROR'     # its children that failed"""
)
@_id
@common_options
@pass_common
def show(common: CommonOptions, group_id: str) -> None:
    """Show how far a group is, also when it has ended. gowork show tells of its task."""
    with common.client() as client:
        found = client.groups.get(group_id)
    _print(common, found)


@groups.command(
    epilog="""\b
Examples:
  gowork groups seal pictures
  gowork groups seal pictures --children 200"""
)
@_id
@click.option(
    "--children", type=click.IntRange(0), metavar="N", help="How many it has.  [default: those that are there]"
)
@common_options
@pass_common
def seal(common: CommonOptions, group_id: str, children: int | None) -> None:
    """Say that a group has all of its children, or how many it will have. It ends when they have ended."""
    with common.client() as client:
        found = client.groups.seal(group_id, children)
    _print(common, found)


@groups.command(
    epilog="""\b
Example:
  gowork groups cancel pictures"""
)
@_id
@common_options
@pass_common
def cancel(common: CommonOptions, group_id: str) -> None:
    """Cancel a group and its unfinished children, and print how many of these. Running ones are asked to stop."""
    with common.client() as client:
        done = client.groups.cancel(group_id)
    if common.output is OutputFormat.TABLE:
        click.echo(f"children cancelled: {done.cancelled:,}; asked to stop: {done.asked:,}")
    else:
        write_record({"id": group_id, "cancelled": done.cancelled, "asked_to_stop": done.asked}, common.output)


def _row(group: GroupState) -> list[Text]:
    cells = (
        f"{group.children:,}",
        "open" if group.expected is None else f"{group.expected:,}",
        *(f"{number:,}" for number in (group.unfinished, group.completed, group.failed, group.cancelled)),
    )
    age = "" if group.created_at is None else ago(group.created_at)
    return [plain(group.id), styled(group.status), *map(plain, cells), plain(age)]


def _print(common: CommonOptions, group: GroupState) -> None:
    if common.output is not OutputFormat.TABLE:
        write_record(group_record(group), common.output)
        return
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    rows.add_row("id", plain(group.id))
    rows.add_row("status", styled(group.status))
    of = "so far; it is open" if group.expected is None else f"of {group.expected:,}"
    rows.add_row("children", f"{group.children:,} {of}")
    for name in ("unfinished", "completed", "failed", "cancelled"):
        rows.add_row(name, f"{getattr(group, name):,}")
    if group.created_at is not None:
        rows.add_row("scheduled", f"{local(group.created_at)} ({ago(group.created_at)})")
    out = console()
    out.print(rows)
    if out.is_terminal:
        total = group.children if group.expected is None else max(group.expected, group.children)
        out.print(ProgressBar(total=max(1, total), completed=group.ended, width=_BAR_COLUMNS))

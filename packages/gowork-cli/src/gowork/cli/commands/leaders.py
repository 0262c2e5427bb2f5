"""The command `gowork leaders` lists the leaders of the cluster, and has them hand over or removes them."""

from __future__ import annotations

import click
from rich.table import Table

from gowork.base.suggestions import meant
from gowork.cli import questions
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import ago, console, plain, table, write_record
from gowork.cli.records import leader_record, leaders_record
from gowork.cli.suggestions import SuggestingGroup
from gowork.client import LeaderInfo, Leaders


@click.group(
    cls=SuggestingGroup,
    invoke_without_command=True,
    epilog="""\b
Examples:
  gowork leaders
  gowork leaders -o json | jq -r '.leaders[] | select(.leads).name'
  gowork leaders step-down
  gowork leaders remove host-3""",
)
@common_options
@click.pass_context
def leaders(context: click.Context) -> None:
    """List the leaders; have another one lead, remove one that is gone.

    Leaders that share a log are listed with how far each has come in it. Any leader answers, also while none leads.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_leaders)


@leaders.command("list")
@common_options
@pass_common
def list_leaders(common: CommonOptions) -> None:
    """List the leaders, the one that leads first.

    A leader registers at least every ten seconds. The numbers of one that does not lead are as old as SEEN says.
    """
    with common.client() as client:
        found = client.leaders()
    if common.output is not OutputFormat.TABLE:
        write_record(leaders_record(found), common.output)
        return
    out = console()
    out.print(_leaders_table(found))
    if found.leading is None:
        out.print(plain("no leader leads now", "bold red"))
    if found.log is not None:
        log = found.log
        out.print(plain(f"log {log.generation}: entries {log.first_index:,} to {log.last_index:,}"))


@leaders.command(
    "step-down",
    epilog="""\b
Examples:
  gowork leaders step-down
  gowork leaders step-down --yes -o json""",
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@common_options
@pass_common
def step_down(common: CommonOptions, *, yes: bool) -> None:
    """Have the leader that leads hand over to another one.

    What it has accepted is kept. Workers and clients go on with the next leader by themselves, and no task is started
    anew. The command returns when another one leads.

    Exits with 1 if no other leader can take over.
    """
    with common.client() as client:
        leading = client.leaders().leading
        if leading is None:
            raise click.ClickException("no leader leads now; see 'gowork leaders'")
        if not yes:
            questions.confirm(f"{leading.name} leads. Have it hand over to another leader?", "give --yes")
        successor = client.step_down(leading.term)
    if common.output is not OutputFormat.TABLE:
        write_record(leader_record(successor), common.output)
    else:
        console().print(plain(f"{successor.name} leads now, in term {successor.term:,}"))


@leaders.command(
    epilog="""\b
Examples:
  gowork leaders remove host-3                # when one leader has this name
  gowork leaders remove 5f2c9a1b              # the store's id, or its beginning"""
)
@click.argument("store")
@common_options
@pass_common
def remove(common: CommonOptions, store: str) -> None:
    """Remove a leader that is gone for good, so that the log need not keep entries for it.

    STORE is the id of its store, the beginning of that id, or its name. A leader that was seen within the last minute
    is not removed. If a removed one comes back, it registers again.

    Exits with 1 if there is no such leader, or it is not removed.
    """
    with common.client() as client:
        leader = _one(client.leaders(), store)
        client.remove_leader(leader.store_id)
    if common.output is not OutputFormat.TABLE:
        write_record(leader_record(leader), common.output)
    else:
        console().print(plain(f"{leader.name}, with the store {leader.store_id}, is removed"))


def _one(found: Leaders, word: str) -> LeaderInfo:
    """Returns the leader that a word names.

    Raises:
        click.ClickException: it names none, or several.
    """
    named = [leader for leader in found.leaders if leader.store_id == word]
    named = named or [leader for leader in found.leaders if leader.name == word]
    named = named or [leader for leader in found.leaders if word and leader.store_id.startswith(word)]
    if len(named) > 1:
        ids = ", ".join(leader.store_id for leader in named)
        raise click.ClickException(f"{word!r} names {len(named)} leaders; give one of the store ids {ids}")
    if not named:
        known = [name for leader in found.leaders for name in (leader.name, leader.store_id)]
        raise click.ClickException(f"no leader has the store or the name {word!r}{meant(word, known)}")
    return named[0]


def _leaders_table(found: Leaders) -> Table:
    rows = table(
        "NAME",
        "LEADS",
        "TERM",
        "SINCE",
        "APPLIED",
        "FORCED",
        "LAG",
        "SEEN",
        "VERSION",
        "ADDRESS",
        "STORE",
        numbers=("TERM", "APPLIED", "FORCED", "LAG"),
    )
    for leader in found.leaders:
        rows.add_row(
            plain(leader.name),
            plain("leads", "green") if leader.leads else "",
            f"{leader.term:,}" if leader.leads else "",
            ago(leader.leads_since),
            f"{leader.applied_index:,}",
            f"{leader.forced_index:,}",
            f"{leader.lag_entries:,}",
            ago(leader.seen_at),
            plain(leader.version),
            plain(leader.scheduler_address),
            plain(leader.store_id),
        )
    return rows

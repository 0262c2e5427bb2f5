"""The command `gowork drain` takes a worker out of service."""

from __future__ import annotations

import time

import click

from gowork.cli.completions import complete_member
from gowork.cli.group import EXIT_FAILED
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, write_records
from gowork.cli.parameters import duration
from gowork.cli.records import member_record
from gowork.client import Client, Liveness, Member, MemberKind

#: Seconds between two calls for the members, while the command waits.
_LOOK_S = 0.2


@click.command(
    epilog="""\b
Examples:
  gowork drain host-7                      # its tasks may run for its --drain-timeout
  gowork drain host-7 --budget 30s --wait  # its tasks may run for 30 s; returns when it has left"""
)
@click.argument("worker", shell_complete=complete_member)
@click.option(
    "--budget",
    type=duration,
    metavar="DURATION",
    help="How long its running tasks may go on.  [default: the worker's --drain-timeout]",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Return when it has left. A callback worker does not leave: return when it holds no more tasks.",
)
@common_options
@pass_common
def drain(common: CommonOptions, worker: str, budget: float | None, wait: bool) -> None:
    """Take a worker out of service.

    It gets no more tasks, finishes its running tasks within the budget, hands the rest back, and leaves. Its process
    ends with 0. A task that is handed back uses up no attempt. A callback worker stays idle until it joins again.

    Exits with 1 if there is no such worker, or, with --wait, if it was lost before it had left.
    """
    with common.patient_client() if wait else common.client() as client:
        client.drain(worker, budget)
        member = _member(client, worker)
        if wait and member is not None:
            with console(stderr=True).status(f"waiting for {worker} to leave"):
                member = _end(client, member)
    if common.output is not OutputFormat.TABLE:
        write_records([member_record(member)] if member is not None else [], common.output)
    else:
        console().print(f"{worker} {_words(member)}", markup=False)
    if member is not None and member.liveness is Liveness.LOST:
        click.get_current_context().exit(EXIT_FAILED)


def _member(client: Client, id: str) -> Member | None:
    return next((member for member in client.members() if member.id == id), None)


def _end(client: Client, first: Member) -> Member | None:
    """Waits until the member has left. Returns it as last seen; None if it is not listed, or another has its name."""
    member: Member | None = first
    while member is not None and member.joined_at == first.joined_at and not _has_ended(member):
        time.sleep(_LOOK_S)
        member = _member(client, first.id)
    return member if member is not None and member.joined_at == first.joined_at else None


def _has_ended(member: Member) -> bool:
    if member.liveness is Liveness.DRAINING:
        return member.kind is MemberKind.CALLBACK and not member.running
    return True


def _words(member: Member | None) -> str:
    if member is None or member.liveness is Liveness.LEFT:
        return "has left"
    if member.liveness is Liveness.LOST:
        return "was lost before it had left; its tasks go to other workers"
    return f"is draining, and holds {member.running} task{'' if member.running == 1 else 's'}"

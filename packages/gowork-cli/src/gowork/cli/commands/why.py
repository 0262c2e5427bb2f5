"""The command `gowork why` says why a task waits, or why it ended."""

from __future__ import annotations

import click
from rich.console import Console

from gowork.cli.completions import complete_task_id
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import ago, console, plain, styled, table, write_record
from gowork.cli.records import explanation_record
from gowork.client import Explanation, TaskStatus, WaitCode


@click.command(
    epilog="""\b
Examples:
  gowork why nightly-report
  gowork why nightly-report --verbose
  gowork why nightly-report -o json | jq -r '.reasons[].code'"""
)
@click.argument("task_id", metavar="ID", shell_complete=complete_task_id)
@click.option("--verbose", "-v", is_flag=True, help="Show also why each worker does not run it.")
@common_options
@pass_common
def why(common: CommonOptions, task_id: str, *, verbose: bool) -> None:
    """Say why a task waits, or why it ended, and what to do."""
    with common.client() as client:
        explanation = client.explain(task_id, verbose=verbose)
    if common.output is not OutputFormat.TABLE:
        write_record(explanation_record(explanation), common.output)
        return
    _print(console(), explanation)


def _print(out: Console, explanation: Explanation) -> None:
    out.print(styled(explanation.status))
    if not explanation.reasons:
        waiting = explanation.status is TaskStatus.PENDING
        out.print("nothing holds it up: it is about to be started" if waiting else "it does not wait")
    for reason in explanation.reasons:
        until = f" ({ago(reason.until)})" if reason.until else ""
        out.print(plain(f"- {reason.message}{until}"))
        if reason.advice:
            out.print(plain(f"  {reason.advice}", "dim"))
    if explanation.ahead:
        out.print(f"tasks ahead of it: {explanation.ahead:,}", markup=False)
    if explanation.workers:
        rows = table("WORKER", "", "WHY NOT")
        for verdict in explanation.workers:
            free = verdict.code is WaitCode.UNSPECIFIED
            rows.add_row(plain(verdict.worker), plain("" if free else verdict.code), plain(verdict.message))
        out.print()
        out.print(rows)

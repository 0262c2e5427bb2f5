"""`gowork purge`."""

from __future__ import annotations

import click

from gowork.cli.completions import complete_task_id
from gowork.cli.output import write_record
from gowork.cli.parameters import duration
from gowork.cli.settings import OutputFormat, Settings, common_options, pass_settings


@click.command(
    epilog="""\b
Examples:
  gowork purge nightly-report
  gowork purge --older-than 2d
  gowork purge --filter 'status = ERROR AND queue = "mail"' --yes"""
)
@click.argument("ids", metavar="[ID...]", nargs=-1, shell_complete=complete_task_id)
@click.option("--filter", "expression", metavar="EXPRESSION", help="Of the finished tasks, those that this selects.")
@click.option(
    "--older-than", type=duration, metavar="DURATION", help="Only what finished so long ago; alone, of all queues."
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@common_options
@pass_settings
def purge(
    settings: Settings, ids: tuple[str, ...], expression: str | None, older_than: float | None, *, yes: bool
) -> None:
    """Remove finished tasks and their results, now rather than when their time is over."""
    selected = expression is not None or older_than is not None
    if bool(ids) == selected:
        raise click.UsageError("give IDs, or --filter or --older-than, not both")
    # All that is finished is what is not pending: a running one is never removed.
    wanted = expression or ("" if ids else "status != PENDING")
    if not yes:
        what = f"{len(ids):,} task(s)" if ids else f"all finished tasks that match {wanted!r}"
        click.confirm(f"Remove {what}, with their results?", abort=True, err=True)
    with settings.client() as client:
        purged = client.purge(ids, filter=wanted, older_than=older_than or 0)
    if settings.output is not OutputFormat.TABLE:
        write_record({"purged": purged}, settings.output)
    else:
        click.echo(f"removed {purged:,} tasks")

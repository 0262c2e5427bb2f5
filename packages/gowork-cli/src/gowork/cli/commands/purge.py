"""The command `gowork purge` removes finished tasks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import click

from gowork.cli import questions
from gowork.cli.completions import complete_task_id
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import write_record
from gowork.cli.parameters import duration
from gowork.cli.selections import Selection, counted
from gowork.client import Client, NotFound, TaskInfo

#: Selects all finished tasks. Others are never removed.
_FINISHED = "status != PENDING AND status != RUNNING"


@click.command(
    short_help="Remove finished tasks and their results.",
    epilog="""\b
Examples:
  gowork purge nightly-report
  gowork purge --older-than 2d --dry-run
  gowork purge --filter 'status = ERROR AND queue = "mail"' --yes
  gowork purge --filter 'id = "report-*"'     # all tasks whose id begins with report-
  gowork purge --filter 'id = "report-\\*"'    # only the task with the id report-*""",
)
@click.argument("ids", metavar="[ID...]", nargs=-1, shell_complete=complete_task_id)
@click.option("--filter", "expression", metavar="EXPRESSION", help="Only finished tasks that this filter selects.")
@click.option(
    "--older-than",
    type=duration,
    metavar="DURATION",
    help="Only tasks that finished at least this long ago. Without --filter, those of all queues.",
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@click.option("--dry-run", is_flag=True, help="Only say how many tasks would be removed, and name some.")
@common_options
@pass_common
def purge(
    common: CommonOptions,
    ids: tuple[str, ...],
    expression: str | None,
    older_than: float | None,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    """Remove finished tasks and their results at once, before retention does.

    The command shows how many tasks it would remove, and some of their ids, and asks. Without a terminal to ask on, it
    removes nothing unless --yes is given.
    """
    if bool(ids) == (expression is not None or older_than is not None):
        raise click.UsageError("give IDs, or --filter or --older-than, not both")
    if expression is not None and not expression.strip():
        raise click.UsageError(f"--filter is empty; {_FINISHED!r} selects all that have finished")
    if not (yes or dry_run or questions.can_ask()):
        # This refuses before anything is counted.
        questions.confirm("", "give --yes to remove the tasks, or --dry-run to see how many they are")
    began = time.monotonic()
    with common.client() as client:
        if dry_run or not yes:
            selection = _by_id(client, ids) if ids else _by_filter(client, expression, older_than)
            if dry_run or not selection.tasks:
                if dry_run:
                    selection.write(common, "remove")
                else:
                    _tell(common, 0)
                return
            questions.confirm(f"Remove {selection}, with their results?", "give --yes")
        # Tasks that became old enough while the question was open are not removed, because it did not count them.
        age = older_than and older_than + (time.monotonic() - began)
        purged = client.purge(ids, filter=expression or ("" if ids else _FINISHED), older_than=age or 0)
    _tell(common, purged)


def _tell(common: CommonOptions, purged: int) -> None:
    if common.output is not OutputFormat.TABLE:
        write_record({"purged": purged}, common.output)
    else:
        click.echo(f"removed {purged:,} {'task' if purged == 1 else 'tasks'}")


def _by_id(client: Client, ids: Iterable[str]) -> Selection:
    return _selection(_existing(client, ids))


def _existing(client: Client, ids: Iterable[str]) -> Iterator[TaskInfo]:
    for task_id in dict.fromkeys(ids):
        try:
            yield client.get(task_id)
        except NotFound:
            # The leader skips unknown ids too.
            continue


def _by_filter(client: Client, expression: str | None, older_than: float | None) -> Selection:
    found = client.tasks(" AND ".join([expression, _FINISHED] if expression else [_FINISHED]), page_size=1_000)
    if older_than is None:
        return _selection(found)
    try:
        before = datetime.now(UTC) - timedelta(seconds=older_than)
    except OverflowError:
        return _selection(())
    return _selection(task for task in found if task.finished_at is not None and task.finished_at < before)


def _selection(tasks: Iterable[TaskInfo]) -> Selection:
    return counted("finished", tasks, lambda task: task.status.finished)

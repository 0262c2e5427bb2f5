"""The command `gowork schedules` adds, shows, pauses and removes schedules, which make tasks again and again."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gowork.cli.completions import complete_schedule
from gowork.cli.listing import print_rows
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import (
    ago,
    console,
    harmless,
    local,
    plain,
    span,
    styled,
    table,
    write_record,
    write_records,
)
from gowork.cli.parameters import duration, pairs, time
from gowork.cli.payload_checks import PayloadChecks
from gowork.cli.payloads import payload_of
from gowork.cli.records import schedule_record
from gowork.cli.suggestions import SuggestingGroup
from gowork.cli.task_options import task_options
from gowork.client import At, Cron, Every, Schedule, ScheduleOptions, ScheduleOverlap

_OVERLAPS = [each.lower().replace("_", "-") for each in ScheduleOverlap if each is not ScheduleOverlap.UNSPECIFIED]

_name = click.argument("name", metavar="NAME", shell_complete=complete_schedule)


@click.group(
    cls=SuggestingGroup,
    invoke_without_command=True,
    epilog="""\b
Examples:
  gowork schedules
  gowork schedules add nightly --cron '0 3 * * *' --tz Europe/Berlin --handler report
  gowork schedules show nightly
  gowork schedules pause nightly --reason 'the disk is full'""",
)
@common_options
@click.pass_context
def schedules(context: click.Context) -> None:
    """List the schedules, which make tasks again and again; add, pause, trigger and remove them."""
    if context.invoked_subcommand is None:
        context.invoke(list_schedules)


@schedules.command("list")
@common_options
@pass_common
def list_schedules(common: CommonOptions) -> None:
    """List the schedules, with the next tick and the last run of each."""
    with common.client() as client:
        found = client.schedules.list()
    if common.output is not OutputFormat.TABLE:
        write_records(map(schedule_record, found), common.output)
    elif found:
        numbers = ("MADE", "SKIPPED")
        print_rows(console(), ("NAME", "", "WHEN", "NEXT", "LAST RUN", *numbers, "HANDLER"), map(_row, found), numbers)
    else:
        console().print("there are no schedules; gowork schedules add makes one")


@schedules.command(
    epilog="""\b
Examples:
  gowork schedules add nightly --cron '0 3 * * *' --tz Europe/Berlin --handler report '{"kind": "daily"}'
  gowork schedules add poll --every 10m --handler poll --overlap skip
  gowork schedules add launch --at 2030-01-01T09:00 --handler mail '{"to": "all"}'
  gowork schedules add nightly --cron '30 2 * * *' --handler report --replace"""
)
@click.argument("words", metavar="NAME [PAYLOAD]", nargs=-1)
@click.option(
    "--cron",
    metavar="EXPRESSION",
    help="When it ticks, as a cron expression in quotes: minute, hour, day, month, weekday; six fields with seconds "
    "first.",
)
@click.option("--tz", metavar="ZONE", help="With --cron, the time zone, as in Europe/Berlin.  [default: UTC]")
@click.option(
    "--every", type=duration, metavar="DURATION", help="It ticks at equal distances in whole seconds, as in 10m."
)
@click.option(
    "--at", "times", type=time, metavar="TIME", multiple=True, help="It ticks at this time, once. Repeatable."
)
@task_options
@click.option(
    "--overlap",
    type=click.Choice(_OVERLAPS, case_sensitive=False),
    help="What happens at a tick while the task of an earlier run has not finished.  [default: skip]",
)
@click.option(
    "--catch-up",
    "catch_up_window",
    type=duration,
    metavar="DURATION",
    help="How old a tick may be that is made late because no leader was there.  [default: 1h]",
)
@click.option("--jitter", type=duration, metavar="DURATION", help="Tasks start up to this much later than their ticks.")
@click.option("--start", "start_at", type=time, metavar="TIME", help="No tick is before this time.")
@click.option("--end", "end_at", type=time, metavar="TIME", help="No tick is at this time or later.")
@click.option("--paused", is_flag=True, help="A new schedule begins paused.")
@click.option("--replace", is_flag=True, help="Replace the schedule of this name. Its runs, counts and pause stay.")
@click.option(
    "--no-check", is_flag=True, help="Add it even if the handler, as workers describe it, does not take the payload."
)
@common_options
@pass_common
def add(
    common: CommonOptions,
    /,
    words: tuple[str, ...],
    cron: str | None,
    tz: str | None,
    every: float | None,
    times: tuple[datetime, ...],
    labels: tuple[str, ...],
    selector: tuple[str, ...],
    max_attempts: int | None,
    paused: bool,
    replace: bool,
    no_check: bool,
    overlap: str | None,
    catch_up_window: float | None,
    jitter: float | None,
    start_at: datetime | None,
    end_at: datetime | None,
    **others: str | float | None,
) -> None:
    """Add a schedule, which makes a task at each of its ticks. The same one again changes nothing.

    PAYLOAD is as for gowork add. The task of a tick has the id NAME/TIME, with the time in UTC.
    """
    when = _when(cron, tz, every, times)
    if not words:
        raise click.UsageError("give the NAME of the schedule")
    if len(words) > 2:
        raise click.UsageError("too many words: give NAME [PAYLOAD], with the payload and a cron expression in quotes")
    if len(words) == 1 and not others["handler"]:
        raise click.UsageError("give a PAYLOAD, or a --handler that needs no payload")
    payload = payload_of(words[1]) if len(words) == 2 else ""
    own = {"labels": pairs(labels, "--label"), "selector": pairs(selector, "--selector"), "retry": max_attempts}
    options = cast("ScheduleOptions", {**others, **own})
    with common.client() as client:
        if (handler := options.get("handler")) and not no_check:
            PayloadChecks(client).check(payload, handler, options.get("plugin_version") or "")
        added = client.schedules.add(
            words[0],
            when,
            payload,
            overlap=None if overlap is None else overlap.replace("-", "_"),
            catch_up_window=catch_up_window,
            jitter=jitter,
            start_at=start_at,
            end_at=end_at,
            paused=paused,
            replace=replace,
            **options,
        )
    if common.output is not OutputFormat.TABLE:
        write_record(schedule_record(added.schedule), common.output)
        return
    done = "added" if added.created else "replaced" if added.replaced else "it is there already"
    ticks = added.schedule.next_ticks
    # Whoever replaces a paused schedule may expect it to tick.
    then = "paused" if added.schedule.paused else f"first tick {local(ticks[0])} ({ago(ticks[0])})" if ticks else ""
    click.echo(harmless(f"{added.schedule.name}: {done}{then and f'; {then}'}"))


@schedules.command(
    epilog="""\b
Examples:
  gowork schedules show nightly
  gowork schedules show nightly -o json | jq -r '.next_ticks[]'"""
)
@_name
@common_options
@pass_common
def show(common: CommonOptions, name: str) -> None:
    """Show one schedule in full, with its next ticks and its last runs."""
    with common.client() as client:
        found = client.schedules.get(name)
    if common.output is OutputFormat.TABLE:
        _print_schedule(console(), found)
    else:
        write_record(schedule_record(found), common.output)


@schedules.command(
    epilog="""\b
Example:
  gowork schedules pause nightly --reason 'the disk is full'"""
)
@_name
@click.option("--reason", metavar="TEXT", default="", help="Why, for people.")
@common_options
@pass_common
def pause(common: CommonOptions, name: str, reason: str) -> None:
    """Pause a schedule: no tasks are made at its ticks, which are counted as skipped."""
    with common.client() as client:
        client.schedules.pause(name, reason)


@schedules.command(
    epilog="""\b
Examples:
  gowork schedules resume nightly
  gowork schedules resume nightly --catch-up"""
)
@_name
@click.option("--catch-up", is_flag=True, help="Make the tasks of the ticks that are within the catch-up window.")
@common_options
@pass_common
def resume(common: CommonOptions, name: str, *, catch_up: bool) -> None:
    """End the pause of a schedule, and print how many ticks came meanwhile and were skipped."""
    with common.client() as client:
        skipped = client.schedules.resume(name, catch_up=catch_up)
    if common.output is OutputFormat.TABLE:
        click.echo(f"skipped ticks: {skipped:,}")
    else:
        write_record({"skipped_ticks": skipped}, common.output)


@schedules.command(
    epilog="""\b
Examples:
  gowork schedules trigger nightly
  gowork wait $(gowork schedules trigger nightly)"""
)
@_name
@click.option(
    "--request-id",
    metavar="TEXT",
    help="Names this call: the same one again makes no second task.  [default: a new one]",
)
@common_options
@pass_common
def trigger(common: CommonOptions, name: str, request_id: str | None) -> None:
    """Make the task of a schedule now, and print its id."""
    with common.client() as client:
        task_id = client.schedules.trigger(name, request_id)
    if common.output is OutputFormat.TABLE:
        click.echo(harmless(task_id))
    else:
        write_record({"id": task_id}, common.output)


@schedules.command(
    epilog="""\b
Example:
  gowork schedules remove nightly"""
)
@_name
@common_options
@pass_common
def remove(common: CommonOptions, name: str) -> None:
    """Remove a schedule. The tasks that it has made stay."""
    with common.client() as client:
        client.schedules.remove(name)


@schedules.command(
    epilog="""\b
Example:
  gowork schedules backfill nightly --from 2026-11-01 --until 2026-11-08"""
)
@_name
@click.option("--from", "start", type=time, metavar="TIME", required=True, help="The ticks from this time on.")
@click.option("--until", "end", type=time, metavar="TIME", required=True, help="The ticks before this time.")
@common_options
@pass_common
def backfill(common: CommonOptions, name: str, start: datetime, end: datetime) -> None:
    """Make the tasks of past ticks that have none, at most 1,000 at once, and print their ids."""
    with common.client() as client:
        made = client.schedules.backfill(name, start, end)
    if common.output is not OutputFormat.TABLE:
        write_record({"ids": list(made.task_ids), "existing": made.existing}, common.output)
        return
    for task_id in made.task_ids:
        click.echo(harmless(task_id))
    if made.existing:
        click.echo(f"gowork: {made.existing:,} ticks had tasks already", err=True)
    elif not made.task_ids:
        click.echo("gowork: there are no ticks between these times", err=True)


def _when(cron: str | None, tz: str | None, every: float | None, times: tuple[datetime, ...]) -> Cron | Every | At:
    options = (("--cron", cron), ("--every", every), ("--at", times or None))
    given = [option for option, value in options if value is not None]
    if len(given) != 1:
        besides = f", not {' and '.join(given)}" if given else ""
        raise click.UsageError(f"give one of --cron, --every and --at{besides}")
    if tz is not None and cron is None:
        raise click.UsageError("--tz goes with --cron; a TIME names its own zone, as in 2026-12-24T18:00+01:00")
    if cron is not None:
        return Cron(cron, "UTC" if tz is None else tz)
    return At(times) if every is None else Every(every)


def _words(schedule: Schedule) -> str:
    """Returns when a schedule ticks, for people."""
    match schedule.when:
        case Cron() as cron:
            return f"{cron.expression} {cron.tz}"
        case Every() as every:
            return f"every {span(every.interval)}"
        case At() as at:
            times: Any = at.times
            return f"at {local(times[0])}" if len(times) == 1 else f"at {len(times):,} times"
        case _:
            return "(unknown to this version)"


def _state(schedule: Schedule) -> str:
    return "paused" if schedule.paused else "orphaned" if schedule.orphaned else ""


def _row(schedule: Schedule) -> list[Text]:
    ticks, runs = schedule.next_ticks, schedule.runs
    cells = (
        schedule.name,
        _state(schedule),
        _words(schedule),
        # A paused schedule makes nothing then.
        "" if schedule.paused else ago(ticks[0]) if ticks else "over",
        ago(runs[0].made_at) if runs else "",
        f"{schedule.made_ticks:,}",
        f"{sum(schedule.skipped_ticks.values()):,}",
        schedule.task.handler or "(default)",
    )
    return [plain(cell) for cell in cells]


def _print_schedule(out: Console, schedule: Schedule) -> None:
    out.print(_facts(schedule))
    if schedule.runs:
        out.print()
        rows = table("ID", "STATUS", "MADE", "")
        for run in schedule.runs:
            status = styled(run.status) if run.status else plain("(removed)", "dim")
            rows.add_row(plain(run.task_id), status, plain(ago(run.made_at)), "triggered" if run.triggered else "")
        out.print(rows)


def _facts(schedule: Schedule) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")

    def add(name: str, value: object) -> None:
        if value or value == 0:
            rows.add_row(name, Text(harmless(str(value))))

    def add_time(name: str, moment: datetime | None) -> None:
        if moment is not None:
            add(name, f"{local(moment)} ({ago(moment)})")

    task = schedule.task
    add("name", schedule.name)
    add("when", _words(schedule))
    add_time("paused", schedule.paused_at if schedule.paused else None)
    add("paused by", schedule.paused_by)
    add("because", schedule.pause_reason)
    add("handler", task.handler or "(the worker's default)")
    add("queue", task.queue)
    add("priority", task.priority)
    add("payload", f"{len(task.payload):,} bytes of data" if isinstance(task.payload, bytes) else task.payload)
    add("overlap", schedule.overlap.lower().replace("_", "-"))
    add("catch-up window", span(schedule.catch_up_window))
    add("jitter", span(schedule.jitter or None))
    add_time("start", schedule.start_at)
    add_time("end", schedule.end_at)
    if schedule.declared_by_handler:
        add(
            "declared by",
            f"{schedule.declared_by_handler} {schedule.declared_by_plugin} {schedule.declared_by_version}",
        )
    add("orphaned", "no connected worker declares it" if schedule.orphaned else "")
    add("ignored", schedule.declaration_ignored)
    add("made ticks", f"{schedule.made_ticks:,}")
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(schedule.skipped_ticks.items()))
    add("skipped ticks", skipped)
    add_time("waits", schedule.waiting_tick)
    for place, tick in enumerate(schedule.next_ticks):
        add_time("" if place else "next ticks", tick)
    return rows

"""The command `gowork top` shows the cluster at work."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator

import click
from rich.console import Console, RenderableType
from rich.live import Live

from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, write_record
from gowork.cli.records import activity_record
from gowork.cli.screen import pages, screen
from gowork.cli.terminal import keys
from gowork.client.frames import Frame, Lookout

_INTERVAL_S_MIN, _INTERVAL_S_MAX = 0.2, 60.0
#: How often the screen is drawn, in times a second: how old its data is, and the size of the terminal, change between
#: two updates too.
_DRAWS_PER_S = 4


def _check_number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    # NaN lies within every range that click looks at.
    if math.isnan(value):
        raise click.BadParameter("nan is no number of seconds")
    return value


@click.command(
    short_help="Watch members, queues, rates and failures, live.",
    epilog="""\b
Examples:
  gowork top
  gowork top --interval 5
  gowork top --count 1 | head -3
  gowork top -o jsonl | jq -c '[.at, (.queues[] | {name, waiting, reasons})]'""",
)
@click.option(
    "--interval",
    type=click.FloatRange(_INTERVAL_S_MIN, _INTERVAL_S_MAX),
    callback=_check_number,
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=1),
    help="End after this number of updates.  [default: never; 1 for a table that is not on a terminal]",
)
@common_options
@pass_common
def top(common: CommonOptions, *, interval: float, count: int | None) -> None:
    """Watch the cluster: members and their load, queues, what they wait for, rates, recent failures.

    On a terminal it is drawn anew at each update until q or Ctrl-C. Elsewhere a table is printed once, and JSON has an
    object for each update. Rates and latencies are those of the last 5 seconds. The first update has none.
    """
    out = console()
    live = common.output is OutputFormat.TABLE and out.is_terminal and not out.is_dumb_terminal and count != 1
    with common.watching_client() as client:
        lookout = Lookout(client)
        # Before the terminal is taken: when there is no leader to begin with, that is all there is to say.
        first = lookout.look()
        if live:
            _show_live(out, lookout, first, interval, count)
        elif common.output is OutputFormat.TABLE:
            for number, frame in enumerate(_frames(lookout, first, interval, count or 1, _sleep)):
                out.print(*[""] * bool(number), _page(out, frame), sep="\n")
        else:
            for frame in _frames(lookout, first, interval, count, _sleep):
                write_record(activity_record(frame), common.output)


def _show_live(out: Console, lookout: Lookout, first: Frame, interval: float, count: int | None) -> None:
    # Replaced as a whole at each update, since the screen is drawn by another thread.
    latest = first

    def drawn() -> RenderableType:
        frame = latest
        return screen(frame, out.width, out.height, time.monotonic() - frame.answered_mono, interval)

    with keys() as pressed:

        def goes_on(seconds: float) -> bool:
            end = time.monotonic() + seconds
            while True:
                if pressed.wait(end - time.monotonic()).lower() == "q":
                    return False
                if time.monotonic() >= end:
                    return True

        with Live(console=out, screen=True, refresh_per_second=_DRAWS_PER_S, get_renderable=drawn) as live:
            for frame in _frames(lookout, first, interval, count, goes_on):
                latest = frame
                live.refresh()
    if count is not None:
        out.print(_page(out, latest))


def _page(out: Console, frame: Frame) -> RenderableType:
    return pages(frame, out.width, time.monotonic() - frame.answered_mono)


def _frames(
    lookout: Lookout, first: Frame, interval: float, count: int | None, goes_on: Callable[[float], bool]
) -> Iterator[Frame]:
    """A frame at once and then at every interval; `goes_on` waits for a time in seconds and tells whether to go on."""
    frame, due = first, time.monotonic()
    for number in itertools.count(1):
        yield frame
        # A leader that is slow is not asked the more often for it.
        now = time.monotonic()
        due = max(due + interval, now)
        if number == count or not goes_on(due - now):
            return
        frame = lookout.look_again(frame)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True

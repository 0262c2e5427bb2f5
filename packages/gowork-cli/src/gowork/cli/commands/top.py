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
#: How many times per second the screen is drawn. Between two updates, the age of the data changes, and perhaps the size
#: of the terminal.
_DRAWS_PER_S = 4


def _check_number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    # click's check of the range lets NaN pass.
    if math.isnan(value):
        raise click.BadParameter("nan is not a number of seconds")
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
    help="How many seconds to wait between two updates.",
)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=1),
    help="End after this many updates.  [default: never; 1 for a table that is not on a terminal]",
)
@common_options
@pass_common
def top(common: CommonOptions, *, interval: float, count: int | None) -> None:
    """Watch the cluster: members and their load, queues, what they wait for, rates, recent failures.

    On a terminal, each update is drawn over the last, until q or Ctrl-C. Elsewhere, a table is printed once, and JSON
    has an object for each update. Rates and latencies are those of the last 5 seconds. The first update has none.
    """
    out = console()
    live = common.output is OutputFormat.TABLE and out.is_terminal and not out.is_dumb_terminal and count != 1
    with common.watching_client() as client:
        lookout = Lookout(client)
        # The first call is made before the terminal changes, so that a missing leader is a plain error.
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
    # Each update replaces the whole frame, because another thread draws the screen.
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
    """Yields a frame at once, and then one at every interval. `goes_on` waits, and returns whether to go on."""
    frame, due = first, time.monotonic()
    for number in itertools.count(1):
        yield frame
        # After a slow response, the updates that were missed are not made up for.
        now = time.monotonic()
        due = max(due + interval, now)
        if number == count or not goes_on(due - now):
            return
        frame = lookout.look_again(frame)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True

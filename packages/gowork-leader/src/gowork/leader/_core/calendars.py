"""Reckons when a schedule ticks: by a cron expression, at equal distances, or at single times.

It alone asks the library for cron expressions and the time zone database. A tick is a whole second of UTC, in
milliseconds since the Unix epoch, and what comes next depends on nothing but the calendar and the tick before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from msgspec import Struct

from gowork.proto.limits import CRON_BYTES_MAX, TIME_MS_MAX

SECOND_MS = 1000


class CalendarError(Exception):
    """A cron expression or a time zone can't be read."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        #: Which field of the calendar is at fault: `expression` or `time_zone`.
        self.field = field
        self.description = description


class Cron(Struct, frozen=True, array_like=True, tag=1):
    """The times of a cron expression, by the clock of a time zone. It is stored as it is."""

    expression: str
    #: A name of the IANA database.
    time_zone: str


class Every(Struct, frozen=True, array_like=True, tag=2):
    """Times at equal distances. It is stored as it is."""

    every_ms: int
    #: One of the times.
    anchor_ms: int


class At(Struct, frozen=True, array_like=True, tag=3):
    """Single times, ascending. It is stored as it is."""

    at_ms: tuple[int, ...]


Calendar = Cron | Every | At


def check_cron(expression: str, time_zone: str) -> None:
    """Checks that a cron expression and a time zone can be read.

    Raises:
        CalendarError: one of them can't.
    """
    zone = _zone(time_zone)
    if not expression.isascii() or len(expression) > CRON_BYTES_MAX:
        raise CalendarError("expression", f"has more than {CRON_BYTES_MAX} bytes, or characters that are not ASCII")
    try:
        CronSim(expression, datetime.fromtimestamp(0, zone))
    except CronSimError as error:
        words = str(error)
        what = f"{words[0].lower()}{words[1:]}" if words else "it"
        raise CalendarError(
            "expression",
            f"is {expression[:80]!r}, where {what} can't be read; five fields are needed, or six with seconds first, "
            'as in "0 3 * * MON-FRI"',
        ) from error
    except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise CalendarError("expression", f"is {expression[:80]!r}, which can't be read") from error


def ticks_after(calendar: Calendar, after_ms: int) -> Iterator[int]:
    """Yields the ticks after a time, ascending.

    A cron expression that has no time within 50 years has none. What comes after the year 9999 is left out, and a
    calendar that can't be read any more, because a time zone is gone, has no ticks.
    """
    match calendar:
        case Cron():
            return _cron_ticks(calendar, after_ms)
        case Every():
            return _every_ticks(calendar, after_ms)
        case At():
            return iter(calendar.at_ms[bisect_right(calendar.at_ms, after_ms) :])


def count_ticks(calendar: Calendar, after_ms: int, until_ms: int, limit: int) -> tuple[int, int]:
    """Counts the ticks after a time up to another one.

    Args:
        calendar: says when the ticks are.
        after_ms: a tick at this time is not counted.
        until_ms: a tick at this time is.
        limit: how many are counted of those that must be looked at one by one.

    Returns:
        How many there are, and the last one that was counted; `after_ms` when there is none.
    """
    if isinstance(calendar, Every):
        every, anchor = calendar.every_ms, calendar.anchor_ms
        first, last = (after_ms - anchor) // every, (until_ms - anchor) // every
        return (last - first, anchor + last * every) if last > first else (0, after_ms)
    count = 0
    for tick in islice(ticks_after(calendar, after_ms), limit):
        if tick > until_ms:
            break
        count, after_ms = count + 1, tick
    return count, after_ms


def _every_ticks(calendar: Every, after_ms: int) -> Iterator[int]:
    every, anchor = calendar.every_ms, calendar.anchor_ms
    return iter(range(anchor + ((after_ms - anchor) // every + 1) * every, TIME_MS_MAX, every))


def _cron_ticks(calendar: Cron, after_ms: int) -> Iterator[int]:
    try:
        zone = _zone(calendar.time_zone)
        ticks = CronSim(calendar.expression, datetime.fromtimestamp(after_ms // SECOND_MS, zone))
    except (CalendarError, CronSimError, ArithmeticError, ValueError):
        return
    while True:
        try:
            tick = int(next(ticks).timestamp()) * SECOND_MS
        except (StopIteration, ArithmeticError, ValueError):
            return
        if tick >= TIME_MS_MAX:
            return
        # Where clocks are set back, the library takes the first of two equal times of day, which may be past.
        if tick > after_ms:
            after_ms = tick
            yield tick


@lru_cache(1024)
def _zone(name: str) -> tzinfo:
    if not name or name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, OSError, ValueError) as error:
        raise CalendarError(
            "time_zone",
            f'is {name[:80]!r}, which the time zone database lacks; a name as in "Europe/Berlin" is needed, or none '
            "for UTC",
        ) from error

"""When schedules tick, as clients and handlers say it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

#: A length of time: seconds, or a timedelta.
Duration = float | timedelta
#: A moment: an aware datetime, or seconds since the Unix epoch.
Moment = datetime | float


@dataclass(frozen=True, slots=True)
class Cron:
    """The times of a cron expression, by the clock of a time zone."""

    #: Five fields, as in "0 3 * * MON-FRI", or six with seconds first.
    expression: str
    #: A name of the IANA time zone database, as in "Europe/Berlin".
    tz: str | ZoneInfo = "UTC"


@dataclass(frozen=True, slots=True)
class Every:
    """Times at equal distances."""

    #: The distance, in whole seconds, or as timedelta.
    interval: Duration
    #: One of the times, rounded up to a whole second. None: every ten minutes means at minutes 0, 10, 20 and so on.
    anchor: Moment | None = None


@dataclass(frozen=True, slots=True)
class At:
    """Single times: one, or up to 1,000. They are rounded up to whole seconds."""

    times: Moment | Iterable[Moment]

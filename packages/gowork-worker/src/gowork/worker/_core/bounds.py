"""Numbers that people write into options, checked where they stand: finite, within their limit, named when not."""

from __future__ import annotations

import math
import operator
from datetime import timedelta
from typing import Any

from gowork.worker._core.steering import Delay


def duration_ms(field: str, duration: Delay, ms_max: int) -> int:
    """A length of time in whole milliseconds; one that is not zero stays so, since zero means "not set" on the wire.

    Args:
        field: what it is called where it was given.
        duration: seconds, or a timedelta.
        ms_max: the limit.

    Raises:
        ValueError: when it is no number, negative, not finite, or over the limit.
    """
    try:
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{field}: {duration!r:.100} is not a length of time; write seconds or a timedelta") from None
    # Written so that NaN is refused too.
    if not 0 <= seconds * 1000 <= ms_max:
        what = "not finite" if not math.isfinite(seconds) else "negative" if seconds < 0 else "too long"
        raise ValueError(f"{field}: {duration} is {what}; it is 0 to {ms_max / 1000:,.0f} seconds")
    return max(round(seconds * 1000), 1) if seconds else 0


def whole(field: str, value: Any, low: int, high: int) -> int:
    """A whole number.

    Raises:
        ValueError: when it is none, or beyond its limits.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{field}: {value!r:.100} is no whole number") from None
    within(field, number, low, high)
    return number


def within(field: str, value: float, low: float, high: float) -> float:
    """A number.

    Raises:
        ValueError: when it is none, not finite, or beyond its limits.
    """
    try:
        fits = low <= value <= high
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{field} is {low:,} to {high:,}, not {value!r:.100}")
    return value

"""Checks numbers and names that people write into options. The errors name the option."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from gowork.worker._core.steering import Delay


def duration_ms(field: str, duration: Delay, ms_max: int) -> int:
    """Returns a length of time in whole milliseconds. Only zero becomes 0, because 0 means "not set" on the wire.

    Args:
        field: the option's name.
        duration: seconds, or a timedelta.
        ms_max: the longest that is accepted, in milliseconds.

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
    """Returns a whole number from `low` to `high` as an int.

    Raises:
        ValueError: when it is not whole, or beyond its limits.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{field}: {value!r:.100} is no whole number") from None
    within(field, number, low, high)
    return number


def within(field: str, value: float, low: float, high: float) -> float:
    """Returns a number from `low` to `high` as it is.

    Raises:
        ValueError: when it is no number, not finite, or beyond its limits.
    """
    try:
        fits = low <= value <= high
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{field} is {low:,} to {high:,}, not {value!r:.100}")
    return value


def utf8(field: str, value: Any) -> bytes:
    """Returns the bytes of a text. Python reads bytes of a command line that are not UTF-8 as lone surrogates.

    Raises:
        ValueError: when it is no text, or has lone surrogates.
    """
    if not isinstance(value, str):
        raise ValueError(f"{field}: {value!r:.100} is no text")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{field}: {value!r:.100} is not UTF-8 text") from None


def names_of(no_retry: Iterable[type[BaseException] | str]) -> tuple[str, ...]:
    """Returns the names of exception types, which are given by name or as they are.

    Raises:
        ValueError: when an entry is neither.
    """
    if isinstance(no_retry, (str, type)):
        raise ValueError(f"no_retry: give a list, as in no_retry=[{getattr(no_retry, '__name__', no_retry)}]")
    names = [kind if isinstance(kind, str) else getattr(kind, "__name__", None) for kind in no_retry]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("no_retry: each entry is an exception type or its name")
    return tuple(str(name) for name in names)

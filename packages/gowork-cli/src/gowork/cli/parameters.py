"""Reads values from the command line: durations, moments, labels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

import click

#: The longest duration that an option takes, in seconds: a hundred years, with which every part of gowork can compute.
DURATION_S_MAX = 36_500 * 86_400.0
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def duration(text: str) -> float:
    """Reads an option that is a duration, such as `90`, `90s`, `1h30m` or `250ms`. Returns seconds.

    Raises:
        click.BadParameter: when it has another form.
    """
    try:
        return duration_s(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def time(text: str) -> datetime:
    """Reads an option that is a time, with a zone or in local time, such as `2026-12-24T18:00`.

    Raises:
        click.BadParameter: when it has another form.
    """
    try:
        return moment(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def duration_s(text: str) -> float:
    """Reads a duration, and returns seconds.

    Raises:
        ValueError: when it has another form, or is longer than DURATION_S_MAX.
    """
    compact = text.replace(" ", "")
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        seconds = float(compact)
    elif not compact or _PART.sub("", compact):
        raise ValueError(f"{text!r} is not a duration; write 90, 90s, 5m, 1h30m, 2d or 250ms")
    else:
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(compact))
    if seconds > DURATION_S_MAX:
        raise ValueError(f"{text[:40]!r} is longer than {DURATION_S_MAX / 86400:g} days")
    return seconds


def moment(text: str) -> datetime:
    """Reads a moment in the form of ISO 8601. Without a zone it is in local time.

    Raises:
        ValueError: when it has another form.
    """
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time; write 2026-12-24T18:00 or 2026-12-24T18:00:00+01:00") from None


def pairs(values: Iterable[str], option: str) -> dict[str, str]:
    """Reads options of the form `KEY=VALUE`, and returns a dict.

    Raises:
        click.BadParameter: when one has another form.
    """
    found: dict[str, str] = {}
    for value in values:
        key, separator, rest = value.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", param_hint=option)
        found[key] = rest
    return found

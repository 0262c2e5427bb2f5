"""What goes wrong while a handler runs in a test, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """What happens."""

    LOSE_LEASE = "lose the lease"
    REGAIN_LEASE = "regain the lease"
    CANCEL = "cancel the task"
    DRAIN = "hand the task back"


class Trigger(StrEnum):
    """What it waits for."""

    PROGRESS = "progress"
    CHECK = "check"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens to an attempt. `cancel`, `drain`, `lose_lease` and `regain_lease` make it."""

    kind: FaultKind
    trigger: Trigger
    #: The number of the word of progress, or of the look at `ctx.cancelled`, from 1; or seconds after the start.
    at: float


def cancel(*, at_progress: int | None = None, at_check: int | None = None, after: float | None = None) -> Fault:
    """Has the leader cancel the task. Give one of the three.

    Args:
        at_progress: at this word of progress, counted from 1: before `ctx.progress` returns.
        at_check: at this look at `ctx.cancelled`, which tells it already. A `wait` is a look, too.
        after: seconds after the handler's start, on the run's clock.

    Raises:
        ValueError: when none or several are given, or the value cannot be.
    """
    return _fault(FaultKind.CANCEL, at_progress, at_check, after)


def drain(*, at_progress: int | None = None, at_check: int | None = None, after: float | None = None) -> Fault:
    """Has the worker stop, with no time left for running tasks: it hands the task back. See `cancel`."""
    return _fault(FaultKind.DRAIN, at_progress, at_check, after)


def lose_lease(*, at_progress: int | None = None, at_check: int | None = None, after: float | None = None) -> Fault:
    """Has the worker lose its leader for longer than the lease: `ctx.lease_valid` is False. See `cancel`.

    A handler with `on_lease_lost="stop"` is asked to stop.
    """
    return _fault(FaultKind.LOSE_LEASE, at_progress, at_check, after)


def regain_lease(*, at_progress: int | None = None, at_check: int | None = None, after: float | None = None) -> Fault:
    """Has the worker find its leader again: `ctx.lease_valid` is True. See `cancel`."""
    return _fault(FaultKind.REGAIN_LEASE, at_progress, at_check, after)


def _fault(kind: FaultKind, at_progress: int | None, at_check: int | None, after: float | None) -> Fault:
    given = {Trigger.PROGRESS: at_progress, Trigger.CHECK: at_check, Trigger.SECONDS: after}
    chosen = [(trigger, value) for trigger, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise ValueError(f"{kind}: give one of at_progress, at_check and after, not {len(chosen)} of them")
    trigger, value = chosen[0]
    if trigger is Trigger.SECONDS:
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{kind}: after={value!r} is not a number of seconds from 0 on")
    elif not (isinstance(value, int) and value >= 1):
        raise ValueError(f"{kind}: at_{trigger}={value!r} is not a number from 1 on")
    return Fault(kind, trigger, value)

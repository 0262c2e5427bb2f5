"""What goes wrong while a handler runs in a test, and when."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict, Unpack


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
    SWITCH = "switch"


class Switch:
    """Makes a fault happen when the test wants it. It may be flipped from any thread, once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_flipped = False
        self._calls: list[Callable[[], None]] = []

    def flip(self) -> None:
        """Makes the faults that wait for it happen; those of a run that has not begun happen at its beginning."""
        with self._lock:
            self._is_flipped = True
            calls, self._calls = self._calls, []
        for call in calls:
            call()

    def _connect(self, call: Callable[[], None]) -> None:
        """Has this called when it is flipped; at once when it has been."""
        with self._lock:
            if not self._is_flipped:
                self._calls.append(call)
                return
        call()


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens to an attempt. `cancel`, `drain`, `lose_lease` and `regain_lease` make it."""

    kind: FaultKind
    trigger: Trigger
    #: The number of the word of progress, or of the look at `ctx.cancelled`, from 1; or seconds after the start.
    at: float = 0
    #: For Trigger.SWITCH.
    switch: Switch | None = None


class _When(TypedDict, total=False):
    """When a fault happens: one of these."""

    #: At this word of progress, counted from 1: before `ctx.progress` returns.
    at_progress: int
    #: At this look at `ctx.cancelled`, counted from 1, which tells it already. A `wait` is a look, too.
    at_check: int
    #: Seconds after the handler's start, on the run's clock.
    after: float
    #: When the test flips this.
    on: Switch


def cancel(**when: Unpack[_When]) -> Fault:
    """Has the leader cancel the task. Give one of at_progress, at_check, after and on.

    Args:
        **when: those that follow, by name.
        at_progress: at this word of progress, counted from 1: before `ctx.progress` returns.
        at_check: at this look at `ctx.cancelled`, counted from 1, which tells it already. A `wait` is a look, too.
        after: seconds after the handler's start, on the run's clock.
        on: when the test flips this Switch.

    Raises:
        ValueError: when none, several or others are given, or the value cannot be.
    """
    return _fault(FaultKind.CANCEL, **when)


def drain(**when: Unpack[_When]) -> Fault:
    """Has the worker stop, with no time left for running tasks: it hands the task back. See `cancel`."""
    return _fault(FaultKind.DRAIN, **when)


def lose_lease(**when: Unpack[_When]) -> Fault:
    """Has the worker lose its leader for longer than the lease: `ctx.lease_valid` is False. See `cancel`.

    A handler with `on_lease_lost="stop"` is asked to stop.
    """
    return _fault(FaultKind.LOSE_LEASE, **when)


def regain_lease(**when: Unpack[_When]) -> Fault:
    """Has the worker find its leader again: `ctx.lease_valid` is True. See `cancel`."""
    return _fault(FaultKind.REGAIN_LEASE, **when)


def _fault(kind: FaultKind, **when: Unpack[_When]) -> Fault:
    if len(when) != 1 or not when.keys() <= _When.__annotations__.keys():
        raise ValueError(f"{kind}: give one of at_progress, at_check, after and on, not {', '.join(when) or 'none'}")
    if "on" in when:
        return Fault(kind, Trigger.SWITCH, switch=when["on"])
    if "after" in when:
        seconds = when["after"]
        if not (seconds >= 0 and math.isfinite(seconds)):
            raise ValueError(f"{kind}: after={seconds!r} is not a number of seconds from 0 on")
        return Fault(kind, Trigger.SECONDS, seconds)
    trigger, number = (
        (Trigger.PROGRESS, when["at_progress"]) if "at_progress" in when else (Trigger.CHECK, when["at_check"])
    )
    if number < 1:
        raise ValueError(f"{kind}: at_{trigger}={number!r} is not a number from 1 on")
    return Fault(kind, trigger, number)

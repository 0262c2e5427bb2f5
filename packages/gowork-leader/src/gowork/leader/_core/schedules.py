"""What a schedule is, how far it has come, and the tasks that it makes.

A schedule is a fact, and how far it has come is another one, which is written in the batch that makes a tick's task.
Invariant ONE-TICK: a tick makes one task at most. A tick up to `Ticks.last_ms` never makes one, whatever the clock
does and whatever has been purged since.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Container, Iterator
from datetime import UTC, datetime
from hashlib import sha256

from msgspec import Struct
from msgspec.structs import replace

from gowork.leader._core.calendars import Calendar, count_ticks, ticks_after
from gowork.leader._core.model import Spec
from gowork.proto.limits import SCHEDULE_RUNS_KEPT

#: What comes before the id of a call in the ids of triggered runs.
MANUAL = "manual-"
_TICK = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
#: The tags of fields of scheduler.v1.Task: id is length-delimited, and run_at_ms a varint.
_ID_TAG = 1 << 3 | 2
_RUN_AT_TAG = 10 << 3


class Overlap(enum.IntEnum):
    """What happens at a tick while an earlier run has not finished; the numbers are those of ScheduleOverlap."""

    SKIP = 1
    QUEUE_ONE = 2
    ALLOW = 3
    CANCEL_RUNNING = 4

    __hash__ = int.__hash__


class SkipReason(enum.IntEnum):
    """Why a tick had no task made; the numbers are those of scheduler.v1.SkipReason."""

    OVERLAP = 1
    PAUSED = 2
    MISSED = 3
    REFUSED = 4
    ORPHANED = 5

    __hash__ = int.__hash__


class Definition(Struct, frozen=True, array_like=True):
    """What was asked for. It is stored, so new fields go at the end and have defaults."""

    calendar: Calendar
    #: The task of each tick, without an id, in its body neither.
    template: Spec
    overlap: Overlap
    catch_up_ms: int
    jitter_ms: int = 0
    #: No tick is before it, and none at or after `end_ms`; 0: no bound.
    start_ms: int = 0
    end_ms: int = 0
    #: When no worker declares it any more, its ticks are skipped.
    stops_orphaned: bool = False


class Declarer(Struct, frozen=True, array_like=True):
    """The handler that declares a schedule in code."""

    handler: str
    plugin: str = ""
    version: str = ""


class Declared(Struct, frozen=True):
    """A schedule that a worker declares."""

    name: str
    definition: Definition
    declarer: Declarer


class Schedule(Struct, frozen=True, array_like=True):
    """A schedule; its name is the fact's key. It is stored, so new fields go at the end and have defaults."""

    definition: Definition
    created_ms: int
    changed_ms: int
    #: None: somebody added it.
    declarer: Declarer | None = None


class Run(Struct, frozen=True, array_like=True, gc=False):
    """A task that a schedule has made."""

    tick_ms: int
    id: str
    made_ms: int
    triggered: bool = False


class Pause(Struct, frozen=True, array_like=True, gc=False):
    """An operator has paused a schedule."""

    at_ms: int
    reason: str = ""
    by: str = ""
    #: The last tick that was dealt with before, and how many have been skipped since.
    after_ms: int = 0
    skipped: int = 0


class Ticks(Struct, frozen=True, array_like=True):
    """How far a schedule has come; its name is the fact's key. It is stored, so new fields go at the end."""

    #: No tick up to this time is made any more.
    last_ms: int
    #: The last SCHEDULE_RUNS_KEPT runs, oldest first.
    runs: tuple[Run, ...] = ()
    #: Runs that had not finished when they were looked at last. Whether they have since, their tasks say.
    unfinished: tuple[str, ...] = ()
    #: A tick that waits for these; 0: none does.
    waiting_ms: int = 0
    pause: Pause | None = None
    made: int = 0
    #: How many ticks were skipped for each SkipReason, in the order of their numbers.
    skipped: tuple[int, ...] = ()

    def with_run(self, run: Run, *, is_tick: bool = True) -> Ticks:
        """Returns it with another run."""
        return replace(self, runs=(*self.runs, run)[-SCHEDULE_RUNS_KEPT:], made=self.made + is_tick)

    def with_skipped(self, reason: SkipReason, number: int) -> Ticks:
        """Returns it with more skipped ticks, or fewer where `number` is negative."""
        counts = [*self.skipped, *(0 for _ in range(len(SkipReason) - len(self.skipped)))]
        counts[reason - 1] += number
        return replace(self, skipped=tuple(counts))


def ticks_of(definition: Definition, after_ms: int) -> Iterator[int]:
    """Yields the ticks of a schedule after a time, ascending."""
    for tick in ticks_after(definition.calendar, max(after_ms, definition.start_ms - 1)):
        if definition.end_ms and tick >= definition.end_ms:
            return
        yield tick


def count_of(definition: Definition, after_ms: int, until_ms: int, limit: int) -> tuple[int, int]:
    """Counts the ticks of a schedule after a time up to another one, as `count_ticks` does."""
    if definition.end_ms:
        until_ms = min(until_ms, definition.end_ms - 1)
    count, last = count_ticks(definition.calendar, max(after_ms, definition.start_ms - 1), until_ms, limit)
    return (count, last) if count else (0, after_ms)


def tick_id(name: str, tick_ms: int) -> str:
    """Returns the id of the task of a tick."""
    return f"{name}/{datetime.fromtimestamp(tick_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def manual_id(name: str, request_id: str) -> str:
    """Returns the id of the task of a triggered run."""
    return f"{name}/{MANUAL}{request_id}"


def is_reserved(names: Container[str], id: str) -> bool:
    """Whether only a schedule may make a task with this id, given the names of all schedules."""
    name, slash, rest = id.rpartition("/")
    return bool(slash) and name in names and (rest.startswith(MANUAL) or _TICK.fullmatch(rest) is not None)


def tick_spec(definition: Definition, name: str, id: str, tick_ms: int) -> Spec:
    """Returns the task of a run.

    Args:
        definition: the schedule.
        name: its name.
        id: the task's id.
        tick_ms: the tick, from which the jitter counts; 0: there is none, and the task may start at once.
    """
    template, jitter = definition.template, definition.jitter_ms
    run_at_ms = tick_ms + jitter_of(name, tick_ms, jitter) if jitter and tick_ms else 0
    encoded = id.encode()
    body = bytes((_ID_TAG,)) + _varint(len(encoded)) + encoded + template.body
    if run_at_ms:
        # A field may stand anywhere in a message.
        body += bytes((_RUN_AT_TAG,)) + _varint(run_at_ms)
    return replace(template, id=id, body=body, run_at_ms=run_at_ms)


def jitter_of(name: str, tick_ms: int, jitter_ms: int) -> int:
    """Returns how long after a tick its task may start: 0 to `jitter_ms`, always the same for this tick."""
    digest = sha256(f"{name}/{tick_ms}".encode()).digest()
    return int.from_bytes(digest[:8]) % (jitter_ms + 1)


def _varint(number: int) -> bytes:
    """Returns a number as protobuf writes it."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)

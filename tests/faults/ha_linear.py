"""Checks that what clients were told of one task is linearizable: that all calls fit into one order, in which each took
effect at one moment between its beginning and its end.

It is the search of Wing and Gong with the memory of Lowe, as porcupine has it. Histories of one task are short.

A task is absent, lives, lives with a cancel that was asked for, or has ended in one of three ways. It may end by itself
at any moment; then the model keeps all that it may be by now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from gowork.client import TaskInfo, TaskStatus

#: How many steps of a search are made. A history that needs more is one finding.
STEPS_MAX = 200_000


class Did(Enum):
    """What a client did."""

    SUBMIT = auto()
    #: It read the task, or waited for its end.
    READ = auto()
    CANCEL = auto()


class Answer(Enum):
    """What it was told."""

    DONE = auto()
    #: There is no such task.
    ABSENT = auto()
    #: A cancel was refused, because the task had ended.
    ENDED = auto()
    #: Nothing. The call may take effect at any time after its beginning, or never.
    UNKNOWN = auto()


@dataclass(frozen=True)
class Seen:
    """What was read of a task."""

    status: TaskStatus
    fence: int
    #: How many attempts have ended; None when that was not told.
    attempts: int | None
    cancel_requested: bool

    @classmethod
    def of(cls, task: TaskInfo) -> Seen:
        """Returns what is compared of a task. A wait tells no attempts."""
        return cls(task.status, task.fence, len(task.attempts) or None, task.cancel_requested)


@dataclass(frozen=True)
class Call:
    """One call about one task."""

    did: Did
    answer: Answer
    #: Monotonic seconds. A call that was not answered has no end.
    began: float
    ended: float
    #: Of a READ that is DONE.
    seen: Seen | None = None
    #: Who made the call.
    client: str = ""
    #: Its time is a figure.
    timed: bool = False


class _May(Enum):
    """What a task may be."""

    ABSENT = auto()
    LIVE = auto()
    ASKED = auto()
    COMPLETED = auto()
    ERROR = auto()
    CANCELLED = auto()


_ENDS = {TaskStatus.COMPLETED: _May.COMPLETED, TaskStatus.ERROR: _May.ERROR, TaskStatus.CANCELLED: _May.CANCELLED}
_ENDED = frozenset(_ENDS.values())


@dataclass(frozen=True)
class _State:
    may: frozenset[_May]
    #: The highest that was read.
    fence: int = 0
    attempts: int = 0


def linearizable(calls: Sequence[Call]) -> bool:
    """Whether the calls about one task fit into one order.

    Raises:
        TimeoutError: that was not found out within STEPS_MAX steps.
    """
    # A client repeats a cancel whose answer is lost. So one that is told that the task has ended may have asked for the
    # end itself.
    repeated = [call for call in calls if call.did is Did.CANCEL and call.answer is Answer.ENDED]
    first = [replace(call, answer=Answer.UNKNOWN, ended=math.inf) for call in repeated]
    calls = sorted((*calls, *first), key=lambda call: call.began)
    must = sum(1 << place for place, call in enumerate(calls) if call.answer is not Answer.UNKNOWN)
    begun = (0, _State(frozenset({_May.ABSENT})))
    met, left = {begun}, [begun]
    while left:
        if len(met) > STEPS_MAX:
            raise TimeoutError
        done, state = left.pop()
        if done & must == must:
            return True
        # A call may be next only if no other one ended before it began.
        first_end = min((call.ended for place, call in enumerate(calls) if not done >> place & 1), default=math.inf)
        for place, call in enumerate(calls):
            if done >> place & 1:
                continue
            if call.began > first_end:
                break
            then = _after(state, call)
            if then is not None and (one := (done | 1 << place, then)) not in met:
                met.add(one)
                left.append(one)
    return False


def _after(state: _State, call: Call) -> _State | None:
    """Returns the state after a call; None when the call can't come next."""
    may = _later(state.may)
    match call.did:
        case Did.SUBMIT:
            # Repeated, it changes nothing.
            may = frozenset({_May.LIVE}) if may == {_May.ABSENT} else may
        case Did.CANCEL:
            if call.answer is Answer.UNKNOWN:
                may |= _cancelled(may)
            elif call.answer is Answer.ENDED:
                may &= _ENDED
            elif call.answer is Answer.ABSENT:
                may &= {_May.ABSENT}
            else:
                may = _cancelled(may)
        case Did.READ if call.seen is None:
            if call.answer is Answer.ABSENT:
                may &= {_May.ABSENT}
        case Did.READ:
            seen = call.seen
            assert seen is not None
            attempts = state.attempts if seen.attempts is None else seen.attempts
            if seen.fence < state.fence or attempts < state.attempts:
                return None
            may &= {_ENDS.get(seen.status, _May.ASKED if seen.cancel_requested else _May.LIVE)}
            state = _State(may, seen.fence, attempts)
    return _State(may, state.fence, state.attempts) if may else None


def _later(may: frozenset[_May]) -> frozenset[_May]:
    """Returns what it may be by now."""
    if _May.LIVE in may:
        may |= {_May.COMPLETED, _May.ERROR}
    return may | _ENDED if _May.ASKED in may else may


def _cancelled(may: frozenset[_May]) -> frozenset[_May]:
    """Returns what it may be after a cancel that was not refused."""
    found = may & {_May.CANCELLED, _May.ASKED}
    return found | {_May.ASKED, _May.CANCELLED} if _May.LIVE in may else found

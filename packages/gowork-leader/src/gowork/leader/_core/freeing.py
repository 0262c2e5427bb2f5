"""Decides when tasks that come after others run, and when they never will.

When the tasks before it have ended, a task is freed, or ends with CANCELLED. It is looked at in the batch after the one
that ended them, so that no batch has to decide on all dependents of a task. A start looks at all anew, so it does not
matter where a leader ended.

Invariant UPSTREAM-FIRST: no task is granted before its rule holds.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core.decision import Decision
from gowork.leader._core.dependents import Dependent, Verdict
from gowork.leader._core.model import BLOCKED, AfterRule, Failure, FailureKind, Now, Status, Task
from gowork.leader._core.state import State
from gowork.leader._core.tasks import ended, has_expired, no_room
from gowork.leader._core.unique import Keys
from gowork.leader._core.upstream import blocked, freed

#: How many dependents one batch looks at.
DEPENDENTS_A_BATCH_MAX = 2_000


def look_at_dependents(state: State, dealt_with: AbstractSet[str], now: Now, decision: Decision) -> None:
    """Frees the dependents in hand whose rule holds, and ends those whose rule can't hold any more.

    Those that ended so wait again, or run, when a retry has changed that.

    Args:
        state: the state.
        dealt_with: the ids of tasks that the same decision has moved already.
        now: the time.
        decision: gets the changes.
    """
    keys = Keys(state, now)
    for id in state.dependents.in_hand:
        dependent, task = state.dependents.by_id.get(id), state.tasks.get(id)
        if dependent is None or task is None or id in dealt_with:
            continue
        if task.place is BLOCKED:
            _decide(dependent, task, now, decision)
        elif not dependent.is_live and dependent.verdict is not Verdict.CANCEL:
            _revive(state, dependent, task, keys, now, decision)
    decision.changes.extend(keys.taken())


def _decide(dependent: Dependent, task: Task, now: Now, decision: Decision) -> None:
    match dependent.verdict:
        case Verdict.RUN:
            decision.changes.append(ch.TaskMoved(task.spec.id, freed(task.spec, task.standing, now)))
        case Verdict.CANCEL:
            failure = Failure(FailureKind.UPSTREAM, _why(dependent), "Upstream")
            decision.changes.append(ch.TaskMoved(task.spec.id, ended(task.standing, Status.CANCELLED, failure, now)))
        case Verdict.WAIT:
            pass


def _revive(state: State, dependent: Dependent, task: Task, keys: Keys, now: Now, decision: Decision) -> None:
    """Has a task wait again that ended because of others, if there is room and nothing speaks against it."""
    spec, failure = task.spec, task.standing.failure
    if failure is None or failure.kind is not FailureKind.UPSTREAM or has_expired(spec, now):
        return
    if no_room(state, [spec]) is not None or (spec.unique_key and keys.take(spec.unique_key, spec.id)):
        return
    again = replace(task.standing, status=Status.PENDING, finished_ms=0, failure=None)
    again = freed(spec, again, now) if dependent.verdict is Verdict.RUN else blocked(again)
    decision.changes.append(ch.TaskMoved(spec.id, again))


def _why(dependent: Dependent) -> str:
    if dependent.rule is AfterRule.ANY_FAILED:
        return "it was to run if one of the tasks that it comes after fails, and all have completed"
    return f"it was to run when the tasks that it comes after have completed, and {dependent.culprit!r} has not"

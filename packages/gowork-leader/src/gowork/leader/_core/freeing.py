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
from gowork.leader._core.groups import result_of
from gowork.leader._core.model import BLOCKED, AfterRule, Failure, FailureKind, Now, Spec, Standing, Status, Task
from gowork.leader._core.state import State
from gowork.leader._core.tasks import ended, has_expired, no_room
from gowork.leader._core.unique import Keys
from gowork.leader._core.upstream import blocked, freed, no_room_beside

#: How many dependents one batch looks at.
DEPENDENTS_A_BATCH_MAX = 2_000


def look_at_dependents(state: State, dealt_with: AbstractSet[str], keys: Keys, now: Now, decision: Decision) -> None:
    """Frees the dependents in hand whose rule holds, and ends those whose rule can't hold any more.

    Those that ended so wait again, or run, when a retry has changed that.

    Args:
        state: the state.
        dealt_with: the ids of tasks that the same decision has moved already.
        keys: the unique keys as the same decision sees them.
        now: the time.
        decision: gets the changes.
    """
    mark = keys.mark()
    revived: list[Spec] = []
    edges = 0
    for id in state.dependents.in_hand:
        dependent, task = state.dependents.by_id.get(id), state.tasks.get(id)
        if dependent is None or task is None or id in dealt_with:
            continue
        if task.place is BLOCKED:
            _decide(dependent, task, now, decision)
        elif not dependent.is_live and dependent.verdict is not Verdict.CANCEL:
            revived.append(task.spec)
            if _may_wait_again(state, task, revived, edges + len(dependent.ids), keys, now):
                edges += len(dependent.ids)
                decision.changes.append(ch.TaskMoved(id, _again(dependent, task, now)))
            else:
                revived.pop()
    decision.changes.extend(keys.taken(mark))


def _decide(dependent: Dependent, task: Task, now: Now, decision: Decision) -> None:
    match dependent.verdict:
        case Verdict.RUN if task.spec.completes_by_itself and dependent.children is not None:
            standing = ended(task.standing, Status.COMPLETED, None, now)
            standing = replace(standing, result=result_of(dependent.children))
            decision.changes.append(ch.TaskMoved(task.spec.id, standing))
        case Verdict.RUN:
            decision.changes.append(ch.TaskMoved(task.spec.id, freed(task.spec, task.standing, now)))
        case Verdict.CANCEL:
            failure = Failure(FailureKind.UPSTREAM, _why(dependent), "Upstream")
            decision.changes.append(ch.TaskMoved(task.spec.id, ended(task.standing, Status.CANCELLED, failure, now)))
        case Verdict.WAIT:
            pass


def _may_wait_again(state: State, task: Task, revived: list[Spec], edges: int, keys: Keys, now: Now) -> bool:
    """Whether a task that ended because of others may wait again: there is room, and nothing else speaks against it.

    Args:
        state: the state.
        task: the task, which is the last of `revived`.
        revived: those that wait again by the same decision.
        edges: how many ids these name.
        keys: the unique keys as the same decision sees them.
        now: the time.
    """
    spec, failure = task.spec, task.standing.failure
    if failure is None or failure.kind is not FailureKind.UPSTREAM or has_expired(spec, now):
        return False
    if no_room(state, revived) is not None or no_room_beside(state, len(revived), edges):
        return False
    return not (spec.unique_key and keys.take(spec.unique_key, spec.id))


def _again(dependent: Dependent, task: Task, now: Now) -> Standing:
    """Returns where a task stands that ended because of others, and waits again."""
    standing = replace(task.standing, status=Status.PENDING, finished_ms=0, failure=None)
    may_run = dependent.verdict is Verdict.RUN and not task.spec.completes_by_itself
    return freed(task.spec, standing, now) if may_run else blocked(standing)


def _why(dependent: Dependent) -> str:
    if dependent.rule is AfterRule.ANY_FAILED:
        return "it was to run if one of the tasks that it comes after fails, and all have completed"
    which = repr(dependent.culprit) if dependent.culprit else "one of them"
    return f"it was to run when the tasks that it comes after have completed, and {which} has not"

"""Decides on finished tasks: one runs again, others are removed.

`_engine.retention` finds the ones that are too old. This module checks them again, because they may have changed since.
"""

from __future__ import annotations

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.decision import Decision
from gowork.leader._core.model import COMPLETED, Brief, Now, Spec, Standing, Status
from gowork.leader._core.state import State
from gowork.leader._core.tasks import has_expired, no_room, no_room_in_queues, task_unknown


def retry_task(state: State, command: cmd.RetryTask, now: Now) -> Decision:
    """Puts a task that ended without completing back in its lane, in its old place, as if it were new."""
    task = state.tasks.get(command.id)
    if task is None:
        return Decision(task_unknown(command.id))
    standing = task.standing
    if standing.status < COMPLETED:
        return Decision()
    if standing.status is COMPLETED:
        message = f"task {command.id!r} has completed; schedule a task with another id to do the same again"
        return Decision(cmd.Refused(cmd.TASK_FINISHED, message))
    if has_expired(task.spec, now):
        message = f"task {command.id!r} has expired, so it can't run again; schedule a new task"
        return Decision(cmd.Refused(cmd.TASK_EXPIRED, message))
    refusal = no_room(state, [task.spec]) or no_room_in_queues(state, [task.spec], command.queue_pending_max)
    if refusal is not None:
        return Decision(refusal)
    decision = Decision()
    decision.changes.append(ch.TaskMoved(command.id, _anew(task.spec, standing, now)))
    return decision


def purge(state: State, command: cmd.Purge) -> Decision:
    """Removes finished tasks. Unknown ids are left out. Unfinished tasks are left, or all is refused if `strict`."""
    decision = Decision()
    purged = 0
    for id in dict.fromkeys(command.ids):
        brief = _brief(state, id)
        if brief is None:
            continue
        if brief.status < COMPLETED:
            if command.strict:
                message = f"task {id!r} is {brief.status.name}; only finished tasks can be removed. Cancel it first"
                return Decision(cmd.Refused(cmd.NOT_FINISHED, message))
            continue
        if command.finished_by_ms and brief.finished_ms > command.finished_by_ms:
            continue
        decision.changes.append(ch.TaskPurged(id, brief.seq, brief.status))
        purged += 1
    if command.forget_before:
        decision.changes.append(ch.RemovalsForgotten(command.forget_before))
    decision.answer = cmd.Purged(purged)
    return decision


def _anew(spec: Spec, standing: Standing, now: Now) -> Standing:
    # Its attempts stay on record, and so does its fence.
    return replace(
        standing,
        status=Status.PENDING,
        attempts_used=0,
        finished_ms=0,
        result="",
        result_data=b"",
        result_is_empty_data=False,
        failure=None,
        cancel_requested=False,
        not_before_ms=spec.run_at_ms if spec.run_at_ms > now.wall_ms else 0,
        lost_alone=0,
        suspect=False,
        uncounted=0,
        unfit=(),
        retried=True,
    )


def _brief(state: State, id: str) -> Brief | None:
    task = state.tasks.get(id)
    if task is not None:
        return Brief(task.seq, id, task.standing.status, task.standing.finished_ms)
    return state.briefs.get(id)

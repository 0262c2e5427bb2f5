"""Decides on finished tasks: one runs again, others are removed.

`_engine.retention` finds the ones that are too old. This module checks them again, because they may have changed since.
"""

from __future__ import annotations

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.decision import Decision
from gowork.leader._core.edits import edited
from gowork.leader._core.model import COMPLETED, Brief, Now, Spec, Standing, Status
from gowork.leader._core.state import State
from gowork.leader._core.tasks import has_expired, no_room, no_room_in_queues, task_unknown
from gowork.leader._core.unique import Keys, freed_by_removal

#: The statuses from which a task may run again.
RETRIED = frozenset({Status.ERROR, Status.CANCELLED})


def retry_task(state: State, command: cmd.RetryTask, now: Now) -> Decision:
    """Puts a task that ended without completing back in its lane, as if it were new.

    It gets its old place, or with another payload or handler the last one.
    """
    task = state.tasks.get(command.id)
    if task is None:
        return Decision(task_unknown(command.id))
    standing, spec = task.standing, task.spec
    fields: tuple[str, ...] = ()
    if command.edit is not None:
        spec, fields = command.edit(spec, standing.created_ms, now.wall_ms)
    if standing.status < COMPLETED:
        if not fields:
            return Decision()
        message = f"task {command.id!r} is {standing.status.name}; only a finished one runs again with something else"
        return Decision(cmd.Refused(cmd.NOT_FINISHED, message))
    if standing.status is COMPLETED:
        message = f"task {command.id!r} has completed; schedule a task with another id to do the same again"
        return Decision(cmd.Refused(cmd.TASK_FINISHED, message))
    if spec.completes_by_itself:
        message = f"group {command.id!r} has no handler, so that it ends by its children alone; retry those that failed"
        return Decision(cmd.Refused(cmd.GROUP_ENDED, message))
    if has_expired(spec, now):
        message = f"task {command.id!r} has expired, so it can't run again; schedule a new task"
        return Decision(cmd.Refused(cmd.TASK_EXPIRED, message))
    keys = Keys(state, now)
    refusal = no_room(state, [spec]) or no_room_in_queues(state, [spec], command.queue_pending_max)
    if refusal is None and spec.unique_key:
        refusal = _key_taken(spec, keys) or keys.too_many()
    if refusal is not None:
        return Decision(refusal)
    decision = Decision()
    again = _anew(spec, standing, now)
    if fields:
        again = edited(again, task, fields, now)
        decision.changes.append(ch.TaskReplaced(command.id, state.next_seq, spec, again))
    else:
        decision.changes.append(ch.TaskMoved(command.id, again))
    decision.changes.extend(keys.taken())
    return decision


def retry_tasks(state: State, command: cmd.RetryTasks, now: Now) -> Decision:
    """Does so to those of these tasks that have not changed since they were selected, as far as there is room."""
    found = [
        task
        for id, seq in command.tasks
        if (task := state.tasks.get(id)) is not None
        and task.seq == seq
        and task.changed <= command.changed_max
        and task.standing.status in RETRIED
        and command.selects(task.spec, task.standing)
    ]
    keys = Keys(state, now)
    again = [task for task in found if _may_run_again(task.spec, now) and _has_its_key(task.spec, keys)]
    last_seq = command.tasks[-1].seq if command.tasks else 0
    while again:
        specs = [task.spec for task in again]
        refusal = no_room(state, specs) or no_room_in_queues(state, specs, command.queue_pending_max)
        refusal = refusal or keys.too_many()
        if refusal is None:
            break
        if len(again) == 1:
            return Decision(refusal)
        # There may be room for some of them.
        del again[len(again) // 2 :]
        last_seq = again[-1].seq
        keys = Keys(state, now)
        again = [task for task in again if _has_its_key(task.spec, keys)]
    decision = Decision()
    decision.changes += [ch.TaskMoved(task.spec.id, _anew(task.spec, task.standing, now)) for task in again]
    decision.changes.extend(keys.taken())
    seen = sum(task.seq <= last_seq for task in found)
    decision.answer = cmd.Retried(len(again), seen - len(again), last_seq)
    return decision


def purge(state: State, command: cmd.Purge) -> Decision:
    """Removes finished tasks. Unknown ids are left out.

    Unfinished tasks are left, and those that others come after, or all is refused if `strict`.
    """
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
        if state.dependents.keeps(id, brief.seq):
            if command.strict:
                dependent = next(iter(state.dependents.of.get(id, ())), state.dependents.group_of(id, brief.seq))
                message = f"task {id!r} is kept until the tasks that come after it have ended, such as {dependent!r}"
                return Decision(cmd.Refused(cmd.HAS_DEPENDENTS, message))
            continue
        decision.changes.append(ch.TaskPurged(id, brief.seq, brief.status))
        if command.strict:
            # Retention removes tasks by their age, and their keys stay taken as long as was asked for.
            decision.changes.extend(freed_by_removal(state, id))
        purged += 1
    if command.forget_before:
        decision.changes.append(ch.RemovalsForgotten(command.forget_before))
    decision.answer = cmd.Purged(purged)
    return decision


def _may_run_again(spec: Spec, now: Now) -> bool:
    """Whether a task has not expired, and a handler runs it."""
    return not (spec.completes_by_itself or has_expired(spec, now))


def _has_its_key(spec: Spec, keys: Keys) -> bool:
    """Takes the unique key of a task that runs again, if it has one. Returns whether no other task has it."""
    return not (spec.unique_key and keys.take(spec.unique_key, spec.id))


def _key_taken(spec: Spec, keys: Keys) -> cmd.Refused | None:
    """Takes the unique key of a task that runs again. Returns which task has it, if another one does."""
    holder = keys.take(spec.unique_key, spec.id)
    if not holder:
        return None
    message = (
        f"task {holder!r} has the unique_key {spec.unique_key!r} of task {spec.id!r}; try again when that one has ended"
    )
    return cmd.Refused(cmd.KEY_TAKEN, message)


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

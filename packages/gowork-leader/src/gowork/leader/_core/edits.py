"""Decides on changes of what a pending task asks for: its queue, its priority, its times.

A changed task is a new record in the place of the old one, with a seq of its own. So it goes behind the tasks that wait
already where it waits from now on, and each store and each older leader that follows the log knows what to do with it.
Its standing goes with it, and keeps a digest of the first body: a repeat of the submit still counts as the same task.
"""

from __future__ import annotations

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.decision import Decision
from gowork.leader._core.model import BLOCKED, Edit, Now, Standing, Status, Task
from gowork.leader._core.state import State
from gowork.leader._core.tasks import digest_of, has_expired, no_lanes, no_room_in_queues, task_unknown


def update_task(state: State, command: cmd.UpdateTask, now: Now) -> Decision:
    """Changes a pending task. Others are refused, and a task that asks for just that already stays as it is."""
    task = state.tasks.get(command.id)
    if task is None:
        return Decision(task_unknown(command.id))
    refusal = _unchangeable(task, now)
    if refusal is not None:
        return Decision(refusal)
    old, standing = task.spec, task.standing
    spec, fields = command.edit(old, standing.created_ms, now.wall_ms)
    if command.moves_start and task.place is not BLOCKED:
        standing = replace(standing, not_before_ms=spec.run_at_ms if spec.run_at_ms > now.wall_ms else 0)
    decision = Decision()
    if not fields:
        if standing != task.standing:
            # It waited for its next attempt, say, and its time comes sooner now.
            decision.changes.append(ch.TaskMoved(command.id, standing))
        return decision
    if spec.lane != old.lane:
        refusal = no_lanes(state, [spec])
        if refusal is None and spec.lane.queue != old.lane.queue:
            refusal = no_room_in_queues(state, [spec], command.queue_pending_max)
        if refusal is not None:
            return Decision(refusal)
    standing = edited(standing, task, fields, now)
    decision.changes.append(ch.TaskReplaced(command.id, state.next_seq, spec, standing))
    return decision


def edited(standing: Standing, before: Task, fields: tuple[str, ...], now: Now) -> Standing:
    """Returns where a task stands of which these fields are changed. `before` is what it was until now."""
    known = standing.edit or Edit(digest_of(before.spec.body), 0, (), before.seq)
    return replace(standing, edit=Edit(known.asked, now.wall_ms, tuple(sorted({*known.fields, *fields})), known.seq))


def _unchangeable(task: Task, now: Now) -> cmd.Refused | None:
    """Returns why a task can't be changed any more; None when it can."""
    id, status = task.spec.id, task.standing.status
    if status is Status.RUNNING:
        message = f"task {id!r} is RUNNING, and only what waits can be changed; cancel it and schedule another task"
        return cmd.Refused(cmd.TASK_RUNNING, message)
    if status is not Status.PENDING:
        message = (
            f"task {id!r} has finished with {status.name}, and only what waits can be changed; schedule a new task"
        )
        return cmd.Refused(cmd.TASK_FINISHED, message)
    if has_expired(task.spec, now):
        message = f"task {id!r} has expired, so it can't be changed any more; schedule a new task"
        return cmd.Refused(cmd.TASK_EXPIRED, message)
    return None

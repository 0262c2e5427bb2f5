"""Decides on tasks that came with a backup and must not run twice.

What happened after the backup is not in it: a task that is pending there may have run. Nobody can tell, so a task with
OnLost.FAIL is not started. It ends with ERROR when its turn has come, unless a person has it run again (RetryTask).
"""

from __future__ import annotations

from gowork.leader._core.model import Failure, FailureKind, Now, OnLost, Restored, Standing, Status, Task
from gowork.leader._core.state import State
from gowork.leader._core.tasks import ended


def may_have_run(state: State, restored: Restored, task: Task) -> bool:
    """Whether a pending task must not be started, because it may have run after the backup was made.

    Where the task itself does not say, any connected worker's handler is asked.
    """
    standing = task.standing
    # Who changes a task does not say that it has not run.
    seq = task.seq if standing.edit is None else standing.edit.seq
    if seq >= restored.seq_below or standing.retried or standing.fence >= restored.fence_below:
        return False
    if task.spec.on_lost is not None:
        return task.spec.on_lost is OnLost.FAIL
    handler = task.spec.lane.handler
    policies = (worker.policy_for(handler) for worker in state.connections.values())
    return any(policy is not None and policy.on_lost is OnLost.FAIL for policy in policies)


def ended_by_restore(standing: Standing, now: Now) -> Standing:
    """Returns where such a task stands then."""
    message = (
        "it may have run, and is not run again because of its on_lost: it was pending in the backup that the store "
        "was restored from, and what happened after that is not known"
    )
    return ended(standing, Status.ERROR, Failure(FailureKind.LOST, message, "Lost"), now)

"""The leader's decisions.

Values go in, and values come out. `decide` reads the state and changes nothing. Only `apply` changes it.
"""

from __future__ import annotations

from typing import assert_never

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.callbacks import heartbeat, join, leave
from gowork.leader._core.clock import tick
from gowork.leader._core.decision import Decision
from gowork.leader._core.dialled import (
    complete_task,
    confirm_stop,
    deny_stop,
    refuse_start,
    take_back_orphans,
    tell_progress,
)
from gowork.leader._core.dispatch import dispatch
from gowork.leader._core.drains import drain
from gowork.leader._core.edits import update_task
from gowork.leader._core.groups import seal_group
from gowork.leader._core.model import Now
from gowork.leader._core.queue_settings import configure_queue, pause_queue
from gowork.leader._core.retention import purge, retry_task, retry_tasks
from gowork.leader._core.schedule_control import (
    add_schedule,
    backfill_schedule,
    pause_schedule,
    remove_schedule,
    resume_schedule,
    trigger_schedule,
)
from gowork.leader._core.sessions import close_session, open_session, receive_frame
from gowork.leader._core.state import State
from gowork.leader._core.tasks import cancel, cancel_tasks, submit


def decide(state: State, command: cmd.AnyCommand, now: Now) -> Decision:
    """Returns what follows from one command."""
    match command:
        case cmd.ReceiveFrame():
            return receive_frame(state, command, now)
        case cmd.Submit():
            return submit(state, command, now)
        case cmd.Dispatch():
            return dispatch(state, now)
        case cmd.Tick():
            return tick(state, command, now)
        case cmd.Cancel():
            return cancel(state, command, now)
        case cmd.OpenSession():
            return open_session(state, command, now)
        case cmd.CloseSession():
            return close_session(state, command, now)
        case cmd.Heartbeat():
            return heartbeat(state, command, now)
        case cmd.Join():
            return join(state, command, now)
        case cmd.Leave():
            return leave(state, command, now)
        case cmd.DrainMember():
            return drain(state, command)
        case cmd.CompleteTask():
            return complete_task(state, command, now)
        case cmd.TellProgress():
            return tell_progress(state, command, now)
        case cmd.RefuseStart():
            return refuse_start(state, command, now)
        case cmd.ConfirmStop():
            return confirm_stop(state, command, now)
        case cmd.DenyStop():
            return deny_stop(state, command, now)
        case cmd.RetryTask():
            return retry_task(state, command, now)
        case cmd.SealGroup():
            return seal_group(state, command)
        case cmd.Purge():
            return purge(state, command)
        case cmd.CancelTasks():
            return cancel_tasks(state, command, now)
        case cmd.RetryTasks():
            return retry_tasks(state, command, now)
        case cmd.UpdateTask():
            return update_task(state, command, now)
        case cmd.PauseQueue():
            return pause_queue(state, command, now)
        case cmd.ConfigureQueue():
            return configure_queue(state, command, now)
        case cmd.AddSchedule():
            return add_schedule(state, command, now)
        case cmd.PauseSchedule():
            return pause_schedule(state, command, now)
        case cmd.ResumeSchedule():
            return resume_schedule(state, command, now)
        case cmd.TriggerSchedule():
            return trigger_schedule(state, command, now)
        case cmd.BackfillSchedule():
            return backfill_schedule(state, command, now)
        case cmd.RemoveSchedule():
            return remove_schedule(state, command)
        case cmd.TakeBackOrphans():
            return take_back_orphans(state, now)
        case cmd.ExtendLeases():
            decision = Decision()
            # Messages that were sent meanwhile are still on their way in, and workers that gave the leader up have to
            # reconnect first.
            until_mono = now.mono + min(command.seconds, state.settings.lease)
            decision.changes.append(ch.LeasesExtended(command.seconds, until_mono))
            return decision
        case _:
            assert_never(command)

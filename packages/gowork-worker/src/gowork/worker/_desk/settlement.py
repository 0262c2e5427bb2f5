"""What becomes of the tasks of a runner that has ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.tasks import HeldTask
from gowork.worker._runner import endings
from gowork.worker._runner.messages import StopKind


def settle_dead(
    tasks: Iterable[HeldTask], begun: Collection[int], reason: str, *, on_purpose: bool, ran_one_by_one: bool
) -> list[session.Report]:
    """Returns the reports of all tasks that the runner held.

    Tasks that were asked to stop have stopped. Tasks that had started are lost, unless the runner was ended on purpose.
    Tasks that had not started are handed back.

    Args:
        tasks: the tasks that it held.
        begun: the fences of the tasks that it had started.
        reason: how it ended, in words.
        on_purpose: whether the supervisor ended it, because of another task or because the worker stops.
        ran_one_by_one: whether it had one task at a time. Only then is it certain that the other tasks had not started:
            otherwise several may have ended whose reports were lost with the runner, and `begun` names the last of
            each slot.
    """
    return [_settle(held, held.fence in begun, reason, on_purpose, ran_one_by_one) for held in tasks]


def _settle(held: HeldTask, ran: bool, reason: str, on_purpose: bool, ran_one_by_one: bool) -> session.Report:
    not_started = ran_one_by_one and not ran
    if held.stop_kind is StopKind.CANCEL:
        return endings.cancelled(held.fence, held.id, "its runner was ended")
    if held.stop_kind is StopKind.TIMEOUT:
        return endings.timed_out(held.fence, held.id, 0)
    if on_purpose or held.stop_kind is StopKind.INTERRUPT:
        why = "its runner was ended for another task, or to stop the worker"
        return endings.interrupted(held.fence, held.id, why, not_started=not_started)
    if ran:
        return endings.lost(held.fence, held.id, reason)
    return endings.interrupted(held.fence, held.id, f"it had not started: {reason}", not_started=not_started)

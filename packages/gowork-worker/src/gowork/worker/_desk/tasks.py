"""Granted tasks that the worker holds, and what a Hello names of them."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner.messages import StopKind

if TYPE_CHECKING:
    from gowork.worker._desk.runner import Runner


class HeldTask:
    """One granted task until its report."""

    __slots__ = ("fence", "grant", "id", "kill_at", "lender", "only", "released", "runner", "sent_at", "stop_kind")

    def __init__(self, grant: session.Grant) -> None:
        self.grant = grant
        self.fence: int = grant.fence
        self.id: str = grant.id
        #: The runner that has it; None while it waits for one. Written by `work`, as all that follows.
        self.runner: Runner | None = None
        #: When it went to its runner.
        self.sent_at = 0.0
        #: The leader wants no report of it.
        self.released = False
        #: The plugins that its handler needs, when it is to be alone; None for all.
        self.only: tuple[str, ...] | None = None
        #: The runner that gave up a slot for it, when it is alone in a process of its own. Written by `solo`.
        self.lender: Runner | None = None
        #: Why it was asked to stop, and when its runner is ended if it has not. Written by `stops`.
        self.stop_kind: StopKind | None = None
        self.kill_at = 0.0


def listed(held: Iterable[HeldTask], running: Container[int], reports: Iterable[session.Report]) -> list[session.Held]:
    """What a Hello names.

    Args:
        held: tasks without a report. One that the leader has released is not named: it is another's by now.
        running: the fences of those that have started.
        reports: what the leader has not acknowledged.
    """
    states = {True: session.HELD_STATE_RUNNING, False: session.HELD_STATE_BUFFERED}
    return [
        *(
            session.Held(id=each.id, fence=each.fence, state=states[each.fence in running])
            for each in held
            if not each.released
        ),
        *(session.Held(id=each.id, fence=each.fence, state=session.HELD_STATE_FINISHED) for each in reports),
    ]

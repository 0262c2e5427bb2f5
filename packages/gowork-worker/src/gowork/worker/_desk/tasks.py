"""Granted tasks that the worker holds, and what a Hello names of them."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner.messages import StopKind

if TYPE_CHECKING:
    from gowork.worker._desk.runner import Runner


class HeldTask:
    """One task, from its grant to its report."""

    __slots__ = (
        "environment",
        "fence",
        "grant",
        "id",
        "kill_at",
        "lender",
        "only",
        "released",
        "runner",
        "sent_at",
        "stop_kind",
    )

    def __init__(self, grant: session.Grant) -> None:
        self.grant = grant
        self.fence: int = grant.fence
        self.id: str = grant.id
        #: The runner that has it; None while it waits for one. Written by `work`, like the next three.
        self.runner: Runner | None = None
        #: When it was sent to its runner, in seconds on the desk's clock.
        self.sent_at = 0.0
        #: Whether the leader has released it, so that it is not reported.
        self.released = False
        #: The plugins that its handler needs, if it is isolated; None for all.
        self.only: tuple[str, ...] | None = None
        #: The environment that has its handler; empty for the worker's own.
        self.environment = ""
        #: The ordinary runner that has left a slot to it, while it is isolated and uses one. Written by `solo`.
        self.lender: Runner | None = None
        #: Why it was asked to stop, and when its runner is ended if it has not stopped, in seconds. Written by `stops`.
        self.stop_kind: StopKind | None = None
        self.kill_at = 0.0


def listed(held: Iterable[HeldTask], running: Container[int], reports: Iterable[tuple[int, str]]) -> list[session.Held]:
    """Returns the tasks that a Hello names.

    Args:
        held: tasks without a report. Those that the leader has released are not named: other workers may hold them.
        running: the fences of the tasks that have started.
        reports: the fence and id of each report that the leader has not acknowledged.
    """
    states = {True: session.HELD_STATE_RUNNING, False: session.HELD_STATE_BUFFERED}
    return [
        *(
            session.Held(id=each.id, fence=each.fence, state=states[each.fence in running])
            for each in held
            if not each.released
        ),
        *(session.Held(id=id, fence=fence, state=session.HELD_STATE_FINISHED) for fence, id in reports),
    ]

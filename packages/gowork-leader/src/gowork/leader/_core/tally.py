"""What a batch has done, for metrics and the log. `apply` notes it, and the engine passes it on when it is durable.

No decision uses it.
"""

from __future__ import annotations

from gowork.leader._core.changes import ScheduleTicked
from gowork.leader._core.model import LaneKey, Liveness, Outcome, Spec, Status


class Tally:
    """Notes of one batch. A task costs no more here than appending to a list."""

    __slots__ = (
        "callback_heartbeats",
        "connected",
        "ended",
        "gaps_ms",
        "gone",
        "quarantined",
        "started",
        "submitted",
        "ticked",
    )

    def __init__(self) -> None:
        #: New tasks.
        self.submitted: list[Spec] = []
        #: Tasks that were granted for the first time: (spec, how many milliseconds it could have run before).
        self.started: list[tuple[Spec, int]] = []
        #: Attempts and tasks that have ended: (lane, the attempt's outcome or None without an attempt, the task's
        #: status now).
        self.ended: list[tuple[LaneKey, Outcome | None, Status]] = []
        #: Tasks that were put into quarantine: (id, the number of their last attempt).
        self.quarantined: list[tuple[str, int]] = []
        #: For each frame of a session: how many milliseconds after the frame before it came.
        self.gaps_ms: list[int] = []
        #: How many heartbeats came from callback workers.
        self.callback_heartbeats = 0
        #: Names of workers whose sessions opened, and ids of callback workers that joined.
        self.connected: list[str] = []
        #: Members that are gone: (name or id, LEFT or LOST).
        self.gone: list[tuple[str, Liveness]] = []
        #: Ticks of schedules, with what became of them.
        self.ticked: list[ScheduleTicked] = []

    def __bool__(self) -> bool:
        lists = (self.submitted, self.started, self.ended, self.gaps_ms, self.connected, self.gone, self.ticked)
        return self.callback_heartbeats > 0 or any(lists)

"""What a batch has done, for metrics and the log: noted while it is applied, told when it is durable.

Nothing is decided by it.
"""

from __future__ import annotations

from gowork.leader._core.model import LaneKey, Liveness, Outcome, Spec, Status


class Tally:
    """Notes of one batch. Appending to a list is all that a task costs here."""

    __slots__ = ("callback_heartbeats", "connected", "ended", "gaps_ms", "gone", "quarantined", "started", "submitted")

    def __init__(self) -> None:
        #: New tasks.
        self.submitted: list[Spec] = []
        #: Tasks that were granted for the first time, with how long they could have run before, in milliseconds.
        self.started: list[tuple[Spec, int]] = []
        #: Attempts and tasks that have ended: (lane, how the attempt ended, None where there was none, where the task
        #: stands now).
        self.ended: list[tuple[LaneKey, Outcome | None, Status]] = []
        #: Tasks that were put into quarantine, with the number of their last attempt.
        self.quarantined: list[tuple[str, int]] = []
        #: For each frame of a session how long it came after the one before, in milliseconds.
        self.gaps_ms: list[int] = []
        #: Heartbeats of callback workers.
        self.callback_heartbeats = 0
        #: Names of workers whose sessions were opened, and of callback workers that joined.
        self.connected: list[str] = []
        #: Members that are forgotten, and why.
        self.gone: list[tuple[str, Liveness]] = []

    def __bool__(self) -> bool:
        lists = (self.submitted, self.started, self.ended, self.gaps_ms, self.connected, self.gone)
        return self.callback_heartbeats > 0 or any(lists)

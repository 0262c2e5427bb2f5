"""What a batch has done, for the metrics: noted while it is applied, told when it is durable.

Nothing is decided by it.
"""

from __future__ import annotations

from gowork.leader.core.model import LaneKey, Outcome, Spec, Status


class Tally:
    """Notes of one batch. Appending to a list is all that a task costs here."""

    __slots__ = ("callback_heartbeats", "ended", "gaps_ms", "quarantined", "started", "submitted")

    def __init__(self) -> None:
        #: New tasks.
        self.submitted: list[Spec] = []
        #: Tasks that were granted for the first time, with how long they could have run before, in milliseconds.
        self.started: list[tuple[Spec, int]] = []
        #: Attempts and tasks that have ended: (lane, how the attempt ended, None where there was none, where the task
        #: stands now).
        self.ended: list[tuple[LaneKey, Outcome | None, Status]] = []
        #: Tasks that were put into quarantine.
        self.quarantined = 0
        #: For each frame of a session how long it came after the one before, in milliseconds.
        self.gaps_ms: list[int] = []
        #: Heartbeats of callback members.
        self.callback_heartbeats = 0

    def __bool__(self) -> bool:
        return bool(self.submitted or self.started or self.ended or self.gaps_ms or self.callback_heartbeats)

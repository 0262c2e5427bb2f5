"""What a change of leader may take, per fault. docs/high-availability.md shows the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ha_faults import Kind

#: The lease that etcd and PostgreSQL grant, and the election time-out of the members of etcd in these runs, in seconds.
LEASE_SECONDS = 3.0
ELECTION_SECONDS = 1.0


@dataclass(frozen=True)
class Target:
    """How long it may take, in seconds, until a new task has completed, or was acknowledged."""

    p99: float
    p50: float | None = None
    #: It is about the acknowledgement: a successor that takes tasks has taken over.
    is_acknowledged: bool = False

    def __str__(self) -> str:
        p50 = "" if self.p50 is None else f"p50 {self.p50:g}, "
        return f"{p50}p99 {self.p99:g} ({'acknowledged' if self.is_acknowledged else 'completed'})"

    def is_met(self, acknowledged: Sequence[float], completed: Sequence[float]) -> bool:
        """Whether these sorted figures are within it."""
        p50, p99, _ = percentiles(acknowledged if self.is_acknowledged else completed)
        return p99 <= self.p99 and (self.p50 is None or p50 <= self.p50)


TARGETS: Mapping[Kind, Target] = {
    Kind.KILL_LEADER: Target(4.0, 1.0),
    Kind.TERM_LEADER: Target(0.5, is_acknowledged=True),
    Kind.LOSE_LEADER: Target(LEASE_SECONDS + 1.0),
    Kind.LOSE_LEADER_AND_ETCD_LEADER: Target(LEASE_SECONDS + 1.0 + 2 * ELECTION_SECONDS),
}


def percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Returns the 50th and the 99th percentile, and the most, of sorted figures."""
    return seconds[len(seconds) // 2], seconds[min(len(seconds) * 99 // 100, len(seconds) - 1)], seconds[-1]

"""What a client is told of groups."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gowork.client._models import AfterRule, TaskStatus


@dataclass(frozen=True, slots=True)
class GroupState:
    """How far a group is: a task that runs after its children."""

    #: The id of its task. Those of its children are this id, a slash and one part more.
    id: str
    #: Where its task stands.
    status: TaskStatus
    after_rule: AfterRule
    #: How many children it will have; None: it is open.
    expected: int | None
    #: How many children wait or run, and how many have ended with COMPLETED, ERROR and CANCELLED. Children that were
    #: removed since it has ended are in none of these.
    unfinished: int
    completed: int
    failed: int
    cancelled: int
    created_at: datetime | None

    @property
    def children(self) -> int:
        """How many children there are."""
        return self.unfinished + self.ended

    @property
    def ended(self) -> int:
        """How many of these have ended."""
        return self.completed + self.failed + self.cancelled

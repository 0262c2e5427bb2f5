"""What one update of `gowork top` shows, in the order in which it is looked at."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from gowork.cli.rates import Flow, History
from gowork.client import (
    Activity,
    CallError,
    Client,
    DeadlineExceeded,
    LeaderUnreachable,
    Liveness,
    Member,
    QueueActivity,
)

#: Failed tasks that are asked for.
FAILURES_MAX = 20
#: The span over which rates and latencies are taken, in seconds.
WINDOW_S = 5.0

_ORDER = (Liveness.LOST, Liveness.BLOCKED, Liveness.DRAINING, Liveness.LIVE, Liveness.LEFT)


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue, and its flow of late."""

    activity: QueueActivity
    #: None when there is nothing to compare with yet.
    flow: Flow | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One update."""

    #: Where the leader was asked, HOST:PORT.
    address: str
    activity: Activity
    #: Those that are in trouble first.
    members: tuple[Member, ...]
    #: Those with most tasks that wait first.
    queues: tuple[QueueRow, ...]
    #: The flow of all queues together.
    total: Flow | None
    #: When it was answered, by time.monotonic().
    answered_mono: float
    #: Why there is nothing newer; empty when there is.
    error: str = ""


class Lookout:
    """Asks the leader, and remembers what rates need."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._history = History(WINDOW_S)

    def look(self) -> Frame:
        """What there is to see now.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        activity = self._client.activity(failures=FAILURES_MAX)
        members = self._client.members()
        self._history.add(activity)
        flows, total = self._history.flows()
        rows = (QueueRow(queue, flows.get(queue.queue.name)) for queue in activity.queues)
        return Frame(
            self._client.address,
            activity,
            tuple(sorted(members, key=member_place)),
            tuple(sorted(rows, key=queue_place)),
            total,
            time.monotonic(),
        )

    def look_again(self, last: Frame) -> Frame:
        """As look; when there is no answer, the last one with the reason."""
        try:
            return self.look()
        except LeaderUnreachable as error:
            words = str(error) if error.answered else f"no leader answers at {error.address}"
            return dataclasses.replace(last, error=words)
        except DeadlineExceeded:
            return dataclasses.replace(last, error=f"the leader at {last.address} does not answer")
        except CallError as error:
            return dataclasses.replace(last, error=str(error))


def member_place(member: Member) -> tuple[int, str]:
    """Sorts members: those that somebody should look at first."""
    return _ORDER.index(member.liveness) if member.liveness in _ORDER else len(_ORDER), member.id


def queue_place(row: QueueRow) -> tuple[int, int, float, str]:
    """Sorts queues: those where most waits first, then those that do most."""
    queue = row.activity.queue
    return -queue.waiting, -queue.running, -row.flow.finished if row.flow else 0.0, queue.name

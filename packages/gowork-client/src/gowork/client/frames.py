"""What a view of the whole cluster shows, such as `gowork top`: one frame for each update.

A frame holds values alone, sorted by what somebody should look at first. Nothing here knows of terminals or pages, so
every view shows the same. `Film` makes frames of answers that its caller has asked for. `Lookout` asks with a
blocking client.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass

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
from gowork.client.rates import Flow, History

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


class Film:
    """Makes a frame of each answer, and remembers what rates need. It asks nobody and has no clock."""

    def __init__(self, address: str) -> None:
        """`address` is where the leader is asked, HOST:PORT."""
        self._address = address
        self._history = History(WINDOW_S)

    def frame(self, activity: Activity, members: Iterable[Member], answered_mono: float) -> Frame:
        """The frame of what `activity` and `members` answered at a time of time.monotonic()."""
        self._history.add(activity)
        flows, total = self._history.flows()
        rows = (QueueRow(queue, flows.get(queue.queue.name)) for queue in activity.queues)
        return Frame(
            self._address,
            activity,
            tuple(sorted(members, key=member_place)),
            tuple(sorted(rows, key=queue_place)),
            total,
            answered_mono,
        )


class Lookout:
    """Asks the leader with a blocking client, and makes a frame of each answer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._film = Film(client.address)

    def look(self) -> Frame:
        """What there is to see now.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        activity = self._client.activity(failures=FAILURES_MAX)
        return self._film.frame(activity, self._client.members(), time.monotonic())

    def look_again(self, last: Frame) -> Frame:
        """The next frame; the last one with the reason when there is no answer."""
        try:
            return self.look()
        except CallError as error:
            return unanswered(last, error)


def unanswered(last: Frame, error: CallError) -> Frame:
    """The last frame again, with why there is nothing newer."""
    match error:
        case LeaderUnreachable(answered=False):
            words = f"no leader answers at {error.address}"
        case DeadlineExceeded():
            words = f"the leader at {last.address} does not answer"
        case _:
            words = str(error)
    return dataclasses.replace(last, error=words)


def member_place(member: Member) -> tuple[int, str]:
    """Sorts members: those that somebody should look at first."""
    return _ORDER.index(member.liveness) if member.liveness in _ORDER else len(_ORDER), member.id


def queue_place(row: QueueRow) -> tuple[int, int, float, str]:
    """Sorts queues: those where most waits first, then those that do most."""
    queue = row.activity.queue
    return -queue.waiting, -queue.running, -row.flow.finished if row.flow else 0.0, queue.name

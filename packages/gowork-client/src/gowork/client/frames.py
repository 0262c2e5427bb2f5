"""Makes what a view of the whole cluster shows, such as `gowork top`: one frame for each update.

A frame holds only values. Its members and queues are sorted: what somebody should look at first comes first. Nothing
here depends on terminals or pages, so that every view shows the same. `Film` makes frames of responses that its caller
has. `Lookout` asks the leader with a blocking client.
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

#: How many failed tasks a frame has at most.
FAILURES_MAX = 20
#: The length of time over which rates and latencies are computed, in seconds.
WINDOW_S = 5.0

_ORDER = (Liveness.LOST, Liveness.BLOCKED, Liveness.DRAINING, Liveness.LIVE, Liveness.LEFT)


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue, and its flow over the last WINDOW_S seconds."""

    activity: QueueActivity
    #: None when there are no earlier counts to compare with.
    flow: Flow | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One update of a view."""

    #: The leader's address, HOST:PORT.
    address: str
    activity: Activity
    #: Sorted: the members in trouble are first.
    members: tuple[Member, ...]
    #: Sorted: the queues with the most waiting tasks are first.
    queues: tuple[QueueRow, ...]
    #: The flow of all queues together; None when there are no earlier counts to compare with.
    total: Flow | None
    #: When the leader answered, by time.monotonic().
    answered_mono: float
    #: Why the leader has not answered since; empty when this frame is new.
    error: str = ""


class Film:
    """Makes a frame of each response, and keeps earlier ones for rates. It makes no calls and reads no clock."""

    def __init__(self, address: str) -> None:
        """`address` is the leader's, HOST:PORT."""
        self._address = address
        self._history = History(WINDOW_S)

    def frame(self, activity: Activity, members: Iterable[Member], answered_mono: float) -> Frame:
        """Makes the frame of what a client's `activity` and `members` returned at `answered_mono` (time.monotonic)."""
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
    """Asks the leader with a blocking client, and makes a frame of each response."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._film = Film(client.address)

    def look(self) -> Frame:
        """Asks the leader, and returns the frame of its response.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        activity = self._client.activity(failures=FAILURES_MAX)
        return self._film.frame(activity, self._client.members(), time.monotonic())

    def look_again(self, last: Frame) -> Frame:
        """Returns the next frame; if the call fails, the last frame with the reason as its `error`."""
        try:
            return self.look()
        except CallError as error:
            return unanswered(last, error)


def unanswered(last: Frame, error: CallError) -> Frame:
    """Returns the last frame with the reason of a failed call as its `error`."""
    match error:
        case LeaderUnreachable(answered=False):
            words = f"no leader answers at {error.address}"
        case DeadlineExceeded():
            words = f"the leader at {last.address} does not answer"
        case _:
            words = str(error)
    return dataclasses.replace(last, error=words)


def member_place(member: Member) -> tuple[int, str]:
    """Returns a sort key: the members in trouble come first, then by id."""
    return _ORDER.index(member.liveness) if member.liveness in _ORDER else len(_ORDER), member.id


def queue_place(row: QueueRow) -> tuple[int, int, float, str]:
    """Returns a sort key: by most waiting tasks, then most running ones, then most that finish, then name."""
    queue = row.activity.queue
    return -queue.waiting, -queue.running, -row.flow.finished if row.flow else 0.0, queue.name

"""Says in words which tasks hold the slots, or the place of a concurrency key, that another one waits for."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec import Struct

from gowork.leader._core.model import LaneKey, Liveness, Now, Task
from gowork.leader._core.state import State

#: How many held tasks are looked at, and how many handlers are named.
HELD_LOOKED_AT_MAX = 10_000
NAMED_MAX = 5
#: How many tasks of a concurrency key are named.
KEY_HOLDERS_NAMED_MAX = 5


class Holders(Struct, frozen=True):
    """The tasks that hold the slots that another one waits for."""

    #: {handler: how many of its tasks}, most first; the default handler's name is empty.
    tasks: dict[str, int]
    #: How long the oldest has been held, in seconds.
    seconds: float
    #: How many slots the members have that could run the waiting task.
    slots: int
    #: Whether there are more held tasks than were looked at.
    more: bool

    def told(self) -> str:
        """Says it in words, as in "4 slots are held by parent x4, the oldest for 2 min"."""
        named = [f"{handler or 'the default handler'} x{tasks}" for handler, tasks in self.tasks.items()]
        others = ["others"] if self.more or len(named) > NAMED_MAX else []
        slots = f"{self.slots} slot{'s are' if self.slots != 1 else ' is'}"
        return f"{slots} held by {', '.join(named[:NAMED_MAX] + others)}, the oldest for {_length(self.seconds)}"


def holders_of(state: State, lane: LaneKey, now: Now) -> Holders | None:
    """Returns the tasks that the members hold that could run a task of this lane; None when they hold nothing."""
    workers = [
        worker
        for worker in state.connections.values()
        if worker.can_run(lane.handler, lane.selector, lane.queue) and worker.liveness is not Liveness.DRAINING
    ]
    callbacks = [] if lane.handler or lane.selector else [member for member in state.callbacks.values() if member.held]
    slots = sum(worker.slots for worker in workers) + len(callbacks)
    ids = [id for worker in workers for id in worker.held.values()]
    ids += [member.held.id for member in callbacks if member.held is not None]
    looked_at = list(_known(state, ids[:HELD_LOOKED_AT_MAX]))
    if not looked_at:
        return None
    counts = Counter(task.spec.lane.handler for task in looked_at)
    oldest_ms = min(task.standing.started_ms for task in looked_at)
    seconds = max(0, now.wall_ms - oldest_ms) / 1000
    return Holders(dict(counts.most_common()), seconds, slots, len(ids) > HELD_LOOKED_AT_MAX)


def holders_of_key(state: State, lane: LaneKey, running: int) -> str:
    """Returns which tasks of this lane's queue run with its concurrency key, as in "'a', 'b' and 2 more".

    Tasks of other handlers are only counted, because who asks may be bound to the lane's handler.

    Args:
        state: the state.
        lane: the lane of a task that waits.
        running: how many tasks run with the key.
    """
    held = (id for worker in state.workers.values() for id in worker.held.values())
    dialled = (member.held.id for member in state.callbacks.values() if member.held is not None)
    looked_at = _known(state, itertools.islice(itertools.chain(held, dialled), HELD_LOOKED_AT_MAX))
    what = (lane.queue, lane.concurrency_key, lane.handler)
    found = (
        repr(task.spec.id)
        for task in looked_at
        if (task.spec.lane.queue, task.spec.lane.concurrency_key, task.spec.lane.handler) == what
    )
    named = list(itertools.islice(found, KEY_HOLDERS_NAMED_MAX))
    more = running - len(named)
    if not named:
        return f"{more} of other handlers"
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _known(state: State, ids: Iterable[str]) -> Iterator[Task]:
    for id in ids:
        task = state.tasks.get(id)
        if task is not None:
            yield task


def _length(seconds: float) -> str:
    for span, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * span:
            return f"{seconds // span:.0f} {name}"
    return f"{seconds:.0f} s"

"""Watchers of the tasks that a filter selects, and the changes that they have not read yet.

Changes are gathered once for all watchers of one filter, as a chain of batches in which each watcher has its place. So
a watcher that does not read costs nothing of its own. The batches that some watcher has not read have one bound, over
all watchers together. Beyond it the oldest batch is dropped, and the watchers that had not read it are ended.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gowork.leader._core.model import LaneKey, Progress, Spec, Standing, Task

#: How many bytes of changes may wait for watchers to read them, over all watchers: bodies, results, and TASK_BYTES for
#: each task. When the bound is reached, the next batch drops the oldest ones. A single batch may go beyond the bound,
#: because it may bring tens of thousands of tasks before any watcher could have read.
UNREAD_BYTES_MAX = 128 << 20
#: About how many bytes a change takes besides its body and result.
TASK_BYTES = 1 << 10
#: About how many bytes the id of a removed task takes.
_ID_BYTES = 100


class Snapshot:
    """A task as it stood after a batch."""

    __slots__ = ("changed", "progress", "shown", "spec", "standing")

    def __init__(self, task: Task) -> None:
        self.spec: Spec = task.spec
        self.standing: Standing = task.standing
        self.progress: Progress | None = task.progress
        self.changed = task.changed
        #: (view, the serialized task in that view) as a watcher was sent it. Other watchers are sent the same bytes.
        self.shown: tuple[int, bytes] = (-1, b"")


def bytes_of(body: bytes, standing: Standing, trace: bytes = b"") -> int:
    """Returns about how many bytes a task takes: its body, its trace context if that is apart, and its result."""
    return len(body) + len(trace) + len(standing.result) + len(standing.result_data)


class SubscriptionsClosed(Exception):
    """No more changes will come; the message says why."""


class WatcherBehind(Exception):
    """The watcher does not read fast enough."""


class Selection(NamedTuple):
    """What a filter selects, split into the parts that indexes find quickly."""

    #: Equal for equal selections.
    key: str
    #: The id of the one task that it can select; None when it may select others.
    id: str | None
    #: Whether it can select tasks of a lane; None: of any lane.
    lane: Callable[[LaneKey], bool] | None
    #: Whether it selects a task.
    task: Callable[[Spec, Standing], bool]


class _Batch:
    """The changes of one batch for the watchers of one filter."""

    __slots__ = ("bytes", "changed", "dropped", "next", "removed", "tasks", "unread")

    def __init__(self, tasks: Sequence[Snapshot], removed: Sequence[str], changed: int, unread: int) -> None:
        self.tasks = tasks
        self.removed = removed
        self.changed = changed
        self.bytes = len(removed) * _ID_BYTES + sum(
            bytes_of(new.spec.body, new.standing, new.spec.trace) + TASK_BYTES for new in tasks
        )
        #: How many watchers have not read it to its end.
        self.unread = unread
        self.next: _Batch | None = None
        #: It was dropped before all had read it.
        self.dropped = False


class _Group:
    """The watchers of one filter."""

    __slots__ = ("last", "selection", "watchers")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.watchers: dict[Watcher, None] = {}
        #: The last batch of the chain.
        self.last = _Batch((), (), 0, 0)


class Part(NamedTuple):
    """What a watcher takes at a time: removed ids or changed tasks. A batch's ids come before its tasks."""

    tasks: list[Snapshot]
    removed: Sequence[str]
    #: The number of the last batch that this part ends; None when it ends none.
    changed: int | None


class Watcher:
    """Reads the tasks that its filter selects."""

    __slots__ = ("_at", "_event", "_feed", "_removed_read", "_tasks_read", "closed", "selection")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self._feed: Feed | None = None
        #: The last batch that was read to its end, and how many removed ids and tasks of the next one were read.
        self._at = _Batch((), (), 0, 0)
        self._removed_read = self._tasks_read = 0
        self._event = asyncio.Event()
        self.closed = False

    async def take(self, items_max: int, bytes_max: int) -> Part:
        """Waits for the next changes and returns at least one, with only the last one of each task.

        Raises:
            WatcherBehind: the next changes were dropped.
            SubscriptionsClosed: no more changes will come.
        """
        await self._event.wait()
        tasks: dict[str, Snapshot] = {}
        size, changed = 0, None
        while (batch := self._at.next) is not None and not batch.dropped:
            if self._removed_read < len(batch.removed):
                if tasks:
                    break
                removed = batch.removed[self._removed_read : self._removed_read + items_max]
                self._removed_read += len(removed)
                return Part([], removed, self._passed(batch))
            for new in batch.tasks[self._tasks_read :]:
                size += bytes_of(new.spec.body, new.standing, new.spec.trace)
                if tasks and (len(tasks) >= items_max or size > bytes_max):
                    return Part(list(tasks.values()), (), changed)
                # Taken out and put back, so that the order is that of the last changes.
                tasks.pop(new.spec.id, None)
                tasks[new.spec.id] = new
                self._tasks_read += 1
            changed = self._passed(batch)
        if tasks:
            return Part(list(tasks.values()), (), changed)
        if batch is not None:
            raise WatcherBehind
        raise SubscriptionsClosed(self._feed.closed_because if self._feed is not None else "")

    def begin(self, feed: Feed, last: _Batch) -> None:
        """Has the watcher read the batches after this one."""
        self._feed = feed
        self._at = last

    def wake(self) -> None:
        """Wakes the watcher, because there is something to read or nothing more will come."""
        self._event.set()

    def end(self) -> None:
        """Ends the watch and drops the changes that it has not read."""
        while (batch := self._at.next) is not None:
            self._removed_read, self._tasks_read = len(batch.removed), len(batch.tasks)
            self._passed(batch)

    def _passed(self, batch: _Batch) -> int | None:
        """Goes on to the next batch if this one was read to its end. Returns this one's number then, and else None."""
        if self._removed_read < len(batch.removed) or self._tasks_read < len(batch.tasks):
            return None
        self._at = batch
        self._removed_read = self._tasks_read = 0
        if batch.next is None and not self.closed:
            self._event.clear()
        batch.unread -= 1
        assert self._feed is not None
        if not batch.unread:
            self._feed.forget(batch)
        return batch.changed


class Feed:
    """All watchers."""

    def __init__(self, unread_bytes_max: int = UNREAD_BYTES_MAX) -> None:
        self._unread_bytes_max = unread_bytes_max
        #: {Selection.id: {Selection.key: group}}; {key: group} of selections by lane; {key: group} of all others.
        self._of_ids: dict[str, dict[str, _Group]] = {}
        self._of_lanes: dict[str, _Group] = {}
        self._of_all: dict[str, _Group] = {}
        #: Batches that not all watchers have read, the oldest first, and how many bytes they take.
        self._unread: OrderedDict[_Batch, None] = OrderedDict()
        self.unread_bytes = 0
        #: Why no more changes will come; empty while they do.
        self.closed_because = ""

    def add(self, watcher: Watcher) -> None:
        """Adds a watcher, which gets changes from now on."""
        selection = watcher.selection
        groups = self._groups_of(selection)
        group = groups.get(selection.key)
        if group is None:
            group = groups[selection.key] = _Group(selection)
        group.watchers[watcher] = None
        watcher.begin(self, group.last)

    def drop(self, watcher: Watcher) -> None:
        """Removes a watcher."""
        selection = watcher.selection
        groups = self._groups_of(selection)
        group = groups.get(selection.key)
        if group is None or watcher not in group.watchers:
            self._tidy(selection)
            return
        del group.watchers[watcher]
        watcher.end()
        if not group.watchers:
            del groups[selection.key]
            self._tidy(selection)

    def publish(self, tasks: Sequence[Task], changed: int, removed: Sequence[str]) -> None:
        """Gives watchers the changes of a durable batch. It removed the ids in `removed` before it changed `tasks`."""
        if not (self._of_ids or self._of_lanes or self._of_all):
            return
        while self.unread_bytes >= self._unread_bytes_max:
            oldest = next(iter(self._unread))
            oldest.dropped = True
            self.forget(oldest)
        snapshots: dict[str, Snapshot] = {}
        if self._of_ids:
            self._publish_by_id(tasks, changed, removed, snapshots)
        for group in self._of_all.values():
            selects = group.selection.task
            chosen = [task for task in tasks if selects(task.spec, task.standing)]
            self._append(group, chosen, changed, removed, snapshots)
        if self._of_lanes:
            by_lane: dict[LaneKey, list[Task]] = {}
            for task in tasks:
                by_lane.setdefault(task.spec.lane, []).append(task)
            for group in self._of_lanes.values():
                selects_lane, selects = group.selection.lane, group.selection.task
                assert selects_lane is not None
                chosen = [
                    task
                    for lane, of_lane in by_lane.items()
                    if selects_lane(lane)
                    for task in of_lane
                    if selects(task.spec, task.standing)
                ]
                self._append(group, chosen, changed, removed, snapshots)

    def forget(self, batch: _Batch) -> None:
        """Frees a batch that nobody will read."""
        if batch in self._unread:
            del self._unread[batch]
            self.unread_bytes -= batch.bytes
            batch.tasks = batch.removed = ()

    def close(self, because: str) -> None:
        """Ends all watches, after they have read the changes that are there, and tells them why."""
        self.closed_because = because
        groups = [*self._of_lanes.values(), *self._of_all.values()]
        for of_id in self._of_ids.values():
            groups += of_id.values()
        for group in groups:
            for watcher in group.watchers:
                watcher.closed = True
                watcher.wake()

    def _publish_by_id(
        self, tasks: Sequence[Task], changed: int, removed: Sequence[str], snapshots: dict[str, Snapshot]
    ) -> None:
        gone = {id: (id,) for id in removed if id in self._of_ids}
        new = {task.spec.id: task for task in tasks if task.spec.id in self._of_ids}
        for id in gone | new:
            for group in self._of_ids[id].values():
                task = new.get(id)
                chosen = [task] if task is not None and group.selection.task(task.spec, task.standing) else []
                self._append(group, chosen, changed, gone.get(id, ()), snapshots)

    def _append(
        self,
        group: _Group,
        tasks: Iterable[Task],
        changed: int,
        removed: Sequence[str],
        snapshots: dict[str, Snapshot],
    ) -> None:
        chosen = []
        for task in tasks:
            snapshot = snapshots.get(task.spec.id)
            if snapshot is None:
                # All watchers share one snapshot.
                snapshot = snapshots[task.spec.id] = Snapshot(task)
            chosen.append(snapshot)
        if not chosen and not removed:
            return
        batch = _Batch(chosen, removed, changed, len(group.watchers))
        group.last.next = batch
        group.last = batch
        self._unread[batch] = None
        self.unread_bytes += batch.bytes
        for watcher in group.watchers:
            watcher.wake()

    def _groups_of(self, selection: Selection) -> dict[str, _Group]:
        if selection.id is not None:
            return self._of_ids.setdefault(selection.id, {})
        return self._of_all if selection.lane is None else self._of_lanes

    def _tidy(self, selection: Selection) -> None:
        if selection.id is not None and not self._of_ids.get(selection.id):
            self._of_ids.pop(selection.id, None)

"""Queues: their lanes of waiting tasks, how many of their tasks run, and the limits that an operator has set.

Owns the counts that the limits apply to. Each count follows from the tasks' standings. It decides nothing: `dispatch`
does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gowork.leader._core.lanes import Group, Lane
from gowork.leader._core.model import LaneKey, Priority, QueueSettings, Task
from gowork.leader._core.ranges import range_of

_DEFAULTS = QueueSettings()
_GroupKey = tuple[Priority, str, tuple[tuple[str, str], ...]]


class Queue:
    """One queue."""

    __slots__ = (
        "delayed",
        "groups",
        "held_back",
        "keys",
        "lanes",
        "loaded",
        "name",
        "passed_over",
        "running",
        "settings",
        "tokens",
        "tokens_mono",
        "virtual",
        "waiting",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = _DEFAULTS
        #: {lane's key: lane}, each with at least one task.
        self.lanes: dict[LaneKey, Lane] = {}
        self.groups: dict[_GroupKey, Group] = {}
        #: How many tasks may run now, and how many of them are in memory.
        self.waiting = 0
        self.loaded = 0
        #: How many tasks are delayed.
        self.delayed = 0
        self.running = 0
        #: {concurrency key: how many of its tasks run}
        self.keys: dict[str, int] = {}
        #: Concurrency keys that run as many tasks as the limit allows.
        self.held_back: dict[str, None] = {}
        #: Its place in the order of queues. A grant adds 1 / weight (start-time fair queueing, Goyal et al. 1996).
        self.virtual = 0.0
        #: How many starts the rate allowed at the time `tokens_mono`.
        self.tokens = 0.0
        self.tokens_mono = 0.0
        #: How many grants in a row passed over a lower priority.
        self.passed_over = 0

    @property
    def burst(self) -> float:
        """How many tokens gather at most."""
        return float(self.settings.rate_burst) or max(1.0, self.settings.rate_limit)

    def tokens_at(self, mono: float) -> float:
        """Returns how many starts the rate allows at this time."""
        gathered = max(0.0, mono - self.tokens_mono) * self.settings.rate_limit
        return min(self.burst, self.tokens + gathered)

    def room_at(self, mono: float) -> int:
        """Returns how many more tasks the limits allow to start at this time; a large number if there are no limits."""
        settings = self.settings
        if settings.paused:
            return 0
        room = 1 << 62
        if settings.concurrency_limit:
            room = settings.concurrency_limit - self.running
        if settings.rate_limit:
            # A hair is added because gathered tokens are a sum of fractions and may fall just short of a whole one.
            room = min(room, int(self.tokens_at(mono) + 1e-9))
        return max(0, room)

    def holds_back(self, key: str, given: int = 0) -> bool:
        """Whether the limit for concurrency keys holds back this key's tasks when `given` more of them run."""
        limit = self.settings.key_concurrency_limit
        return bool(key and limit) and self.keys.get(key, 0) + given >= limit

    @property
    def idle(self) -> bool:
        """Whether it has no tasks and no settings, so that it can be forgotten."""
        return not (self.lanes or self.running or self.delayed) and self.settings == _DEFAULTS


class Queues:
    """All queues that have tasks or settings, in the order in which they were made."""

    __slots__ = (
        "_by_name",
        "_lane_low",
        "_lane_min",
        "_window",
        "delayed",
        "hungry",
        "lanes",
        "loaded",
        "ranges",
        "virtual",
        "waiting",
        "weight",
    )

    def __init__(self, *, window: int, lane_min: int, lane_low: int) -> None:
        """Makes an empty set.

        Args:
            window: what the waiting tasks in memory may weigh (see Lane.weight), without the minimum of each lane.
            lane_min: what those of each lane may weigh in any case.
            lane_low: a lane whose tasks in memory weigh less, and that has more in the store, is hungry.
        """
        self._window, self._lane_min, self._lane_low = window, lane_min, lane_low
        self._by_name: dict[str, Queue] = {}
        #: How many tasks may run now, in all queues, how many of them are in memory, and what these weigh.
        self.waiting = 0
        self.loaded = 0
        self.weight = 0
        #: How many tasks are delayed.
        self.delayed = 0
        #: How many lanes there are.
        self.lanes = 0
        #: {range of versions: how many lanes ask for it}
        self.ranges: dict[str, int] = {}
        #: Lanes whose next tasks are to be paged in.
        self.hungry: dict[LaneKey, None] = {}
        #: The place that the order of queues has reached: the `virtual` of the queue that was last granted a task.
        self.virtual = 0.0

    def __iter__(self) -> Iterator[Queue]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Queue | None:
        return self._by_name.get(name)

    def lane(self, key: LaneKey) -> Lane | None:
        """Returns the lane, if it has tasks."""
        queue = self._by_name.get(key.queue)
        return None if queue is None else queue.lanes.get(key)

    def every_lane(self) -> Iterator[Lane]:
        """Yields every lane with at least one task."""
        for queue in self._by_name.values():
            yield from queue.lanes.values()

    # Tasks that wait.

    def add(self, task: Task) -> None:
        """Adds a task that may run from now on. When memory has no room for it, it rests in the store."""
        lane = self._lane(task.spec.lane)
        before = lane.weight
        lane.add(task, room=before < self._share())
        self.weight += lane.weight - before
        self.waiting += 1
        queue = self._by_name[lane.key.queue]
        queue.waiting += 1
        if task.in_window:
            self.loaded += 1
            queue.loaded += 1
            if lane.key.concurrency_key and lane.first() is task:
                lane.group.offer(lane)

    def add_run(self, key: LaneKey, tasks: Sequence[Task]) -> None:
        """Adds tasks of one lane without a concurrency key, as `add` adds each of them."""
        lane = self._lane(key)
        live, own = lane.live, lane.weight
        window, least = self._window - self.weight + own, self._lane_min
        for task in tasks:
            weight = lane.weight
            lane.add(task, room=weight < least or weight < (window - weight) // 2)
        self.weight += lane.weight - own
        for each in (self, self._by_name[key.queue]):
            each.waiting += len(tasks)
            each.loaded += lane.live - live

    def start_run(self, key: LaneKey, tasks: Sequence[Task]) -> None:
        """Takes tasks out of the window of a lane without a concurrency key, because they run.

        It comes to what `remove` and `started` make of each of them, if there are two or more.
        """
        queue = self._by_name[key.queue]
        lane = queue.lanes[key]
        before = lane.weight
        lane.remove_run(tasks)
        self.weight += lane.weight - before
        count = len(tasks)
        queue.running += count
        for each in (self, queue):
            each.waiting -= count
            each.loaded -= count
        self._tidy(queue, lane)

    def remove(self, task: Task) -> None:
        """Removes a waiting task, because it runs or has ended."""
        key = task.spec.lane
        queue = self._by_name[key.queue]
        lane = queue.lanes[key]
        was_loaded, before = task.in_window, lane.weight
        lane.remove(task)
        self.weight += lane.weight - before
        self.waiting -= 1
        queue.waiting -= 1
        if was_loaded:
            self.loaded -= 1
            queue.loaded -= 1
            if key.concurrency_key:
                head = lane.first()
                if head is not None and head.seq > task.seq:
                    lane.group.offer(lane)
                lane.group.tidy(queue.held_back)
        self._tidy(queue, lane)

    def _tidy(self, queue: Queue, lane: Lane) -> None:
        """Has a lane that runs low paged in, and drops an empty one."""
        if lane.horizon is not None:
            if lane.weight < self._lane_low:
                self.hungry[lane.key] = None
        elif not lane.live:
            self._drop(queue, lane)

    def expect(self, key: LaneKey, tasks: int) -> None:
        """Notes that `tasks` tasks of this lane are in the store, and none in memory."""
        lane = self._lane(key)
        lane.horizon, lane.stored = 0, tasks
        self._by_name[key.queue].waiting += tasks
        self.waiting += tasks
        self.hungry[key] = None

    def wanted(self, lane: Lane, page: int) -> int:
        """Returns what the tasks to page in for a hungry lane may weigh: at most `page`, if memory has room."""
        wanted = min(page, self._share())
        return wanted - lane.weight if lane.weight <= wanted // 4 else 0

    def _share(self) -> int:
        """Returns what a lane's tasks in memory may weigh: half of the room that is left, to leave some for others."""
        return max(self._lane_min, (self._window - self.weight) // 2)

    def take_in(self, key: LaneKey, tasks: Sequence[Task], *, complete: bool) -> None:
        """Takes in the next tasks of a lane from the store, in order. `complete`: the store has no more of them."""
        queue = self._by_name[key.queue]
        lane = queue.lanes[key]
        before, weight = len(lane), lane.weight
        lane.take_in(tasks, complete=complete)
        self.weight += lane.weight - weight
        self.loaded += len(tasks)
        queue.loaded += len(tasks)
        self.waiting += len(lane) - before
        queue.waiting += len(lane) - before
        if key.concurrency_key:
            lane.group.offer(lane)
        if complete and not lane.live:
            self._drop(queue, lane)

    # Delayed tasks.

    def delay(self, name: str, tasks: int = 1) -> None:
        """Notes that `tasks` more tasks of this queue are delayed; a negative number means fewer."""
        queue = self._by_name.get(name) or self._new(name)
        queue.delayed += tasks
        self.delayed += tasks
        if queue.idle:
            del self._by_name[name]

    # Tasks that run.

    def started(self, key: LaneKey) -> None:
        """Notes that one of the lane's tasks runs."""
        queue = self._by_name.get(key.queue) or self._new(key.queue)
        queue.running += 1
        if key.concurrency_key:
            queue.keys[key.concurrency_key] = queue.keys.get(key.concurrency_key, 0) + 1
            if queue.holds_back(key.concurrency_key):
                queue.held_back[key.concurrency_key] = None

    def ended(self, key: LaneKey, tasks: int = 1) -> None:
        """Notes that one of the lane's tasks runs no longer, or several of a lane without a concurrency key."""
        queue = self._by_name[key.queue]
        queue.running -= tasks
        if key.concurrency_key:
            left = queue.keys[key.concurrency_key] = queue.keys[key.concurrency_key] - 1
            if not left:
                del queue.keys[key.concurrency_key]
            if key.concurrency_key in queue.held_back and not queue.holds_back(key.concurrency_key):
                del queue.held_back[key.concurrency_key]
                for group in queue.groups.values():
                    lane = group.keyed.get(key.concurrency_key)
                    if lane is not None:
                        group.offer(lane)
        if not queue.running and queue.idle:
            del self._by_name[queue.name]

    # Settings.

    def configure(self, name: str, settings: QueueSettings, mono: float, tokens: float) -> None:
        """Gives the queue these settings; its rate allows `tokens` starts now."""
        queue = self._by_name.get(name) or self._new(name)
        queue.settings = settings
        queue.tokens, queue.tokens_mono = tokens, mono
        queue.held_back = {key: None for key in queue.keys if queue.holds_back(key)}
        for group in queue.groups.values():
            group.rebuild(queue.held_back)
        if queue.idle:
            del self._by_name[name]

    def served(self, name: str, virtual: float, tokens: float, mono: float, passed_over: int) -> None:
        """Notes what a queue's turn has changed; see QueueServed."""
        queue = self._by_name[name]
        queue.virtual, queue.tokens, queue.tokens_mono, queue.passed_over = virtual, tokens, mono, passed_over

    def _lane(self, key: LaneKey) -> Lane:
        queue = self._by_name.get(key.queue) or self._new(key.queue)
        lane = queue.lanes.get(key)
        if lane is None:
            group_key = (key.priority, key.handler, key.selector)
            group = queue.groups.get(group_key)
            if group is None:
                group = queue.groups[group_key] = Group(*group_key)
            lane = queue.lanes[key] = Lane(key, group)
            group.put(lane)
            self.lanes += 1
            if wanted := range_of(key.selector):
                self.ranges[wanted] = self.ranges.get(wanted, 0) + 1
        return lane

    def _drop(self, queue: Queue, lane: Lane) -> None:
        # A task with a stale entry may become pending again, and then needs an entry in a new lane.
        lane.clear()
        del queue.lanes[lane.key]
        self.hungry.pop(lane.key, None)
        self.lanes -= 1
        if wanted := range_of(lane.key.selector):
            self.ranges[wanted] -= 1
            if not self.ranges[wanted]:
                del self.ranges[wanted]
        group = lane.group
        group.drop(lane)
        if not len(group):
            del queue.groups[group.priority, group.handler, group.selector]
        if queue.idle:
            del self._by_name[queue.name]

    def _new(self, name: str) -> Queue:
        queue = self._by_name[name] = Queue(name)
        # It has no claim to turns from before it had work.
        queue.virtual = self.virtual
        return queue

"""Checks the grants of each queue: limits, rates, pauses, order, times.

Goes by what is durable, and by the leader's clocks as they were when the batch was decided.
"""

from __future__ import annotations

import heapq
from collections import Counter

from sim_trace import Trace
from sim_violation import Violation

from gowork.leader._core.dispatch import STARVING_MS, STARVING_TURNS
from gowork.leader._core.kinds import QUEUES
from gowork.leader._core.model import LaneKey, Now, QueueSettings, Spec, Standing, Status
from gowork.leader._core.state import State, Worker
from gowork.leader.store.protocol import Batch

_DEFAULTS = QueueSettings()
#: (fence, seq, spec, standing)
_Grant = tuple[int, int, Spec, Standing]


class _Lane:
    """The tasks of one lane that may run now."""

    __slots__ = ("_heap", "waiting")

    def __init__(self) -> None:
        #: {seq: task id}
        self.waiting: dict[int, str] = {}
        self._heap: list[int] = []

    def add(self, seq: int, id: str) -> None:
        self.waiting[seq] = id
        heapq.heappush(self._heap, seq)

    def first(self) -> int | None:
        heap = self._heap
        while heap and heap[0] not in self.waiting:
            heapq.heappop(heap)
        return heap[0] if heap else None


class QueueChecks:
    """Keeps its own count of what the leader counts."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        #: {queue: settings} that are not the defaults.
        self.settings: dict[str, QueueSettings] = {}
        self.running: Counter[str] = Counter()
        #: {(queue, concurrency key): how many run}
        self.keys: Counter[tuple[str, str]] = Counter()
        self.delayed: Counter[str] = Counter()
        self._lanes: dict[LaneKey, _Lane] = {}
        self._waiting = 0
        self._grants: list[_Grant] = []
        #: {queue: (the most starts that its rate allows, monotonic seconds of that number)}
        self._tokens: dict[str, tuple[float, float]] = {}
        #: {queue: the number of grants since the last one that went before a higher priority}
        self._since_starving: dict[str, int] = {}
        self.state: State | None = None

    # What becomes durable.

    def configured(self, batch: Batch, mono: float) -> None:
        """Takes the settings that a batch writes. The grants of that batch must keep them."""
        for kind, name in batch.facts_gone:
            if kind == QUEUES.name:
                self._set(name, _DEFAULTS, mono)
        for fact in batch.facts:
            if fact.kind == QUEUES.name:
                self._set(fact.key, QUEUES.decode(fact.value), mono)

    def _set(self, name: str, new: QueueSettings, mono: float) -> None:
        old = self.settings.get(name, _DEFAULTS)
        if old.rate_limit:
            self._gather(name, old, mono)
        elif new.rate_limit:
            self._tokens[name] = (_burst(new), mono)
        self._trace.note("disk", "queue", name, new)
        self.settings.pop(name, None)
        if new != _DEFAULTS:
            self.settings[name] = new

    def _gather(self, name: str, settings: QueueSettings, mono: float) -> float:
        tokens, since = self._tokens[name]
        tokens = min(_burst(settings), tokens + (mono - since) * settings.rate_limit)
        self._tokens[name] = (tokens, mono)
        return tokens

    def moved(self, seq: int, spec: Spec, before: Standing | None, after: Standing) -> None:
        """Takes a task's move from one standing to the next."""
        lane, queue = spec.lane, spec.lane.queue
        if before is not None:
            if before.status is Status.RUNNING:
                self.running[queue] -= 1
                if lane.concurrency_key:
                    self.keys[queue, lane.concurrency_key] -= 1
            elif before.status is Status.PENDING and before.not_before_ms:
                self.delayed[queue] -= 1
            elif before.status is Status.PENDING:
                del self._lanes[lane].waiting[seq]
                self._waiting -= 1
        if after.status is Status.RUNNING:
            self.running[queue] += 1
            if lane.concurrency_key:
                self.keys[queue, lane.concurrency_key] += 1
            if before is None or before.fence != after.fence:
                self._grants.append((after.fence, seq, spec, after))
        elif after.status is Status.PENDING and after.not_before_ms:
            self.delayed[queue] += 1
        elif after.status is Status.PENDING:
            self._lane(lane).add(seq, spec.id)
            self._waiting += 1

    def decided(self, now: Now) -> None:
        """Checks the grants of a batch, after all its moves; it was decided at `now`."""
        grants, self._grants = sorted(self._grants), []
        by_queue: dict[str, list[_Grant]] = {}
        for grant in grants:
            by_queue.setdefault(grant[2].lane.queue, []).append(grant)
        for name, of_queue in by_queue.items():
            self._check_limits(name, of_queue, now)
            self._check_order(name, of_queue, now)
        for _, _, spec, _ in grants:
            if spec.expires_at_ms and spec.expires_at_ms <= now.wall_ms:
                late = now.wall_ms - spec.expires_at_ms
                raise Violation("no expired task is granted", spec.id, "had expired for", late, "ms")
        if self.state is not None:
            self._check_counts(self.state)

    def _check_limits(self, name: str, grants: list[_Grant], now: Now) -> None:
        settings = self.settings.get(name, _DEFAULTS)
        if settings.paused:
            raise Violation("nothing of a paused queue is granted", name, grants[0][2].id)
        if settings.concurrency_limit:
            self._trace.seen["queue: grants under a limit"] += 1
            if self.running[name] > settings.concurrency_limit:
                raise Violation("a queue's limit is never exceeded", name, self.running[name], "run of", settings)
        if settings.key_concurrency_limit:
            for key in dict.fromkeys(grant[2].lane.concurrency_key for grant in grants):
                if key:
                    self._trace.seen["queue: grants under a key's limit"] += 1
                    if self.keys[name, key] > settings.key_concurrency_limit:
                        raise Violation("a key's limit is never exceeded", name, key, self.keys[name, key])
        if settings.rate_limit:
            self._trace.seen["queue: grants under a rate"] += 1
            tokens = self._gather(name, settings, now.mono) - len(grants)
            self._tokens[name] = (tokens, now.mono)
            if tokens < -1e-6:
                raise Violation("a rate is never exceeded", name, len(grants), "granted, that is", -tokens, "too many")

    def _check_order(self, name: str, grants: list[_Grant], now: Now) -> None:
        state = self.state
        if state is None:
            return
        #: The first task of each lane that could have been granted instead: (-priority, seq, lane, is binary).
        passed: list[tuple[int, int, LaneKey, bool]] = []
        limit = self.settings.get(name, _DEFAULTS).key_concurrency_limit
        for lane, content in self._lanes.items():
            seq = content.first() if lane.queue == name else None
            if seq is None or (limit and lane.concurrency_key and self.keys[name, lane.concurrency_key] >= limit):
                continue
            task = state.tasks.get(content.waiting[seq])
            if task is not None and task.in_window:
                passed.append((-lane.priority, seq, lane, task.spec.binary))
        for _, seq, spec, standing in grants:
            since = self._since_starving[name] = self._since_starving.get(name, 0) + 1
            holder = state.workers.get(standing.instance)
            place = (-spec.lane.priority, seq)
            first = self._lanes[spec.lane].first() if spec.lane in self._lanes else None
            if holder is not None and first is not None and first < seq:
                raise Violation("first come, first served", first, "waits, and", seq, "was granted", spec.id)
            earlier = [other for other in passed if other[:2] < place and _takes(holder, other[2], binary=other[3])]
            if not earlier:
                continue
            if any(other[0] == place[0] for other in earlier) or standing.created_ms > now.wall_ms - STARVING_MS:
                raise Violation("order within a queue", spec.id, "was granted, and there waits", earlier[0])
            self._trace.seen["queue: a turn for what has waited long"] += 1
            if since < STARVING_TURNS:
                raise Violation("order within a queue", spec.id, "was granted out of turn")
            self._since_starving[name] = 0

    def _check_counts(self, state: State) -> None:
        queues = state.queues
        in_lanes = sum(len(lane) for lane in queues.every_lane())
        found = (in_lanes, queues.waiting, queues.delayed, sum(queue.running for queue in queues))
        expected = (self._waiting, self._waiting, self.delayed.total(), self.running.total())
        if found != expected:
            what = "in lanes, waiting, delayed, running:"
            raise Violation("memory counts what the store has", what, found, "not", expected)

    def _lane(self, key: LaneKey) -> _Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        return lane

    # What is told.

    def answered(self, name: str, answer: object) -> None:
        """Checks the settings that an operator was told for a queue."""
        if answer != self.settings.get(name, _DEFAULTS):
            raise Violation("no reply ahead of its commit", "queue", name, answer)

    def recovered(self, state: State, mono: float) -> None:
        """Checks the state with which a leader has started at `mono`."""
        self.state = state
        self._since_starving.clear()
        for name in self._tokens:
            self._tokens[name] = (0.0, mono)
        expected = {key: len(lane.waiting) for key, lane in self._lanes.items() if lane.waiting}
        found = {lane.key: len(lane) for lane in state.queues.every_lane()}
        if found != expected:
            raise Violation("recovery gives back the state", found, "wait, not", expected)
        settings = {queue.name: queue.settings for queue in state.queues if queue.settings != _DEFAULTS}
        if settings != self.settings:
            raise Violation("recovery gives back the state", settings, "are set, not", self.settings)
        keys = {(queue.name, key): count for queue in state.queues for key, count in queue.keys.items()}
        if keys != +self.keys:
            raise Violation("recovery gives back the state", keys, "run, not", self.keys)
        self._check_counts(state)


def _burst(settings: QueueSettings) -> float:
    return float(settings.rate_burst) or max(1.0, settings.rate_limit)


def _takes(holder: Worker | None, lane: LaneKey, *, binary: bool) -> bool:
    """Whether this worker can run the tasks of a lane; None stands for any callback worker."""
    if holder is None:
        return not (lane.handler or lane.selector or binary)
    return holder.can_run(lane.handler, lane.selector, lane.queue)

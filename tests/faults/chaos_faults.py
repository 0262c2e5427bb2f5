"""Plans faults and does them to a cluster: one seed gives one plan.

Processes that were killed are started again, and processes that were stopped go on.
"""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import assert_never

import psutil
from fault_cluster import Cluster

#: Seconds between two faults, on average.
INTERVAL_SECONDS = 1.5
#: How long a process is stopped, in seconds (least, most): below the lease of 10 s, or beyond it.
_SHORT_STOP, _LONG_STOP = (0.2, 4.0), (11.0, 14.0)
_RUNNER_MODULE = "gowork.worker._runner"


class Kind(StrEnum):
    """The kinds of faults."""

    KILL_RUNNER = "a runner is killed"
    KILL_WORKER = "a worker is killed"
    KILL_LEADER = "the leader is killed"
    STOP_RUNNER = "a runner is stopped"
    STOP_SUPERVISOR = "a supervisor is stopped, its runners go on"
    STOP_WORKER = "a worker is stopped with all its processes"
    STOP_LEADER = "the leader is stopped"


_WEIGHTS = {
    Kind.KILL_RUNNER: 30,
    Kind.KILL_WORKER: 20,
    Kind.KILL_LEADER: 12,
    Kind.STOP_RUNNER: 10,
    Kind.STOP_SUPERVISOR: 12,
    Kind.STOP_WORKER: 8,
    Kind.STOP_LEADER: 8,
}
_KILLS = frozenset({Kind.KILL_RUNNER, Kind.KILL_WORKER, Kind.KILL_LEADER})
_LEADER = "leader"


@dataclass(frozen=True)
class Fault:
    """One entry of the plan."""

    #: Seconds from the start of the run.
    at: float
    kind: Kind
    #: A random number that chooses among the possible victims.
    victim: int
    #: How long until the victim is started again or goes on, in seconds.
    span: float


@dataclass(frozen=True)
class Event:
    """A fault that was done."""

    kind: Kind
    #: The name of the worker, or "leader".
    target: str
    #: Monotonic seconds.
    at: float
    #: When the victim was started again or went on, in monotonic seconds; infinite until then.
    until: float
    #: The processes that were killed or stopped; of a worker, all its processes.
    pids: frozenset[int]


def plan(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run of `seconds`, in the order of their times."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    at = 1.0
    while (at := at + chance.expovariate(1 / INTERVAL_SECONDS)) < seconds:
        kind = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        stop = _LONG_STOP if chance.random() < 0.3 else _SHORT_STOP
        span = chance.uniform(0.0, 2.0) if kind in _KILLS else chance.uniform(*stop)
        faults.append(Fault(at, kind, chance.randrange(1 << 30), span))
    return faults


@dataclass
class Faults:
    """Carries a plan out."""

    cluster: Cluster
    #: {worker: its options}
    workers: dict[str, Sequence[str]]
    planned: list[Fault]
    events: list[Event] = field(default_factory=list)
    #: The number of faults that were left out because no victim was left.
    skipped: int = 0
    #: A heap of what ends the faults under way: (monotonic time, order, target, what to do, the event's place).
    _due: list[tuple[float, int, str, Callable[[], None], int]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def step(self, seconds: float) -> None:
        """Does what is due when the run is `seconds` old: every end of a fault, and one new fault at most.

        One at most, so that a slow machine has time between them.
        """
        while self._due and self._due[0][0] <= time.monotonic():
            self._recover()
        if self.planned and self.planned[0].at <= seconds:
            self._do(self.planned.pop(0))

    def end(self) -> None:
        """Drops the rest of the plan, starts again what was killed, and lets go on what was stopped."""
        self.planned.clear()
        while self._due:
            self._recover()

    def _recover(self) -> None:
        _, _, _, recover, place = heapq.heappop(self._due)
        recover()
        event = self.events[place]
        self.events[place] = Event(event.kind, event.target, event.at, time.monotonic(), event.pids)

    def _do(self, fault: Fault) -> None:
        under_way = {target for _, _, target, _, _ in self._due}
        workers = [name for name in sorted(self.cluster.workers) if name not in under_way]
        match fault.kind:
            case Kind.KILL_LEADER | Kind.STOP_LEADER:
                victims = [] if _LEADER in under_way else [_LEADER]
            case _:
                victims = workers
        if not victims:
            self.skipped += 1
            return
        self._strike(fault, victims[fault.victim % len(victims)])

    def _strike(self, fault: Fault, target: str) -> None:
        cluster, at = self.cluster, time.monotonic()
        recover: Callable[[], None]
        match fault.kind:
            case Kind.KILL_LEADER:
                assert cluster.leader is not None
                pids = [cluster.leader.pid]
                cluster.kill_leader()
                recover = cluster.start_leader
            case Kind.STOP_LEADER:
                assert cluster.leader is not None
                pids, recover = _stop([psutil.Process(cluster.leader.pid)])
            case Kind.KILL_WORKER:
                pids = [cluster.workers[target].pid, *(process.pid for process in cluster.processes(target))]
                cluster.kill_worker(target)
                recover = partial(cluster.start_worker, target, *self.workers[target], ready=False)
            case Kind.STOP_SUPERVISOR:
                pids, recover = _stop([psutil.Process(cluster.workers[target].pid)])
            case Kind.STOP_WORKER:
                pids, recover = _stop([psutil.Process(cluster.workers[target].pid), *cluster.processes(target)])
            case Kind.STOP_RUNNER | Kind.KILL_RUNNER:
                runners = [process for process in cluster.processes(target) if _is_runner(process)]
                if not runners:
                    self.skipped += 1
                    return
                runner = runners[fault.victim // 7 % len(runners)]
                if fault.kind is Kind.STOP_RUNNER:
                    pids, recover = _stop([runner])
                else:
                    pids = [runner.pid]
                    _signal(runner, signal.SIGKILL)
                    self._note(fault.kind, target, at, pids)
                    return
            case _:
                assert_never(fault.kind)
        place = self._note(fault.kind, target, at, pids)
        due = (time.monotonic() + fault.span, next(self._order), target, recover, place)
        heapq.heappush(self._due, due)

    def _note(self, kind: Kind, target: str, at: float, pids: Sequence[int]) -> int:
        until = at if kind is Kind.KILL_RUNNER else float("inf")
        self.events.append(Event(kind, target, at, until, frozenset(pids)))
        return len(self.events) - 1


def _stop(processes: list[psutil.Process]) -> tuple[list[int], Callable[[], None]]:
    for process in processes:
        _signal(process, signal.SIGSTOP)

    def go_on() -> None:
        for process in processes:
            _signal(process, signal.SIGCONT)

    return [process.pid for process in processes], go_on


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _is_runner(process: psutil.Process) -> bool:
    try:
        return _RUNNER_MODULE in process.cmdline()
    except psutil.Error:
        return False

"""Answers questions about the state: who is a member, and what is in the queues. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from gowork.leader._core.kinds import TICKS
from gowork.leader._core.model import HeartbeatStatus, Liveness, Plugin, Task
from gowork.leader._core.queues import Queue
from gowork.leader._core.state import Callback, Departed, State, Worker

_UNKNOWN = Plugin("")


class MemberView(Struct, frozen=True):
    """One member; see cluster.v1.Member."""

    id: str
    address: str
    #: One of the five texts of the contract.
    status: str
    liveness: Liveness
    is_callback: bool
    slots: int
    running: int
    handlers: tuple[str, ...]
    labels: dict[str, str]
    version: str
    joined_ms: int
    seen_ms: int
    plugin_errors: tuple[str, ...]
    #: (name, version) of the plugins that its handlers come from, sorted.
    plugins: tuple[tuple[str, str], ...] = ()
    #: The queues whose tasks it takes, sorted; empty: those of all.
    queues: tuple[str, ...] = ()


class QueueDepth(Struct, frozen=True):
    """How many tasks a queue has now."""

    name: str
    #: Tasks that may run now.
    waiting: int
    #: Tasks whose time has not come.
    delayed: int
    running: int
    #: Since when the oldest task that may run now has waited; 0: there is none, or it is not in memory yet.
    oldest_ms: int


def queue_depths(state: State) -> list[QueueDepth]:
    """Returns all queues that have tasks or settings, sorted by name."""
    return sorted(
        (
            QueueDepth(queue.name, queue.waiting, queue.delayed, queue.running, _oldest_ms(queue))
            for queue in state.queues
        ),
        key=lambda depth: depth.name,
    )


def _oldest_ms(queue: Queue) -> int:
    heads = (lane.first() for lane in queue.lanes.values())
    return min((_ready_ms(task) for task in heads if task is not None), default=0)


def _ready_ms(task: Task) -> int:
    """Returns since when a waiting task could run."""
    attempts = task.standing.attempts
    return max(task.standing.created_ms, task.spec.run_at_ms, attempts[-1].ended_ms if attempts else 0)


class SchedulesView(Struct, frozen=True):
    """How many schedules there are, and how late they are."""

    active: int = 0
    paused: int = 0
    #: For how long the schedule that has been due for longest has waited, in milliseconds.
    lag_ms: int = 0


def schedules(state: State, now_ms: int) -> SchedulesView:
    """Counts the schedules."""
    ticks = state.facts.of(TICKS).values()
    paused = sum(each.pause is not None for each in ticks)
    due_ms = state.agenda.next_ms()
    # At 0 a schedule is looked at for another reason than a tick.
    return SchedulesView(len(ticks) - paused, paused, max(0, now_ms - due_ms) if due_ms else 0)


def members(state: State) -> list[MemberView]:
    """Returns all members sorted by id, with those that have gone lately."""
    views: dict[str, MemberView] = {gone.id: _departed_view(gone) for gone in state.departed.values()}
    for callback in state.callbacks.values():
        views[callback.id] = _callback_view(callback)
    for worker in state.names.values():
        views[worker.name] = _worker_view(worker)
    return [views[id] for id in sorted(views)]


class HandlerView(Struct, frozen=True):
    """One version of a handler, as some workers have it; see cluster.v1.HandlerVersion."""

    plugin: str
    plugin_version: str
    #: The digest of its description.
    digest: str
    #: The names of the workers that have it, sorted.
    workers: tuple[str, ...]


def handlers(state: State) -> list[tuple[str, list[HandlerView]]]:
    """Returns (name, versions) of each handler that connected workers have, sorted by name.

    The versions that most workers have come first.
    """
    found: dict[str, dict[tuple[str, str, str], list[str]]] = {}
    for worker in state.names.values():
        if worker.connection is None:
            continue
        for policy in worker.policies.values():
            plugin = policy.plugin or _UNKNOWN
            version = (plugin.name, plugin.version, policy.digest)
            found.setdefault(policy.name, {}).setdefault(version, []).append(worker.name)
    return [
        (
            name,
            [
                HandlerView(*version, tuple(sorted(workers)))
                for version, workers in sorted(versions.items(), key=lambda item: (-len(item[1]), item[0]))
            ],
        )
        for name, versions in sorted(found.items())
    ]


def _worker_view(worker: Worker) -> MemberView:
    liveness = worker.liveness
    status = "unknown, unknown" if worker.connection is None else _alive(bool(worker.held))
    return MemberView(
        worker.name,
        worker.peer,
        status,
        liveness,
        False,
        worker.slots,
        len(worker.held),
        tuple(sorted(worker.policies)),
        worker.labels,
        worker.version,
        worker.joined_ms,
        worker.seen_ms,
        worker.plugin_errors,
        tuple(sorted({(plugin.name, plugin.version) for plugin in _plugins(worker) if plugin.name})),
        tuple(sorted(worker.queues)),
    )


def _plugins(worker: Worker) -> Iterable[Plugin]:
    return (policy.plugin for policy in worker.policies.values() if policy.plugin is not None)


def _callback_view(callback: Callback) -> MemberView:
    busy = callback.held is not None or callback.status is HeartbeatStatus.BUSY
    failed = callback.status is HeartbeatStatus.FAILED or callback.unreachable
    return MemberView(
        callback.id,
        callback.address,
        "alive, failed" if failed else _alive(busy),
        Liveness.DRAINING if callback.draining else Liveness.LIVE,
        True,
        1,
        int(callback.held is not None),
        (),
        {},
        "",
        callback.joined_ms,
        callback.seen_ms,
        (),
    )


def _departed_view(gone: Departed) -> MemberView:
    status = "left, unknown" if gone.liveness is Liveness.LEFT else "unknown, unknown"
    return MemberView(
        gone.id,
        gone.address,
        status,
        gone.liveness,
        gone.is_callback,
        0,
        0,
        (),
        {},
        gone.version,
        gone.joined_ms,
        gone.seen_ms,
        (),
    )


def _alive(busy: bool) -> str:
    return "alive, busy" if busy else "alive, idle"

"""The kinds of facts that there are.

A new kind needs a Kind here, and code that decides on its facts: with FactPut, FactRemoved and `state.facts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from gowork.leader._core import changes as ch
from gowork.leader._core.facts import Kind
from gowork.leader._core.model import AfterRule, Now, QueueSettings
from gowork.leader._core.schedules import Schedule, Ticks
from gowork.leader._core.state import State
from gowork.proto.limits import DEPENDENTS_MAX, QUEUES_CONFIGURED_MAX, SCHEDULES_MAX, UNIQUE_KEYS_MAX


class Member(Struct, frozen=True, array_like=True, gc=False):
    """A callback worker; its id is the fact's key. It is stored as it is, so new fields go at the end."""

    address: str
    joined_ms: int


class WorkerDrain(Struct, frozen=True, array_like=True, gc=False):
    """An operator has asked a worker with a session to drain, and it has not left yet. Its instance is the fact's key.

    The key is no name, because another worker of the name is not drained.
    """

    name: str
    #: How long its running tasks may go on, in milliseconds; 0: as long as the worker's own setting says.
    budget_ms: int
    joined_ms: int


class Drain(Struct, frozen=True, array_like=True, gc=False):
    """An operator has taken a callback worker out of service; its id is the fact's key."""

    #: The `joined_ms` of that member. The drain of a member that has joined again since, with a version that knows no
    #: drains, means nothing.
    joined_ms: int


class Owner(Struct, frozen=True, array_like=True, gc=False):
    """Who alone speaks for a callback worker; its id is the fact's key."""

    name: str
    #: See Drain.
    joined_ms: int


class UniqueKey(Struct, frozen=True, array_like=True, gc=False):
    """A task has a unique key, which is the fact's key."""

    #: The id of the task.
    id: str
    #: 0: as long as the task is unfinished. Otherwise the task has ended and has the key until this wall-clock time, in
    #: milliseconds, even when it was removed since.
    until_ms: int = 0


#: Of how many tasks that ended because of others it is known that a retry may have them wait again.
DEPENDENTS_CANCELLED_MAX = 100_000


class GroupKept(Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a group besides its task. It is stored as it is, so new fields go at the end."""

    #: Children have a seq above this one.
    above: int
    #: How many children it will have; None: it is open.
    children: int | None = None


class After(Struct, frozen=True, array_like=True, gc=False):
    """A task runs after others; its id is the fact's key. It holds until the task ends.

    When the task ends because of those others, it holds until the task is removed, or ends in another way.
    """

    ids: tuple[str, ...]
    rule: AfterRule
    #: The task has ended because of the others.
    is_cancelled: bool = False
    #: None: the task is no group.
    group: GroupKept | None = None


class Abandoned(Struct, frozen=True, array_like=True, gc=False):
    """A task has ended while it waited for tasks of its own, which are to be cancelled. Its id is the fact's key."""

    ids: tuple[str, ...]


def _member_follows(state: State, id: str, member: Member, now: Now) -> Iterable[ch.Change]:
    lease = now.mono + state.settings.callback_lease
    return (ch.CallbackJoined(id, member.address, lease, member.joined_ms),)


def _drain_follows(state: State, id: str, drain: Drain, now: Now) -> Iterable[ch.Change]:
    callback = state.callbacks.get(id)
    if callback is not None and callback.joined_ms == drain.joined_ms:
        yield ch.CallbackDraining(id)


def _owner_follows(state: State, id: str, owner: Owner, now: Now) -> Iterable[ch.Change]:
    callback = state.callbacks.get(id)
    if callback is not None and callback.joined_ms == owner.joined_ms:
        yield ch.CallbackOwned(id, owner.name)


def _worker_drain_follows(state: State, instance: str, drain: WorkerDrain, now: Now) -> Iterable[ch.Change]:
    yield ch.WorkerExpected(instance, drain.name, drain.joined_ms)
    yield ch.WorkerDraining(instance, drain.budget_ms)


def _ticks_follow(state: State, name: str, ticks: Ticks, now: Now) -> Iterable[ch.Change]:
    if name in state.facts.of(SCHEDULES):
        # When it ticks next is worked out before a batch, so that a start does not wait for all of them.
        yield ch.ScheduleSet(name, 0)


def _queue_follows(state: State, name: str, settings: QueueSettings, now: Now) -> Iterable[ch.Change]:
    # It gets no tokens, because a restart must not be a way around a rate.
    return (ch.QueueConfigured(name, settings, 0.0, now.mono),)


def _unique_key_follows(state: State, key: str, held: UniqueKey, now: Now) -> Iterable[ch.Change]:
    if held.until_ms:
        yield ch.KeyKept(key, held.id, held.until_ms)


MEMBERS = Kind("member", Member, rows_max=10_000, follows=_member_follows)
#: Drains of callback workers. They are no part of the members' facts, whose table has the columns of version 0.1.0.
DRAINS = Kind("drain", Drain, rows_max=10_000, follows=_drain_follows)
#: Owners of callback workers, for the same reason.
OWNERS = Kind("owner", Owner, rows_max=10_000, follows=_owner_follows)
#: Drains of workers with sessions. A worker whose lease has run out has none.
WORKER_DRAINS = Kind("worker-drain", WorkerDrain, rows_max=10_000, follows=_worker_drain_follows)
#: Queues with settings, by name. A queue with the defaults has no fact.
QUEUES = Kind("queue", QueueSettings, rows_max=QUEUES_CONFIGURED_MAX, follows=_queue_follows)
#: Unique keys that are taken.
UNIQUE_KEYS = Kind("unique", UniqueKey, rows_max=UNIQUE_KEYS_MAX, follows=_unique_key_follows)
#: Tasks that run after others. What follows from them is worked out when their tasks are known; see `_engine.loading`.
AFTER = Kind("after", After, rows_max=DEPENDENTS_MAX + DEPENDENTS_CANCELLED_MAX)
#: Tasks that are to be cancelled because the one that waited for them was.
ABANDONED = Kind("abandoned", Abandoned, rows_max=DEPENDENTS_MAX)
#: Schedules, by name.
SCHEDULES = Kind("schedule", Schedule, rows_max=SCHEDULES_MAX)
#: How far each schedule has come. It is apart from the schedule because it is written at each tick.
TICKS = Kind("tick", Ticks, rows_max=SCHEDULES_MAX, follows=_ticks_follow)
#: All kinds, in the order in which a leader takes up their facts when it starts. Facts of other kinds come from other
#: versions and stay in the store as they are.
KINDS: tuple[Kind[Any], ...] = (
    MEMBERS,
    DRAINS,
    OWNERS,
    WORKER_DRAINS,
    QUEUES,
    SCHEDULES,
    TICKS,
    UNIQUE_KEYS,
    AFTER,
    ABANDONED,
)

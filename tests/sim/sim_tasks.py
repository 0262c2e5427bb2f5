"""The tasks of the simulated clients.

A task's fields follow from its id, so that a repeated submit is the same task.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Any

from gowork.leader._core.calendars import Every
from gowork.leader._core.model import HandlerPolicy, RetryPolicy, Spec
from gowork.leader._core.schedules import Definition, Overlap
from gowork.leader._wire.specs import spec_from
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.worker._core.handlers import RetryOptions
from gowork.worker._runner.messages import HandlerNote

#: The time at which every wall clock of the simulation begins, in milliseconds.
WALL_MS = 1_800_000_000_000
QUEUES = ("default", "mail", "video")
KEYS = ("", "", "anna", "bert", "carl")
#: The grace of every handler, in milliseconds.
GRACE_MS = 500
#: The handlers of workers, as runners tell their supervisors; the first is the default, the last runs isolated.
NOTES = (
    HandlerNote("work", "thread", None, GRACE_MS, "sim"),
    HandlerNote("other", "thread", RetryOptions(max_attempts=2, initial_delay_ms=20), GRACE_MS, "sim"),
    HandlerNote("alone", "process", None, GRACE_MS, "sim-alone"),
)
#: The same handlers as the leader should know them.
HANDLERS = (
    HandlerPolicy("work", True),
    HandlerPolicy("other", retry=RetryPolicy(max_attempts=2, initial_delay_ms=20)),
    HandlerPolicy("alone"),
)
#: The handlers that tasks name, each as often as it should occur; "" is the default handler.
_HANDLERS = ("work", "other", "alone", "", "")
#: The labels that some workers have and some tasks ask for.
LABELS = {"gpu": "yes"}
#: The versions that a worker's plugin may have. The first worker has the first one, which is within all ranges.
VERSIONS = ("1.4", "2.0rc1", "2.1", "", "unknown")
#: {range that some tasks ask for: the versions that are within}
RANGES = {">=1,<2": frozenset({"1.4"}), ">=1.4": frozenset({"1.4", "2.0rc1", "2.1"})}
#: What the ids of tasks begin with that come after others or have unique keys, and the keys that there are.
LINKED = "d"
UNIQUE_KEYS = ("one", "two", "three")
#: The payload of another task under an id that is taken, and of the tasks of schedules.
_OTHER = "something else"


@lru_cache(maxsize=50_000)
def spec_for(id: str) -> Spec:
    """The task of this id, as the leader keeps it."""
    return spec_from(task_for(id))


def task_for(id: str) -> scheduler_pb2.Task:
    """The task of this id."""
    rng = Random(id)
    task = scheduler_pb2.Task(
        id=id,
        handler=rng.choice(["work", "other", "alone", "", ""]),
        priority=rng.choice(scheduler_pb2.TaskPriority.values()),
    )
    if not task.handler and rng.random() < 0.2:
        # No callback worker can take it.
        task.data = id.encode()
    else:
        task.payload = id
    task.queue = rng.choice(QUEUES)
    task.concurrency_key = rng.choice(KEYS)
    if rng.random() < 0.1:
        task.selector.update(LABELS)
    if rng.random() < 0.5:
        task.retry.max_attempts = rng.randint(1, 4)
        task.retry.initial_delay_ms = rng.choice([10, 500])
    if not task.handler and rng.random() < 0.3:
        # The leader enforces it for callback workers; workers with a session enforce it themselves.
        task.time_limit_ms = 1_000
    chance = rng.random()
    if chance < 0.1:
        task.run_at_ms = WALL_MS + rng.randint(0, 35_000)
    elif chance < 0.2:
        # In groups, so that more tasks expire at once than the leader handles in one batch.
        task.expires_at_ms = WALL_MS + rng.randint(1, 8) * 4_000
    if rng.random() < 0.06:
        task.plugin_version = rng.choice(sorted(RANGES))
    if id.startswith(LINKED) and "+" not in id:
        _link(task, rng)
    return task


def _link(task: scheduler_pb2.Task, rng: Random) -> None:
    """Has a task come after some of those that its client has submitted shortly before, or gives it a unique key."""
    client, number = task.id.split("-")
    if rng.random() < 0.3:
        before = {rng.randint(max(0, int(number) - 6), int(number)) for _ in range(rng.randint(1, 3))} - {int(number)}
        task.after.extend(f"{client}-{place}" for place in sorted(before))
    if task.after and rng.random() < 0.6:
        task.after_rule = rng.choice(scheduler_pb2.AfterRule.values())
    if rng.random() < 0.1:
        task.unique_key = rng.choice(UNIQUE_KEYS)


def continuation_of(id: str, payload: str, follow_ups: Sequence[scheduler_pb2.Task], rng: Random) -> scheduler_pb2.Task:
    """What the task of this id runs when these follow-ups have ended, and now and then another task."""
    after = [task.id for task in follow_ups]
    if rng.random() < 0.3:
        after.append(rng.choice([f"{id.partition('-')[0]}-0", "nobody", id]))
    rule = rng.choice([scheduler_pb2.AFTER_RULE_UNSPECIFIED, scheduler_pb2.AFTER_RULE_ALL_FINISHED])
    return scheduler_pb2.Task(
        id=id, handler=rng.choice(["work", "other"]), payload=payload, after=after, after_rule=rule
    )


def versions_for(task: scheduler_pb2.Task) -> frozenset[str]:
    """The versions that may run a task, of those that there are, as its client asked for them."""
    wanted = "" if task.payload == _OTHER else task_for(task.id).plugin_version
    return RANGES[wanted] if wanted else frozenset(VERSIONS)


def is_deadly(id: str) -> bool:
    """Whether this task ends its runner each time it runs."""
    return zlib.crc32(id.encode()) % 40 == 0


@lru_cache(maxsize=1_000)
def other_spec_for(id: str) -> Spec:
    """Another task under the same id, as the leader keeps it."""
    return spec_from(_other_task_for(id))


def _other_task_for(id: str) -> scheduler_pb2.Task:
    return scheduler_pb2.Task(id=id, payload=_OTHER)


def _schedule(every_ms: int, overlap: Overlap, **fields: Any) -> Definition:
    """A schedule that may make up for the last 20 s."""
    template = spec_from(scheduler_pb2.Task(payload=_OTHER, **fields))
    return Definition(Every(every_ms, WALL_MS), template, overlap, 20_000)


#: {name: schedule}
SCHEDULES = {
    "often": _schedule(2_000, Overlap.ALLOW),
    "alone": _schedule(3_000, Overlap.SKIP, handler="work"),
    "queued": _schedule(5_000, Overlap.QUEUE_ONE, unique_key=UNIQUE_KEYS[0]),
}


def follow_ups_of(id: str, known: list[str], rng: Random) -> tuple[scheduler_pb2.Task, ...]:
    """The follow-ups of this task; some ids clash with those of other tasks."""
    if "+" in id:
        return ()
    chance = rng.random()
    if chance < 0.1:
        return tuple(task_for(f"{id}+{place}") for place in range(rng.randint(1, 3)))
    if chance < 0.12 and known:
        return (task_for(f"{id}+new"), _other_task_for(rng.choice(known)))
    if chance < 0.14 and known:
        return (task_for(rng.choice(known)),)
    return ()

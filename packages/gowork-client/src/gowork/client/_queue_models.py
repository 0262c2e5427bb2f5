"""The values that describe queues, and why tasks wait in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gowork.client._models import TaskStatus


class WaitCode(StrEnum):
    """Why a task is not started, or why it ended."""

    UNSPECIFIED = "UNSPECIFIED"
    #: No connected worker has the handler.
    NO_HANDLER = "NO_HANDLER"
    #: Workers have the handler, but none has the labels of the task's selector.
    SELECTOR = "SELECTOR"
    #: Every worker that could run it is draining.
    DRAINING = "DRAINING"
    #: Every worker that could run it is busy.
    NO_SLOT = "NO_SLOT"
    QUEUE_PAUSED = "QUEUE_PAUSED"
    #: Its queue runs as many tasks as its limit allows.
    QUEUE_LIMIT = "QUEUE_LIMIT"
    #: As many tasks of its concurrency key run as its queue allows.
    KEY_LIMIT = "KEY_LIMIT"
    #: Its queue has started as many tasks as its rate allows.
    RATE_LIMIT = "RATE_LIMIT"
    #: Its time to start has not come.
    DELAYED = "DELAYED"
    #: The delay before its next attempt has not passed.
    RETRY_DELAY = "RETRY_DELAY"
    EXPIRED = "EXPIRED"
    QUARANTINED = "QUARANTINED"
    #: The leader's store cannot take writes now.
    STORE_FULL = "STORE_FULL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    #: The leader could not dial the callback workers that could run it, or they took no task.
    UNREACHABLE = "UNREACHABLE"
    #: The callback workers that could run it have reported that they cannot work.
    MEMBER_FAILED = "MEMBER_FAILED"
    #: Its payload does not fit the form in which the free workers have the handler. Other workers have another form.
    UNFIT = "UNFIT"
    #: Workers have the handler, but none from a plugin whose version is within the task's `plugin_version`.
    PLUGIN_VERSION = "PLUGIN_VERSION"
    #: Workers have the handler, but none takes tasks of its queue.
    QUEUE_NOT_TAKEN = "QUEUE_NOT_TAKEN"
    UPSTREAM = "UPSTREAM"
    UPSTREAM_FAILED = "UPSTREAM_FAILED"
    #: A code of a newer leader that this client does not know; the message says what it is.
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class WaitReason:
    """One reason why a task is not started, or why it ended."""

    code: WaitCode
    #: The reason in words, with the numbers.
    message: str
    #: What to do about it; empty when only time helps.
    advice: str
    #: When the reason ends by itself; None when that is not known.
    until: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerVerdict:
    """Why one member does not run a task."""

    worker: str
    #: UNSPECIFIED when the member could run the task now.
    code: WaitCode
    message: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task waits, or why it ended."""

    id: str
    status: TaskStatus
    #: The most important reason is the first. Empty when the task runs, has completed, or is about to be started.
    reasons: tuple[WaitReason, ...]
    #: A verdict for each member, sorted by name, if that was asked for.
    workers: tuple[WorkerVerdict, ...]
    #: How many tasks are ahead of it, at least.
    ahead: int


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: its settings, and how many tasks it holds."""

    name: str
    paused: bool
    #: Its share of the slots, in proportion to those of other queues that have work.
    weight: int
    #: Most tasks that run at once; 0 for no limit.
    concurrency_limit: int
    #: Most tasks of one concurrency key that run at once; 0 for no limit.
    key_concurrency_limit: int
    #: Most tasks that are started per second, on average; 0 for no limit.
    rate_limit: float
    #: Most tasks that are started at once under the rate; 0 for those of one second, at least 1.
    rate_burst: int
    #: Tasks that may run now.
    waiting: int
    #: Tasks whose time to start has not come.
    delayed: int
    running: int

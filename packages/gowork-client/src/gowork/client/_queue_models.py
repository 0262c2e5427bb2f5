"""Queues, and why tasks wait in them, as callers see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gowork.client._models import TaskStatus


class WaitCode(StrEnum):
    """What keeps a task from being started, or has ended it."""

    UNSPECIFIED = "UNSPECIFIED"
    #: No worker that is connected has the handler.
    NO_HANDLER = "NO_HANDLER"
    #: Workers have the handler, but none carries the labels that its selector asks for.
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
    #: It waits for its next attempt.
    RETRY_DELAY = "RETRY_DELAY"
    EXPIRED = "EXPIRED"
    QUARANTINED = "QUARANTINED"
    #: The leader's store takes nothing at the moment.
    STORE_FULL = "STORE_FULL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    #: The callback workers that could run it could not be dialled, or did not take a task.
    UNREACHABLE = "UNREACHABLE"
    #: The callback workers that could run it say that they can't work.
    MEMBER_FAILED = "MEMBER_FAILED"
    #: Its payload does not fit the handler as the free workers have it; others have it in another form.
    UNFIT = "UNFIT"
    #: A newer leader names something that this client does not know; the message beside it says what.
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class WaitReason:
    """One thing that keeps a task from being started, or has ended it."""

    code: WaitCode
    #: In words, with the numbers.
    message: str
    #: What to do about it; empty when only time helps.
    advice: str
    #: When it goes away by itself; None when that is not known.
    until: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerVerdict:
    """What one member says to a task."""

    worker: str
    #: UNSPECIFIED when it could run it now.
    code: WaitCode
    message: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task waits."""

    id: str
    status: TaskStatus
    #: The one to look at comes first; none when it runs, has completed, or is about to be started.
    reasons: tuple[WaitReason, ...]
    #: Each member by name, when that was asked for.
    workers: tuple[WorkerVerdict, ...]
    #: How many tasks are before it, at least.
    ahead: int


@dataclass(frozen=True, slots=True)
class Queue:
    """A named queue: how it is served, and what it holds."""

    name: str
    paused: bool
    #: Its share of the slots beside other queues that have work.
    weight: int
    #: Most tasks that run at once; 0 for no limit.
    concurrency_limit: int
    #: Most tasks of one concurrency key that run at once; 0 for no limit.
    key_concurrency_limit: int
    #: Most tasks that are started in a second, over time; 0 for no limit.
    rate_limit: float
    #: With a rate: how many tasks start at once, at most. 0 means the starts of one second, at least 1.
    rate_burst: int
    #: Tasks that may run now.
    waiting: int
    #: Tasks whose time has not come.
    delayed: int
    running: int

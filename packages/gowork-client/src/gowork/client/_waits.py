"""The bookkeeping of a WaitTasks or WaitTask call, the same for the blocking and the asyncio client: which tasks are
still out, and whether a call that ended is made again.

Calls have deadlines, waits may be longer: a call whose deadline ran out, or whose leader went away, is made again for
what is left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import grpc

from gowork.base import running
from gowork.client._calls import CallSettings, Tries
from gowork.client.errors import CallError, TaskNotFinished
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

logger = logging.getLogger("gowork.client")

#: WaitTasks calls that one as_completed has open at once; together they wait for CALLS_MAX * BATCH_TASKS_MAX tasks.
CALLS_MAX = 16
#: Ids in one WaitTasks call.
IDS_MAX = limits.BATCH_TASKS_MAX


class Awaited(Protocol):
    """What is waited for: a handle of either client."""

    @property
    def id(self) -> str:
        """The task's id."""
        ...

    def note_finished(self, task: scheduler.Task) -> None:
        """Keeps the task as it finished."""
        ...


#: Seconds that a handler waits for other tasks and keeps its slot before the log says so, once for each handler.
LONG_WAIT_SECONDS = 5.0
#: Handlers that have been named, and how many at most.
_warned: set[str] = set()
_WARNED_MAX = 1000
AwaitedT = TypeVar("AwaitedT", bound=Awaited)


class Wait(Generic[AwaitedT]):
    """The wait for at most IDS_MAX tasks."""

    def __init__(self, settings: CallSettings, handles: Iterable[AwaitedT], end: float | None) -> None:
        """Starts with all of them.

        Args:
            settings: of the client.
            handles: what to wait for; a task named twice is answered once.
            end: when to give up, on the monotonic clock; None for never.
        """
        self._settings = settings
        self._out = {handle.id: handle for handle in handles}
        self._end = end
        self._tries: Tries | None = None
        #: The attempt that waits, until it has been warned of it.
        self._attempt = running.attempt.get()
        self._begun = time.monotonic()

    def __bool__(self) -> bool:
        return bool(self._out)

    def request(self) -> scheduler.WaitTasksRequest:
        """A request for the tasks that have not finished yet."""
        return scheduler.WaitTasksRequest(ids=list(self._out))

    def timeout(self) -> float:
        """The deadline of the next call, in seconds.

        Raises:
            TaskNotFinished: when the caller's time is up.
            ClientClosed: when the client was closed.
        """
        self._settings.check_open()
        timeout = self._settings.timeout if self._attempt is None else min(self._settings.timeout, LONG_WAIT_SECONDS)
        if self._end is None:
            return timeout
        left = self._end - time.monotonic()
        if left <= 0:
            raise self._not_finished()
        return min(left, timeout)

    def take(self, tasks: Iterable[scheduler.Task]) -> list[AwaitedT]:
        """The handles of these tasks, which a response tells to have finished."""
        self._tries = None
        done: list[AwaitedT] = []
        pop = self._out.pop
        for task in tasks:
            handle = pop(task.id, None)
            if handle is not None:
                handle.note_finished(task)
                done.append(handle)
        return done

    def pause_after(self, error: grpc.RpcError) -> float:
        """How long to wait before the call is made again, in seconds.

        Raises:
            TaskNotFinished: when the caller's time is up.
            CallError: when it is not to be made again.
        """
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._tries = None
            self._warn_if_long()
            self.timeout()
            return 0.0
        if self._tries is None:
            # Counted from the first failure, not from the start of a wait that may be hours old.
            self._tries = Tries(self._settings)
        pause = self._tries.pause_after(error)
        if self._end is not None and time.monotonic() + pause >= self._end:
            raise self._not_finished()
        return pause

    def check_ended(self) -> None:
        """To be called when a call has ended well.

        Raises:
            CallError: when tasks are missing.
        """
        if self._out:
            raise CallError(f"the leader ended a wait with {len(self._out):,} tasks still to come")

    def _warn_if_long(self) -> None:
        attempt = self._attempt
        if attempt is None or time.monotonic() - self._begun < 0.9 * LONG_WAIT_SECONDS:
            return
        self._attempt = None
        # Workers before 0.2 lend no slots.
        if not getattr(attempt, "keeps_slot", True) or attempt.handler in _warned or len(_warned) >= _WARNED_MAX:
            return
        _warned.add(attempt.handler)
        logger.warning(
            "a handler waits for other tasks and keeps its slot: when every slot is kept so, none of them runs",
            extra={"handler": attempt.handler, "task_id": attempt.id, "waits_for": next(iter(self._out), "")},
        )

    def _not_finished(self) -> TaskNotFinished:
        ids = list(self._out)
        first = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        verb = "task has" if len(ids) == 1 else "tasks have"
        return TaskNotFinished(f"{len(ids):,} {verb} not finished in time: {first}", ids=ids)


def end_of(timeout: float | None) -> float | None:
    """When a wait of that many seconds gives up, on the monotonic clock."""
    return None if timeout is None else time.monotonic() + timeout

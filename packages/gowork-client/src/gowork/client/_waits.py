"""The state of a WaitTasks or WaitTask call, for both clients: the unfinished tasks, and whether to call again.

A wait may be longer than the deadline of a call. When a call's deadline ran out, or its leader went away, another call
is made for the tasks that are left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import grpc

from gowork.base import running
from gowork.client import _arguments as arguments
from gowork.client._calls import CallSettings, Tries
from gowork.client.errors import CallError, TaskNotFinished
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

logger = logging.getLogger("gowork.client")

#: Most WaitTasks calls that one as_completed has open. Together they wait for CALLS_MAX * IDS_MAX tasks.
CALLS_MAX = 16
#: Most ids in one WaitTasks call.
IDS_MAX = limits.BATCH_TASKS_MAX


class Awaited(Protocol):
    """A handle of either client, as a Wait uses it."""

    @property
    def id(self) -> str:
        """The task's id."""
        ...

    def note_finished(self, task: scheduler.Task) -> None:
        """Keeps the finished task."""
        ...


#: When a handler has waited this long for other tasks while it keeps its slot, the log says so, once for each handler.
LONG_WAIT_SECONDS = 5.0
#: Handlers that the log has named, and how many it names at most.
_warned: set[str] = set()
_WARNED_MAX = 1000
AwaitedT = TypeVar("AwaitedT", bound=Awaited)


class Wait(Generic[AwaitedT]):
    """The wait for at most IDS_MAX tasks."""

    def __init__(self, settings: CallSettings, handles: Iterable[AwaitedT], end: float | None) -> None:
        """Args:
        settings: those of the client.
        handles: what to wait for. Of several handles of one task, only the last gets it.
        end: when to give up, on the monotonic clock; None for never.
        """
        self._settings = settings
        self._out = {handle.id: handle for handle in handles}
        self._end = end
        self._tries: Tries | None = None
        #: The address of the last call.
        self._address = settings.rotation.current
        #: The attempt that waits; None where no attempt runs, and after the log has named its handler.
        self._attempt = running.attempt.get()
        self._begun = time.monotonic()

    def __bool__(self) -> bool:
        return bool(self._out)

    def request(self) -> scheduler.WaitTasksRequest:
        """Makes a request for the tasks that have not finished yet."""
        return scheduler.WaitTasksRequest(ids=list(self._out))

    def timeout(self) -> float:
        """Returns the timeout of the next call, in seconds.

        Raises:
            TaskNotFinished: when the caller's timeout has run out.
            ClientClosed: when the client was closed.
        """
        self._settings.check_open()
        self._address = self._settings.rotation.current
        timeout = self._settings.timeout if self._attempt is None else min(self._settings.timeout, LONG_WAIT_SECONDS)
        if self._end is None:
            return timeout
        left = self._end - time.monotonic()
        if left <= 0:
            raise self._not_finished()
        return min(left, timeout)

    def take(self, tasks: Iterable[scheduler.Task]) -> list[AwaitedT]:
        """Gives the finished tasks of a response to their handles, and returns these handles."""
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
        """Returns how long to wait before making the call again, in seconds.

        Raises:
            TaskNotFinished: when the caller's timeout has run out.
            CallError: when the call is not to be made again.
        """
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._tries = None
            self._warn_if_long()
            self.timeout()
            return 0.0
        if self._tries is None:
            # The tries begin at the first failure, because the wait may have begun hours before.
            self._tries = Tries(self._settings)
        pause = self._tries.pause_after(error, self._address)
        if self._end is not None and time.monotonic() + pause >= self._end:
            raise self._not_finished()
        return pause

    def check_ended(self) -> None:
        """Checks that a call which ended without an error has named all tasks.

        Raises:
            CallError: when tasks are missing.
        """
        if self._out:
            raise CallError(f"the leader ended a wait before {len(self._out):,} of its tasks had finished")

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
        why = "Client.explain(id), or `gowork why ID`, says what a task waits for"
        return TaskNotFinished(f"{len(ids):,} {verb} not finished in time: {first}; {why}", ids=ids)


def end_of(timeout: float | None) -> float | None:
    """Returns when a wait of `timeout` seconds gives up, on the monotonic clock; None for never.

    Raises:
        InvalidArgument: when the timeout is not a number.
    """
    return None if timeout is None else time.monotonic() + arguments.seconds(timeout, "timeout")

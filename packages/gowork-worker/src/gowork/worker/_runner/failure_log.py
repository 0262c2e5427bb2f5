"""The line that each failed attempt leaves in the worker's log: what was raised, and what comes next.

It says nothing of a payload by itself; the text of an exception and the lines of a traceback are the handler's own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import StrEnum

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.handlers import RetryOptions
from gowork.worker._core.logs import running
from gowork.worker._runner import outcomes
from gowork.worker._runner.next_steps import next_step

logger = logging.getLogger("gowork.worker")

#: Seconds of one window, and lines in it: of one handler, and of all of a process together.
_WINDOW = 1.0
HANDLER_LINES_MAX = 10
PROCESS_LINES_MAX = 50
#: What failed; whatever else an attempt can come to is nobody's concern.
_FAILED = frozenset({tasks.ATTEMPT_OUTCOME_FAILED, tasks.ATTEMPT_OUTCOME_TIMED_OUT, tasks.ATTEMPT_OUTCOME_LOST})


class Detail(StrEnum):
    """How much a line tells; each tells what those before it tell."""

    #: The type of what was raised.
    TYPE = "type"
    #: Its text.
    MESSAGE = "message"
    #: Where it was raised.
    TRACEBACK = "traceback"


class FailureLog:
    """Writes them, so many in a second, and counts the rest. May be used from any thread."""

    def __init__(self, detail: Detail, clock: Callable[[], float] = time.monotonic) -> None:
        self._detail = detail
        self._clock = clock
        #: Guards all that follows. It is held for a few instructions only.
        self._lock = threading.Lock()
        self._window_ends = 0.0
        #: handler -> lines in this window
        self._lines: dict[str, int] = {}
        #: handler -> attempts that have left no line
        self._suppressed: dict[str, int] = {}

    def note(
        self, grant: session.Grant, task: tasks.Task, handler: str, retry: RetryOptions | None, report: session.Report
    ) -> None:
        """Writes the line of an attempt that has ended, if it has failed. Raises nothing.

        Args:
            grant: the attempt.
            task: the task.
            handler: the name of its handler; empty where this worker has none for it.
            retry: the policy of its handler, where that has one.
            report: how it ended.
        """
        if report.outcome not in _FAILED:
            return
        suppressed: int | None = 0
        try:
            suppressed = self._admit(handler)
            if suppressed is not None:
                fields: dict[str, object] = {
                    "task_id": grant.id,
                    "attempt": grant.attempt,
                    "fence": grant.fence,
                    "handler": handler or task.handler,
                    "queue": task.queue or "default",
                    "outcome": outcomes.STATUS[report.outcome],
                    "error": self._told(report.failure),
                    "next": next_step(grant, task, retry, report),
                }
                if suppressed:
                    fields["suppressed"] = suppressed
                _emit("attempt failed", fields, report.failure.traceback if self._detail is Detail.TRACEBACK else "")
        except BaseException:  # noqa: BLE001 - filters and handlers of logging are the user's
            # That is what there is to tell, and there is nobody to tell it to but the next line.
            self._suppressed[handler] = self._suppressed.get(handler, 0) + (suppressed or 0) + 1

    def look_after(self) -> None:
        """Tells what was suppressed and has had no later line to be told in. To be called about once a second."""
        if not self._suppressed or self._clock() < self._window_ends:
            return
        with self._lock:
            suppressed, self._suppressed = self._suppressed, {}
        for handler, attempts in suppressed.items():
            _emit("failed attempts were not logged one by one", {"handler": handler, "suppressed": attempts}, "")

    def _admit(self, handler: str) -> int | None:
        """How many attempts of the handler were suppressed before this one; None when this one is too."""
        now = self._clock()
        with self._lock:
            if now >= self._window_ends:
                self._window_ends = now + _WINDOW
                self._lines.clear()
            lines = self._lines.get(handler, 0)
            if lines >= HANDLER_LINES_MAX or sum(self._lines.values()) >= PROCESS_LINES_MAX:
                self._suppressed[handler] = self._suppressed.get(handler, 0) + 1
                return None
            self._lines[handler] = lines + 1
            return self._suppressed.pop(handler, 0)

    def _told(self, failure: tasks.Failure) -> str:
        return failure.type if self._detail is Detail.TYPE else f"{failure.type}: {failure.message}"


def _emit(event: str, fields: dict[str, object], trace: str) -> None:
    if not logger.isEnabledFor(logging.WARNING):
        return
    record = logger.makeRecord(logger.name, logging.WARNING, __file__, 0, event, (), None, extra=fields)
    # It is written already; formatting the exception again would ask it again.
    record.exc_text = trace.rstrip("\n") or None
    # The line names its attempt itself: that is not always the one that runs here.
    outer = running.set(None)
    try:
        logger.handle(record)
    finally:
        running.reset(outer)

"""The line that each failed attempt leaves in the worker's log: the exception, and what comes next.

gowork adds nothing of a payload. But the text of an exception and the lines of a traceback are the handler's own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import StrEnum

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.handlers import RetryOptions
from gowork.worker._core.logs import running
from gowork.worker._runner import outcomes
from gowork.worker._runner.allowance import Allowance
from gowork.worker._runner.next_steps import next_step

logger = logging.getLogger("gowork.worker")

#: Most lines in a second: of one handler, and of all handlers of a process together.
HANDLER_LINES_MAX = 10
PROCESS_LINES_MAX = 50
#: Outcomes that leave a line. The others need nobody's attention.
_FAILED = frozenset({tasks.ATTEMPT_OUTCOME_FAILED, tasks.ATTEMPT_OUTCOME_TIMED_OUT, tasks.ATTEMPT_OUTCOME_LOST})


class Detail(StrEnum):
    """How much a line tells. Each value adds to the ones before it."""

    #: The type of the exception.
    TYPE = "type"
    #: Its text.
    MESSAGE = "message"
    #: Where it was raised.
    TRACEBACK = "traceback"


class FailureLog:
    """Writes lines up to a number in each second, and counts the rest. May be used from any thread."""

    def __init__(self, detail: Detail, clock: Callable[[], float] = time.monotonic) -> None:
        self._detail = detail
        #: Its keys are names of handlers.
        self._allowance = Allowance(HANDLER_LINES_MAX, PROCESS_LINES_MAX, clock)

    def note(
        self,
        grant: session.Grant,
        task: tasks.Task,
        handler: str,
        retry: RetryOptions | None,
        report: session.Report,
        *,
        fails_if_lost: bool = False,
    ) -> None:
        """Writes the line of an attempt that has ended, if it has failed. Raises nothing.

        Args:
            grant: the attempt.
            task: the task.
            handler: the name of its handler; empty where this worker has none for it.
            retry: the policy of its handler; None where that has none.
            report: how it ended.
            fails_if_lost: whether its handler says that it must not run twice.
        """
        if report.outcome not in _FAILED:
            return
        suppressed: int | None = 0
        try:
            suppressed = self._allowance.admit(handler)
            if suppressed is not None:
                fields: dict[str, object] = {
                    "task_id": grant.id,
                    "attempt": grant.attempt,
                    "fence": grant.fence,
                    "handler": handler or task.handler,
                    "queue": task.queue or "default",
                    "outcome": outcomes.STATUS[report.outcome],
                    "error": self._told(report.failure),
                    "next": next_step(grant, task, retry, report, fails_if_lost=fails_if_lost),
                }
                if suppressed:
                    fields["suppressed"] = suppressed
                _emit("attempt failed", fields, report.failure.traceback if self._detail is Detail.TRACEBACK else "")
        except BaseException:  # noqa: BLE001 - filters and handlers of logging are the user's
            # This line was not written, so the next one counts it.
            left_out = self._allowance.suppressed
            left_out[handler] = left_out.get(handler, 0) + (suppressed or 0) + 1

    def look_after(self) -> None:
        """Logs how many lines were left out, where no later line has told it. Call it about once a second."""
        for handler, attempts in self._allowance.left_out().items():
            _emit("failed attempts were not logged one by one", {"handler": handler, "suppressed": attempts}, "")

    def _told(self, failure: tasks.Failure) -> str:
        return failure.type if self._detail is Detail.TYPE else f"{failure.type}: {failure.message}"


def _emit(event: str, fields: dict[str, object], trace: str) -> None:
    if not logger.isEnabledFor(logging.WARNING):
        return
    record = logger.makeRecord(logger.name, logging.WARNING, __file__, 0, event, (), None, extra=fields)
    # The traceback is text already. Formatting the exception again would call its own methods again.
    record.exc_text = trace.rstrip("\n") or None
    # The line names its attempt itself, which is not always the one that runs here.
    outer = running.set(None)
    try:
        logger.handle(record)
    finally:
        running.reset(outer)

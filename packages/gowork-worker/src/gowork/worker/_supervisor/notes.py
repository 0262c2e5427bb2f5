"""Writes what the desk notes to the log and to the measures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import assert_never

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.instructions import Note, NoteInstruction, NoteLoss, NoteRunnerLost, NoteTimedOut, ObserveLag
from gowork.worker._desk.runner import RunnerId
from gowork.worker._runner import messages
from gowork.worker._runner.failure_log import Detail, FailureLog
from gowork.worker._runner.next_steps import next_step
from gowork.worker._supervisor.event_log import EventLog
from gowork.worker._supervisor.measures import Measures

logger = logging.getLogger("gowork.worker")

#: The most handlers that a line of the log names.
_HANDLERS_LOGGED_MAX = 50


class Notes:
    """The log and the measures of one worker."""

    def __init__(self, measures: Measures, log_failures: str, whom: Callable[[RunnerId], Mapping[str, object]]) -> None:
        """Args:
        measures: take the counts.
        log_failures: how much the log tells of a failed attempt: "type", "message" or "traceback".
        whom: returns the fields of a line that name a runner.
        """
        self._measures = measures
        self._whom = whom
        self._events = EventLog()
        self._failures = FailureLog(Detail(log_failures))
        self._handlers = messages.Ready((), "", ())

    def learn(self, ready: messages.Ready) -> None:
        """Takes the handlers that there are, and logs them."""
        self._handlers = ready
        names = [note.name for note in ready.handlers]
        named = ", ".join(names[:_HANDLERS_LOGGED_MAX]) + (", ..." if len(names) > _HANDLERS_LOGGED_MAX else "")
        logger.info("handlers loaded", extra={"handlers": len(names), "names": named})
        for error in ready.plugin_errors:
            # Where a program has set up no logging, Python writes the event alone.
            event = "plugin error" if logger.hasHandlers() else f"plugin error: {error}"
            logger.error(event, extra={"plugin_error": error})

    def look_after(self) -> None:
        """Writes how many lines were left out, where no later line has told. Call it about once a second."""
        self._events.look_after()
        self._failures.look_after()

    def take(self, note: NoteInstruction) -> None:
        """Writes a note to the log, or counts it."""
        match note:
            case ObserveLag(seconds):
                self._measures.lag.observe(seconds)
            case Note(level, event, fields, runner, None):
                logger.log(level, event, extra={**self._named(runner), **fields})
            case Note(level, event):
                self._events.tell(level, event, partial(self._fields_of_task, note))
            case NoteRunnerLost(runner, reason):
                self._measures.runners_lost += 1
                logger.error("runner ended", extra={**self._whom(runner), "reason": reason})
            case NoteLoss():
                self._events.tell(logging.ERROR, "task lost with its runner", partial(self._fields_of_loss, note))
            case NoteTimedOut(grant, report):
                self._note_failure(grant, report)
            case _:
                assert_never(note)

    def _named(self, runner: RunnerId | None) -> Mapping[str, object]:
        return self._whom(runner) if runner is not None else {}

    def _fields_of_task(self, note: Note) -> dict[str, object]:
        assert note.grant is not None
        return {**_fields_of(note.grant), **self._named(note.runner), **note.fields}

    def _fields_of_loss(self, note: NoteLoss) -> dict[str, object]:
        task = tasks.Task.FromString(note.grant.task)
        known = self._handler_of(task)
        fails = known is not None and known.fails_if_lost
        return {
            **_fields_of(note.grant),
            **self._whom(note.runner),
            "reason": note.report.reason,
            "next": next_step(note.grant, task, None, note.report, fails_if_lost=fails),
        }

    def _note_failure(self, grant: session.Grant, report: session.Report) -> None:
        """Logs an attempt whose runner has ended before it could."""
        task = tasks.Task.FromString(grant.task)
        known = self._handler_of(task)
        name = task.handler or self._handlers.default_handler
        self._failures.note(grant, task, name, None if known is None else known.retry, report)

    def _handler_of(self, task: tasks.Task) -> messages.HandlerNote | None:
        name = task.handler or self._handlers.default_handler
        return next((note for note in self._handlers.handlers if note.name == name), None)


def _fields_of(grant: session.Grant) -> dict[str, object]:
    """Returns the fields of a line that name a task."""
    return {"task_id": grant.id, "attempt": grant.attempt, "fence": grant.fence}

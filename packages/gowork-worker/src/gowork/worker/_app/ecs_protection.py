"""Protects a worker that runs as a task of Amazon ECS from being stopped, while it has work.

ECS stops any task when a service scales in or is deployed, unless the task has protected itself. A thread of its own
looks whether there is work and tells the agent, so that whatever the agent does holds up nothing else. The protection
is a favour: when the agent refuses it, the worker goes on, and drains when ECS stops it.
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection-endpoint.html
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from gowork.worker._app.ecs_agent import CALL_SECONDS, TOLD_MAX, AgentError, ask

logger = logging.getLogger("gowork.worker")

#: The variable that ECS sets in each container of a task.
AGENT_VARIABLE = "ECS_AGENT_URI"
_PATH = "/task-protection/v1/state"
#: How long a protection lasts unless it is renewed, in minutes: the default, and the most that ECS takes.
MINUTES = 60
MINUTES_MAX = 2880
#: How long the end of the worker waits for the thread, in seconds. The process may end before the thread does.
_CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is done, in seconds. All workers of an account share the rate that ECS allows them."""

    #: Between two looks whether there is work.
    look: float = 1.0
    #: For how long a worker without work stays protected, so that short tasks one after the other make no calls.
    idle: float = 30.0
    #: Between two calls at least.
    between: float = 5.0
    #: Before the next call after a failure. It doubles with each failure in a row, up to the most.
    retry: float = 5.0
    retry_max: float = 120.0
    #: How long a call may take.
    call: float = CALL_SECONDS


class Protection:
    """Keeps the task protected while there is work. Start it, and close it at the end.

    Args:
        uri: the agent's address.
        has_work: tells whether there is work. It is called in the thread.
        minutes: how long a protection lasts. It is renewed when half of that has passed.
    """

    def __init__(
        self, uri: str, has_work: Callable[[], bool], minutes: int = MINUTES, pace: Pace | None = None
    ) -> None:
        self._uri = uri
        self._has_work = has_work
        self._minutes = minutes
        self._pace = pace or Pace()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ecs-protection", daemon=True)
        #: When the protection ends, on the monotonic clock; 0: there is none.
        self._until = 0.0
        #: When there was work last.
        self._worked = 0.0
        #: No call before this.
        self._not_before = 0.0
        self._failures = 0
        #: The failure that was logged last; empty: the last call did what it should.
        self._complaint = ""

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def close(self) -> None:
        """Ends. The task keeps the protection that it has, because it ends with its worker."""
        self._closed.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closed.wait(self._pace.look):
            now = time.monotonic()
            wanted = self._wanted(now)
            if wanted is not None and now >= self._not_before:
                self._call(wanted)

    def _wanted(self, now: float) -> bool | None:
        """Returns whether the task is to be protected, or not any more; None: it is as it should be."""
        if self._has_work():
            self._worked = now
            return True if self._until - now < self._minutes * 60 / 2 else None
        is_protected = self._until > now
        return False if is_protected and now - self._worked >= self._pace.idle else None

    def _call(self, wanted: bool) -> None:
        pace = self._pace
        # Before the call, because the agent counts from its arrival at the latest.
        called = time.monotonic()
        try:
            self._set(wanted)
        except AgentError as error:
            self._failures += 1
            delay = min(pace.retry_max, pace.retry * 2 ** min(self._failures - 1, 10))
            self._not_before = time.monotonic() + delay
            self._complain(str(error)[:TOLD_MAX], wanted)
            return
        self._until = called + self._minutes * 60 if wanted else 0.0
        self._not_before = time.monotonic() + pace.between
        self._failures = 0
        if self._complaint:
            self._complaint = ""
            logger.info("ECS protects this task again" if wanted else "ECS protects this task no more")

    def _set(self, wanted: bool) -> None:
        body: dict[str, object] = {"ProtectionEnabled": wanted}
        if wanted:
            body["ExpiresInMinutes"] = self._minutes
        status, answer = ask(self._uri, _PATH, body=body, seconds=self._pace.call)
        state = answer.get("protection")
        if status == 200 and isinstance(state, dict) and state.get("ProtectionEnabled") is wanted:
            return
        raise AgentError(_reason(status, answer))

    def _complain(self, reason: str, wanted: bool) -> None:
        """Logs a failure once, however often it is repeated."""
        if reason == self._complaint:
            return
        self._complaint = reason
        advice = "the worker goes on; a task that ECS stops drains first"
        event = "ECS does not protect this task" if wanted else "ECS does not end the protection of this task"
        logger.warning(event, extra={"reason": reason, "advice": advice})


def _reason(status: int, answer: dict[str, object]) -> str:
    """Returns why the agent refuses; the names are those of its two kinds of refusals."""
    for kind, names in (("failure", ("Reason", "Detail")), ("error", ("Code", "Message"))):
        told = answer.get(kind)
        if isinstance(told, dict):
            words = ": ".join(str(told[name])[:TOLD_MAX] for name in names if told.get(name))
            return words or f"status {status} without a reason"
    return f"status {status}, and the answer does not say that the protection is set"

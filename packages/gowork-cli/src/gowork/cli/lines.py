"""Reads tasks from the lines of a file, schedules them, and says which are scheduled when a line is wrong.

Each task has its id before it is sent. So a task that was sent without an answer can be sent again, and exists once.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import click

from gowork.base.suggestions import meant
from gowork.cli.group import EXIT_FAILED, EXIT_USAGE
from gowork.cli.parameters import duration_s, moment
from gowork.client import CallError, Client, InvalidArgument, NewTask, TaskHandle, TaskOptions, new_task_id

_FIELDS = {
    "payload",
    "id",
    "handler",
    "priority",
    "queue",
    "labels",
    "selector",
    "in",
    "at",
    "time_limit",
    "max_attempts",
    "expires_in",
    "concurrency_key",
    "plugin_version",
    "unique",
    "unique_for",
    "on_lost",
    "after",
    "after_rule",
    "group",
}
_PLACE = re.compile(r"tasks\[(\d+)\]")


class Lines:
    """Reads a file, and schedules its tasks until a line is wrong."""

    def __init__(
        self, file: BinaryIO, advance: Callable[[], object], check: Callable[[object, str, str], object] | None = None
    ) -> None:
        """Args:
        file: a JSON object on each line.
        advance: called for each line that is read.
        check: called with payload, handler and range of versions of each task that has a handler; None: nothing is
            checked. It raises click.ClickException for a payload that must not be sent.
        """
        self._file = file
        self._advance = advance
        self._check = check
        #: (number of the line, task) for each task that was read and is not acknowledged yet, in order.
        self._waiting: deque[tuple[int, NewTask]] = deque()
        self._scheduled = 0
        #: The handler of lines that name none; empty: the worker's default.
        self._handler = ""
        #: The error that ended the reading before the end of the file.
        self.fault: BaseException | None = None

    def scheduled(self, client: Client, options: TaskOptions) -> Iterator[TaskHandle]:
        """Yields a handle for each task as it is acknowledged.

        When a line is wrong, it ends after all tasks of the lines before it are acknowledged. It also ends when the
        leader refuses a call, or cannot be reached. `fault` then has the error.
        """
        self._handler = options.get("handler") or ""
        tasks = self._read(self._handler, options.get("plugin_version") or "")
        while True:
            acknowledged = 0
            try:
                for handle in client.schedule_many(tasks, **options):
                    self._waiting.popleft()
                    self._scheduled += 1
                    acknowledged += 1
                    yield handle
                return
            except (CallError, ValueError, TypeError, OverflowError) as error:
                # protobuf raises the last three, for example for a number that is too large for its field.
                place = self._place_of(error, acknowledged)
                if place is None:
                    self.fault = error
                    return
                # All waiting tasks before it are sent again, because those that were on their way may not have arrived.
                number, _ = self._waiting[place]
                is_refused = isinstance(error, CallError) and not isinstance(error, InvalidArgument)
                fault = _RefusedLine if is_refused else _LineFault
                self.fault = fault(number, str(_PLACE.sub("the task", str(error))))
                before = list(self._waiting)[:place]
                self._waiting = deque(before)
                tasks = iter([task for _, task in before])

    def raise_fault(self) -> None:
        """Raises the error in `fault`, if there is one. Before that, it says what is scheduled and how to go on."""
        if self.fault is None:
            return
        click.echo(f"gowork: {self._told()}", err=True)
        raise self.fault

    def _told(self) -> str:
        count = f"{self._scheduled:,} {'task is' if self._scheduled == 1 else 'tasks are'} scheduled"
        ids = "" if not self._scheduled else "; standard output has their ids"
        if isinstance(self.fault, _LineFault):
            return (
                f"{count}, all of the lines before line {self.fault.number}, and none of the others{ids}. "
                f"Correct the line and go on from it, with the same options: "
                f"tail -n +{self.fault.number} {self._name()} | gowork add {self._handler_option()}--file -"
            )
        if not self._waiting:
            return f"{count}{ids}"
        first, last = self._waiting[0], self._waiting[-1]
        return (
            f"{count}, all of the lines before line {first[0]}{ids}. Those of the lines {first[0]} to {last[0]}, from "
            f"{first[1].id} to {last[1].id}, may be"
        )

    def _name(self) -> str:
        name = getattr(self._file, "name", "")
        return shlex.quote(name) if isinstance(name, str) and name and not name.startswith("<") else "FILE"

    def _handler_option(self) -> str:
        return f"--handler {shlex.quote(self._handler)} " if self._handler else ""

    def _place_of(self, error: Exception, acknowledged: int) -> int | None:
        """Returns the place of the wrong task in `_waiting`; None when no task is wrong, or the error names none."""
        violations = error.violations if isinstance(error, CallError) else ()
        places = [int(match[1]) for violation in violations if (match := _PLACE.match(violation.field))]
        if places:
            place = min(places) - acknowledged
            return place if 0 <= place < len(self._waiting) else None
        # A task that cannot be sent raises its error when it is read, so that it is the last one that was read.
        unsendable = isinstance(error, InvalidArgument) or not isinstance(error, CallError)
        return len(self._waiting) - 1 if unsendable and self._waiting else None

    def _read(self, handler: str, wanted: str) -> Iterator[NewTask]:
        """Yields the tasks of the file. `handler` and `wanted`, a range of versions, are those of lines without."""
        for number, text in enumerate(self._file, 1):
            self._advance()
            if text.isspace():
                continue
            try:
                task = _task(text)
                if self._check is not None and (name := task.handler or handler):
                    own = task.plugin_version
                    self._check(task.payload, name, wanted if own is None else own)
            except (ValueError, RecursionError, click.ClickException, InvalidArgument) as error:
                self.fault = _LineFault(number, str(error))
                return
            self._waiting.append((number, task))
            yield task


class _LineFault(click.ClickException):
    """A line that is not a valid task."""

    exit_code = EXIT_USAGE

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"line {number}: {message}")
        self.number = number


class _RefusedLine(_LineFault):
    """A line with a valid task that the leader does not take, as when another task has its id."""

    exit_code = EXIT_FAILED


def _task(text: bytes) -> NewTask:
    """Reads the task of one line.

    Raises:
        ValueError: when the line is wrong.
    """
    fields: Any = json.loads(text)
    if not isinstance(fields, dict) or "payload" not in fields:
        raise ValueError('not an object with a "payload", such as {"payload": "text"}')
    if unknown := fields.keys() - _FIELDS:
        near = meant(min(unknown), sorted(_FIELDS)) or f"; known are {', '.join(sorted(_FIELDS))}"
        raise ValueError(f"unknown {', '.join(sorted(unknown))}{near}")
    for name in (
        "id",
        "handler",
        "priority",
        "queue",
        "concurrency_key",
        "plugin_version",
        "unique",
        "on_lost",
        "after_rule",
    ):
        _check(fields, name, str, "a string")
    for name in ("labels", "selector"):
        _check(fields, name, dict, "an object")
        if not all(isinstance(value, str) for value in (fields.get(name) or {}).values()):
            raise ValueError(f"{name} has a value that is not a string")
    _check(fields, "max_attempts", int, "a number")
    if not isinstance(fields.get("group"), bool):
        _check(fields, "group", int, "a number, true or false")
    _check(fields, "after", list, "a list")
    if not all(isinstance(id, str) for id in fields.get("after") or ()):
        raise ValueError("after has an id that is not a string")
    delay, run_at, limit = fields.get("in"), fields.get("at"), fields.get("time_limit")
    expires_in, unique_for = fields.get("expires_in"), fields.get("unique_for")
    return NewTask(
        payload=fields["payload"],
        id=new_task_id() if fields.get("id") is None else fields["id"],
        handler=fields.get("handler"),
        priority=fields.get("priority"),
        queue=fields.get("queue"),
        labels=fields.get("labels"),
        selector=fields.get("selector"),
        delay=None if delay is None else duration_s(str(delay)),
        run_at=None if run_at is None else moment(str(run_at)),
        time_limit=None if limit is None else duration_s(str(limit)),
        retry=fields.get("max_attempts"),
        expires_in=None if expires_in is None else duration_s(str(expires_in)),
        concurrency_key=fields.get("concurrency_key"),
        plugin_version=fields.get("plugin_version"),
        unique=fields.get("unique"),
        unique_for=None if unique_for is None else duration_s(str(unique_for)),
        on_lost=fields.get("on_lost"),
        after=fields.get("after"),
        after_rule=fields.get("after_rule"),
        group=fields.get("group"),
    )


def _check(fields: Mapping[str, Any], name: str, kind: type, words: str) -> None:
    value = fields.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ValueError(f"{name} is {json.dumps(value)[:40]}, not {words}")

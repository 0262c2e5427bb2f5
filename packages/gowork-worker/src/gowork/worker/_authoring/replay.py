"""Runs a recorded task's payload through the handler that is installed here. The cluster hears nothing of it.

The run is one of `gowork.worker.testing`: the worker's own code on a clock of the kit's, without a leader.
"""

from __future__ import annotations

import inspect
import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from gowork.base.codecs import Codec, CodecError
from gowork.base.encryption import Encryption, envelope_of, is_encrypted
from gowork.base.values import FORM_DATA
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.calls import Handler
from gowork.worker._core.context import Place
from gowork.worker._core.plugins import Loaded, load
from gowork.worker._core.selection import Selection
from gowork.worker.testing._bench import Bench, Plan
from gowork.worker.testing._clock import FakeClock
from gowork.worker.testing._outcome import Outcome, Status

#: Seconds of real time that a run may take. Somebody is there, who can interrupt it, and a debugger takes its time.
_PATIENCE_SECONDS = 86_400.0
#: Forms of payloads that this package knows.
_FORMS = frozenset(tasks.PayloadForm.values())


class ReplayError(Exception):
    """The task can't be run here. The text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A task as it is recorded, readable."""

    task: tasks.Task
    #: Its result: the JSON text, or bytes; None if it has not completed, or can't be read.
    result: str | bytes | None
    #: Why the result can't be read; empty where it can.
    unreadable: str = ""


def readable(task: tasks.Task, codec: Codec | None) -> Recorded:
    """Decrypts what is encrypted in a recorded task.

    Args:
        task: as its leader tells it.
        codec: has the keys; None: there are none.

    Raises:
        ReplayError: when the payload can't be read.
    """
    copy = tasks.Task()
    copy.CopyFrom(task)
    if is_encrypted(task.data):
        envelope = envelope_of(task.data)
        assert envelope is not None
        if codec is None:
            raise ReplayError(
                f"the payload is {envelope.told}: give the keys with --keys FILE, or another --payload FILE"
            )
        try:
            payload = Encryption(codec).open_payload(task.id, task.handler, task.data)
        except CodecError as error:
            raise ReplayError(f"the payload can't be decrypted: {error}") from error
        copy.payload, copy.data, copy.payload_form = payload.text, payload.data, payload.form  # type: ignore[assignment] # Its number.
    if task.status != tasks.TASK_STATUS_COMPLETED:
        return Recorded(copy, None)
    if not is_encrypted(task.result_data):
        return Recorded(copy, task.result_data if task.result_data or task.result_is_empty_data else task.result)
    try:
        if codec is None:
            raise CodecError("it is encrypted, and there are no keys (--keys FILE)")
        result = Encryption(codec).open_result(task.id, task.result_data)
    except CodecError as error:
        return Recorded(copy, None, str(error))
    return Recorded(copy, result.data if result.data or result.is_empty_data else result.text)


def with_payload(task: tasks.Task, content: bytes) -> None:
    """Puts another payload into a task: text if the recorded one is text, else bytes.

    Raises:
        ReplayError: when it is too large, or no text where the recorded one is.
    """
    if len(content) > limits.PAYLOAD_BYTES_MAX:
        raise ReplayError(
            f"--payload: {len(content):,} bytes; a payload has at most {limits.PAYLOAD_BYTES_MAX:,}, so no client "
            "could schedule this one"
        )
    if (task.data and not is_encrypted(task.data)) or task.payload_form == FORM_DATA:
        task.data = content
        return
    try:
        # An editor ends a file with a new line, which no client has sent.
        task.payload = content.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ReplayError(f"--payload: the recorded payload is text, and this is not UTF-8: {error}") from error
    task.data = b""
    task.payload_form = tasks.PAYLOAD_FORM_UNSPECIFIED if task.payload else tasks.PAYLOAD_FORM_TEXT


def handler_of(name: str, imports: Sequence[str]) -> tuple[Handler, Loaded]:
    """Finds the handler among the installed plugins and the modules.

    Raises:
        ReplayError: when there is none, or it could not be loaded.
    """
    if not name:
        raise ReplayError("the task names no handler: give --handler NAME, which is the worker's --default-handler")
    loaded = load(Selection(imports=tuple(imports)))
    found = loaded.handlers.get(name)
    if found is not None:
        return found, loaded
    near = get_close_matches(name, loaded.handlers)
    words = f"; did you mean --handler {' or '.join(near)}" if near else ""
    faults = "".join(f"\n  {error}" for error in loaded.errors)
    raise ReplayError(
        f"no handler {name!r} is installed here{words}: load its module with --import MODULE, or install its plugin"
        + (f". These could not be loaded:{faults}" if faults else "")
    )


def run(task: tasks.Task, handler: Handler, loaded: Loaded, imports: Sequence[str], *, breaks: bool = False) -> Outcome:
    """Runs the task once.

    Args:
        task: a readable one.
        handler: what runs it.
        loaded: what was loaded with it.
        imports: modules with handlers.
        breaks: whether to begin in a debugger, at the first line of the handler.

    Raises:
        ReplayError: when the payload is of a form that this package does not know.
        Exception: what a lifespan raises.
    """
    if task.payload_form not in _FORMS:
        raise ReplayError(
            f"the payload has form {task.payload_form}, which is newer than this gowork-worker: upgrade it"
        )
    attempt = max((each.number for each in task.attempts), default=1)
    plan = Plan(
        handler=handler.name,
        task=_as_granted(task),
        grant=session.Grant(fence=task.fence or 1, id=task.id, attempt=max(1, attempt)),
        selection=Selection(imports=tuple(imports), only=_needed(handler, loaded)),
        functions=(),
        place=Place("replay"),
        clock=FakeClock(),
        faults=(),
        patience=_PATIENCE_SECONDS,
        is_lenient=True,
    )
    bench = Bench(plan, own_thread=False)
    tracing = _Breaking(handler.function) if breaks else None
    try:
        if tracing is not None:
            threading.settrace(tracing.called)
            sys.settrace(tracing.called)
        bench.start()
        bench.work()
    except BaseException:
        bench.abort()
        raise
    finally:
        if tracing is not None:
            sys.settrace(None)
            threading.settrace(None)
    return bench.outcome()


def difference(recorded: Recorded, outcome: Outcome) -> str | None:
    """Compares a run with the record.

    Returns:
        How they differ, in words; empty when they don't; None when there is nothing to compare.
    """
    task = recorded.task
    if task.status == tasks.TASK_STATUS_COMPLETED:
        if recorded.unreadable:
            return None
        if outcome.status is not Status.COMPLETED:
            return f"the recorded task completed, and this run {outcome.status}"
        return "" if _same(recorded.result, result_of(outcome)) else "the results differ"
    if task.status == tasks.TASK_STATUS_ERROR:
        failure = outcome.failure
        if failure is None:
            return f"the recorded task failed with {task.failure.type}, and this run {outcome.status}"
        same = (failure.type, failure.message) == (task.failure.type, task.failure.message)
        return "" if same else f"the recorded task failed with {task.failure.type}: {task.failure.message}"
    return None


def result_of(outcome: Outcome) -> str | bytes | None:
    """Returns a run's result as it is recorded: the JSON text, or bytes; None when it did not complete."""
    if outcome.status is not Status.COMPLETED:
        return None
    result = outcome.result
    return result if isinstance(result, bytes) else json.dumps(result, ensure_ascii=False)


def _same(one: str | bytes | None, other: str | bytes | None) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        # The order of fields does not matter. An empty text stands for no value.
        return bool(json.loads(one or "null") == json.loads(other or "null"))
    return one == other


def _as_granted(task: tasks.Task) -> tasks.Task:
    """Returns what a worker is told of a task: what was scheduled, without what came of it."""
    granted = tasks.Task()
    granted.CopyFrom(task)
    for field in ("attempts", "result", "result_data", "result_is_empty_data", "failure", "progress", "worker"):
        granted.ClearField(field)
    return granted


def _needed(handler: Handler, loaded: Loaded) -> tuple[str, ...]:
    """Returns the plugins of a run: the handler's, and those with lifespans or hooks, as for an isolated task."""
    return tuple({handler.plugin, *(plugin.name for plugin in loaded.plugins if plugin.is_shared)})


class _Breaking:
    """Starts a debugger when a handler is called, in whatever thread that is."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._code = getattr(inspect.unwrap(function), "__code__", None)

    def called(self, frame: Any, event: str, argument: Any) -> Any:
        """Is told by the interpreter of each call."""
        if frame.f_code is not self._code:
            return None
        # Imported only now, because it is seldom needed.
        import pdb  # noqa: T100 - it was asked for

        debugger = pdb.Pdb()
        debugger.reset()
        debugger.set_step()
        sys.settrace(debugger.trace_dispatch)
        return debugger.trace_dispatch(frame, event, argument)

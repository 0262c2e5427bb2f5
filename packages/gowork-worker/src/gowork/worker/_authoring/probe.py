"""Looks at one plugin in a process of its own, which `check` starts: what loading it does, or what a run of it does.

It is told what to do by its argument, and writes what it found to a file: what a plugin prints goes elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import linecache
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gowork.base import extensions
from gowork.worker._authoring.surroundings import Surroundings
from gowork.worker._core import echo
from gowork.worker._core.calls import Handler
from gowork.worker._core.descriptions import describe
from gowork.worker._core.plugins import ENTRY_POINT_GROUP, Loaded, add_search_path, load
from gowork.worker._core.selection import Selection
from gowork.worker.testing import FailureKind, FakeClock, Fault, HandlerStuck, Outcome, Status, cancel
from gowork.worker.testing._noting import Token
from gowork.worker.testing._run import RunOptions, plan_of, run_plan

#: The plugin that is no entry point.
BUILT_IN = "echo"
#: How often it is looked whether the loop moves, in seconds; and in how many looks one after the other a handler may
#: not have waited. Looks are counted rather than time: a look needs the interpreter lock, which a thread keeps while
#: the machine lets it wait for a processor. So that a busy machine is not the handler's fault.
_TICK_SECONDS = 0.01
_BLOCKED_LOOKS = 10
#: What they take at least.
BLOCKED_SECONDS = _TICK_SECONDS * _BLOCKED_LOOKS
#: The flags of code that awaits: of coroutines, and of what they may be made of.
_AWAITING = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
#: The time limit of a run that is to run out of time, and how far each look at `ctx.cancelled` moves its clock.
_LIMIT_SECONDS = 0.001


#: {what a probe does: what a handler's end may come before}
_BEFORE = {"cancel": "before it could be cancelled", "limit": "before its time ran out"}


class Request(Struct, frozen=True):
    """What a probe is to do."""

    #: A plugin or a distribution, or the module of --import.
    plugin: str
    is_module: bool
    #: Where it writes what it found.
    answer: str
    what: Literal["load", "names", "run", "cancel", "limit"] = "load"
    handler: str = ""
    payload: str = ""
    #: With "names": what its plugins are called.
    names: tuple[str, ...] = ()
    #: How long a run may take, in seconds of real time.
    run_seconds: float = 5.0


class Found(Struct):
    """What it found."""

    #: Of "load": what its plugins are called.
    names: list[str] = []
    #: Of "load": {handler: its options and form, as a text}; the same in each process.
    handlers: dict[str, str] = {}
    #: Of "load": the handlers whose payload has no schema.
    unschemed: list[str] = []
    #: Of "load": the handlers whose payload's schema is too large for clients to see.
    oversized: list[str] = []
    #: Of "load": which handlers are async.
    asyncs: list[str] = []
    seconds: float = 0.0
    #: What is wrong, each in a sentence.
    faults: list[str] = []
    #: What was left behind.
    left: list[str] = []
    #: Of "run": where an async handler blocks its loop.
    blocks: list[str] = []
    #: How a run ended, in a few words.
    ended: str = ""
    #: Of "cancel" and "limit": why nothing is known of how the handler stops; empty: it is.
    untried: str = ""


def main() -> None:
    """Does what the file that the argument names asks for."""
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)
    if request.is_module:
        add_search_path("")
    found = Found()
    selection = _selection(request)
    # What gowork itself loads is no business of the plugin's.
    _ = echo, asyncio.new_event_loop().close()
    before = Surroundings()
    began = time.monotonic()
    loaded = load(selection)
    if request.what == "load":
        found.seconds = time.monotonic() - began
        _look_at(loaded, found)
    elif request.what == "names":
        found.faults = [error.reason for error in loaded.errors if _is_of(error.plugin, request.names)]
    else:
        before = Surroundings()
        _try(loaded, request, found)
    found.left = before.left_until(Surroundings())
    Path(request.answer).write_bytes(msgspec.json.encode(found))


def _selection(request: Request) -> Selection:
    imports = (request.plugin,) if request.is_module else ()
    if request.what == "names":
        # Beside all others that are installed.
        return Selection(imports=imports)
    return Selection(plugins=() if request.is_module else (request.plugin,), imports=imports)


def _is_of(plugin: str, names: Sequence[str]) -> bool:
    """Whether a plugin has one of these names, to which its origin may have been added."""
    return any(plugin == name or plugin.startswith(f"{name} (") for name in names)


def _look_at(loaded: Loaded, found: Found) -> None:
    found.faults = [error.reason for error in loaded.errors]
    found.names = [plugin.name for plugin in loaded.plugins]
    for name, handler in sorted(loaded.handlers.items()):
        found.handlers[name] = f"{handler.options} {handler.form}"
        if handler.decode is not None and not handler.form and _is_typed(handler):
            found.unschemed.append(name)
        if "payload" in describe(handler)[1]:
            found.oversized.append(name)
        if handler.is_async:
            found.asyncs.append(name)
    if not loaded.handlers and not loaded.errors:
        found.faults.append("it offers no handler: write @handler above a function of its module")


def _is_typed(handler: Handler) -> bool:
    parameters = list(inspect.signature(handler.function).parameters.values())
    return parameters[int(handler.takes_context)].annotation is not inspect.Parameter.empty


def _try(loaded: Loaded, request: Request, found: Found) -> None:
    handler = loaded.handlers[request.handler]
    # A plain handler is cancelled at its first look at ctx.cancelled at the latest, however fast its thread is.
    faults: dict[str, list[Fault]] = {"run": [], "cancel": [cancel(after=0.0), cancel(at_check=1)], "limit": []}
    options: RunOptions = {
        "imports": _modules(request),
        "faults": faults[request.what],
        "patience": request.run_seconds,
    }
    if request.what == "limit":
        # A plain handler stops where it looks at `ctx.cancelled`, so that is when the time runs out.
        options |= {"time_limit": _LIMIT_SECONDS, "clock": FakeClock(check_seconds=_LIMIT_SECONDS)}
    began = time.monotonic()
    with _BlockWatch(handler.function) if handler.is_async else contextlib.nullcontext() as watch:
        try:
            plan = plan_of(handler.name, request.payload, options)
            # What else is wrong with the plugin was found when it was loaded.
            outcome = run_plan(replace(plan, is_lenient=True), own_thread=False)
        except HandlerStuck as error:
            found.faults.append(f"{error}. --run-seconds allows more")
            return
    if watch is not None and request.what == "run":
        found.blocks = watch.faults
    found.seconds = time.monotonic() - began
    found.ended = str(outcome.status)
    if outcome.was_killed:
        found.faults.append("it went on past its grace, so a worker would have ended its process")
    elif request.what != "run":
        found.untried = _untried(request.what, outcome, is_async=handler.is_async)
    elif outcome.status is not Status.COMPLETED:
        why = outcome.failure.message if outcome.failure is not None else outcome.reason
        what = "it does not take the payload of --try" if _is_rejected(outcome) else f"it {_in_words(outcome)}"
        found.faults.append(f"{what}: {why}")


def _is_rejected(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.kind is FailureKind.REJECTED


def _in_words(outcome: Outcome) -> str:
    return outcome.status.replace("_", " ")


def _untried(what: str, outcome: Outcome, *, is_async: bool) -> str:
    """Returns why a run does not show how the handler stops; empty when it does."""
    if outcome.status is (Status.CANCELLED if what == "cancel" else Status.TIMED_OUT):
        return ""
    if _is_rejected(outcome):
        return "not run: it does not take the payload of --try"
    context = outcome.context
    is_asked = context is not None and isinstance(context.cancelled, Token) and context.cancelled.is_set
    before = "although it was asked to stop" if is_asked else _BEFORE[what]
    advice = "give a payload that takes longer"
    if not is_async:
        advice += ", and let the handler look at ctx.cancelled meanwhile"
    return f"it ended ({_in_words(outcome)}) {before}: {advice}"


def _modules(request: Request) -> list[str]:
    """Returns the modules that have the handlers of the plugin."""
    if request.is_module:
        return [request.plugin]
    if request.plugin == BUILT_IN:
        return [echo.__name__]
    return [
        point.value.partition(":")[0]
        for point in extensions.installed(ENTRY_POINT_GROUP)
        if request.plugin in (point.name, point.distribution)
    ]


class _BlockWatch:
    """Looks from another thread whether an async handler keeps its loop from moving.

    While a coroutine waits it is on no thread's stack, and each time that it goes on, the loop calls it anew, from
    another frame. So one that is found there again and again, below the same frame, has not waited meanwhile.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.faults: list[str] = []
        self._code = inspect.unwrap(function).__code__
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _BlockWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        # Kept, so that no other frame gets its place in memory.
        step: FrameType | None = None
        looks = 0
        while not self._ended.wait(_TICK_SECONDS):
            frames = self._frames()
            here = _step_of(frames[-1]) if frames else None
            if here is None or here is not step:
                step, looks = here, 0
                continue
            looks += 1
            # Each step is told of once.
            if looks == _BLOCKED_LOOKS:
                self.faults.append(f"it blocks its loop for more than {BLOCKED_SECONDS:g} s at {self._place(frames)}")

    def _frames(self) -> list[FrameType]:
        """Returns the frames of the handler and of what it calls, the innermost first; none while it waits."""
        for innermost in sys._current_frames().values():  # noqa: SLF001 - there is no other way
            frames: list[FrameType] = []
            frame: FrameType | None = innermost
            while frame is not None:
                frames.append(frame)
                if frame.f_code is self._code:
                    return frames
                frame = frame.f_back
        return []

    def _place(self, frames: list[FrameType]) -> str:
        """Returns the innermost line that lies beside the handler."""
        folder = os.path.dirname(self._code.co_filename)
        frame = next(frame for frame in frames if os.path.dirname(frame.f_code.co_filename) == folder)
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        return f"{frame.f_code.co_filename}:{frame.f_lineno}: {line}"


def _step_of(frame: FrameType) -> FrameType | None:
    """Returns the frame from which a loop goes on with a coroutine: the nearest around it that is of a function."""
    outer: FrameType | None = frame
    while outer is not None and outer.f_code.co_flags & _AWAITING:
        outer = outer.f_back
    return outer


if __name__ == "__main__":
    main()

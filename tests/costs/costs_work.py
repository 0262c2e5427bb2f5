"""Measures how much the interpreter does, in numbers that do not depend on the machine or on its other programs."""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: {piece of a file's path: the part of gowork that the file belongs to}. The first that the path contains counts.
_PARTS = {
    "/gowork/leader/": "leader",
    "/gowork/client/": "client",
    "/gowork/worker/_runner/": "runner",
    "/gowork/worker/_core/": "runner",
    "/gowork/worker/": "supervisor",
    "/gowork/": "base",
}
#: Seconds after which the interpreter takes a thread's turn away: longer than any count takes.
_TURN_SECONDS = 1000.0


class Work:
    """Counts calls and objects by the part whose code makes them.

    Calls are those of gowork's own functions, including each step of a coroutine or generator, and the calls of C
    functions from these. Objects are those that the garbage collector tracks and that are newly allocated, because
    CPython reuses objects of some kinds.
    """

    def __init__(self) -> None:
        #: {(part, function): calls}; functions of C are indented.
        self.functions: Counter[tuple[str, str]] = Counter()
        self._on = False
        self._calls: Counter[str] = Counter()
        self._objects: Counter[str] = Counter()
        #: {id of a code object: part}, because hashing the object takes long; and the objects, to keep them alive.
        self._parts: dict[int, str] = {}
        self._codes: list[Any] = []
        #: The number of young objects after the last event, and the part that has run since then.
        self._young = 0
        self._running = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches this thread, and those that are started meanwhile. They take turns only where they wait."""
        # Where one thread takes over from another in the middle of its work, objects of both are there at once that
        # otherwise follow each other, and some count for the wrong part: up to 800 on a busy machine.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_TURN_SECONDS)
        threading.setprofile(self._event)
        sys.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            sys.setswitchinterval(interval)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what the watched threads do."""
        # A collection would reset the number of young objects.
        gc.collect()
        gc.disable()
        self._young = gc.get_count()[0]
        self._on = True
        yield
        self._on = False
        gc.enable()

    def costs(self) -> dict[str, int]:
        """The calls and objects that were counted, in sum and by part."""
        costs: dict[str, int] = {}
        for name, numbers in (("calls", self._calls), ("objects", self._objects)):
            of_parts = {f"{name}: {part}": number for part, number in numbers.items() if part}
            costs |= of_parts | {name: sum(of_parts.values())}
        return costs

    def _event(self, frame: Any, event: str, argument: Any) -> None:
        if not self._on:
            return
        young = gc.get_count()[0]
        if young > self._young:
            self._objects[self._running] += young - self._young
        if event == "return":
            self._running = self._part(frame.f_back.f_code) if frame.f_back is not None else ""
        else:
            part = self._running = self._part(frame.f_code)
            if part and event in ("call", "c_call"):
                self._calls[part] += 1
                name = frame.f_code.co_qualname if event == "call" else f"  {argument.__qualname__}"
                self.functions[part, name] += 1
        self._young = gc.get_count()[0]

    def _part(self, code: Any) -> str:
        part = self._parts.get(id(code))
        if part is None:
            part = next((part for path, part in _PARTS.items() if path in code.co_filename), "")
            self._parts[id(code)] = part
            self._codes.append(code)
        return part

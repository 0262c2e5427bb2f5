"""Where a handler runs in a test, and where it is when it does not end."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

from gowork.worker._runner.job import Job


class HandlersThread:
    """A thread in which a handler runs: one of its own, or that of the test, which takes its work from a queue."""

    def __init__(
        self,
        calls: SimpleQueue[Callable[[], None] | None] | None,
        ended: Callable[[], None],
        *,
        target: Callable[..., None],
        args: tuple[Any, ...],
        name: str,
        daemon: bool,
    ) -> None:
        self._calls = calls
        self._tell_ended = ended
        self._work = partial(target, *args)
        self._is_alive = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=daemon)

    def start(self) -> None:
        """Starts the work, as threading.Thread does."""
        self._is_alive = True
        if self._calls is None:
            self._thread.start()
        else:
            self._calls.put(self._run)

    def is_alive(self) -> bool:
        """Whether the work goes on."""
        return self._is_alive

    def _run(self) -> None:
        try:
            # Empty, as in a runner's thread: a handler sees no context variable of the test.
            contextvars.Context().run(self._work)
        finally:
            self._is_alive = False
            self._tell_ended()


def place_of(job: Job, idents: set[int]) -> str:
    """Returns where the handler is, in words; empty where that cannot be seen."""
    code = getattr(job.handler.function, "__code__", None)
    awaited = job.future.get_coro() if job.future is not None else None
    frames = [frame for ident, frame in sys._current_frames().items() if ident in idents]  # noqa: SLF001 - no public name says it
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None)
        if frame is not None:
            frames.append(frame)
        awaited = getattr(awaited, "cr_await", None)
    for frame in frames:
        each: Any = frame
        while each is not None:
            if each.f_code is code:
                return f", in line {each.f_lineno} of {code.co_filename}"
            each = each.f_back
    return ""

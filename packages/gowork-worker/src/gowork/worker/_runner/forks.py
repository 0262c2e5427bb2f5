"""Keeps a child that a handler forks from acting in the runner's place.

Such a child has copies of the runner's pipe, its locks, and its loop with all that waits there. The child may do its
own work, start another program, or end by itself, as children of multiprocessing do. It must not read what the
supervisor sends, answer, run other tasks a second time, or hold the runner's locks. When it returns from the handler,
or waits for the loop, it is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import signal
import sys
import threading
from collections.abc import Iterable

from gowork.worker.processes import forget_held

#: The exit code of a child that waits for the loop, where nothing would ever wake it.
EXIT_WAITING = 70

#: 0 in a runner, 1 in a child that it has forked, 2 in a child of that one. Read from any thread.
generation = 0

_descriptors: list[int] = []
_loops: list[asyncio.AbstractEventLoop] = []
_registered = False


def watch(descriptors: Iterable[int] = (), loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Takes the runner's descriptors from each child that is forked from now on.

    Args:
        descriptors: those that a child must not hold.
        loop: the runner's own, with a ForkedSelector.
    """
    global _registered  # noqa: PLW0603 - a fact of the process
    _descriptors.extend(descriptors)
    if loop is not None:
        _loops.append(loop)
    if not _registered:
        _registered = True
        os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals_through, after_in_child=_disown)


def leave(code: int) -> None:
    """Flushes what a forked child has printed, and ends it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


class ForkedSelector(selectors.DefaultSelector):
    """The selector with which the runner's loop waits. A forked child that waits here is ended."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Waits as its base class does."""
        if generation:
            leave(EXIT_WAITING)
        return super().select(timeout)


#: Signals that a runner ignores, because its supervisor decides, and that its children must heed.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: `mask` is the signal mask of the thread that forks.
_forking = threading.local()


def _hold_signals() -> None:
    # Held back until the child heeds them. Otherwise a signal that comes right after the fork would have no effect.
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _disown() -> None:
    """Runs in the child, before it returns from fork."""
    global generation  # noqa: PLW0603 - a fact of the process
    generation += 1
    # They are replaced, not closed: objects that have these numbers close them later, and would close other files.
    with open(os.devnull, "r+b", buffering=0) as null:
        for descriptor in _descriptors:
            with contextlib.suppress(OSError):
                os.dup2(null.fileno(), descriptor, inheritable=False)
    forget_held()
    for loop in _loops:
        # The child runs one step of one task. All else that is ready is for other tasks. No public name leads there.
        for handle in list(getattr(loop, "_ready", ())):
            handle.cancel()
    if _loops:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_signals_through()

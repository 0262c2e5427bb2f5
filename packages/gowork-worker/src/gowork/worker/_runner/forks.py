"""Keeps a child that a handler forks from acting in the runner's place.

Such a child has copies of all that the runner has: its pipe, its locks, its loop with all that waits there. It may do
its own work, and start another program or end by itself, as those of multiprocessing do. It may not read what the
supervisor sends, answer, run its neighbours' tasks a second time, or hold the runner's locks; when it comes back from
the handler, or waits for the loop, it is ended.
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

#: What the child exits with that waits for the loop: nobody would ever answer it.
_EXIT_WAITING = 70

#: How often this process has been forked since the runner that it copies: 0 in a runner. Read from any thread.
generation = 0

_descriptors: list[int] = []
_loops: list[asyncio.AbstractEventLoop] = []
_registered = False


def watch(descriptors: Iterable[int] = (), loop: asyncio.AbstractEventLoop | None = None) -> None:
    """From now on takes the runner's descriptors from each child.

    Args:
        descriptors: what a child must not hold.
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
    """Ends a forked child, after its prints are written."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


class ForkedSelector(selectors.DefaultSelector):
    """What the runner's loop waits with. A child that comes to wait here is ended."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As its base class does."""
        if generation:
            leave(_EXIT_WAITING)
        return super().select(timeout)


#: What a runner leaves to its supervisor, and its children must heed.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: `mask`: that of the thread which forks.
_forking = threading.local()


def _hold_signals() -> None:
    # Until the child heeds them: one that is terminated as soon as it is there would throw the signal away.
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _disown() -> None:
    """Runs in the child, before it returns from fork."""
    global generation  # noqa: PLW0603 - a fact of the process
    generation += 1
    # Not closed: what still refers to the numbers, and closes them later, would close another's.
    with open(os.devnull, "r+b", buffering=0) as null:
        for descriptor in _descriptors:
            with contextlib.suppress(OSError):
                os.dup2(null.fileno(), descriptor, inheritable=False)
    forget_held()
    for loop in _loops:
        # The child is within one step of one task. What else is ready belongs to others; no public name leads there.
        for handle in list(getattr(loop, "_ready", ())):
            handle.cancel()
    if _loops:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_signals_through()

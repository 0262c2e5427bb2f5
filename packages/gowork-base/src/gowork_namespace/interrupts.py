"""Makes Ctrl-C end a program at once, without a traceback, while the program begins and ends.

It is in this package and imports next to nothing, because a program must call it first.
"""

from __future__ import annotations

import os
import signal

#: The exit code that shells report for a program that Ctrl-C has ended.
EXIT_INTERRUPTED = 128 + signal.SIGINT


class ending_on_interrupt:  # noqa: N801 - it is used as a function; contextlib would have to be imported first
    """A context in which Ctrl-C ends the process at once with exit code 130, without a traceback.

    It is for imports and the last moments. A process that was started with SIGINT ignored goes on ignoring it.
    """

    def __enter__(self) -> None:
        self._before = signal.getsignal(signal.SIGINT)
        end_on_interrupt()

    def __exit__(self, *_: object) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)


def end_on_interrupt() -> None:
    """Makes Ctrl-C end the process as in ending_on_interrupt, from now on."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_interrupted)


def end_interrupted(_number: int, _frame: object) -> None:
    """Handles SIGINT: ends the process at once, without output."""
    os._exit(EXIT_INTERRUPTED)

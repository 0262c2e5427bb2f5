"""Ctrl-C while a program begins and ends: it ends at once, without a traceback.

It lies here and imports next to nothing, because it has to be the first thing that a program does.
"""

from __future__ import annotations

import os
import signal

#: What shells tell of a program that Ctrl-C has ended.
EXIT_INTERRUPTED = 128 + signal.SIGINT


class ending_on_interrupt:  # noqa: N801 - it is used as a function; contextlib would have to be imported first
    """Meanwhile Ctrl-C ends the process at once with 130, without a traceback. For imports and the last moments.

    A process that was started with SIGINT ignored, as by `nohup`, goes on ignoring it.
    """

    def __enter__(self) -> None:
        self._before = signal.getsignal(signal.SIGINT)
        end_on_interrupt()

    def __exit__(self, *_: object) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)


def end_on_interrupt() -> None:
    """As ending_on_interrupt, from now on."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_interrupted)


def end_interrupted(_number: int, _frame: object) -> None:
    """A handler of SIGINT: ends the process without another word."""
    os._exit(EXIT_INTERRUPTED)

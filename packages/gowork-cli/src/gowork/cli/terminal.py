"""Reads keys from the terminal at once, for a live view. However the view ends, the terminal is restored."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: The exit code that shells report for a process that SIGTERM has ended.
EXIT_TERMINATED = 128 + signal.SIGTERM


class Keys:
    """The keys that are pressed."""

    def __init__(self, descriptor: int | None) -> None:
        """`descriptor` is a terminal's; None when there is no terminal to read from."""
        self._descriptor = descriptor

    def wait(self, seconds: float) -> str:
        """Waits at most `seconds` for a key. Returns "" if none was pressed, and "q" also if the terminal is gone."""
        if self._descriptor is None:
            time.sleep(max(seconds, 0))
            return ""
        ready, _, _ = select.select([self._descriptor], [], [], max(seconds, 0))
        if not ready:
            return ""
        return os.read(self._descriptor, 1).decode(errors="replace") or "q"


@contextmanager
def keys() -> Iterator[Keys]:
    """Reads keys from standard input as they are pressed, without echo, if standard input is a terminal.

    Ctrl-C still interrupts. Ctrl-Z is a key like others. SIGTERM ends the view and restores the terminal.
    """
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        if sys.platform == "win32" or sys.stdin is None or not sys.stdin.isatty():
            yield Keys(None)
            return
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        modes = termios.tcgetattr(descriptor)
        try:
            tty.setcbreak(descriptor)
            own = termios.tcgetattr(descriptor)
            # If Ctrl-Z suspended the process, the shell would be left with the view's screen, without a cursor.
            own[6][termios.VSUSP] = bytes([os.fpathconf(descriptor, "PC_VDISABLE")])
            termios.tcsetattr(descriptor, termios.TCSADRAIN, own)
            yield Keys(descriptor)
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, modes)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _exit(_number: int, _frame: FrameType | None) -> None:
    sys.exit(EXIT_TERMINATED)

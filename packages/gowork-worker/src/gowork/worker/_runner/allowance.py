"""How many lines of a kind the log may have in a second, and how many were left out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds of one window.
_WINDOW = 1.0


class Allowance:
    """Counts lines by a key. May be used from any thread."""

    def __init__(self, key_lines_max: int, lines_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        key_lines_max: lines of one key in a second.
        lines_max: lines of all keys together.
        clock: in seconds.
        """
        self._key_lines_max, self._lines_max = key_lines_max, lines_max
        self._clock = clock
        #: Guards all that follows. It is held for a few instructions only.
        self._lock = threading.Lock()
        self._window_ends = 0.0
        #: key -> lines in this window
        self._lines: dict[str, int] = {}
        #: key -> what has left no line
        self.suppressed: dict[str, int] = {}

    def admit(self, key: str) -> int | None:
        """How many of the key were suppressed before this one; None when this one is too."""
        now = self._clock()
        with self._lock:
            if now >= self._window_ends:
                self._window_ends = now + _WINDOW
                self._lines.clear()
            lines = self._lines.get(key, 0)
            if lines >= self._key_lines_max or sum(self._lines.values()) >= self._lines_max:
                self.suppressed[key] = self.suppressed.get(key, 0) + 1
                return None
            self._lines[key] = lines + 1
            return self.suppressed.pop(key, 0)

    def left_out(self) -> dict[str, int]:
        """What was suppressed and has had no later line to be told in, each once. Cheap while there is nothing."""
        if not self.suppressed or self._clock() < self._window_ends:
            return {}
        with self._lock:
            suppressed, self.suppressed = self.suppressed, {}
        return suppressed

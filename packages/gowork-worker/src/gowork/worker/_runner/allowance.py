"""Bounds how many lines a log gets in a second, and counts those that are left out."""

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
        key_lines_max: most lines of one key in a second.
        lines_max: most lines of all keys together in a second.
        clock: in seconds.
        """
        self._key_lines_max, self._lines_max = key_lines_max, lines_max
        self._clock = clock
        #: Guards all that follows. It is held for a few instructions only.
        self._lock = threading.Lock()
        self._window_ends = 0.0
        #: {key: lines in this window}
        self._lines: dict[str, int] = {}
        #: {key: lines left out since its last line}
        self.suppressed: dict[str, int] = {}

    def admit(self, key: str) -> int | None:
        """Returns how many lines of the key were left out before this one; None when this one is left out too."""
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
        """Returns {key: lines left out} that no later line has told, each once. Cheap while there are none."""
        if not self.suppressed or self._clock() < self._window_ends:
            return {}
        with self._lock:
            suppressed, self.suppressed = self.suppressed, {}
        return suppressed

"""What comes of a container's output: its beginning and end are kept, and its lines go to the log, up to a bound."""

from __future__ import annotations

import logging
from typing import Literal

logger = logging.getLogger(__name__)

#: How many lines of one output go to the log, and how many bytes of each.
LINES_MAX = 1000
LINE_BYTES_MAX = 2000


class Output:
    """One output of a container."""

    def __init__(self, name: Literal["stdout", "stderr"], bytes_max: int) -> None:
        self._name = name
        self._head_max = bytes_max - bytes_max // 2
        self._tail_max = bytes_max // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0
        #: The beginning of a line that has not ended, cut to LINE_BYTES_MAX.
        self._line = bytearray()
        self._lines = 0

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._log(data)
        room = self._head_max - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        # It is cut only when it has grown well beyond its bound, so that each byte moves once on average.
        if len(self._tail) > 2 * self._tail_max + (64 << 10):
            self._cut()

    def end(self) -> None:
        """Takes note that nothing follows."""
        if self._line:
            self._say()
        self._cut()

    @property
    def truncated(self) -> bool:
        """Whether a part is left out, once the output has ended."""
        return self._dropped > 0

    def text(self) -> str:
        """Returns what was kept, with a note where a part is left out."""
        if not self._dropped:
            return bytes(self._head + self._tail).decode(errors="replace")
        head, tail = (bytes(part).decode(errors="replace") for part in (self._head, self._tail))
        return f"{head}\n[{self._dropped} bytes left out]\n{tail}"

    def _cut(self) -> None:
        excess = len(self._tail) - self._tail_max
        if excess > 0:
            self._dropped += excess
            del self._tail[:excess]

    def _log(self, data: bytes) -> None:
        while data and self._lines <= LINES_MAX:
            line, end, data = data.partition(b"\n")
            self._line += line[: LINE_BYTES_MAX - len(self._line)]
            if end:
                self._say()

    def _say(self) -> None:
        self._lines += 1
        if self._lines <= LINES_MAX:
            text = bytes(self._line).decode(errors="replace")
            logger.info("container output", extra={"output": self._name, "line": text})
        else:
            logger.warning(
                "further container output is not logged", extra={"output": self._name, "lines_max": LINES_MAX}
            )
        self._line.clear()

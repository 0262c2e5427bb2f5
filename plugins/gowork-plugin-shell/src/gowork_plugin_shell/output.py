"""Keeps the beginning and the end of an output of any length."""

from __future__ import annotations

from collections import deque


class Output:
    """Keeps at most `bytes_max` bytes of an output, and a little more while the output comes."""

    def __init__(self, bytes_max: int) -> None:
        self._head_max = bytes_max - bytes_max // 2
        self._tail_max = bytes_max // 2
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the output."""
        room = self._head_max - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail.append(data)
            self._tail_bytes += len(data)
        while self._tail and self._tail_bytes - len(self._tail[0]) >= self._tail_max:
            dropped = self._tail.popleft()
            self._tail_bytes -= len(dropped)
            self._dropped += len(dropped)

    @property
    def truncated(self) -> bool:
        """Whether a part of the output is left out."""
        return self._dropped > 0 or self._tail_bytes > self._tail_max

    def text(self) -> str:
        """Returns what was kept, with a note where a part is left out."""
        tail = b"".join(self._tail)
        if not self.truncated:
            return (bytes(self._head) + tail).decode(errors="replace")
        excess = max(0, len(tail) - self._tail_max)
        head, end = self._head.decode(errors="replace"), tail[excess:].decode(errors="replace")
        return f"{head}\n[{self._dropped + excess} bytes left out]\n{end}"

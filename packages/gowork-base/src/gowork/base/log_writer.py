"""Writes lines to a file descriptor on a thread of its own, so that no thread that logs waits for the reader.

The reader of standard error may stop reading: a pager, a full pipe, a log collector that hangs. Owns the lines that
wait to be written, within a bound, and the count of those that were dropped. Never blocks its callers.
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable

#: How many bytes may wait to be written. Further lines are dropped and counted. A single line may be longer.
WAITING_BYTES_MAX = 8 << 20
#: How many bytes are written at once, nearly.
_CHUNK_BYTES = 64 << 10
#: How long the end of the process waits for unwritten lines, in seconds.
FLUSH_SECONDS = 2.0


class LogWriter:
    """A queue of lines, and the thread that writes them. Threads, signal handlers and finalizers may all use it."""

    def __init__(
        self, descriptor: int, notice: Callable[[int], bytes], *, waiting_bytes_max: int = WAITING_BYTES_MAX
    ) -> None:
        """Args:
        descriptor: where to write. It must stay open for as long as this writer is used.
        notice: makes the line that says how many lines were dropped.
        waiting_bytes_max: how many bytes may wait.
        """
        self.descriptor = descriptor
        self._notice = notice
        self._waiting_bytes_max = waiting_bytes_max
        self._process = os.getpid()
        #: Guards the fields below. The thread that holds the lock may take it again, because a signal handler or a
        #: finalizer may log while that thread is in here.
        self._changed = threading.Condition(threading.RLock())
        self._lines: deque[bytes] = deque()
        #: Bytes of the lines that wait, and of those that are being written.
        self._bytes = 0
        #: How many lines were dropped since the last notice.
        self._dropped = 0
        #: Whether the last write failed. The lines that it lost are then counted in a notice before the next line.
        self._failed = False
        self._closed = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: bytes, lines: int = 1) -> None:
        """Queues a line, which must end with a newline. Drops and counts it when too many bytes wait already.

        Args:
            line: one line, or several at once.
            lines: how many.
        """
        if os.getpid() != self._process:
            # The child of a fork has no thread that writes, and perhaps a lock that nobody will give back.
            _write(self.descriptor, line)
            return
        with self._changed:
            if self._closed and not self._bytes:
                # The process ends, and the reader has read everything so far.
                _write(self.descriptor, line)
                return
            if self._closed or (self._bytes and self._bytes + len(line) > self._waiting_bytes_max):
                self._dropped += lines
                return
            self._append_notice()
            self._append(line)
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Waits at most `seconds` until everything is written. Returns whether it is."""
        if os.getpid() != self._process:
            return True
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._bytes and (not self._dropped or self._failed), timeout=seconds
            )

    def close(self, seconds: float) -> None:
        """Flushes for at most `seconds`, and ends the thread. A later line is written by its caller.

        If lines are still unwritten because the reader does not read, later lines are dropped.
        """
        self.flush(seconds)
        if os.getpid() == self._process:
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)

    def _append_notice(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._append(self._notice(dropped))

    def _run(self) -> None:
        while lines := self._take():
            chunk = b"".join(lines)
            written = _write(self.descriptor, chunk)
            with self._changed:
                self._bytes -= len(chunk)
                self._failed = not written
                if not written:
                    self._dropped += chunk.count(b"\n")
                self._changed.notify_all()

    def _take(self) -> list[bytes]:
        """Waits for lines, and returns the next ones to write: none when this is closed and all are written."""
        with self._changed:
            while not self._lines:
                if not self._failed:
                    self._append_notice()
                if not self._lines:
                    if self._closed:
                        return []
                    self._changed.wait()
            lines, size = [], 0
            while self._lines and size < _CHUNK_BYTES:
                lines.append(self._lines.popleft())
                size += len(lines[-1])
            return lines


class QueuedStream(io.RawIOBase):
    """A stream that hands what is written to a LogWriter; `sys.stderr` writes to one."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def text(self) -> io.TextIOWrapper:
        """Returns a text stream over this one. It passes on whole lines."""
        buffered = io.BufferedWriter(self)
        return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        chunk = bytes(data)  # type: ignore[call-overload]  # a buffer, by the protocol of RawIOBase
        self._writer.put(chunk)
        return len(chunk)

    def fileno(self) -> int:
        return self._writer.descriptor

    def isatty(self) -> bool:
        return os.isatty(self._writer.descriptor)


def _write(descriptor: int, data: bytes) -> bool:
    """Writes all of the data, however long that takes. Returns False when it cannot be written."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            # Another process made the shared terminal or pipe non-blocking.
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError:
            return False
    return True

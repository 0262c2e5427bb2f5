"""Reads what runners, and programs that they start, print, and passes it on by line.

When nobody reads the worker's standard error, neither a handler that prints nor the supervisor waits: the writer has a
bound, drops lines that find no room, and says how many.
"""

from __future__ import annotations

import asyncio
import os
import sys

from gowork.base import logs
from gowork.base.log_writer import FLUSH_SECONDS, LogWriter

#: A line with more bytes than this is passed on in pieces.
LINE_BYTES_MAX = 64 << 10
#: The most pipes of ended runners that stay open for programs that they left running. Beyond it the oldest is closed.
LEFT_MAX = 64
#: Seconds that the end of a runner waits for the end of its output. A program that it left running may hold that open.
_END_SECONDS = 0.2


class Outputs:
    """The outputs of all runners of one supervisor, on its loop."""

    def __init__(self) -> None:
        self._writer: LogWriter | None = None
        #: A writer of this object alone, made when the process's log has none.
        self._own: LogWriter | None = None
        #: Those that may still be open, in the order in which they were opened.
        self._outputs: list[Output] = []

    async def open(self) -> tuple[Output, int]:
        """Makes a pipe. Returns its reader, and the descriptor to write to, which the caller hands on and closes.

        Raises:
            OSError: when the system has no pipe left.
        """
        if self._writer is None:
            self._writer = logs.writer() or self._make_writer()
        reader, descriptor = os.pipe()
        output = Output(self._writer)
        await asyncio.get_running_loop().connect_read_pipe(lambda: output, os.fdopen(reader, "rb", 0))
        self._outputs = [other for other in self._outputs if not other.ended.is_set()]
        left = [other for other in self._outputs if other.is_left]
        for other in left[: max(0, len(left) - LEFT_MAX + 1)]:
            other.close()
        self._outputs.append(output)
        return output, descriptor

    async def close(self) -> None:
        """Reads what is left in the pipes, and closes them."""
        for output in self._outputs:
            await output.drained()
            output.close()
        if self._own is not None:
            await asyncio.to_thread(self._own.close, FLUSH_SECONDS)

    def _make_writer(self) -> LogWriter | None:
        """Within a program with a log of its own: makes a writer to the program's standard error, if that has one."""
        try:
            descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError):
            return None
        self._own = LogWriter(descriptor, _notice)
        return self._own


class Output(asyncio.Protocol):
    """The output of one runner."""

    def __init__(self, writer: LogWriter | None) -> None:
        self._writer = writer
        self._transport: asyncio.ReadTransport | None = None
        #: The beginning of a line whose end has not come.
        self._rest = b""
        #: Set when nobody can write to it any more.
        self.ended = asyncio.Event()
        #: Whether its runner has ended, but a program that it started holds it open.
        self.is_left = False

    # asyncio.Protocol's own annotation is wider.
    def connection_made(self, transport: asyncio.ReadTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        # All whole lines at once, because lines of a few bytes would cost the supervisor more than all else.
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        if end and self._writer is not None:
            self._writer.put(data[:end], data.count(b"\n", 0, end))
        self._rest = data[end:]
        while len(self._rest) > LINE_BYTES_MAX:
            self._put(self._rest[:LINE_BYTES_MAX])
            self._rest = self._rest[LINE_BYTES_MAX:]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._put(self._rest)
            self._rest = b""
        self.ended.set()

    async def drained(self) -> None:
        """Waits until what the runner has printed is passed on, at most `_END_SECONDS`. Call it when that has ended."""
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self.ended.wait()
        except TimeoutError:
            self.is_left = True

    def close(self) -> None:
        """Reads no more."""
        if self._transport is not None:
            self._transport.close()

    def _put(self, line: bytes) -> None:
        if self._writer is not None:
            self._writer.put(line + b"\n")


def _notice(lines: int) -> bytes:
    return f"gowork: {lines} lines that handlers printed were dropped, because standard error was not read\n".encode()

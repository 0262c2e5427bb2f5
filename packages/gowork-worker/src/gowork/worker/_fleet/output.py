"""What runners, and what they start, print: read here and passed on by line.

So whoever does not read the worker's standard error stops neither a handler that prints nor the supervisor: the writer
has a bound, drops what finds no room, and says how much that was.
"""

from __future__ import annotations

import asyncio
import os
import sys

from gowork.base import logs
from gowork.base.log_writer import FLUSH_SECONDS, LogWriter

#: A line that is longer, in bytes, is passed on in pieces.
LINE_BYTES_MAX = 64 << 10
#: Pipes that are kept for what ended runners have left running, at most; the oldest is closed.
LEFT_MAX = 64
#: Seconds that the end of a runner waits for the end of its output, which what it left running may hold open.
_END_SECONDS = 0.2


class Outputs:
    """The outputs of all runners of one supervisor, on its loop."""

    def __init__(self) -> None:
        self._writer: LogWriter | None = None
        #: This object's own: there is no log that has one.
        self._own: LogWriter | None = None
        #: In the order in which they were opened.
        self._outputs: list[Output] = []

    async def open(self) -> tuple[Output, int]:
        """Makes a pipe. Answers its reader, and the descriptor to write to, which the caller hands on and closes.

        Raises:
            OSError: when there is no pipe to be had.
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
        """Reads what there is, and closes all."""
        for output in self._outputs:
            await output.drained()
            output.close()
        if self._own is not None:
            await asyncio.to_thread(self._own.close, FLUSH_SECONDS)

    def _make_writer(self) -> LogWriter | None:
        """Within another program, whose log is its own: writes where that has its standard error."""
        try:
            descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError):
            return None
        self._own = LogWriter(descriptor, _notice)
        return self._own


class Output(asyncio.Protocol):
    """One runner's."""

    def __init__(self, writer: LogWriter | None) -> None:
        self._writer = writer
        self._transport: asyncio.ReadTransport | None = None
        #: The beginning of a line that has no end yet.
        self._rest = b""
        #: Nobody can write to it any more.
        self.ended = asyncio.Event()
        #: Its runner has ended, but what that started holds it open.
        self.is_left = False

    # asyncio.Protocol's own annotation is wider.
    def connection_made(self, transport: asyncio.ReadTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._put(line)
        while len(self._rest) > LINE_BYTES_MAX:
            self._put(self._rest[:LINE_BYTES_MAX])
            self._rest = self._rest[LINE_BYTES_MAX:]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._put(self._rest)
            self._rest = b""
        self.ended.set()

    async def drained(self) -> None:
        """Waits, once the runner has ended, until what it has printed is passed on."""
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

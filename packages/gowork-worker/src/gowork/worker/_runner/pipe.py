"""Frames on the socket pair between supervisor and runner: four bytes of length, one of kind, then the body.

Tasks and reports travel as the messages of the session itself (ConnectResponse towards the runner, ConnectRequest
back). So a task is passed on unparsed, and one frame carries many. Control messages are JSON (messages.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

#: A serialized ConnectResponse or ConnectRequest.
WORK = 0
#: A control message.
CONTROL = 1

_HEADER = struct.Struct("!IB")
#: The largest frame, which bounds what a broken peer can have this side buffer. A batch of results stays far below.
FRAME_BYTES_MAX = 64 << 20


class FrameError(Exception):
    """The peer sent something that is no frame."""


def frame(kind: int, body: bytes) -> bytes:
    """Returns one frame."""
    return _HEADER.pack(len(body), kind) + body


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self, take: Callable[[int, memoryview], None]) -> None:
        """Args:
        take: called with the kind and the body of each frame; the body is valid during the call only.
        """
        self._take = take
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Takes received bytes, and hands on each frame that is complete.

        Raises:
            FrameError: for a frame over the limit.
        """
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        with memoryview(buffer) as view:
            while end - start >= _HEADER.size:
                length, kind = _HEADER.unpack_from(view, start)
                if length > FRAME_BYTES_MAX:
                    raise FrameError(f"a frame has {length} bytes; the limit is {FRAME_BYTES_MAX}")
                stop = start + _HEADER.size + length
                if stop > end:
                    break
                with view[start + _HEADER.size : stop] as body:
                    self._take(kind, body)
                start = stop
        if start:
            del buffer[:start]

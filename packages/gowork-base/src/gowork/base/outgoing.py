"""Bounds the bytes of answers that callers have not read, over all calls of a server's services.

gRPC keeps an answer in memory until the caller's flow control lets it leave. For a caller that does not read, it keeps
one message of each call. Thousands of calls would take gigabytes, and gRPC for Python cannot end one of them. So a
large answer waits for room before gRPC gets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import grpc

from gowork.proto.status import Refusal

#: How many bytes of answers callers may leave unread, over all calls.
UNREAD_BYTES_MAX = 256 << 20
#: An answer of fewer bytes is not counted, because all calls together take little memory for such answers.
COUNTED_BYTES_MIN = 16 << 10
#: How long an answer waits for room, in seconds. Callers that read make room within milliseconds.
ROOM_SECONDS = 5.0


class Later(NamedTuple):
    """A large answer of a stream, made only when there is room, so that a call that waits for room holds no answer."""

    #: About how many bytes the answer takes.
    size: int
    #: Makes the answer, as serialized messages.
    make: Callable[[], Sequence[bytes]]


class Outgoing:
    """Counts the bytes of answers from when gRPC gets them until they have left."""

    def __init__(self, unread_bytes_max: int = UNREAD_BYTES_MAX, *, room_seconds: float = ROOM_SECONDS) -> None:
        self._unread_bytes_max = unread_bytes_max
        self._room_seconds = room_seconds
        self.unread_bytes = 0
        self._room = asyncio.Event()

    async def make_room(self, size: int) -> None:
        """Waits until an answer of `size` bytes may be sent. When no other is unread, it may be sent whatever its size.

        Raises:
            Refusal: RESOURCE_EXHAUSTED; unread answers have left no room for `room_seconds`.
        """
        if self._fits(size):
            return
        try:
            async with asyncio.timeout(self._room_seconds):
                while not self._fits(size):
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            message = (
                f"callers have not read {self.unread_bytes} bytes of answers, and the limit is "
                f"{self._unread_bytes_max}; ask for less at once, or try again later"
            )
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MUCH_UNREAD", message) from None

    @contextmanager
    def sending(self, size: int) -> Iterator[None]:
        """Counts an answer of `size` bytes until this context ends, when the answer has left."""
        self.unread_bytes += size
        try:
            yield
        finally:
            self._left(size)

    def count_for(self, task: asyncio.Task[object], size: int) -> None:
        """Counts an answer of `size` bytes until the asyncio task that serves the call is done."""
        self.unread_bytes += size
        task.add_done_callback(lambda _: self._left(size))

    def _fits(self, size: int) -> bool:
        return not self.unread_bytes or self.unread_bytes + size <= self._unread_bytes_max

    def _left(self, size: int) -> None:
        self.unread_bytes -= size
        self._room.set()

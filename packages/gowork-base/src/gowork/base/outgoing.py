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
#: How many bytes of answers that are made already may wait for room, over all calls. Further ones are refused at once.
WAITING_BYTES_MAX = UNREAD_BYTES_MAX
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
        self._waiting_bytes = 0
        self._room = asyncio.Event()

    async def make_room(self, size: int, *, made: bool = True) -> None:
        """Waits until an answer of `size` bytes may be sent. When no other is unread, it may be sent whatever its size.

        Args:
            size: how many bytes the answer takes.
            made: whether the answer takes them already while it waits.

        Raises:
            Refusal: RESOURCE_EXHAUSTED; unread answers have left no room for `room_seconds`, or too many bytes wait.
        """
        if self._fits(size):
            return
        held = size if made else 0
        if self._waiting_bytes + held > WAITING_BYTES_MAX:
            raise self._refusal()
        self._waiting_bytes += held
        try:
            async with asyncio.timeout(self._room_seconds):
                while not self._fits(size):
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            raise self._refusal() from None
        finally:
            self._waiting_bytes -= held

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

    def _refusal(self) -> Refusal:
        message = (
            f"callers have not read {self.unread_bytes} bytes of answers, and the limit is {self._unread_bytes_max}; "
            "ask for less at once, or try again later"
        )
        return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MUCH_UNREAD", message)

    def _fits(self, size: int) -> bool:
        return not self.unread_bytes or self.unread_bytes + size <= self._unread_bytes_max

    def _left(self, size: int) -> None:
        self.unread_bytes -= size
        self._room.set()

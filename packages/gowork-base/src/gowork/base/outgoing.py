"""Bounds what callers have not read of their answers, over all calls of a server's services.

gRPC keeps an answer until its caller's flow control lets it go, a copy for each call. A caller that does not read holds
one message of each of its calls so; thousands of calls would hold gigabytes, and gRPC for Python offers no way to end
one of them. So a large answer is made room for before gRPC gets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import grpc

from gowork.proto.status import Refusal

#: Bytes of answers that callers have not read yet.
UNREAD_BYTES_MAX = 256 << 20
#: An answer of fewer bytes is not counted: the calls that there may be have little in such.
COUNTED_BYTES_MIN = 16 << 10
#: How long an answer waits for room, in seconds. Callers that read make room within milliseconds.
ROOM_SECONDS = 5.0


class Later(NamedTuple):
    """A large answer of a stream that is made once there is room for it: calls that wait for room hold nothing else."""

    #: What it takes, nearly, in bytes.
    size: int
    #: Makes it: serialized messages.
    make: Callable[[], Sequence[bytes]]


class Outgoing:
    """Counts answers from when they are given to gRPC until they have left."""

    def __init__(self, unread_bytes_max: int = UNREAD_BYTES_MAX, *, room_seconds: float = ROOM_SECONDS) -> None:
        self._unread_bytes_max = unread_bytes_max
        self._room_seconds = room_seconds
        self.unread_bytes = 0
        self._room = asyncio.Event()

    async def make_room(self, size: int) -> None:
        """Waits until an answer of `size` bytes may be sent. One is always sent.

        Raises:
            Refusal: RESOURCE_EXHAUSTED when others that are not read leave no room.
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
                f"answers of {self.unread_bytes} bytes are not read by their callers and the limit is "
                f"{self._unread_bytes_max}; ask for less at once, or try again later"
            )
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MUCH_UNREAD", message) from None

    @contextmanager
    def sending(self, size: int) -> Iterator[None]:
        """Counts an answer of `size` bytes for as long as it is on its way."""
        self.unread_bytes += size
        try:
            yield
        finally:
            self._left(size)

    def count_for(self, task: asyncio.Task[object], size: int) -> None:
        """As `sending`, until this task, which serves the call, is done."""
        self.unread_bytes += size
        task.add_done_callback(lambda _: self._left(size))

    def _fits(self, size: int) -> bool:
        return not self.unread_bytes or self.unread_bytes + size <= self._unread_bytes_max

    def _left(self, size: int) -> None:
        self.unread_bytes -= size
        self._room.set()

"""One stream of heartbeats, which is read even when its caller reads no responses.

The three shapes in which Heartbeat was declared look the same on the wire (docs/decisions/0002-heartbeat.md). A caller
with a client-streaming stub reads no response before the end. After about 13,000 responses its window is full, and the
next response waits for ever. Its heartbeats must count all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from gowork.proto.cluster.v1 import leader_pb2 as pb

#: How long the end of a stream waits for its caller to read the responses before it, in seconds. Then the stream is
#: reset.
UNREAD_SECONDS = 5.0


#: A heartbeat, as a message or as bytes.
BeatT = TypeVar("BeatT")


class HeartbeatStream(Generic[BeatT]):
    """Reads the heartbeats of one caller and answers each, at the caller's pace."""

    def __init__(self, requests: AsyncIterator[BeatT]) -> None:
        self._requests = requests
        #: How many responses the caller has not been sent. A number is enough, because all responses are alike.
        self._owed = 0
        self._changed = asyncio.Event()
        #: Whether the heartbeats have ended, and with which refusal.
        self._over = False
        self._refusal: Exception | None = None
        #: Is set when `responses` has come to the end.
        self._told = asyncio.Event()

    async def responses(self, hear: Callable[[BeatT], Awaitable[None]]) -> AsyncIterator[pb.HeartbeatResponse]:
        """Yields one response for each heartbeat that was heard.

        Raises:
            Exception: what `hear` raised, after all responses before it are sent.
        """
        call = asyncio.current_task()
        assert call is not None
        reading = asyncio.create_task(self._read(hear, call))
        try:
            while True:
                while self._owed:
                    self._owed -= 1
                    yield pb.HeartbeatResponse()
                if self._over:
                    self._told.set()
                    if self._refusal is not None:
                        raise self._refusal
                    return
                self._changed.clear()
                await self._changed.wait()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def end(self, refusal: Exception) -> None:
        """Hears no more. `responses` raises `refusal` after the responses before it are sent."""
        if not self._over:
            self._refusal = refusal
            self._over = True
            self._changed.set()

    async def _read(self, hear: Callable[[BeatT], Awaitable[None]], call: asyncio.Task[object]) -> None:
        try:
            async for request in self._requests:
                await hear(request)
                self._owed += 1
                self._changed.set()
        except Exception as error:  # noqa: BLE001 - `responses` raises it, where it can end the call
            self._refusal = error
        self._over = True
        self._changed.set()
        try:
            async with asyncio.timeout(UNREAD_SECONDS):
                await self._told.wait()
        except TimeoutError:
            # The status waits behind the responses. If the stream were not reset, the caller would never learn that it
            # is no member.
            call.cancel()

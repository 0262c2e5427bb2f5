"""Sends copies of this leader's store to other leaders of its log. See LeaderService.CopyStore.

A copy is kept for a while after its stream has broken, so that who takes it need not begin again. It has no name on the
disk, so that none is left however this ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeVar

import grpc

from gowork.leader._rpc.backups import CHUNK_BYTES, UnreadParts
from gowork.leader.store.protocol import LoggedStore, StoreError
from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.proto.status import Refusal

_T = TypeVar("_T")

#: For how long a copy is kept that nobody reads, in seconds.
KEPT_SECONDS = 60.0


class _Copy:
    """One copy: an open file without a name. It is closed when it was dropped and nobody reads it."""

    def __init__(self, descriptor: int, sha256: bytes) -> None:
        self.id = secrets.token_hex(8)
        self.descriptor = descriptor
        self.sha256 = sha256
        self.size = os.fstat(descriptor).st_size
        self.readers = 0
        self.is_dropped = False
        self.timer: asyncio.TimerHandle | None = None

    def close_if_over(self) -> None:
        if self.is_dropped and not self.readers:
            os.close(self.descriptor)


class Copies(UnreadParts):
    """Has at most one copy of a store.

    Args:
        store: belongs to a log.
    """

    def __init__(self, store: LoggedStore) -> None:
        super().__init__()
        self._store = store
        self._copy: _Copy | None = None
        self._is_making = False

    async def parts(self, request: pb.CopyStoreRequest, applied: int) -> AsyncGenerator[pb.CopyStoreResponse, None]:
        """Yields a copy of the store, from where the request says.

        Args:
            request: see CopyStoreRequest.
            applied: the index of the last entry that the store has applied.

        Raises:
            Refusal: it can't be had here, or not now.
            StoreError: see Store.backup.
        """
        copy = self._begun(request) if request.copy_id else await self._made(request, applied)
        self._begin(copy)
        try:
            offset = request.offset
            while data := await _finished(os.pread, copy.descriptor, CHUNK_BYTES, offset):
                yield pb.CopyStoreResponse(data=data, total_bytes=copy.size, sha256=copy.sha256, copy_id=copy.id)
                offset += len(data)
        finally:
            self._end(copy)

    def drop(self) -> None:
        """Keeps no copy any more. One that is being read is read to its end."""
        copy, self._copy = self._copy, None
        if copy is not None:
            if copy.timer is not None:
                copy.timer.cancel()
            copy.is_dropped = True
            copy.close_if_over()

    def _begin(self, copy: _Copy) -> None:
        copy.readers += 1
        if copy.timer is not None:
            copy.timer.cancel()

    def _end(self, copy: _Copy) -> None:
        copy.readers -= 1
        copy.close_if_over()
        if not copy.is_dropped and not copy.readers:
            copy.timer = asyncio.get_running_loop().call_later(KEPT_SECONDS, self.drop)

    def _begun(self, request: pb.CopyStoreRequest) -> _Copy:
        copy = self._copy
        if copy is None or copy.id != request.copy_id:
            message = f"the copy is kept for {KEPT_SECONDS:g} s, and is there no more; begin a new one"
            raise Refusal(grpc.StatusCode.NOT_FOUND, "COPY_GONE", message)
        if not 0 <= request.offset <= copy.size:
            message = f"the copy has {copy.size} bytes, so it can't go on after {request.offset}"
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "COPY_OFFSET", message)
        return copy

    async def _made(self, request: pb.CopyStoreRequest, applied: int) -> _Copy:
        position = (await self._store.current()).position
        if position is None or position.generation != request.generation:
            message = f"this leader's log has generation {position.generation if position else 'none'}"
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "COPY_GENERATION", message)
        if self._store.copy_format > request.format_max:
            message = f"this leader's store has format {self._store.copy_format}; install a newer version there"
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "COPY_FORMAT", message)
        if applied < request.index_min:
            message = f"this leader's store is at index {applied}, and lacks entries that are needed"
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "COPY_TOO_OLD", message)
        if self._is_making or (self._copy is not None and self._copy.readers):
            message = "another leader takes a copy here; ask another one, or try again when it is done"
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "COPY_RUNNING", message)
        if self._store.scratch is None:
            message = "this leader's store can't be copied"
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "COPY_UNSUPPORTED", message)
        self.drop()
        self._is_making = True
        place = Path(f"{self._store.scratch}-copy")
        try:
            for leftover in (place, Path(f"{place}.part")):
                await asyncio.to_thread(leftover.unlink, missing_ok=True)
            await self._store.backup(place)
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                await _finished(place.unlink)
                self._copy = _Copy(descriptor, await _finished(_sum, descriptor))
            except BaseException:
                os.close(descriptor)
                raise
            return self._copy
        except OSError as error:
            raise StoreError(f"{place} can't be used: {error.strerror or error}.") from error
        finally:
            self._is_making = False


async def _finished(function: Callable[..., _T], *args: object) -> _T:
    """Runs a function in a thread. When it is cancelled, the function has ended all the same."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(running)
    finally:
        if not running.done():
            await asyncio.wait({running})


def _sum(descriptor: int) -> bytes:
    """Returns the SHA-256 over an open file."""
    hashed, offset = hashlib.sha256(), 0
    while data := os.pread(descriptor, CHUNK_BYTES, offset):
        hashed.update(data)
        offset += len(data)
    return hashed.digest()

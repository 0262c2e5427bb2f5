"""Sends copies of the store to clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from gowork.leader._rpc.endings import Endings
from gowork.leader.store.protocol import Store
from gowork.proto.status import Refusal

_log = logging.getLogger(__name__)

#: How many bytes one response carries.
CHUNK_BYTES = 1 << 20
#: How long a caller may leave a part unread, in seconds. Meanwhile nobody else can make a backup, and the copy takes
#: room on the disk.
UNREAD_SECONDS = 60.0


class UnreadParts:
    """Gives up calls whose caller does not read the part that is sent."""

    def __init__(self) -> None:
        self._endings = Endings()

    @contextlib.contextmanager
    def reading(self, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Gives the call up when this lasts UNREAD_SECONDS."""
        serving = asyncio.current_task()
        assert serving is not None
        timer = asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._give_up, serving, context)
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self, serving: asyncio.Task[object], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        _log.warning("backup given up, its caller does not read", extra={"seconds": UNREAD_SECONDS})
        message = f"no part of the backup was read for {UNREAD_SECONDS:g} s, and others may wait; make the backup again"
        refusal = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "BACKUP_UNREAD", message)
        self._endings.end(serving, context, refusal)


class Backups(UnreadParts):
    """Makes one copy of a store at a time, beside the store's own files, and reads it."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._running = False

    async def read_copy(self) -> AsyncGenerator[tuple[bytes, int], None]:
        """Makes a copy of the store as it is now. Yields (part, how many bytes the copy has).

        Raises:
            Refusal: the store can't be copied, or another copy is under way.
            StoreError: see Store.backup.
        """
        place = self._store.scratch
        if place is None:
            message = "this store is not one file; use its own means to make a backup"
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "BACKUP_UNSUPPORTED", message)
        if self._running:
            message = "another backup is under way; try again when it is done"
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "BACKUP_RUNNING", message)
        self._running = True
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="gowork-backup-read") as reader:
            try:
                await self._store.backup(place)
                descriptor = await loop.run_in_executor(reader, _take, place)
                try:
                    total_bytes = os.fstat(descriptor).st_size
                    while data := await loop.run_in_executor(reader, os.read, descriptor, CHUNK_BYTES):
                        yield data, total_bytes
                finally:
                    # On the reader's thread, which may still be reading. To free the disk may also take a while.
                    await loop.run_in_executor(reader, os.close, descriptor)
            finally:
                self._running = False


def _take(place: Path) -> int:
    """Opens the file and removes its name, so that no file is left however this ends."""
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    place.unlink()
    return descriptor

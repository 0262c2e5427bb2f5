"""Copies of the store on their way to clients."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from gowork.leader.store.protocol import Store
from gowork.rpc.status import Refusal

#: What one response carries.
CHUNK_BYTES = 1 << 20


class Backups:
    """Makes one copy at a time, for a moment beside the store's own files, and reads it.

    Args:
        store: what is copied.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running = False

    async def read_copy(self) -> AsyncGenerator[tuple[bytes, int], None]:
        """Parts of a copy as it is now, each with how many bytes there are in all.

        Raises:
            Refusal: when the store can't be copied, or another copy is under way.
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
                    # On its thread, which may be reading; and to give the room back may take a while.
                    await loop.run_in_executor(reader, os.close, descriptor)
            finally:
                self._running = False


def _take(place: Path) -> int:
    """Opens the file and removes its name: however this ends, nothing is left of it."""
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    place.unlink()
    return descriptor

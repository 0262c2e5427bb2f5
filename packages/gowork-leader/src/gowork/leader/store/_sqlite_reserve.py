"""Room on the disk that is kept for what the log already has.

Once the log has an entry, the store has to write it, even when the disk has become full. Then it removes this file.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gowork.leader.store._sqlite_file import make_file
from gowork.leader.store.protocol import StoreFullError

#: The largest batch has 8 MiB. In the database and its log it takes several times as much, as pages.
RESERVE_BYTES = 64 << 20


class Reserve:
    """A file beside the store that takes room and holds nothing.

    Args:
        store: the store's path.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._path = reserve_path(store)
        self._is_held = self._path.is_file() and self._path.stat().st_size == RESERVE_BYTES

    def hold(self) -> None:
        """Makes the file, unless it is there.

        Raises:
            StoreFullError: there is no room for it.
        """
        if self._is_held:
            return
        try:
            if _free_bytes(self._path.parent) < RESERVE_BYTES:
                raise self._too_full("the disk is full")
            descriptor = make_file(self._path)
            try:
                _allocate(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            raise self._too_full(error.strerror or str(error)) from error
        self._is_held = True

    @property
    def has_more(self) -> bool:
        """Whether the file is there, and the disk has room for as much besides."""
        try:
            return self._is_held and _free_bytes(self._path.parent) >= RESERVE_BYTES
        except OSError:
            # The disk is gone, and the next entry will say so.
            return False

    def release(self) -> None:
        """Removes the file, so that its room can be used."""
        self._is_held = False
        self._path.unlink(missing_ok=True)

    def _too_full(self, why: str) -> StoreFullError:
        return StoreFullError(
            f"{self._store} must keep {RESERVE_BYTES >> 20} MiB in {self._path.name} for what the log already has, and "
            f"has no room for that now ({why}). Nothing was written. Free some space, and it goes on."
        )


def reserve_path(store: Path) -> Path:
    """Returns where the reserve of a store is."""
    return Path(f"{store}.reserve")


def _free_bytes(folder: Path) -> int:
    look = os.statvfs(folder)
    return look.f_bavail * look.f_frsize


def _allocate(descriptor: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        return
    # macOS has no such call.
    zeros = bytes(1 << 20)
    for _ in range(RESERVE_BYTES // len(zeros)):
        os.write(descriptor, zeros)

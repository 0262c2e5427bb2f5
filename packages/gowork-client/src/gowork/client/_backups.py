"""Writes a backup as it comes: under another name until it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gowork.client.errors import CallError
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


class BackupFile:
    """What has come of a backup so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = 0
        self.bytes_total = -1

    def take(self, response: scheduler.BackupStoreResponse, progress: Callable[[int, int], object] | None) -> None:
        """Writes the next part."""
        self._file.write(response.data)
        self.bytes += len(response.data)
        self.bytes_total = response.total_bytes
        if progress is not None:
            progress(self.bytes, self.bytes_total)


@contextmanager
def backup_file(path: str | os.PathLike[str]) -> Iterator[BackupFile]:
    """A file for a backup; it is at its path when the body has ended well, and nowhere otherwise.

    Raises:
        FileExistsError: when there is something at the path.
        CallError: when not all of it has come.
    """
    target = Path(path)
    if target.exists():
        raise FileExistsError(f"{target} is there already; name another file")
    building = Path(f"{target}.part")
    try:
        with building.open("wb") as file:
            backup = BackupFile(file)
            yield backup
            if backup.bytes != backup.bytes_total:
                raise CallError(f"the backup broke off after {backup.bytes} of {backup.bytes_total} bytes")
            file.flush()
            os.fsync(file.fileno())
        building.rename(target)
    finally:
        building.unlink(missing_ok=True)

"""Writes a backup to a file, which gets its name when it is complete."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from gowork.client.errors import CallError
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


class BackupFile:
    """The part of a backup that has been received. It is at `path` after `finish`, and is removed without it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Makes an empty file `path`.part.

        Raises:
            FileExistsError: when `path` exists.
            OSError: when the file cannot be made.
        """
        self._path = Path(path)
        if os.path.lexists(self._path):
            raise FileExistsError(f"{self._path} is there already; name another file")
        self._building = Path(f"{self._path}.part")
        # A client that was killed may have left one. A link is removed, never followed.
        self._building.unlink(missing_ok=True)
        # A backup holds payloads and results, so that only its owner may read it.
        self._file = os.fdopen(
            os.open(self._building, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
        )
        self._bytes, self._bytes_total = 0, -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._building.unlink(missing_ok=True)

    @property
    def has_begun(self) -> bool:
        """Whether a part has been received."""
        return self._bytes_total >= 0

    def take(self, response: scheduler.BackupStoreResponse, progress: Callable[[int, int], object] | None) -> None:
        """Writes the next part."""
        self._file.write(response.data)
        self._bytes += len(response.data)
        self._bytes_total = response.total_bytes
        if progress is not None:
            progress(self._bytes, self._bytes_total)

    def finish(self) -> None:
        """Makes the file durable, and renames it to `path`.

        Raises:
            CallError: when bytes are missing.
        """
        if self._bytes != self._bytes_total:
            raise CallError(f"the backup broke off after {self._bytes} of {self._bytes_total} bytes")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._building.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

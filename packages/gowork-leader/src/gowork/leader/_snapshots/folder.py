"""Snapshots in a folder that all leaders share, such as one of NFS.

A snapshot is a file under its name. It is written under another name, forced to disk, read back, and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from gowork.base.directories import sync_directory
from gowork.leader._snapshots.names import Snapshot, in_short, named
from gowork.leader._snapshots.places import CHUNK_BYTES, PlaceError
from gowork.leader._snapshots.stalls import Progress, StallingThread

_T = TypeVar("_T")

#: After how many bytes they are forced to disk, so that none of it takes long.
FORCE_BYTES = 32 << 20
#: The file that has the id of the folder.
MARK = "gowork-snapshots.id"
_PART = ".part"
#: A file that is being written, and was not written to for so long, was left by a process that died, in seconds.
LEFT_SECONDS = 3600.0
_MARK_PATTERN = re.compile(r"[0-9a-f]{32}")


class Folder:
    """See SnapshotPlace.

    Args:
        path: the folder. It is never made, because where a file system is not mounted, it would be in its way.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = StallingThread(str(path))

    def __str__(self) -> str:
        return str(self._path)

    def adopting(self, mark: str) -> str:
        """See SnapshotPlace.adopting."""
        return f"write {mark} into its file {MARK}"

    async def mark(self, *, make: bool) -> str | None:
        """See SnapshotPlace.mark."""
        return await self._run(lambda progress: self._mark(make=make))

    async def snapshots(self) -> list[Snapshot]:
        """See SnapshotPlace.snapshots."""
        return await self._run(self._snapshots)

    async def write(self, snapshot: Snapshot, source: Path) -> None:
        """See SnapshotPlace.write."""
        await self._run(lambda progress: self._write(snapshot, source, progress))

    async def read(self, snapshot: Snapshot, target: Path) -> None:
        """See SnapshotPlace.read."""
        await self._run(lambda progress: self._read(snapshot, target, progress))

    async def remove(self, snapshot: Snapshot) -> None:
        """See SnapshotPlace.remove."""
        await self._run(lambda progress: (self._path / snapshot.name).unlink(missing_ok=True))

    async def close(self) -> None:
        """See SnapshotPlace.close."""

    async def _run(self, function: Callable[[Progress], _T]) -> _T:
        try:
            return await self._thread.run(function)
        except OSError as error:
            raise PlaceError(self._told(error)) from error

    def _told(self, error: OSError) -> str:
        match error.errno:
            case errno.ENOENT | errno.ENOTDIR:
                return f"{self._path} is no folder here; make it, or mount it"
            case errno.ENOSPC | errno.EDQUOT:
                return f"{self._path} is full; it needs room for three snapshots"
            case errno.EROFS:
                return f"{self._path} is read-only; mount it so that all leaders can write to it"
            case errno.EACCES | errno.EPERM:
                return f"{self._path} refuses this leader's user, who must be able to read and write all files in it"
            case _:
                return f"{self._path} can't be used: {error.strerror or error}"

    def _mark(self, *, make: bool) -> str | None:
        path = self._path / MARK
        try:
            with path.open("rb") as file:
                found = file.read(64).decode("ascii", "replace").strip()
        except FileNotFoundError:
            if not self._path.is_dir():
                raise
            if not make:
                return None
            found = secrets.token_hex(16)
            part = self._path / f"{MARK}{_PART}"
            with _made(part) as file:
                file.write(f"{found}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_directory(self._path)
        if _MARK_PATTERN.fullmatch(found) is None:
            raise PlaceError(f"{path} does not have the id of a folder for snapshots; name another folder")
        return found

    def _snapshots(self, progress: Progress) -> list[Snapshot]:
        found = []
        with os.scandir(self._path) as entries:
            for entry in entries:
                progress.made()
                snapshot = named(entry.name)
                # Another leader may have removed it meanwhile.
                with suppress(FileNotFoundError):
                    if snapshot is not None and entry.is_file(follow_symlinks=False):
                        look = entry.stat(follow_symlinks=False)
                        if look.st_size == snapshot.size:
                            found.append(snapshot)
        return found

    def _write(self, snapshot: Snapshot, source: Path, progress: Progress) -> None:
        look = os.statvfs(self._path)
        if look.f_bavail * look.f_frsize < snapshot.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = self._path / f"{snapshot.name}{_PART}"
        try:
            with _made(part) as target:
                self._remove_left(snapshot, os.fstat(target.fileno()).st_mtime)
                with source.open("rb") as data:
                    _copy(data, target, progress)
                target.flush()
                os.fsync(target.fileno())
                # What is read back comes from the disk, or from the other machine.
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with part.open("rb") as written:
                if _copy(written, None, progress) != snapshot.sha256:
                    raise PlaceError(f"{self._path} gives back other bytes than were written; don't trust it")
            progress.made()
            part.rename(self._path / snapshot.name)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        sync_directory(self._path)

    def _remove_left(self, snapshot: Snapshot, now: float) -> None:
        """Removes what dead processes left of this generation. The time is the file system's own."""
        for path in self._path.glob(f"gowork-{snapshot.position.generation}-*{_PART}"):
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime > LEFT_SECONDS:
                    path.unlink()

    def _read(self, snapshot: Snapshot, target: Path, progress: Progress) -> None:
        with (self._path / snapshot.name).open("rb") as data, _made(target) as file:
            found = _copy(data, file, progress)
        if found != snapshot.sha256:
            raise PlaceError(f"{self._path} has other bytes than were written: {in_short(snapshot)} is damaged")


def _made(path: Path) -> BinaryIO:
    """Makes a file that only this user may use, in place of what is there. A link that is there is not followed."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb")


def _copy(data: BinaryIO, target: BinaryIO | None, progress: Progress) -> str:
    """Copies to the target, if there is one. Returns the SHA-256 in hexadecimal."""
    hashed, unforced = hashlib.sha256(), 0
    while chunk := data.read(CHUNK_BYTES):
        progress.made()
        hashed.update(chunk)
        if target is None:
            continue
        target.write(chunk)
        unforced += len(chunk)
        if unforced >= FORCE_BYTES:
            target.flush()
            os.fdatasync(target.fileno())
            unforced = 0
    return hashed.hexdigest()

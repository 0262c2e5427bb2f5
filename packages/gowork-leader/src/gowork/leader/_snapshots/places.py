"""Where leaders that share a log keep snapshots of their stores, so that no leader needs its disk to last."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from gowork.leader._schemes import shown
from gowork.leader._snapshots.names import Snapshot

#: How many bytes are read or written at a time.
CHUNK_BYTES = 1 << 20


class PlaceError(Exception):
    """The place can't be used now, or never. The message names the place and says what to do."""


class SnapshotPlace(Protocol):
    """A place for snapshots. Others may keep theirs there, too: nothing is touched that is not named.

    Calls follow one another. Each of them raises PlaceError when the place can't be used, or does not answer.
    """

    def adopting(self, mark: str) -> str:
        """Returns what a person does who wants to give this place the id of another one, as the end of a sentence."""
        ...

    async def mark(self, *, make: bool) -> str | None:
        """Returns the id of the place, by which leaders know that they mean the same one; None when it has none.

        Args:
            make: give it an id if it has none.
        """
        ...

    async def snapshots(self) -> list[Snapshot]:
        """Returns all snapshots that are there whole, by what the place says of their sizes."""
        ...

    async def write(self, snapshot: Snapshot, source: Path) -> None:
        """Keeps a snapshot, durably. It appears only when it was read back and is the same.

        What a process left behind that died while it did so for this generation is removed.

        Args:
            snapshot: says what it is.
            source: a file that has its bytes.
        """
        ...

    async def read(self, snapshot: Snapshot, target: Path) -> None:
        """Copies a snapshot to a file, and checks its bytes. The file is replaced, and may be left when this fails."""
        ...

    async def remove(self, snapshot: Snapshot) -> None:
        """Removes a snapshot. Harmless when it is not there."""
        ...

    async def close(self) -> None:
        """Ends connections. Harmless when repeated."""
        ...


def place_at(where: str) -> SnapshotPlace:
    """Returns the place that a folder's path, or the URL of a database, names. Nothing is looked at yet.

    Raises:
        PlaceError: it makes no sense.
    """
    if "://" not in where:
        from gowork.leader._snapshots.folder import Folder

        return Folder(Path(where).absolute())
    if where.partition("://")[0].lower() in ("postgresql", "postgres"):
        try:
            from gowork.leader._snapshots.postgresql import Database
        except ImportError as error:
            if not (error.name or "psycopg").startswith("psycopg"):
                raise
            raise PlaceError(
                f"Snapshots in PostgreSQL need psycopg ({error}): pip install 'gowork-leader[postgresql]'."
            ) from None
        return Database(where)
    raise PlaceError(
        f"{shown(where)!r} is no place for snapshots: name a folder that all leaders share, or postgresql://…"
    )

"""What a shared snapshot is called. Its name says all that has to be known of it before it is read."""

from __future__ import annotations

import re

from msgspec import Struct

from gowork.leader._core.model import Position

_PATTERN = re.compile(
    r"gowork-(?P<generation>[0-9a-z]{1,64})-(?P<index>[0-9]{16})-(?P<hash>[0-9a-f]{64})-(?P<format>[0-9]{1,4})"
    r"-(?P<taken_ms>[0-9]{1,15})-(?P<size>[0-9]{1,18})-(?P<sha256>[0-9a-f]{64})\.snapshot"
)


class Snapshot(Struct, frozen=True):
    """A copy of a store, in a place that leaders share."""

    #: Where the store stood in the log.
    position: Position
    #: The format of the store.
    format: int
    #: When it was taken, in wall-clock milliseconds.
    taken_ms: int
    #: Its bytes, and the SHA-256 over them, in hexadecimal.
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """What it is called, at most 230 characters."""
        at = self.position
        return (
            f"gowork-{at.generation}-{at.index:016d}-{at.hash.hex()}-{self.format}-{self.taken_ms}-{self.size}-"
            f"{self.sha256}.snapshot"
        )


def named(name: str) -> Snapshot | None:
    """Returns the snapshot of this name; None when it is no snapshot's."""
    found = _PATTERN.fullmatch(name)
    if found is None:
        return None
    position = Position(found["generation"], int(found["index"]), bytes.fromhex(found["hash"]))
    return Snapshot(position, int(found["format"]), int(found["taken_ms"]), int(found["size"]), found["sha256"])


def in_short(snapshot: Snapshot) -> str:
    """Returns what people are told of a snapshot instead of its name."""
    return f"the snapshot at index {snapshot.position.index:,} of generation {snapshot.position.generation}"

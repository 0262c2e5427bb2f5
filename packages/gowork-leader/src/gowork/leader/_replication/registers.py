"""Which stores follow the log, and how far each has forced it to disk: what the log is pruned by.

Each leader registers its store, under the store's id. The log keeps what a majority of the registered stores has not
yet forced to disk. So whatever dies, the entries that some store may need are in the log, or in most stores.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from gowork.leader._replication.announcement import Announcement
from gowork.leader.log.protocol import Log

_log = logging.getLogger(__name__)

#: The keys of registrations begin so.
PREFIX = "store/"
#: A store that was not seen for so long counts no more, in milliseconds.
ABSENT_MS = 7 * 24 * 3600 * 1000


class Registration(Struct, frozen=True):
    """A store that follows the log. New fields get defaults, because leaders of other versions read it."""

    leader: Announcement
    #: The index of the last entry that it has applied, and of the last one that it has forced to disk.
    applied: int
    forced: int
    #: When it was registered last, in wall-clock milliseconds.
    seen_ms: int
    #: The highest format of entries that it reads.
    format: int
    #: Whether its disk has room for what a leader writes.
    has_room: bool = True
    #: The index of the last check whose digest it has, and the digest in hexadecimal; 0: it has none.
    checked: int = 0
    digest: str = ""

    def key(self) -> str:
        """Returns the key of its note."""
        return PREFIX + self.leader.store_id


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Registration).decode


async def registered(log: Log) -> dict[str, Registration]:
    """Returns {store id: its registration}. What can't be read is left out.

    Raises:
        LogUnreachableError, LogRefusedError.
    """
    return dict(_read(await log.notes(PREFIX)))


def _read(notes: Mapping[str, bytes]) -> Iterable[tuple[str, Registration]]:
    for key, value in notes.items():
        try:
            yield key.removeprefix(PREFIX), _decode(value)
        except msgspec.MsgspecError as error:
            _log.warning("registration can't be read", extra={"key": key, "reason": str(error)})


def forced_by_most(registrations: Iterable[Registration]) -> int:
    """Returns the index up to which a majority of these stores has forced the log to disk; 0 without any."""
    forced = sorted((each.forced for each in registrations), reverse=True)
    return forced[len(forced) // 2] if forced else 0

"""Keeps the descriptions of the handlers that workers have now, each once, under its digest.

A description that is missing is asked for from one worker that has it. When that worker does not answer, another one is
asked. A description is forgotten with the last session that has named it. The leader never looks into it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence

from gowork.proto import limits
from gowork.proto.worker.v1 import session_pb2 as pb

_log = logging.getLogger(__name__)

#: How many bytes of descriptions are kept in all. Further ones are not kept, nor asked for.
DESCRIPTIONS_BYTES_MAX = 64 << 20
#: How long a worker has to answer before the next one that names the same digest is asked too, in seconds.
ANSWER_SECONDS = 10.0


class _Entry:
    """What is known of one digest."""

    __slots__ = ("asked", "asked_at", "holders", "text")

    def __init__(self) -> None:
        self.text: str | None = None
        #: The connections whose handlers have it, in the order of their Hellos.
        self.holders: dict[int, None] = {}
        #: The connection that was asked last, and when, on the monotonic clock.
        self.asked: int | None = None
        self.asked_at = 0.0


class Descriptions:
    """The descriptions of this leader."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Makes an empty set. `clock` returns monotonic seconds."""
        self._clock = clock
        #: {digest: what is known of it}
        self._entries: dict[str, _Entry] = {}
        #: {connection: the digests that its Hello named}
        self._named: dict[int, tuple[str, ...]] = {}
        self._bytes = 0
        self._is_full = False

    def get(self, digest: str) -> str:
        """Returns a description; empty when it is not known."""
        entry = self._entries.get(digest)
        return "" if entry is None or entry.text is None else entry.text

    def open(self, connection: int, handlers: Iterable[pb.HandlerInfo]) -> list[str]:
        """Notes a session that was welcomed. Returns the digests that its worker is to be asked for."""
        digests = tuple(
            dict.fromkeys(
                info.description_digest
                for info in handlers
                if len(info.description_digest) == limits.HANDLER_DIGEST_DIGITS
            )
        )
        self._named[connection] = digests
        for digest in digests:
            self._entries.setdefault(digest, _Entry()).holders[connection] = None
        return self._missing(connection, digests)

    def take(self, connection: int, descriptions: Sequence[pb.HandlerDescription]) -> None:
        """Keeps what a worker has described, if its Hello named it and its digest is right."""
        for description in descriptions:
            entry = self._entries.get(description.digest)
            if entry is None or entry.text is not None or connection not in entry.holders:
                continue
            text = description.text.encode()
            if (
                len(text) > limits.HANDLER_DESCRIPTION_BYTES_MAX
                or hashlib.sha256(text).hexdigest()[: limits.HANDLER_DIGEST_DIGITS] != description.digest
            ):
                _log.warning("a description is not what its digest says", extra={"digest": description.digest})
                continue
            if self._bytes + len(text) > DESCRIPTIONS_BYTES_MAX:
                if not self._is_full:
                    _log.warning("descriptions of handlers are not kept", extra={"bytes_max": DESCRIPTIONS_BYTES_MAX})
                self._is_full = True
                continue
            self._bytes += len(text)
            entry.text = description.text

    def close(self, connection: int) -> dict[int, list[str]]:
        """Forgets a session, and what it alone has named. Returns {connection: digests to ask for} of what it owed."""
        owed: dict[int, list[str]] = {}
        for digest in self._named.pop(connection, ()):
            entry = self._entries[digest]
            del entry.holders[connection]
            if not entry.holders:
                del self._entries[digest]
                if entry.text is not None:
                    self._bytes -= len(entry.text.encode())
                    self._is_full = False
            elif entry.text is None and entry.asked == connection:
                other = next(iter(entry.holders))
                if self._missing(other, (digest,), anew=True):
                    owed.setdefault(other, []).append(digest)
        return owed

    def _missing(self, connection: int, digests: Iterable[str], *, anew: bool = False) -> list[str]:
        """Returns the digests that are to be asked for at this connection, and notes that they are."""
        if self._is_full:
            return []
        now = self._clock()
        missing = []
        for digest in digests:
            entry = self._entries[digest]
            is_asked = entry.asked is not None and not anew and now - entry.asked_at < ANSWER_SECONDS
            if entry.text is None and not is_asked:
                entry.asked, entry.asked_at = connection, now
                missing.append(digest)
        return missing

"""Where the log's records are in etcd. gowork.leader.log.etcd says what they mean."""

from __future__ import annotations

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.requests import get
from gowork.leader.log.protocol import LogDamagedError


class Keys:
    """The keys below a prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode() + b"/"
        self.generation = self._prefix + b"generation"
        self.term = self._prefix + b"term"
        self.leader = self._prefix + b"leader"
        #: (first key, end) of all entries, of all their parts, and of all notes. Those of entries and parts go on with
        #: a hexadecimal digit. So the ranges leave out another log that has its prefix there.
        self.entries = self._prefix + b"log/", self._prefix + b"log/g"
        self.parts = self._prefix + b"part/", self._prefix + b"part/g"
        self.notes = self._prefix + b"note/", self._prefix + b"note0"

    def entry(self, index: int) -> bytes:
        return self.entries[0] + b"%016x" % index

    def part(self, index: int, nonce: bytes = b"", number: int | None = None) -> bytes:
        """Returns the key of a part, or what the keys of all parts with this index, or nonce, begin with."""
        key = self.parts[0] + b"%016x/" % index
        if nonce:
            key += nonce.hex().encode() + b"/"
        return key if number is None else key + b"%08x" % number

    def note(self, key: str) -> bytes:
        return self.notes[0] + key.encode()

    def index_of(self, key: bytes) -> int:
        """Returns the index in an entry's key.

        Raises:
            LogDamagedError: it is none.
        """
        try:
            return int(key[len(self.entries[0]) :], 16)
        except ValueError:
            raise LogDamagedError(f"{key!r} in etcd is no entry of the log: remove this key") from None

    def ends(self) -> list[pb.RequestOp]:
        """Returns the questions for the first and for the last entry."""
        return [
            get(*self.entries, limit=1, keys_only=True),
            get(*self.entries, limit=1, keys_only=True, descending=True),
        ]

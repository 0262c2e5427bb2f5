"""The bytes of an entry, and the chain that the entries of a generation form.

Each entry carries its generation, index and term, and the hash of its predecessor. So a store can tell that the next
entry belongs to what it has applied. A log that was restored from a backup, or that two clusters share, breaks the
chain.
"""

from __future__ import annotations

import enum
import hashlib

import msgspec
from msgspec import Struct

from gowork.leader._core.model import Position

#: The hash before the first entry of a generation.
NO_HASH = bytes(32)
#: The highest format of entries that this version reads, and writes when all leaders read it.
FORMAT = 1
#: The format that each generation begins with.
FORMAT_FIRST = 1


class Kind(enum.IntEnum):
    """What the body of an entry is."""

    #: A batch of records, which the store writes.
    BATCH = 1
    #: The first entry of a term: who leads.
    TERM = 2
    #: It writes nothing. Each store makes a digest of what it holds here.
    CHECK = 3
    #: It writes nothing. From this entry on, entries have its format, which is higher than that of the entry before.
    FORMAT = 4


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One entry. Its order is that of the stored array, so that new fields go to the end."""

    format: int
    generation: str
    index: int
    term: int
    #: The hash of the entry before it.
    previous: bytes
    #: Random. It tells this entry from any other that another leader may append at the same index.
    nonce: bytes
    kind: Kind
    body: bytes


class ChainError(Exception):
    """An entry does not follow from what the store has applied. The message names both."""


class OtherGenerationError(ChainError):
    """An entry belongs to another generation than the store."""


class NewerFormatError(Exception):
    """An entry has a format that this version can't read.

    Args:
        needed: the entry's format.
    """

    def __init__(self, needed: int) -> None:
        super().__init__(
            f"the log has entries of format {needed}, and this version of gowork-leader reads formats up to {FORMAT}: "
            f"install a newer version here"
        )
        self.needed = needed


class _Head(Struct, frozen=True, array_like=True, gc=False):
    """As much of an entry as each format has."""

    format: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode
_decode_head = msgspec.msgpack.Decoder(_Head).decode


def seal(
    after: Position, term: int, kind: Kind, body: bytes, nonce: bytes, entry_format: int = FORMAT_FIRST
) -> tuple[bytes, Position]:
    """Returns the bytes of the entry that comes next, and the position after it."""
    index = after.index + 1
    data = _encode(Entry(entry_format, after.generation, index, term, after.hash, nonce, kind, body))
    return data, Position(after.generation, index, hashlib.sha256(data).digest())


def unseal(after: Position, index: int, data: bytes) -> tuple[Entry, Position]:
    """Reads the entry that comes next, and returns the position after it, too.

    Args:
        after: the position before it.
        index: the index that the log has it under.
        data: its bytes.

    Raises:
        ChainError: it does not follow from what is before it.
        OtherGenerationError: it belongs to another generation.
        NewerFormatError: this version can't read it.
    """
    entry = _read(index, data)
    if entry.generation != after.generation:
        raise OtherGenerationError(
            f"the store belongs to generation {after.generation}, and entry {index} of the log to {entry.generation}"
        )
    if not index == entry.index == after.index + 1:
        raise ChainError(f"entry {entry.index} is at index {index} of the log, and the store is at {after.index}")
    if entry.previous != after.hash:
        raise ChainError(
            f"entry {index} of the log follows an entry {after.index} with the hash {entry.previous.hex()[:16]}, and "
            f"the store has applied one with the hash {after.hash.hex()[:16]}"
        )
    return entry, Position(after.generation, index, hashlib.sha256(data).digest())


def term_of(index: int, data: bytes) -> int:
    """Returns the term of the entry at this index.

    Raises:
        ChainError: it can't be read.
        NewerFormatError: this version can't read it.
    """
    return _read(index, data).term


def format_of(index: int, data: bytes) -> int:
    """Returns the format of the entry at this index.

    Raises:
        ChainError: it can't be read.
        NewerFormatError: this version can't read it.
    """
    return _read(index, data).format


def _read(index: int, data: bytes) -> Entry:
    try:
        needed = _decode_head(data).format
        if needed > FORMAT:
            raise NewerFormatError(needed)
        return _decode(data)
    except msgspec.MsgspecError as error:
        raise ChainError(f"entry {index} of the log can't be read: {error}") from error

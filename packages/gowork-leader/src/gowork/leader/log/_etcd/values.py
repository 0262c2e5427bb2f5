"""How an entry lies in etcd: whole, or in parts where it exceeds what one request may carry."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

#: The largest part, in bytes. etcd takes requests of 1.5 MiB unless it is told otherwise.
PART_BYTES = 1 << 20
_NONCE_BYTES = 8
#: The head of a last part: that it is one, the nonce of the others, and how many they are.
_HEAD = struct.Struct(f"!B{_NONCE_BYTES}sI")
_WHOLE = b"\0"


class Last(NamedTuple):
    """An entry, or its last part."""

    #: How many parts are before it.
    before: int
    #: The name that all parts of the entry have; empty when there is only one.
    nonce: bytes
    data: bytes


def split(data: bytes, nonce: bytes) -> tuple[list[bytes], bytes]:
    """Returns the parts of an entry that are written first, and the value that makes them count.

    Args:
        data: the entry.
        nonce: 8 random bytes.
    """
    if len(data) <= PART_BYTES:
        return [], _WHOLE + data
    chunks = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    return chunks[:-1], _HEAD.pack(1, nonce, len(chunks) - 1) + chunks[-1]


def read_value(value: bytes) -> Last:
    """Reads the value that `split` returned."""
    if value[:1] == _WHOLE:
        return Last(0, b"", value[1:])
    _, nonce, before = _HEAD.unpack_from(value)
    return Last(before, nonce, value[_HEAD.size :])


def joined(parts: Sequence[bytes], last: Last) -> bytes:
    """Returns the entry."""
    return b"".join((*parts, last.data))

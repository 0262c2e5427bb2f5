"""Reads the body of an answer: at most so far, and decompressed at most so far."""

from __future__ import annotations

import base64
import codecs
import zlib
from typing import Protocol

#: The character sets that are read as text. Python knows others whose decoders are slow, and a server may name any.
_CHARSETS = frozenset({"utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252", "utf-16", "utf-16-le", "utf-16-be"})
#: zlib's numbers for the formats: https://docs.python.org/3/library/zlib.html#zlib.decompressobj
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


#: How many members a body of gzip may have. Each may be empty, and each costs time.
MEMBERS_MAX = 1000
#: How each member begins. What else follows one is padding.
_MEMBER = b"\x1f"


class BodyCut(Exception):
    """A body ends before its compressed data does. Another attempt may get all of it."""


class Source(Protocol):
    """Where the bytes come from; the client's stream."""

    async def readany(self) -> bytes:
        """Returns some bytes; none at the end."""


class Body:
    """The beginning of a body."""

    def __init__(self, encoding: str, bytes_max: int) -> None:
        """Args:
        encoding: the header Content-Encoding. What is neither gzip nor deflate stays as it came.
        bytes_max: how many bytes are kept.
        """
        #: None for what stays as it came.
        self._bits = _WINDOW_BITS.get(encoding.strip().lower())
        #: Of the member that has begun last.
        self._unpacker: zlib._Decompress | None = None
        self._members = 0
        self._bytes_max = bytes_max
        self.content = bytearray()
        self.truncated = False

    async def read(self, source: Source) -> None:
        """Reads until the end, or until more has come than is kept.

        Raises:
            ValueError: when it can't be decompressed.
            BodyCut: when it ends before its compressed data does.
        """
        while data := await source.readany():
            self._feed(data)
            if self.truncated:
                return
        if self._unpacker is not None and not self._unpacker.eof:
            raise BodyCut("the body ends before its compressed data does")

    def _feed(self, data: bytes) -> None:
        # One byte more than is kept tells that there is more.
        room = self._bytes_max + 1 - len(self.content)
        if self._bits is not None:
            try:
                data = self._unpacked(data, self._bits, room)
            except zlib.error as error:
                raise ValueError(f"the answer's body can't be decompressed: {error}") from error
        self.content += data[:room]
        if len(self.content) > self._bytes_max:
            del self.content[self._bytes_max :]
            self.truncated = True

    def _unpacked(self, data: bytes, bits: int, room: int) -> bytes:
        """Decompresses at most `room` bytes, of one member or of several (RFC 1952, 2.2)."""
        found = b""
        while data and len(found) < room:
            if self._unpacker is None or self._unpacker.eof:
                if self._unpacker is not None and (bits != _WINDOW_BITS["gzip"] or not data.startswith(_MEMBER)):
                    break
                self._members += 1
                if self._members > MEMBERS_MAX:
                    raise ValueError(f"the answer's body has more than {MEMBERS_MAX:,} members of gzip")
                self._unpacker = zlib.decompressobj(_deflate_bits(data) if bits == _WINDOW_BITS["deflate"] else bits)
            found += self._unpacker.decompress(data, room - len(found))
            data = self._unpacker.unused_data
        return found

    def text(self, charset: str | None) -> str | None:
        """Returns it as text; None when it is none."""
        try:
            codec = codecs.lookup(charset or "utf-8").name
        except (LookupError, ValueError):
            return None
        if codec not in _CHARSETS:
            return None
        try:
            return self.content.decode(codec)
        except UnicodeDecodeError as error:
            # A character of several bytes may be cut at the end.
            if self.truncated and error.start >= len(self.content) - 4:
                return self.content[: error.start].decode(codec)
            return None

    def base64(self) -> str:
        """Returns it in base64."""
        return base64.b64encode(self.content).decode()


def _deflate_bits(data: bytes) -> int:
    """Returns the number for this beginning of deflate's format. Some servers leave out the header of zlib."""
    return _WINDOW_BITS["deflate"] if data[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS

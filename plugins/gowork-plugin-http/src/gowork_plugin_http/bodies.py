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
        bits = _WINDOW_BITS.get(encoding.strip().lower())
        self._unpacker = None if bits is None else zlib.decompressobj(bits)
        self._bytes_max = bytes_max
        self.content = bytearray()
        self.truncated = False

    async def read(self, source: Source) -> None:
        """Reads until the end, or until more has come than is kept.

        Raises:
            ValueError: when it can't be decompressed.
        """
        while data := await source.readany():
            self._feed(data)
            if self.truncated:
                return

    def _feed(self, data: bytes) -> None:
        # One byte more than is kept tells that there is more.
        room = self._bytes_max + 1 - len(self.content)
        if self._unpacker is not None:
            try:
                data = self._unpacker.decompress(data, room)
            except zlib.error as error:
                raise ValueError(f"the answer's body can't be decompressed: {error}") from error
        self.content += data[:room]
        if len(self.content) > self._bytes_max:
            del self.content[self._bytes_max :]
            self.truncated = True

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

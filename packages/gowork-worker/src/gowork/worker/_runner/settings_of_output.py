"""The standard streams of a runner, and the descriptors below them, as settings: see `settings`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from typing import Any, TextIO, cast

from gowork.worker._runner.descriptors import file_of

_STANDARD = (0, 1, 2)
#: Copies of the standard descriptors have this number or a higher one, out of the way of what handlers open.
_COPIES_FROM = 64


class DescriptorError(Exception):
    """Another file has the number of a standard descriptor. Nobody knows whose it is, so it is not closed."""


class StandardDescriptors:
    """Descriptors 0, 1 and 2. A closed one is opened again before a file of somebody's gets its number."""

    name = "standard descriptors"

    def __init__(self) -> None:
        self._kept = self.read()
        self._copies = tuple(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _COPIES_FROM) for number in _STANDARD)

    def read(self) -> Any:
        """Returns what is open there."""
        return tuple(map(file_of, _STANDARD))

    def is_kept(self) -> bool:
        """Whether the same files are open there as at first."""
        return bool(self.read() == self._kept)

    def restore(self) -> bool:
        """Opens the closed ones again.

        Raises:
            DescriptorError: when another file is open there.
        """
        others = []
        for number, copy, now, kept in zip(_STANDARD, self._copies, self.read(), self._kept, strict=True):
            if now is None:
                os.dup2(copy, number)
            elif now != kept:
                others.append(number)
        if others:
            raise DescriptorError(f"another file is open as descriptor {others[0]}")
        return True


class Streams:
    """The streams sys.stdout and sys.stderr. A closed one is replaced, also where the log is written to it."""

    name = "standard streams"

    def __init__(self) -> None:
        self._kept = self.read()

    def read(self) -> Any:
        """Returns both, and whether they are closed."""
        return sys.stdout, sys.stderr, getattr(sys.stdout, "closed", True), getattr(sys.stderr, "closed", True)

    def is_kept(self) -> bool:
        """Whether they are the same as at first, and open."""
        out, error, *closed = self._kept
        return (
            sys.stdout is out
            and sys.stderr is error
            and [getattr(out, "closed", True), getattr(error, "closed", True)] == closed
        )

    def restore(self) -> bool:
        """Puts them back."""
        out, error, *_ = self._kept
        sys.stdout, sys.stderr = _usable(out, 1), _usable(error, 2)
        self._kept = self.read()
        return True


def _usable(stream: TextIO | None, number: int) -> TextIO:
    if stream is not None and not stream.closed:
        return stream
    # The number stays open when it is closed, as with the interpreter's own streams.
    opened = open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    if stream is not None:
        import logging

        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                # setStream would flush the closed one.
                with contextlib.suppress(AttributeError):
                    handler.stream = opened
    return cast("TextIO", opened)

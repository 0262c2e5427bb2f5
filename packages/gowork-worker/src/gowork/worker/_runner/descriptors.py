"""Notices when a handler has closed, or replaced, descriptors of the runner.

Code that makes a daemon of its process closes all descriptors that it does not know. A runner that has lost its pipe,
or whose loop cannot be woken any more, would hold its tasks for ever. One that has lost its lock would count as ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable


def open_descriptors() -> set[int]:
    """The numbers of all open descriptors of this process."""
    found = set()
    # macOS has only the first. On Linux it is a link to the second, and may be missing.
    for name in os.listdir("/dev/fd" if os.path.isdir("/dev/fd") else "/proc/self/fd"):
        # The listing's own descriptor is among them, and closed by now.
        if name.isdigit() and file_of(int(name)) is not None:
            found.add(int(name))
    return found


class OwnDescriptors:
    """Remembers which file is behind each of some descriptors."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._identities = {number: file_of(number) for number in numbers}

    def intact(self) -> bool:
        """Whether each descriptor still has the same file behind it."""
        return all(file_of(number) == identity for number, identity in self._identities.items())


def file_of(number: int) -> tuple[int, int] | None:
    """Returns (device, inode) of the file that is open there; None when none is."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino

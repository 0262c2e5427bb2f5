"""Finds out that a handler has closed, or replaced, descriptors that are the runner's own.

Code that makes a daemon of its process closes all that it does not know. A runner without its pipe, or whose loop
cannot be woken any more, would hold its tasks for ever; one without its lock would prove that it has ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable


def open_descriptors() -> set[int]:
    """The numbers of all open descriptors of this process."""
    found = set()
    # On macOS the first is a link, and the second shows its target.
    for name in os.listdir("/dev/fd" if os.path.isdir("/dev/fd") else "/proc/self/fd"):
        # The listing's own is among them, and closed by now.
        if name.isdigit() and _identity(int(name)) is not None:
            found.add(int(name))
    return found


class OwnDescriptors:
    """Some descriptors, and the files behind them."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._identities = {number: _identity(number) for number in numbers}

    def intact(self) -> bool:
        """Whether each has still the same file behind it."""
        return all(_identity(number) == identity for number, identity in self._identities.items())


def _identity(number: int) -> tuple[int, int] | None:
    """What is open there; None when nothing is."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino

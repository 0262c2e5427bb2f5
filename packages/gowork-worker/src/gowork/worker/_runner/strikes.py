"""Exceptions that reach the runner's own code from outside of a handler."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gowork.worker._runner.exceptions import type_name

logger = logging.getLogger("gowork.worker.runner")

#: A runner gives up after this many in a row. What a handler has done to it would befall every task.
STRIKES_MAX = 3


class Strikes:
    """Counts them, in the code of the threads or in that of the loop."""

    __slots__ = ("_broken", "in_a_row")

    def __init__(self, broken: Callable[[BaseException], None]) -> None:
        """Args:
        broken: called when there were too many.
        """
        self._broken = broken
        #: Set to 0 whenever an attempt has run to its end. Owner: threads, which may write over each other; the loop.
        self.in_a_row = 0

    def note(self, error: BaseException) -> None:
        """Counts and logs one."""
        self.in_a_row += 1
        logger.error("an exception reached a runner's own code", extra={"reason": type_name(error)})
        if self.in_a_row >= STRIKES_MAX:
            self._broken(error)

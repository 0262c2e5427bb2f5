"""The supervisor's lines about single tasks, bounded: a runner that ends may take thousands of tasks with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from gowork.worker._runner.allowance import Allowance

logger = logging.getLogger("gowork.worker")

#: The most lines of one event in a second, and of all events.
EVENT_LINES_MAX = 20
EVENTS_LINES_MAX = 50


class EventLog:
    """Writes lines up to a number in each second, and counts the rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowance = Allowance(EVENT_LINES_MAX, EVENTS_LINES_MAX, clock)

    def tell(self, level: int, event: str, fields: Callable[[], Mapping[str, object]]) -> None:
        """Writes a line, unless there were too many of its event. `fields` is called only if it is written."""
        suppressed = self._allowance.admit(event)
        if suppressed is not None:
            extra = {**fields(), "suppressed": suppressed} if suppressed else fields()
            logger.log(level, event, extra=extra)

    def look_after(self) -> None:
        """Writes how many lines were left out, where no later line has told. Call it about once a second."""
        for event, lines in self._allowance.left_out().items():
            logger.warning("lines were left out", extra={"of": event, "suppressed": lines})

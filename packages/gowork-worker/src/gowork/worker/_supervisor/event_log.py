"""Lines of the supervisor about single tasks: a runner that ends, or a short limit, befalls thousands of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from gowork.worker._runner.allowance import Allowance

logger = logging.getLogger("gowork.worker")

#: Lines of one event in a second, and of all together.
EVENT_LINES_MAX = 20
EVENTS_LINES_MAX = 50


class EventLog:
    """Writes lines up to a number in each second, and counts the rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowance = Allowance(EVENT_LINES_MAX, EVENTS_LINES_MAX, clock)

    def tell(self, level: int, event: str, fields: Callable[[], Mapping[str, object]]) -> None:
        """Writes a line, unless there were too many of its kind. The fields are asked for only then."""
        suppressed = self._allowance.admit(event)
        if suppressed is not None:
            extra = {**fields(), "suppressed": suppressed} if suppressed else fields()
            logger.log(level, event, extra=extra)

    def look_after(self) -> None:
        """Tells how many lines were left out at the end. To be called about once a second."""
        for event, lines in self._allowance.left_out().items():
            logger.warning("lines were left out", extra={"of": event, "suppressed": lines})

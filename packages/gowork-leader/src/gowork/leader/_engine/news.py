"""Logs what operators look for: members that come and go, and tasks that are put into quarantine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from gowork.leader._core.model import Liveness
from gowork.leader._core.tally import Tally

_log = logging.getLogger(__name__)

#: How many lines of each kind one batch may log, because ten thousand workers may be lost at once.
LINES_MAX = 20

T = TypeVar("T")


def log_news(tally: Tally) -> None:
    """Logs a line for each piece of news of a durable batch."""
    for name in _first(tally.connected, "workers connected"):
        _log.info("worker connected", extra={"worker": name})
    for name, liveness in _first(tally.gone, "workers gone"):
        if liveness is Liveness.LOST:
            _log.warning("worker lost", extra={"worker": name})
        else:
            _log.info("worker left", extra={"worker": name})
    for id, attempt in _first(tally.quarantined, "tasks quarantined"):
        _log.warning("task quarantined", extra={"task_id": id, "attempt": attempt})


def _first(news: Sequence[T], words: str) -> Sequence[T]:
    if len(news) > LINES_MAX:
        _log.warning(f"{words}; only the first have lines of their own", extra={"number": len(news)})
    return news[:LINES_MAX]

"""Logs what operators look for: members that come and go, tasks in quarantine, and ticks that were not made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from gowork.leader._core.model import Liveness
from gowork.leader._core.schedules import SkipReason
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
    if tally.ticked:
        lost = [ticked for ticked in tally.ticked if ticked.reason in (SkipReason.MISSED, SkipReason.REFUSED)]
        for ticked in _first(lost, "ticks of schedules skipped"):
            why = ticked.why or "they are older than the catch-up window"
            _log.warning("ticks skipped", extra={"schedule": ticked.name, "ticks": ticked.ticks, "reason": why})


def _first(news: Sequence[T], words: str) -> Sequence[T]:
    if len(news) > LINES_MAX:
        _log.warning(f"{words}; only the first have lines of their own", extra={"number": len(news)})
    return news[:LINES_MAX]

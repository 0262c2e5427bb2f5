"""Hears what is logged while a handler runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Hearing(logging.Handler):
    """A context manager that appends log records to a list. Meanwhile the root logger takes records from INFO on."""

    def __init__(self, records: list[logging.LogRecord], is_own: Callable[[logging.LogRecord], bool]) -> None:
        super().__init__()
        self._records = records
        self._is_own = is_own

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record."""
        if self._is_own(record):
            self._records.append(record)

    def __enter__(self) -> Self:
        _levels.lower()
        logging.getLogger().addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self)
        _levels.restore()


class _Levels:
    """The root logger's level, which several runs at once may need lowered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hearers = 0
        self._before = logging.WARNING

    def lower(self) -> None:
        root = logging.getLogger()
        with self._lock:
            if self._hearers == 0:
                self._before = root.level
                root.setLevel(min(root.level, logging.INFO))
            self._hearers += 1

    def restore(self) -> None:
        with self._lock:
            self._hearers -= 1
            if self._hearers == 0:
                logging.getLogger().setLevel(self._before)


_levels = _Levels()

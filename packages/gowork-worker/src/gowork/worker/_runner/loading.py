"""Logs why a runner is not ready: what it waits for, or fails at.

It looks from a thread of its own, because the thread that imports cannot log meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from gowork.base import extensions

logger = logging.getLogger("gowork.worker.runner")

#: Seconds until the first line, and between two lines.
FIRST_WORD = 3.0
NEXT_WORD = 10.0


class Loading:
    """A context manager around all that a runner does before it is ready, in the thread that does it."""

    def __init__(self) -> None:
        self._doing = "starting"
        self._since = time.monotonic()
        self._thread = threading.get_ident()
        self._done = threading.Event()

    def doing(self, what: str) -> None:
        """Notes what the runner does from here on."""
        self._doing = what

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="gowork-loading", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if isinstance(error, asyncio.CancelledError) or error is None:
            return
        # An interpreter that ends because of SystemExit logs nothing.
        extra = {"doing": self._doing, "reason": extensions.describe(error)}
        logger.error("a runner cannot get ready", extra=extra)

    def _watch(self) -> None:
        wait = FIRST_WORD
        while not self._done.wait(wait):
            wait = NEXT_WORD
            seconds = round(time.monotonic() - self._since)
            extra: dict[str, object] = {"doing": self._doing, "seconds": seconds}
            frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - no public name says it
            if frame is not None:
                extra |= place_of(frame)
            logger.warning("not ready yet", extra=extra)


def place_of(frame: FrameType) -> dict[str, object]:
    """Returns where a thread is that imports: the module that it runs, and the line."""
    place: dict[str, object] = {}
    each: FrameType | None = frame
    while each is not None:
        name = each.f_code.co_filename
        if not name.startswith("<frozen"):
            place.setdefault("at", f"{name}:{each.f_lineno}")
        if each.f_code.co_name == "<module>":
            # The innermost one, because the others wait for it.
            place["importing"] = each.f_globals.get("__name__", "")
            place["at"] = f"{name}:{each.f_lineno}"
            break
        each = each.f_back
    return place

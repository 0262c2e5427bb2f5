"""The token that tells a handler to stop.

Any thread may set it and read it. It remembers whether the handler has seen it set. A threaded handler that returns
without having seen a cancel has finished its work; one that has seen it has stopped early.
"""

from __future__ import annotations

import threading


class CancelToken:
    """True once the task is to stop. Cheap to test in a loop. `wait` sleeps, and wakes up when the task is to stop."""

    __slots__ = ("_event", "_reason", "_seen", "_set")

    def __init__(self) -> None:
        #: Both are written under the lock, the reason first, so that a reader of a set token finds its reason.
        self._set = False
        self._reason = ""
        #: Only ever becomes True, so any thread may write it.
        self._seen = False
        #: Written under the lock.
        self._event: threading.Event | None = None

    def __bool__(self) -> bool:
        # Read once, because the answer and `_seen` must agree even if another thread sets the token meanwhile.
        is_set = self._set
        if is_set:
            self._seen = True
        return is_set

    def __repr__(self) -> str:
        return f"<CancelToken {'set: ' + self._reason if self._set else 'not set'}>"

    @property
    def reason(self) -> str:
        """Why the task is to stop, in words. Empty while the token is not set."""
        return self._reason

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks this thread until the token is set, at most `timeout` seconds.

        Returns:
            Whether it is set.
        """
        # The event is made on first use, because most tasks never wait. The lock keeps two threads from making two.
        with _LOCK:
            if self._event is None:
                self._event = threading.Event()
                if self._set:
                    self._event.set()
            event = self._event
        event.wait(timeout)
        return bool(self)

    def set(self, reason: str) -> None:
        """Asks the handler to stop. Only the first reason is kept."""
        with _LOCK:
            if self._set:
                return
            self._reason = reason
            self._set = True
            event = self._event
        if event is not None:
            event.set()

    @property
    def noticed(self) -> bool:
        """Whether anybody has looked since the token was set."""
        return self._seen


#: Guards the making of events. It is held for a few instructions only, so one for all tokens is enough.
_LOCK = threading.Lock()

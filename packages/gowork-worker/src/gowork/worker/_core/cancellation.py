"""The token that tells a handler to stop.

Set from any thread; read from any thread. It remembers whether the handler has looked, because a threaded handler
that returns after a cancel that it never noticed has finished its work, while one that noticed has stopped early.
"""

from __future__ import annotations

import threading


class CancelToken:
    """True once the task is to stop. Cheap to test in a loop; `wait` sleeps at most so long, and less when it is
    cancelled.
    """

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
        # One look, because the answer and the memory of it must agree even if another thread sets it meanwhile.
        is_set = self._set
        if is_set:
            self._seen = True
        return is_set

    def __repr__(self) -> str:
        return f"<CancelToken {'set: ' + self._reason if self._set else 'not set'}>"

    @property
    def reason(self) -> str:
        """Why, in words; empty while it is not set."""
        return self._reason

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks this thread until the token is set, at most `timeout` seconds.

        Returns:
            Whether it is set.
        """
        # The event is made on first use: most tasks never wait. setdefault-like races are closed by the lock.
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
        """Whether it was set and somebody has looked since."""
        return self._seen


#: Guards the making of events. It is held for a few instructions only, so one for all tokens is enough.
_LOCK = threading.Lock()

"""Tells systemd, or another manager of services that speaks its protocol, how this process is (sd_notify(3)).

The manager names a datagram socket in NOTIFY_SOCKET. Where it names none, nothing is sent. A process is READY when its
probe of readiness says so, and not merely when it runs: then `systemctl restart` returns when the next leader may be
restarted. Until then it asks for more time again and again, so that a process that waits is not taken for one that
hangs. Nothing that goes wrong here ends the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from gowork.base.http import Probe

_log = logging.getLogger(__name__)

#: How often it looks whether there is something new to tell, in seconds.
LOOK_SECONDS = 1.0
LOOK_SECONDS_MIN = 0.01
#: For how long the manager is to wait for a process that is not ready yet, from each time that it is told, in seconds.
#: It is told every LOOK_SECONDS.
MORE_SECONDS = 30.0
#: How long a STATUS may be, in characters.
STATUS_CHARACTERS_MAX = 300


class ServiceManager:
    """Speaks to the manager that started this process, if one did and wants to be spoken to.

    Args:
        target: NOTIFY_SOCKET: a path, or after @ the name of an abstract socket; empty: nobody listens.
        watchdog_seconds: how often it must hear of this process; None: it does not mind.
    """

    def __init__(self, target: str, watchdog_seconds: float | None = None) -> None:
        self._watchdog_seconds = watchdog_seconds
        self._target = f"\0{target[1:]}" if target.startswith("@") else target
        self._socket: socket.socket | None = None
        self._is_ready = False
        self._is_stopping = False
        self._status = ""
        self._is_missed = False
        if target and not target.startswith(("/", "@")):
            _log.warning("service manager is not told", extra={"socket": target, "reason": "neither a path nor @NAME"})
            self._target = ""

    @classmethod
    def of_environment(cls) -> Self:
        """Takes the variables of systemd, so that no child of this process speaks in its name."""
        target = os.environ.pop("NOTIFY_SOCKET", "")
        pid, micros = os.environ.pop("WATCHDOG_PID", ""), os.environ.pop("WATCHDOG_USEC", "")
        is_meant = target and pid in ("", str(os.getpid())) and micros.isascii() and micros.isdigit() and int(micros)
        return cls(target, int(micros) / 1e6 if is_meant else None)

    @asynccontextmanager
    async def telling(self, ready: Probe, is_stopping: Callable[[], bool] = lambda: False) -> AsyncIterator[None]:
        """Tells how this process is while it is entered. It does so on this event loop, as long as that turns.

        Args:
            ready: whether the process is ready, and its words, as on /readyz.
            is_stopping: whether somebody has asked the process to stop.
        """
        if not self._target:
            yield
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        telling = asyncio.get_running_loop().create_task(self._tell(ready, is_stopping), name="service manager")
        try:
            yield
        finally:
            telling.cancel()
            # The event loop is about to end, so that the last words don't wait for it.
            self._stopping()
            self._socket.close()
            self._socket = None

    async def _tell(self, ready: Probe, is_stopping: Callable[[], bool]) -> None:
        seconds = LOOK_SECONDS
        if self._watchdog_seconds is not None:
            # As sd_watchdog_enabled(3) advises; more often is never wrong.
            seconds = max(min(seconds, self._watchdog_seconds / 2), LOOK_SECONDS_MIN)
        while True:
            if is_stopping():
                self._stopping()
            self._look(*ready())
            await asyncio.sleep(seconds)

    def _look(self, is_ready: bool, words: str) -> None:
        lines = []
        if is_ready and not self._is_ready:
            lines.append("READY=1")
        elif not self._is_ready and not self._is_stopping:
            lines.append(f"EXTEND_TIMEOUT_USEC={MORE_SECONDS * 1e6:.0f}")
        status = " ".join(words.split())[:STATUS_CHARACTERS_MAX]
        if status != self._status:
            lines.append(f"STATUS={status}")
        if self._watchdog_seconds is not None:
            lines.append("WATCHDOG=1")
        if lines and self._send(lines):
            self._is_ready = self._is_ready or is_ready
            self._status = status

    def _stopping(self) -> None:
        """Says that the process is about to end, once."""
        if not self._is_stopping:
            self._is_stopping = self._send(["STOPPING=1"])

    def _send(self, lines: list[str]) -> bool:
        """Returns whether it was sent. What was not is sent the next time."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(errors="replace"), self._target)
        except OSError as error:
            if not self._is_missed:
                _log.warning("service manager can't be told", extra={"reason": str(error)})
            self._is_missed = True
            return False
        self._is_missed = False
        return True

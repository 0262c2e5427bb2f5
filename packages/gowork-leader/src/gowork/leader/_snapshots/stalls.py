"""Calls that may hang, as those to a file system of another machine do, in threads that nothing waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from gowork.leader._snapshots.places import PlaceError

_T = TypeVar("_T")

#: How long a call may make no progress, in seconds.
STALL_SECONDS = 60.0
#: How often that is looked at, in seconds.
_LOOK_SECONDS = 1.0


class GivenUp(Exception):
    """Nobody waits for the call any more."""


class Progress:
    """What a call tells while it runs. It is called from the thread."""

    def __init__(self) -> None:
        # Not the engine's clock: a thread that hangs is no matter of any term.
        self._made_mono = time.monotonic()
        self._given_up = False

    def made(self) -> None:
        """Says that the call gets on.

        Raises:
            GivenUp: it is to end.
        """
        self._made_mono = time.monotonic()
        if self._given_up:
            raise GivenUp

    @property
    def silent_seconds(self) -> float:
        """For how long it has said nothing, in seconds."""
        return time.monotonic() - self._made_mono

    def give_up(self) -> None:
        """Has the call end when it gets on."""
        self._given_up = True


class StallingThread:
    """Runs one call at a time. A call that hangs is left alone, and no other one is begun until it has ended.

    Args:
        name: what does not answer then.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        #: Is set when the last call has ended; None: there was none.
        self._ended: threading.Event | None = None

    async def run(self, function: Callable[[Progress], _T]) -> _T:
        """Returns what the function returns. When the caller is cancelled, the function is given up.

        Raises:
            PlaceError: it has made no progress for STALL_SECONDS, or an earlier call still hangs.
        """
        if self._ended is not None and not self._ended.is_set():
            # One that was given up a moment ago may be about to end.
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._ended.is_set():
                raise self._silent()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        progress = Progress()
        self._ended = ended = threading.Event()

        def work() -> None:
            result: _T | None = None
            error: BaseException | None = None
            try:
                result = function(progress)
            except BaseException as raised:  # noqa: BLE001 - the one who waits gets it
                error = raised
            ended.set()
            # If the loop is closed by now, nobody waits any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, result, error)

        # A daemon, so that the process can end whatever hangs.
        threading.Thread(target=work, name="gowork-snapshots", daemon=True).start()
        try:
            while not (await asyncio.wait({future}, timeout=_LOOK_SECONDS))[0]:
                if progress.silent_seconds > STALL_SECONDS:
                    raise self._silent()
            return future.result()
        finally:
            progress.give_up()
            future.cancel()

    def _silent(self) -> PlaceError:
        return PlaceError(f"{self._name} does not answer; look at what it is mounted from")


def _settle(future: asyncio.Future[_T], result: _T | None, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]

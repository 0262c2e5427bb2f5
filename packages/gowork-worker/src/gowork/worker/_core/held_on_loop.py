"""Holds an async context manager around code that runs in a thread: the runner's loop awaits it, the thread waits.

Entering and leaving happen in one asyncio task, because timeouts and task groups end in the task that they began in.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_Exit = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
#: Seconds that the thread waits beyond the limit, because a loop that turns has said by then how it went.
_GRACE_SECONDS = 1.0


async def within(seconds_max: float, doing: Awaitable[T], done: str) -> T:
    """Awaits something, and cancels it when that takes too long.

    Args:
        seconds_max: how long it may take.
        doing: what to await.
        done: what it does, as in "entered".

    Raises:
        TimeoutError: it took too long. The text says so.
    """
    limit = asyncio.timeout(seconds_max)
    try:
        async with limit:
            return await doing
    except TimeoutError:
        if limit.expired():
            raise _late(seconds_max, done) from None
        raise


class HeldOnLoop:
    """A plain context manager around an async one. To be used in a thread other than the loop's."""

    def __init__(
        self, manager: AbstractAsyncContextManager[Any], loop: asyncio.AbstractEventLoop, seconds_max: float
    ) -> None:
        """Args:
        manager: is entered and left on the loop.
        loop: turns in another thread.
        seconds_max: how long entering it may take, and leaving it.
        """
        self._manager = manager
        self._loop = loop
        self._seconds_max = seconds_max
        self._pid = os.getpid()
        self._entered: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._left: concurrent.futures.Future[bool] = concurrent.futures.Future()
        self._exit: asyncio.Future[_Exit] = asyncio.Future(loop=loop)

    def __enter__(self) -> None:
        """Enters it.

        Raises:
            TimeoutError: it took too long.
            BaseException: what it raised.
        """
        asyncio.run_coroutine_threadsafe(self._hold(), self._loop)
        try:
            self._wait(self._entered, "entered")
        except BaseException:
            # Where it is entered after all, it is left at once.
            self._leave((None, None, None))
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Leaves it.

        Raises:
            TimeoutError: it took too long.
            BaseException: what it raised.
        """
        if os.getpid() != self._pid:
            # The handler has forked, and this is the child: the loop is its parent's.
            return False
        self._leave((kind, error, trace))
        return self._wait(self._left, "left")

    def _wait(self, future: concurrent.futures.Future[T], done: str) -> T:
        try:
            return future.result(self._seconds_max + _GRACE_SECONDS)
        except TimeoutError:
            if future.done():
                raise
            raise _late(self._seconds_max, done) from None

    def _leave(self, how: _Exit) -> None:
        self._loop.call_soon_threadsafe(self._set_exit, how)

    def _set_exit(self, how: _Exit) -> None:
        if not self._exit.done():
            self._exit.set_result(how)

    async def _hold(self) -> None:
        try:
            await within(self._seconds_max, self._manager.__aenter__(), "entered")
        except BaseException as error:  # noqa: BLE001 - the thread gets it
            self._entered.set_exception(error)
            return
        self._entered.set_result(None)
        try:
            how = await self._exit
            self._left.set_result(bool(await within(self._seconds_max, self._manager.__aexit__(*how), "left")))
        except BaseException as error:  # noqa: BLE001 - as above
            self._left.set_exception(error)


def _late(seconds_max: float, done: str) -> TimeoutError:
    return TimeoutError(f"it was not {done} within {seconds_max:g} s")

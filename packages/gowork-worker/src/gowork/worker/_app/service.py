"""Start and stop of a worker, in order.

start: supervisor with its runners -> handlers known -> session (or callback member)
stop:  draining told, nothing new -> running tasks finish, or are handed back -> reports acknowledged -> goodbye
       -> runners end
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
from collections.abc import Iterator, Sequence
from typing import Protocol

from gowork.worker._session.connector import Connector
from gowork.worker._supervisor.options import Options
from gowork.worker._supervisor.supervisor import Supervisor

logger = logging.getLogger("gowork.worker")

#: Seconds that the leader has to acknowledge the last reports.
_ACKNOWLEDGE_TIMEOUT = 5.0
#: Seconds to say goodbye.
_GOODBYE_TIMEOUT = 3.0


class Link(Protocol):
    """How the worker is tied to its leader: a session, or as a callback member."""

    #: Set once a leader has taken the worker in.
    welcomed: asyncio.Event
    #: Whether it is tied right now.
    connected: bool

    async def run(self) -> None:
        """Keeps the tie until the worker has left."""


class Service:
    """One worker. Await `run`."""

    def __init__(self, options: Options, addresses: Sequence[str]) -> None:
        self.options = options
        self.supervisor = Supervisor(options)
        self._stops = 0
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self.link: Link = Connector(self.supervisor, addresses, secrets.token_hex(8))

    def stop(self) -> None:
        """Asks the worker to drain; the second call to hand back at once."""
        self._stops += 1
        self._stop.set()
        if self._stops > 1:
            self._stop_now.set()

    async def welcomed(self) -> None:
        """Waits until a leader has taken the worker in."""
        await self.link.welcomed.wait()

    async def run(self, *, own_process: bool = False) -> None:
        """Runs the worker until `stop`, or until it is cancelled.

        Args:
            own_process: take SIGTERM and SIGINT as calls of `stop`.
        """
        with self._signals() if own_process else contextlib.nullcontext():
            async with asyncio.TaskGroup() as group:
                runners = group.create_task(self.supervisor.run(), name="supervisor")
                link = group.create_task(self._run_link(), name="link")
                try:
                    await self._stop.wait()
                    await self._drain()
                finally:
                    # Also when this is cancelled: then nothing was waited for, and what runs is handed back now.
                    await self.supervisor.hand_back("the worker stopped before it had finished")
                    await self.supervisor.leave(_ACKNOWLEDGE_TIMEOUT if self.link.connected else 0.0)
                    await asyncio.wait([link], timeout=_GOODBYE_TIMEOUT if self.link.connected else 0.0)
                    link.cancel()
                    await self.supervisor.close()
                    await asyncio.wait([runners])

    async def _run_link(self) -> None:
        await self.supervisor.ready.wait()
        await self.link.run()

    async def _drain(self) -> None:
        logger.info("draining", extra={"seconds": self.options.drain_timeout})
        async with asyncio.TaskGroup() as group:
            finish = group.create_task(self.supervisor.finish(self.options.drain_timeout), name="drain")
            now = group.create_task(self._stop_now.wait(), name="second stop")
            await asyncio.wait([finish, now], return_when=asyncio.FIRST_COMPLETED)
            finish.cancel()
            now.cancel()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

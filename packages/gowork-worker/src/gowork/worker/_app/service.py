"""Start and stop of a worker, in order.

start: supervisor with its runners -> handlers known -> session (or callback worker)
stop:  leader told, nothing new starts -> running tasks finish, or are handed back -> reports acknowledged -> goodbye
       The runners end during the last two steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from gowork.base.tls import Tls
from gowork.worker._core.options import Options
from gowork.worker._session.connector import Connector
from gowork.worker._supervisor.supervisor import Supervisor

logger = logging.getLogger("gowork.worker")

#: Seconds that the leader has to acknowledge the last reports, and to take the goodbye. With the default drain timeout,
#: and what runners are given to stop, a stop fits into the 120 s that containers are often given.
_ACKNOWLEDGE_TIMEOUT = 3.0
_GOODBYE_TIMEOUT = 3.0
#: Seconds between two lines about the tasks that a drain waits for, and how many tasks each line names.
_TELL_INTERVAL = 5.0
_TASKS_TOLD_MAX = 5


class Link(Protocol):
    """The worker's connection to its leader: a session, or that of a callback worker."""

    #: Set once a leader has accepted the worker.
    welcomed: asyncio.Event
    #: Whether it is connected right now.
    connected: bool

    async def run(self) -> None:
        """Keeps the worker connected until it has left."""


class Service:
    """One worker. Await `run`."""

    def __init__(self, options: Options, addresses: Sequence[str], tls: Tls | None = None) -> None:
        self.options = options
        self.supervisor = Supervisor(options)
        self.supervisor.asked_to_drain = self.drain
        self._stops = 0
        self._stop = asyncio.Event()
        #: When running tasks are handed back, in seconds of the monotonic clock.
        self._deadline = math.inf
        #: Ends the drain; None while none is on.
        self._timeout: asyncio.Timeout | None = None
        self.link: Link = Connector(self.supervisor, addresses, tls)
        #: The loop that it runs on; None before it runs.
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop_soon(self) -> None:
        """Does as `stop`. Any thread may call this."""
        loop = self._loop
        if loop is None:
            self.stop()
            return
        with contextlib.suppress(RuntimeError):
            # The loop of a service that has ended may be closed.
            loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Asks the worker to drain within its drain_timeout. The second call hands running tasks back at once."""
        self._stops += 1
        self._drain_within(self.options.drain_timeout if self._stops == 1 else 0.0)

    def drain(self, budget: float | None) -> None:
        """Asks the worker to drain on behalf of its leader. A worker that drains already goes on as before.

        Args:
            budget: seconds that running tasks have to finish; None for the worker's drain_timeout.
        """
        if not self._stop.is_set():
            self._drain_within(self.options.drain_timeout if budget is None else budget)

    def _drain_within(self, budget: float) -> None:
        """Begins the drain, or shortens it: the earliest deadline counts."""
        self._deadline = min(self._deadline, time.monotonic() + budget)
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self.seconds_left)
        self._stop.set()

    @property
    def is_told_to_stop(self) -> bool:
        """Whether this process was asked to stop. A drain that a leader asks for may take longer than any stop."""
        return self._stops > 0

    @property
    def seconds_left(self) -> float:
        """Seconds until running tasks are handed back; infinite while nobody has asked to drain."""
        return max(0.0, self._deadline - time.monotonic())

    async def welcomed(self) -> None:
        """Waits until a leader has accepted the worker."""
        await self.link.welcomed.wait()

    async def run(self, *, own_process: bool = False) -> None:
        """Runs the worker until `stop`, or until it is cancelled.

        Args:
            own_process: whether SIGTERM and SIGINT call `stop`.

        Raises:
            ConfigurationError: when an environment of `plugin_envs` can't be used. The text names it.
        """
        self._loop = asyncio.get_running_loop()
        logger.info(
            "starting", extra={"slots": self.options.slots, "runners": self.options.runners, "pid": os.getpid()}
        )
        with self._signals() if own_process else contextlib.nullcontext():
            async with asyncio.TaskGroup() as group:
                runners = group.create_task(self.supervisor.run(), name="supervisor")
                link = group.create_task(self._run_link(), name="link")
                try:
                    await self._stop.wait()
                    if self.supervisor.refusal is None:
                        await self._drain()
                finally:
                    # When this is cancelled, no task was waited for, and the running ones are handed back now.
                    await self.supervisor.hand_back("the worker stopped before it had finished")
                    async with asyncio.TaskGroup() as last:
                        last.create_task(self._say_goodbye(link), name="goodbye")
                        last.create_task(self.supervisor.close(), name="close")
                    await asyncio.wait([runners])
        if self.supervisor.refusal is not None:
            raise self.supervisor.refusal

    async def _run_link(self) -> None:
        await self.supervisor.ready.wait()
        if self.supervisor.refusal is not None:
            # No leader hears of a worker that can't start.
            self._stop.set()
            return
        await self.link.run()

    async def _drain(self) -> None:
        seconds = self.seconds_left
        logger.info("draining", extra={"seconds": round(seconds, 3)})
        try:
            async with asyncio.timeout(seconds) as self._timeout, asyncio.TaskGroup() as group:
                teller = group.create_task(self._tell_what_runs(), name="teller")
                await self.supervisor.finish()
                teller.cancel()
        except TimeoutError:
            logger.info("drain budget used up")
        finally:
            self._timeout = None

    async def _tell_what_runs(self) -> None:
        while True:
            await asyncio.sleep(_TELL_INTERVAL)
            count, named = self.supervisor.waited_for(_TASKS_TOLD_MAX)
            extra = {"tasks": count, "first": ", ".join(named), "seconds": round(self.seconds_left, 3)}
            logger.info("waiting for tasks", extra=extra)

    async def _say_goodbye(self, link: asyncio.Task[None]) -> None:
        await self.supervisor.leave(_ACKNOWLEDGE_TIMEOUT if self.link.connected else 0.0)
        await asyncio.wait([link], timeout=_GOODBYE_TIMEOUT if self.link.connected else 0.0)
        link.cancel()
        if count := self.supervisor.unacknowledged:
            reason = "the leader did not answer: these tasks run again"
            logger.warning("stopped before all reports were acknowledged", extra={"reports": count, "reason": reason})

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

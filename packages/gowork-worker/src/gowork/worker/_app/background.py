"""A worker in a thread of its own, for programs without an event loop, and for notebooks, whose cells block theirs."""

from __future__ import annotations

import asyncio
import atexit
import importlib
import logging
import os
import threading
import time

from gowork.worker._app.service import Service

logger = logging.getLogger("gowork.worker")

#: Seconds that workers have to hand their tasks back when the program ends and has not stopped them.
_EXIT_SECONDS = 15.0
#: Those that run.
_running: set[Background] = set()
_registered = False


class Background:
    """Runs a service on a loop of its own. It belongs to the process that has made it."""

    def __init__(self, service: Service) -> None:
        """Starts it. Returns when its loop runs, so that any thread may stop it from then on."""
        self._service = service
        self._process = os.getpid()
        #: What has ended it; None while it runs, and when it was asked to end.
        self._error: BaseException | None = None
        began = threading.Event()
        # A daemon, because the interpreter waits for all other threads, and nothing would ever end this one.
        self._thread = threading.Thread(target=self._run, args=(began,), name="gowork-worker", daemon=True)
        self._thread.start()
        began.wait()
        _register()

    @property
    def is_running(self) -> bool:
        """Whether it runs, in this process."""
        return self._process == os.getpid() and self._thread.is_alive()

    def wait(self, timeout: float | None) -> None:
        """Waits until its thread has ended, at most `timeout` seconds."""
        self._thread.join(timeout)

    def join(self, timeout: float | None) -> bool:
        """Waits until it has ended, at most `timeout` seconds; None: for as long as it takes. Returns whether it has.

        Raises:
            BaseException: what ended it, if nobody had asked it to end.
        """
        if self._process == os.getpid():
            self.wait(timeout)
            if self._thread.is_alive():
                return False
        if self._error is not None:
            raise self._error
        return True

    def _run(self, began: threading.Event) -> None:
        _running.add(self)
        try:
            asyncio.run(self._live(began))
        except BaseException as error:  # noqa: BLE001 - who joins gets it
            self._error = error
            logger.error("the worker ended", extra={"reason": repr(error)})
        finally:
            _running.discard(self)
            began.set()

    async def _live(self, began: threading.Event) -> None:
        running = asyncio.create_task(self._service.run(), name="gowork worker")
        # After its first step, in which it notes the loop.
        asyncio.get_running_loop().call_soon(began.set)
        await running

    def hand_back(self) -> None:
        """Has the worker hand its tasks back at once, and end."""
        self._service.stop_soon()
        self._service.stop_soon()


def _register() -> None:
    global _registered  # noqa: PLW0603 - a fact of the process
    if not _registered:
        _registered = True
        # With `atexit` it would be too late: no pool of threads takes work any more, and a worker needs one to end.
        # Pools stop by the same means once their module is imported, and what is registered last runs first.
        importlib.import_module("concurrent.futures.thread")
        getattr(threading, "_register_atexit", atexit.register)(_hand_all_back)


def _hand_all_back() -> None:
    """The program ends without having stopped these workers."""
    left = [background for background in list(_running) if background.is_running]
    for background in left:
        background.hand_back()
    deadline = time.monotonic() + _EXIT_SECONDS
    for background in left:
        background.wait(max(0.0, deadline - time.monotonic()))

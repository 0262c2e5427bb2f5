"""Keeps a leadership alive, in a thread and over a connection of its own, so that no load delays it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from gowork.leader.log._postgresql.server import CALL_SECONDS, Server
from gowork.leader.log.holding import OwnLease
from gowork.leader.log.protocol import LogError

_log = logging.getLogger(__name__)


class Keeper:
    """Keeps one leadership alive until it is stopped or fails.

    Args:
        conninfo: libpq's connection string.
        statement: keeps it alive, and returns a row if it was still there.
        values: of the statement.
        own: is told of each keepalive that was answered.
        over: is called once, on the loop that makes the keeper, when the leadership is gone or its time is over.
    """

    def __init__(
        self, conninfo: str, statement: bytes, values: Mapping[str, object], own: OwnLease, over: Callable[[], None]
    ) -> None:
        self._server = Server(conninfo, 1)
        self._statement = statement
        self._values = values
        self._own = own
        self._over = over
        self._home = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._keeping = self._loop.create_task(self._keep())
        threading.Thread(target=self._run, name="gowork-postgresql-lease", daemon=True).start()

    def stop(self) -> None:
        """Keeps it no more. Harmless when repeated."""
        # The loop is closed when it has ended by itself.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._keeping.cancel)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._keeping)
        except asyncio.CancelledError:
            return
        except Exception:  # noqa: BLE001 - the leadership then ends, as it must
            _log.exception("keeping the leadership failed")
        finally:
            self._loop.run_until_complete(self._server.close())
            self._loop.close()
        # When the home loop is closed, nobody leads any more.
        with suppress(RuntimeError):
            self._home.call_soon_threadsafe(self._over)

    async def _keep(self) -> None:
        """Returns when the leadership is gone, or its time is over."""
        while (sent := self._own.now()) < self._own.until:
            try:
                is_kept = await self._attempt(min(CALL_SECONDS, self._own.until - sent))
            except LogError:
                wait = self._own.interval / 5
            else:
                if not is_kept:
                    return
                self._own.renewed(sent)
                wait = self._own.interval
            await asyncio.sleep(min(wait, max(self._own.until - self._own.now(), 0.0)))

    async def _attempt(self, seconds: float) -> bool:
        return bool(await self._server.run(self._statement, self._values, seconds))

"""The place from which one leader serves for a while, as callers, workers and the network see it."""

from __future__ import annotations

import asyncio
from contextvars import Context

from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.sessions import Sessions


class Seat:
    """It is open from when the leader begins to serve until it ends or is lost.

    Args:
        engine: takes the commands of callers.
        sessions: serves workers' streams.
        context: in which the leader's code runs; None: that of whoever calls it.
        name: the leader's name; empty: there is only one.
        token: the token of its leadership; 0: there is only one leader.
    """

    def __init__(
        self, engine: Engine, sessions: Sessions, context: Context | None = None, name: str = "", token: int = 0
    ) -> None:
        self.engine, self.sessions, self.context = engine, sessions, context
        self.name, self.token = name, token
        #: Is done when it is closed.
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        return not self.gone.done()

    def close(self) -> None:
        """Serves nobody any more. Harmless when repeated."""
        if not self.gone.done():
            self.gone.set_result(None)

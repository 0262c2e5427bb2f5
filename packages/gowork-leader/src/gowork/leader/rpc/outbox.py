"""Takes the engine's effects to those they concern."""

from __future__ import annotations

from collections.abc import Sequence

from gowork.leader.core import effects as ef
from gowork.leader.rpc.dialer import Dialer
from gowork.leader.rpc.sessions import Sessions


class Outbox:
    """Session streams for workers, calls for callback members."""

    def __init__(self, sessions: Sessions, dialer: Dialer) -> None:
        self._sessions = sessions
        self._dialer = dialer

    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ef.StartWork | ef.StopWork):
                self._dialer.deliver(effect)
            else:
                self._sessions.deliver(effect)

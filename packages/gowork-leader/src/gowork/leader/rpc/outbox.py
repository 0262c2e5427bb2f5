"""Takes the engine's effects to those they concern."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gowork.leader.core import effects as ef
from gowork.leader.rpc.dialer import Dialer
from gowork.leader.rpc.sessions import Sessions


class Outbox:
    """Session streams for workers, calls for callback members."""

    def __init__(self, sessions: Sessions, dialer: Dialer, stale: Callable[[int], None]) -> None:
        """`stale` counts refused reports, whether or not anybody is left to be told of them."""
        self._sessions = sessions
        self._dialer = dialer
        self._stale = stale

    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ef.StartWork | ef.StopWork):
                self._dialer.deliver(effect)
            elif isinstance(effect, ef.CountStale):
                self._stale(1)
            else:
                if isinstance(effect, ef.Acknowledge) and effect.refused:
                    self._stale(len(effect.refused))
                self._sessions.deliver(effect)

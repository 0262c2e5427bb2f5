"""Takes the engine's effects to those they concern."""

from __future__ import annotations

from collections.abc import Sequence

from gowork.leader.core import effects as ef
from gowork.leader.engine.counts import Counts
from gowork.leader.rpc.dialer import Dialer
from gowork.leader.rpc.sessions import Sessions


class Outbox:
    """Session streams for workers, calls for callback members."""

    def __init__(self, sessions: Sessions, dialer: Dialer, counts: Counts) -> None:
        """`counts` is told what was refused, whether or not anybody is left to be told of it."""
        self._sessions = sessions
        self._dialer = dialer
        self._counts = counts

    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ef.StartWork | ef.StopWork):
                self._dialer.deliver(effect)
            elif isinstance(effect, ef.CountStale):
                self._counts.reports_refused(1)
            elif isinstance(effect, ef.CountNotSubmitted):
                outcome = "refused" if effect.refused else "duplicate"
                self._counts.not_submitted(effect.specs, outcome)
            elif isinstance(effect, ef.CountHeartbeatRefused):
                self._counts.heartbeat_refused()
            else:
                if isinstance(effect, ef.Acknowledge) and effect.refused:
                    self._counts.reports_refused(len(effect.refused))
                self._sessions.deliver(effect)

"""Carries the engine's effects to those that they concern."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gowork.leader._core import effects as ef
from gowork.leader._engine.counts import Counts
from gowork.leader._rpc.dialer import Dialer
from gowork.leader._rpc.sessions import Sessions


class EffectRouter:
    """Routes effects to the session streams, the dialer, the counts and the traces."""

    def __init__(
        self,
        sessions: Sessions,
        dialer: Dialer,
        counts: Counts,
        settle: Callable[[ef.TraceSettling], None] = lambda effect: None,
    ) -> None:
        """Args:
        sessions: takes the effects for workers with a session.
        dialer: takes the effects for callback workers.
        counts: counts what was refused, even if the sender is gone.
        settle: makes spans; needed when Settings.traced is set.
        """
        self._sessions = sessions
        self._dialer = dialer
        self._counts = counts
        self._settle = settle

    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ef.StartWork | ef.StopWork):
                self._dialer.deliver(effect)
            elif isinstance(effect, ef.TraceSettling):
                self._settle(effect)
            elif isinstance(effect, ef.CountStale):
                self._counts.reports_refused(1)
            elif isinstance(effect, ef.CountNotSubmitted):
                self._counts.not_submitted(effect.specs, effect.outcome)
            elif isinstance(effect, ef.CountHeartbeatRefused):
                self._counts.heartbeat_refused()
            else:
                if isinstance(effect, ef.Acknowledge) and effect.refused:
                    self._counts.reports_refused(len(effect.refused))
                self._sessions.deliver(effect)

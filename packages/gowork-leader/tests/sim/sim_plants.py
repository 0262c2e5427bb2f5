"""Planted bugs, to show that the simulator bites. Each is put in from outside; nothing in the leader knows of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from gowork.leader.core import attempts, sessions
from gowork.leader.core import commands as cmd
from gowork.leader.core.decision import Decision
from gowork.leader.core.model import Outcome, Standing, Status, Task
from gowork.leader.engine import loop
from gowork.leader.engine.loop import Engine


@dataclass
class Plants:
    """Which bugs are in."""

    accept_stale_fence: bool = False
    effect_before_commit: bool = False
    acknowledge_undurable_duplicate: bool = False
    forget_leases_on_recovery: bool = False
    worker_drops_reports: bool = False
    count_interrupted_attempts: bool = False

    def into_engine(self, engine: Engine) -> None:
        """Puts those in that live in one engine."""
        if self.effect_before_commit:
            decide = engine._decide

            def early(*args: Any) -> Decision:
                decision = decide(*args)
                engine._outbox.deliver(decision.effects)
                decision.effects = []
                return decision

            engine._decide = early  # type: ignore[method-assign]
        if self.acknowledge_undurable_duplicate:
            ask = engine.ask

            async def hasty(command: cmd.Command) -> Any:
                known = engine._state.tasks
                if isinstance(command, cmd.Submit) and all(spec.id in known for spec in command.specs):
                    return cmd.Submitted(0, len(command.specs))
                return await ask(command)

            engine.ask = hasty  # type: ignore[method-assign]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Puts those in that live in modules."""
        with mock.patch.multiple(sessions, **self._sessions()), mock.patch.multiple(loop, **self._loop()):
            yield

    def _sessions(self) -> dict[str, Any]:
        patches: dict[str, Any] = {"settle": sessions.settle}
        if self.accept_stale_fence:
            patches["_holds"] = _holds_whatever_runs
        if self.count_interrupted_attempts:
            patches["settle"] = _settle_counting_all
        return patches

    def _loop(self) -> dict[str, Any]:
        return {"expect": _expect_nobody if self.forget_leases_on_recovery else loop.expect}


def _holds_whatever_runs(task: Task, instance: str, fence: int) -> bool:
    return task.standing.status is Status.RUNNING


def _settle_counting_all(standing: Standing, report: cmd.Report, *args: Any) -> Standing:
    if report.outcome is Outcome.INTERRUPTED:
        report = cmd.Report(report.fence, report.id, Outcome.INTERRUPTED, reason=report.reason)
        settled = attempts.settle(standing, report, *args)
        fields = {name: getattr(settled, name) for name in settled.__struct_fields__}
        return Standing(**{**fields, "attempts_used": settled.attempts_used + 1})
    return attempts.settle(standing, report, *args)


def _expect_nobody(state: Any, lease_mono: float) -> None:
    """Leaves the holders that were loaded without a lease."""

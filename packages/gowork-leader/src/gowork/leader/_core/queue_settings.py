"""Decides on the settings that operators give to queues."""

from __future__ import annotations

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.decision import Decision
from gowork.leader._core.kinds import QUEUES
from gowork.leader._core.model import Now, QueueSettings
from gowork.leader._core.state import State


def pause_queue(state: State, command: cmd.PauseQueue, now: Now) -> Decision:
    """Pauses a queue, or resumes it."""
    return _configured(state, command.name, now, paused=command.paused)


def configure_queue(state: State, command: cmd.ConfigureQueue, now: Now) -> Decision:
    """Sets the fields that are not None in the command, and leaves the others as they are."""
    fields = ("weight", "concurrency_limit", "key_concurrency_limit", "rate_limit", "rate_burst")
    wanted = {name: value for name in fields if (value := getattr(command, name)) is not None}
    return _configured(state, command.name, now, **wanted)


def _configured(state: State, name: str, now: Now, **wanted: float) -> Decision:
    queue = state.queues.get(name)
    old = QueueSettings() if queue is None else queue.settings
    new = replace(old, **wanted)
    decision = Decision(new)
    if new == old:
        return decision
    if name not in state.facts.of(QUEUES) and state.facts.is_full(QUEUES):
        message = f"{QUEUES.rows_max} queues have settings, which is the limit; set one back to the defaults first"
        return Decision(cmd.Refused(cmd.TOO_MANY_QUEUES, message))
    tokens = 0.0
    if queue is not None and old.rate_limit:
        # The tokens that have gathered are kept, so that setting a rate again is no way around it.
        tokens = queue.tokens_at(now.mono)
    elif new.rate_limit:
        tokens = float(new.rate_burst) or max(1.0, new.rate_limit)
    is_default = new == QueueSettings()
    decision.changes.append(ch.FactRemoved(QUEUES, name) if is_default else ch.FactPut(QUEUES, name, new))
    decision.changes.append(ch.QueueConfigured(name, new, tokens, now.mono))
    return decision

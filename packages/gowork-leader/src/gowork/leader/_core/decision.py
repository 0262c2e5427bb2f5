"""What a decision is made of."""

from __future__ import annotations

from gowork.leader._core.changes import Change
from gowork.leader._core.commands import Answer
from gowork.leader._core.effects import Effect


class Decision:
    """What follows from one command.

    Changes to apply at once, effects and an answer to let out when they are durable.
    """

    __slots__ = ("answer", "changes", "effects")

    def __init__(self, answer: Answer = None) -> None:
        self.changes: list[Change] = []
        self.effects: list[Effect] = []
        self.answer: Answer = answer

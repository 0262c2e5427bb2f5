"""The parts of a decision."""

from __future__ import annotations

from gowork.leader._core.changes import Change
from gowork.leader._core.commands import Answer
from gowork.leader._core.effects import Effect


class Decision:
    """What follows from one command.

    The changes are applied at once. The effects and the answer are let out when the changes are durable.
    """

    __slots__ = ("answer", "changes", "effects")

    def __init__(self, answer: Answer = None) -> None:
        self.changes: list[Change] = []
        self.effects: list[Effect] = []
        #: The tests compare its type with the one that the command names: mypy carries no type variable of a command
        #: through the `match` in `decide`.
        self.answer: Answer = answer

"""What a batch has brought about and nobody knows yet: all that leaves the core is in this one value."""

from __future__ import annotations

from gowork.leader._core.commands import Answer
from gowork.leader._core.effects import Effect
from gowork.leader._core.model import FactKey, Task
from gowork.leader._core.tally import Tally


class Pending:
    """Gathered while the commands of a batch are carried out, and taken once, at its end.

    The engine writes the first part, and lets the rest out when that is durable.
    """

    __slots__ = (
        "answers",
        "effects",
        "facts",
        "forgotten_before",
        "moved",
        "progressed",
        "removed",
        "submitted",
        "tally",
    )

    def __init__(self) -> None:
        # To be written.
        #: {id: task}: new ones, and those that the store has and that have changed.
        self.submitted: dict[str, Task] = {}
        self.moved: dict[str, Task] = {}
        #: {seq: id} of stored tasks that are removed.
        self.removed: dict[int, str] = {}
        #: Removals of batches before this one need not be told any more; 0: all are.
        self.forgotten_before = 0
        #: What facts hold now, as they are stored; None: the fact holds no longer.
        self.facts: dict[FactKey, bytes | None] = {}

        # To be told.
        #: In the order in which they were decided on.
        self.effects: list[Effect] = []
        #: (the caller, the answer), in the order of the commands.
        self.answers: list[tuple[object, Answer]] = []
        #: {id: task} whose progress is new; it is not stored.
        self.progressed: dict[str, Task] = {}

        # To be counted.
        self.tally = Tally()

    @property
    def is_written(self) -> bool:
        """Whether there is anything for the store."""
        return bool(self.submitted or self.moved or self.removed or self.forgotten_before or self.facts)

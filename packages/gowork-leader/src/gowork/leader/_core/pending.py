"""What a batch has brought about and nobody knows yet: all that leaves the core is in this one value."""

from __future__ import annotations

from typing import Any, Protocol

from gowork.leader._core.commands import Answer
from gowork.leader._core.effects import Effect
from gowork.leader._core.model import FactKey, Task
from gowork.leader._core.tally import Tally


class Caller(Protocol):
    """Whoever waits for an answer; the core hands it back with that and does not look at it."""

    def done(self) -> bool:
        """Whether it waits no longer."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Gives it the answer."""
        ...


class Pending:
    """Gathered while the commands of a batch are carried out, and taken once, at its end.

    The engine writes the first part, and lets the rest out when that is durable.
    """

    __slots__ = (
        "answers",
        "effects",
        "facts",
        "forgotten_before",
        "is_written",
        "moved",
        "progressed",
        "removed",
        "submitted",
        "tally",
    )

    def __init__(self, before: Pending | None = None) -> None:
        """Nothing has come of this batch yet.

        Args:
            before: what the batch before brought about, when nothing of that is written. Its tables are empty and are
                used again, because many batches write nothing, and tables cost more than what is in them.
        """
        # To be written.
        #: Whether there is anything for the store, as of `take`.
        self.is_written = False
        #: {id: task}: new ones, and those that the store has and that have changed.
        self.submitted: dict[str, Task] = {} if before is None else before.submitted
        self.moved: dict[str, Task] = {} if before is None else before.moved
        #: {seq: id} of stored tasks that are removed.
        self.removed: dict[int, str] = {} if before is None else before.removed
        #: Removals of batches before this one need not be told any more; 0: all are.
        self.forgotten_before = 0
        #: What facts hold now, as they are stored; None: the fact holds no longer.
        self.facts: dict[FactKey, bytes | None] = {} if before is None else before.facts

        # To be told.
        #: In the order in which they were decided on.
        self.effects: list[Effect] = []
        #: (whoever asked, the answer), in the order of the commands.
        self.answers: list[tuple[Caller, Answer]] = []
        #: {id: task} whose progress is new; it is not stored.
        self.progressed: dict[str, Task] = {}

        # To be counted.
        self.tally: Tally = Tally() if before is None or before.tally else before.tally

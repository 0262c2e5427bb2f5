"""What a batch has brought about and nobody outside knows yet. All that leaves the core is in this one value."""

from __future__ import annotations

from typing import Any, Protocol

from gowork.leader._core.commands import Answer
from gowork.leader._core.effects import Effect
from gowork.leader._core.model import FactKey, Task
from gowork.leader._core.tally import Tally


class Caller(Protocol):
    """Who waits for an answer. The core hands it back with the answer and does not look at it."""

    def done(self) -> bool:
        """Whether the caller no longer waits."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Gives the caller the answer."""
        ...


class Pending:
    """Gathers what the commands of a batch bring about. It is taken once, at the end of the batch.

    The engine writes the first part, and lets the rest out when the first part is durable.
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
        "replaced",
        "submitted",
        "tally",
    )

    def __init__(self, before: Pending | None = None) -> None:
        """Begins a batch.

        Args:
            before: the Pending of the batch before, if that has nothing to write. Its empty tables are used again,
                because many batches write nothing and new tables cost time.
        """
        # To be written.
        #: Whether there is anything for the store. `take` sets it.
        self.is_written = False
        #: {id: task}: new tasks, and stored tasks that have changed.
        self.submitted: dict[str, Task] = {} if before is None else before.submitted
        self.moved: dict[str, Task] = {} if before is None else before.moved
        #: {seq: id} of stored tasks that are removed.
        self.removed: dict[int, str] = {} if before is None else before.removed
        #: {id: seq} of stored records in whose place new ones come, which are in `submitted`.
        self.replaced: dict[str, int] = {} if before is None else before.replaced
        #: The number of a batch: watchers are told no more of removals in earlier batches. 0: they are told of all.
        self.forgotten_before = 0
        #: {which fact: its new value as it is stored}; None: the fact is removed.
        self.facts: dict[FactKey, bytes | None] = {} if before is None else before.facts

        # To be told to callers, workers and watchers.
        #: In the order in which they were decided on.
        self.effects: list[Effect] = []
        #: (who asked, the answer), in the order of the commands.
        self.answers: list[tuple[Caller, Answer]] = []
        #: {id: task} of tasks whose progress is new; progress is not stored.
        self.progressed: dict[str, Task] = {}

        # To be counted.
        self.tally: Tally = Tally() if before is None or before.tally else before.tally

    @property
    def lets_out(self) -> bool:
        """Whether it has anything to be told."""
        return bool(self.answers or self.effects or self.progressed)

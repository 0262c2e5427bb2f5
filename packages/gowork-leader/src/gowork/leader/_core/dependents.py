"""Which tasks come after which, and how many of those have not ended.

Owns an index over the facts of `kinds.AFTER`, which a start builds anew from the standings of the tasks that they name.
Its numbers are never stored. `upstream` decides on them.

Invariant UPSTREAM-COUNTED: a dependent's numbers are those of the tasks that it names, as they stand now. A task
that is no longer kept counts as one that has ended without completing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence

from gowork.leader._core.model import COMPLETED, AfterRule, Status


class Verdict(enum.Enum):
    """What the rule of a dependent says."""

    #: It can't be told yet.
    WAIT = 1
    RUN = 2
    #: The rule can't hold any more.
    CANCEL = 3


class Dependent:
    """A task that comes after others."""

    __slots__ = ("culprit", "ids", "is_live", "rule", "unfinished", "without")

    def __init__(self, ids: tuple[str, ...], rule: AfterRule) -> None:
        self.ids = ids
        self.rule = rule
        #: It has not ended.
        self.is_live = False
        #: How many of those tasks have not ended, and how many have ended without completing.
        self.unfinished = 0
        self.without = 0
        #: One of the latter; empty: none, or it is not known which.
        self.culprit = ""

    @property
    def verdict(self) -> Verdict:
        """What its rule says."""
        if self.rule is AfterRule.ALL_COMPLETED:
            if self.without:
                return Verdict.CANCEL
            return Verdict.WAIT if self.unfinished else Verdict.RUN
        if self.rule is AfterRule.ANY_FAILED and self.without:
            return Verdict.RUN
        if self.unfinished:
            return Verdict.WAIT
        return Verdict.RUN if self.rule is AfterRule.ALL_FINISHED else Verdict.CANCEL


class Dependents:
    """The tasks that come after others, by both ends."""

    __slots__ = ("_kept", "by_id", "edges", "in_hand", "live", "of", "undecided")

    def __init__(self) -> None:
        #: {id of a task that comes after others: it}
        self.by_id: dict[str, Dependent] = {}
        #: {id of a task: the ids of those that come after it}
        self.of: dict[str, dict[str, None]] = {}
        #: {id of a task: how many of those have not ended}; a task without any is left out.
        self._kept: dict[str, int] = {}
        #: How many dependents have not ended, and how many ids they name in all.
        self.live = 0
        self.edges = 0
        #: Those that have to be looked at, because their numbers have changed, in order.
        self.undecided: dict[str, None] = {}
        #: Those of them that the current batch looks at. Their tasks are in memory, unless they are no longer there.
        self.in_hand: list[str] = []

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.by_id)

    def add(
        self,
        id: str,
        ids: tuple[str, ...],
        rule: AfterRule,
        status_of: Callable[[str], Status | None],
        *,
        is_live: bool = True,
    ) -> Dependent:
        """Adds a task that comes after these. It is looked at if there is something to decide.

        Args:
            id: the task.
            ids: the tasks that it comes after, each once.
            rule: how they must have ended.
            status_of: returns the status of a task; None: it is no longer kept.
            is_live: whether the task has not ended.
        """
        added = self.by_id[id] = Dependent(ids, rule)
        for upstream in ids:
            status = status_of(upstream)
            if status is not None:
                self.of.setdefault(upstream, {})[id] = None
            if status is None or status >= COMPLETED:
                self._count(added, upstream, status, 1)
            else:
                added.unfinished += 1
        self.revalue(id, is_live=is_live)
        if added.verdict is not Verdict.WAIT:
            self.undecided[id] = None
        return added

    def remove(self, id: str) -> None:
        """Forgets a task that came after others."""
        self.revalue(id, is_live=False)
        gone = self.by_id.pop(id)
        self.undecided.pop(id, None)
        for upstream in gone.ids:
            dependents = self.of.get(upstream)
            if dependents is not None:
                dependents.pop(id, None)
                if not dependents:
                    del self.of[upstream]

    def moved(self, id: str, before: Status, after: Status) -> None:
        """Notes that a task stands elsewhere. Those that run after it are looked at."""
        had, has = before >= COMPLETED, after >= COMPLETED
        if had == has:
            return
        for name in self.of.get(id, ()):
            dependent = self.by_id[name]
            if has:
                dependent.unfinished -= 1
                self._count(dependent, id, after, 1)
            else:
                dependent.unfinished += 1
                self._count(dependent, id, before, -1)
            if dependent.verdict is not Verdict.WAIT or not dependent.is_live:
                self.undecided[name] = None

    def revalue(self, id: str, *, is_live: bool) -> None:
        """Notes that a task that comes after others has ended because of them, or no longer has."""
        dependent = self.by_id[id]
        if dependent.is_live is is_live:
            return
        dependent.is_live = is_live
        by = 1 if is_live else -1
        self.live += by
        self.edges += by * len(dependent.ids)
        for upstream in dependent.ids:
            if id not in self.of.get(upstream, ()):
                # It was no longer kept when its dependent was added.
                continue
            number = self._kept.get(upstream, 0) + by
            if number:
                self._kept[upstream] = number
            else:
                del self._kept[upstream]

    def keeps(self, id: str) -> bool:
        """Whether a task has to be kept, because others that come after it have not ended."""
        return id in self._kept

    @property
    def kept(self) -> int:
        """How many tasks have to be kept."""
        return len(self._kept)

    def take_in_hand(self, limit: int) -> Sequence[str]:
        """Has the current batch look at the first `limit` of those that have to be looked at. Returns their ids."""
        taken: Iterable[str] = self.undecided
        if len(self.undecided) > limit:
            taken = [id for id, _ in zip(self.undecided, range(limit), strict=False)]
        self.in_hand = list(taken)
        for id in self.in_hand:
            del self.undecided[id]
        return self.in_hand

    @staticmethod
    def _count(dependent: Dependent, upstream: str, status: Status | None, by: int) -> None:
        if status is not COMPLETED:
            dependent.without += by
            if by > 0:
                dependent.culprit = upstream
            elif dependent.culprit == upstream:
                dependent.culprit = ""

"""Which tasks come after which, and how many of those have not ended.

Owns an index over the facts of `kinds.AFTER`, which a start builds anew from the standings of the tasks that they name.
Its numbers are never stored. `upstream` decides on them.

A group is a task that comes after its children: the tasks that are newer than it and whose ids are its own id, a slash
and one part more. They are counted, and nothing else is kept of them, because a group may have a million.

Invariant UPSTREAM-COUNTED: a dependent's numbers are those of the tasks that it names, and of its children, as they
stand now. A task that is no longer kept counts as one that has ended without completing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence

from gowork.leader._core.model import CANCELLED, COMPLETED, ERROR, AfterRule, Status


class Verdict(enum.Enum):
    """What the rule of a dependent says."""

    #: It can't be told yet.
    WAIT = 1
    RUN = 2
    #: The rule can't hold any more.
    CANCEL = 3


class Children:
    """The children of a group, counted."""

    __slots__ = ("above", "cancelled", "completed", "expected", "failed", "there")

    def __init__(self, above: int, expected: int | None, counts: Mapping[Status, int]) -> None:
        """Args:
        above: tasks with a seq up to this one are no children.
        expected: how many there will be; None: the group is open.
        counts: how many there are, {status: number}.
        """
        self.above = above
        self.expected = expected
        self.there = sum(counts.values())
        self.completed = counts.get(COMPLETED, 0)
        self.failed = counts.get(ERROR, 0)
        self.cancelled = counts.get(CANCELLED, 0)

    @property
    def without(self) -> int:
        """How many have ended without completing."""
        return self.failed + self.cancelled

    @property
    def ended(self) -> int:
        """How many have ended."""
        return self.completed + self.failed + self.cancelled

    @property
    def unfinished(self) -> int:
        """How many have not ended, those that are still to come included. While it is open, one is still to come."""
        there, expected = self.there, self.expected
        if expected is None:
            there += 1
        elif expected > there:
            there = expected
        return there - self.ended

    def count(self, status: Status, by: int) -> None:
        """Notes that a child has ended so (1), or no longer has (-1)."""
        if status is COMPLETED:
            self.completed += by
        elif status is ERROR:
            self.failed += by
        else:
            self.cancelled += by


class Dependent:
    """A task that comes after others."""

    __slots__ = ("children", "culprit", "ids", "is_live", "rule", "unfinished", "without")

    def __init__(self, ids: tuple[str, ...], rule: AfterRule, children: Children | None = None) -> None:
        self.ids = ids
        self.rule = rule
        #: None: it is no group.
        self.children = children
        #: It has not ended.
        self.is_live = False
        #: How many of the tasks in `ids` have not ended, and how many have ended without completing.
        self.unfinished = 0
        self.without = 0
        #: One of the latter, or of such children; empty: none, or it is not known which.
        self.culprit = ""

    @property
    def verdict(self) -> Verdict:
        """What its rule says."""
        unfinished, without, children = self.unfinished, self.without, self.children
        if children is not None:
            unfinished += children.unfinished
            without += children.without
        if self.rule is AfterRule.ALL_COMPLETED:
            if without:
                return Verdict.CANCEL
            return Verdict.WAIT if unfinished else Verdict.RUN
        if self.rule is AfterRule.ANY_FAILED and without and (children is None or children.expected is not None):
            return Verdict.RUN
        if unfinished:
            return Verdict.WAIT
        return Verdict.RUN if self.rule is AfterRule.ALL_FINISHED else Verdict.CANCEL


class Dependents:
    """The tasks that come after others, by both ends."""

    __slots__ = (
        "_kept",
        "abandoned",
        "by_id",
        "edges",
        "groups",
        "in_hand",
        "live",
        "of",
        "released",
        "stopping",
        "undecided",
    )

    def __init__(self) -> None:
        #: {id of a task that comes after others: it}
        self.by_id: dict[str, Dependent] = {}
        #: Those that are groups.
        self.groups: dict[str, Dependent] = {}
        #: {id of a task: the ids of those that come after it}; those after its children are not here.
        self.of: dict[str, dict[str, None]] = {}
        #: {id of a task: how many of those have not ended}; a task without any is left out.
        self._kept: dict[str, int] = {}
        #: How many dependents have not ended, and how many ids they name in all.
        self.live = 0
        self.edges = 0
        #: How often tasks no longer had to be kept, because one that came after them has ended.
        self.released = 0
        #: Those that have to be looked at, because their numbers have changed, in order.
        self.undecided: dict[str, None] = {}
        #: Those of them that the current batch looks at. Their tasks are in memory, unless they are no longer there.
        self.in_hand: list[str] = []
        #: {id of a task that ended while it waited for others: those of them that are to be cancelled}
        self.abandoned: dict[str, tuple[str, ...]] = {}
        #: Those of its keys whose others the current batch cancels. As above.
        self.stopping: list[str] = []

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
        children: Children | None = None,
    ) -> Dependent:
        """Adds a task that comes after these. It is looked at if there is something to decide.

        Args:
            id: the task.
            ids: the tasks that it comes after, each once.
            rule: how they must have ended.
            status_of: returns the status of a task; None: it is no longer kept.
            is_live: whether the task has not ended.
            children: its children; None: it is no group.
        """
        added = self.by_id[id] = Dependent(ids, rule, children)
        if children is not None:
            self.groups[id] = added
        for upstream in ids:
            status = status_of(upstream)
            if status is not None:
                self.of.setdefault(upstream, {})[id] = None
            if status is None or status >= COMPLETED:
                self._count(added, upstream, status, 1)
            else:
                added.unfinished += 1
        self.revalue(id, is_live=is_live)
        self._look_at(id)
        return added

    def remove(self, id: str) -> None:
        """Forgets a task that came after others."""
        self.revalue(id, is_live=False)
        gone = self.by_id.pop(id)
        self.groups.pop(id, None)
        self.undecided.pop(id, None)
        for upstream in gone.ids:
            dependents = self.of.get(upstream)
            if dependents is not None:
                dependents.pop(id, None)
                if not dependents:
                    del self.of[upstream]

    def group_of(self, id: str, seq: int) -> str:
        """Returns the id of the group of which a task is a child; empty: of none."""
        parent = id.rpartition("/")[0]
        group = self.groups.get(parent)
        return "" if group is None or group.children is None or seq <= group.children.above else parent

    def child_moved(self, id: str, seq: int, before: Status | None, after: Status) -> None:
        """Notes that a task is there, or stands elsewhere, if it is a child of a group. That one is looked at.

        Args:
            id: the task.
            seq: its seq.
            before: where it stood; None: it is new.
            after: where it stands.
        """
        had, has = before is not None and before >= COMPLETED, after >= COMPLETED
        if before is not None and had == has:
            return
        parent = self.group_of(id, seq)
        if not parent:
            return
        group = self.groups[parent]
        assert group.children is not None
        if before is None:
            # It can't decide anything yet.
            group.children.there += 1
            return
        if has:
            group.children.count(after, 1)
            if after is not COMPLETED:
                group.culprit = id
        else:
            group.children.count(before, -1)
            if group.culprit == id:
                group.culprit = ""
        self._look_at(parent)

    def seal(self, id: str, expected: int) -> None:
        """Notes how many children a group will have."""
        children = self.groups[id].children
        assert children is not None
        children.expected = expected
        self._look_at(id)

    def moved(self, id: str, before: Status, after: Status) -> None:
        """Notes that a task stands elsewhere. Those that run after it are looked at, but no group that it is in."""
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
            self._look_at(name)

    def revalue(self, id: str, *, is_live: bool) -> None:
        """Notes that a task that comes after others has ended because of them, or no longer has."""
        dependent = self.by_id[id]
        if dependent.is_live is is_live:
            return
        dependent.is_live = is_live
        by = 1 if is_live else -1
        self.released += not is_live
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
        self._look_at(id)

    def keeps(self, id: str, seq: int) -> bool:
        """Whether a task has to be kept, because others that come after it have not ended."""
        return id in self._kept or bool(self.groups and self._is_of_live(id, seq))

    @property
    def kept(self) -> int:
        """How many tasks that have ended may have to be kept."""
        children = (group.children for group in self.groups.values() if group.is_live)
        return len(self._kept) + sum(each.ended for each in children if each is not None)

    def _is_of_live(self, id: str, seq: int) -> bool:
        parent = self.group_of(id, seq)
        return bool(parent) and self.groups[parent].is_live

    def _look_at(self, id: str) -> None:
        """Has a dependent looked at if there is something to decide."""
        dependent = self.by_id[id]
        settled = Verdict.WAIT if dependent.is_live else Verdict.CANCEL
        if dependent.verdict is not settled:
            self.undecided[id] = None

    def take_in_hand(self, limit: int) -> Sequence[str]:
        """Has the current batch look at the first `limit` of those that have to be looked at. Returns their ids."""
        taken: Iterable[str] = self.undecided
        if len(self.undecided) > limit:
            taken = [id for id, _ in zip(self.undecided, range(limit), strict=False)]
        self.in_hand = list(taken)
        for id in self.in_hand:
            del self.undecided[id]
        return self.in_hand

    def take_abandoned(self, limit: int) -> list[str]:
        """Has the current batch cancel `limit` tasks that are to be cancelled, or some more. Returns their ids."""
        taken: list[str] = []
        self.stopping = []
        for id, ids in self.abandoned.items():
            self.stopping.append(id)
            taken += ids
            if len(taken) >= limit:
                break
        return taken

    @staticmethod
    def _count(dependent: Dependent, upstream: str, status: Status | None, by: int) -> None:
        if status is not COMPLETED:
            dependent.without += by
            if by > 0:
                dependent.culprit = upstream
            elif dependent.culprit == upstream:
                dependent.culprit = ""

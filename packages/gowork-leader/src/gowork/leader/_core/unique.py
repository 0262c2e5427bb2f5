"""Unique keys: while a task has one, no other task of that key is made.

Owns who has which key: a fact for each taken key (`kinds.UNIQUE_KEYS`), and in memory when the keys of tasks that have
ended become free. A fact is never trusted: a key whose task is not unfinished any more is free, whatever a leader of
another version has left behind, except where the task's `unique_for_ms` keeps it.

Invariant ONE-OF-A-KEY: of the unfinished tasks with the same unique key, one has the key, and no other was made or run
again while it had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.kinds import UNIQUE_KEYS
from gowork.leader._core.model import COMPLETED, Now, Task
from gowork.leader._core.state import State


class Keys:
    """Who has which key, as one decision sees it: what it has decided itself counts already."""

    __slots__ = ("_facts", "_now", "_own", "_state", "held")

    def __init__(self, state: State, now: Now) -> None:
        self._state = state
        self._now = now
        self._facts = state.facts.of(UNIQUE_KEYS)
        #: {key: the id of the task that this decision gives it to}; empty: this decision frees the key.
        self._own: dict[str, str] = {}
        #: (place of a task among those that are submitted, id of the task that has its key).
        self.held: list[tuple[int, str]] = []

    def take(self, key: str, id: str) -> str:
        """Gives a key to a task. Returns the id of the other task that has it, and keeps it; empty: nobody had it."""
        holder = self._holder(key)
        if not holder or holder == id:
            self._own[key] = id
            return ""
        return holder

    def end(self, task: Task) -> None:
        """Notes that this decision ends a task, which frees its key if it has one. `apply` frees it then."""
        spec = task.spec
        key = spec.unique_key
        if not key or self._holder(key) != spec.id:
            return
        if not spec.kept_until_ms(task.standing.created_ms, self._now.wall_ms):
            self._own[key] = ""

    def mark(self) -> dict[str, str]:
        """Returns what `back_to` needs to undo all that comes after."""
        return dict(self._own)

    def back_to(self, mark: dict[str, str]) -> None:
        """Undoes what was decided since `mark`."""
        self._own = mark

    def taken(self, since: Mapping[str, str] | None = None) -> list[ch.KeyTaken]:
        """Returns the changes that give keys to tasks: all, or those since a `mark`."""
        before = since or {}
        return [ch.KeyTaken(key, id) for key, id in self._own.items() if id and before.get(key) != id]

    def too_many(self) -> cmd.Refused | None:
        """Returns why there is no room for the keys that this decision gives away; None when there is."""
        there, most = len(self._facts), UNIQUE_KEYS.rows_max
        if there + len(self._own) <= most:
            return None
        new = sum(1 for key, id in self._own.items() if id and key not in self._facts)
        if not new or there + new <= most:
            return None
        message = (
            f"unique_key: {there} keys are taken, here are {new} more, and the limit is {most}; "
            f"try again when tasks with such keys have ended"
        )
        return cmd.Refused(cmd.TOO_MANY_KEYS, message)

    def _holder(self, key: str) -> str:
        own = self._own.get(key)
        return holder_of(self._state, key, self._now) if own is None else own


def holder_of(state: State, key: str, now: Now) -> str:
    """Returns the id of the task that has a key; empty when the key is free.

    An unfinished task that has it must be in memory; see `unfinished_holder`.
    """
    held = state.facts.of(UNIQUE_KEYS).get(key)
    if held is None:
        return ""
    if held.until_ms:
        return held.id if held.until_ms > now.wall_ms else ""
    task = state.tasks.get(held.id)
    if task is None or task.standing.status >= COMPLETED or task.spec.unique_key != key:
        return ""
    return held.id


def unfinished_holder(state: State, key: str) -> str:
    """Returns the id of the task that has to be in memory before `holder_of` can say who has a key; empty: none."""
    held = state.facts.of(UNIQUE_KEYS).get(key)
    return held.id if held is not None and not held.until_ms else ""


def ripe(state: State, due_ms: int, limit: int) -> Iterator[ch.KeyFreed]:
    """Yields the changes that free the first `limit` keys whose time is over by `due_ms`."""
    held = state.facts.of(UNIQUE_KEYS)
    freed: set[str] = set()
    for until_ms, _, key in state.kept_keys.ripe(due_ms, limit):
        fact = held.get(key)
        # The entry of a key that was taken or freed since is stale.
        if fact is not None and fact.until_ms == until_ms and key not in freed:
            freed.add(key)
            yield ch.KeyFreed(key, fact.id)


def freed_by_removal(state: State, id: str) -> Iterator[ch.KeyFreed]:
    """Yields the change that frees the key of a finished task that somebody removes by its id, if it has one."""
    key = state.kept_keys.key_of(id)
    held = state.facts.of(UNIQUE_KEYS).get(key) if key else None
    if held is not None and held.id == id:
        yield ch.KeyFreed(key, id)

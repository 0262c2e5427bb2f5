"""Decides on what tasks come after others when they are scheduled: whether those are there, and how many there may be.

A task that comes after others is delayed until BLOCKED_MS, which never comes. `freeing` says when it runs. `groups`
decides on the children of groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from gowork.leader._core import commands as cmd
from gowork.leader._core.dependents import Children
from gowork.leader._core.groups import fault_of_children
from gowork.leader._core.kinds import ABANDONED, AFTER
from gowork.leader._core.model import BLOCKED_MS, Now, Spec, Standing, Status
from gowork.leader._core.state import State
from gowork.proto.limits import DEPENDENTS_MAX, EDGES_MAX


def blocked(standing: Standing) -> Standing:
    """Returns where a pending task stands that waits for others."""
    return replace(standing, not_before_ms=BLOCKED_MS)


def freed(spec: Spec, standing: Standing, now: Now) -> Standing:
    """Returns where a task stands that waits for no other one any more."""
    return replace(standing, not_before_ms=spec.run_at_ms if spec.run_at_ms > now.wall_ms else 0)


def link(
    state: State, status_of: Callable[[str], Status | None], children_of: Mapping[str, Mapping[Status, int]]
) -> None:
    """Works out, after a start, what the tasks that come after others wait for.

    Args:
        state: the state, in which the facts are.
        status_of: see Dependents.add.
        children_of: how many children each group has, {id of the group: {status: number}}.
    """
    for id, fact in state.facts.of(AFTER).items():
        group = fact.group
        children = None if group is None else Children(group.above, group.children, children_of[id])
        state.dependents.add(id, fact.ids, fact.rule, status_of, is_live=not fact.is_cancelled, children=children)
    state.dependents.abandoned = {id: fact.ids for id, fact in state.facts.of(ABANDONED).items()}


def fault_of(
    state: State,
    specs: Sequence[Spec],
    made: Mapping[str, Spec],
    prefix: str = "tasks",
    *,
    waiting: Mapping[str, Spec] | None = None,
    beside: tuple[int, int] = (0, 0),
) -> cmd.Refused | None:
    """Returns why the new ones of these tasks can't come after those that they name; None when they can.

    Args:
        state: the state, in which all tasks that they name are known.
        specs: the tasks that are scheduled together.
        made: all new tasks of the same decision, {id: spec}.
        prefix: what the list of the tasks is called in errors.
        waiting: tasks that go on after others by the same decision, {id: what they ask for from now on}.
        beside: how many tasks come after others by the same decision so far, and how many ids they name.
    """
    new = {
        spec.id: spec
        for spec in specs
        if (spec.after or spec.group is not None) and spec.id in made and spec.id not in state.tasks
    }
    if (new or state.dependents.groups) and (refused := fault_of_children(state, specs, made, prefix)) is not None:
        return refused
    if not new:
        return None
    edges = 0
    for place, spec in enumerate(specs):
        if spec.id not in new:
            continue
        edges += len(spec.after)
        for number, id in enumerate(spec.after):
            if id not in made and id not in state.tasks and id not in state.briefs:
                fault = f"no task has the id {id!r}; it was never scheduled, or is no longer kept"
                return _refused(cmd.UPSTREAM_UNKNOWN, f"{prefix}[{place}].after[{number}]", fault)
    if no_room_beside(state, beside[0] + len(new), beside[1] + edges):
        return _no_room(state, len(new), edges)
    circle = _circle(state, new, {**made, **waiting} if waiting else made)
    if circle:
        place = next(place for place, spec in enumerate(specs) if spec.id == circle)
        fault = f"task {circle!r} comes after itself, by way of the tasks that it names, or of its group"
        return _refused(cmd.UPSTREAM_IN_CIRCLE, f"{prefix}[{place}].after", fault)
    return None


def fault_of_waiting(state: State, spec: Spec, made: Mapping[str, Spec], beside: tuple[int, int]) -> cmd.Refused | None:
    """Returns why a running task can't wait for the tasks that it names from now on; None when it can.

    Args:
        state: the state, in which all of these tasks are known.
        spec: what the task asks for from now on.
        made: the new tasks of the same decision, and others that wait from now on, {id: spec}.
        beside: as for `fault_of`.
    """
    for number, id in enumerate(spec.after):
        if id not in made and id not in state.tasks and id not in state.briefs:
            fault = f"no task has the id {id!r}; it was never scheduled, or is no longer kept"
            return _refused(cmd.UPSTREAM_UNKNOWN, f"after[{number}]", fault)
    if no_room_beside(state, beside[0] + 1, beside[1] + len(spec.after)):
        return _no_room(state, 1, len(spec.after))
    if _circle(state, {spec.id: spec}, {**made, spec.id: spec}):
        fault = f"task {spec.id!r} would come after itself, by way of the tasks that it names, or of its group"
        return _refused(cmd.UPSTREAM_IN_CIRCLE, "after", fault)
    return None


def no_room_beside(state: State, tasks: int, edges: int) -> bool:
    """Whether these tasks that come after others, with the ids that they name, are too many beside those that wait."""
    there = state.dependents
    return there.live + tasks > DEPENDENTS_MAX or there.edges + edges > EDGES_MAX


def _no_room(state: State, tasks: int, edges: int) -> cmd.Refused:
    there = state.dependents
    message = (
        f"after: {there.live} unfinished tasks come after others and name {there.edges} ids, here are {tasks} "
        f"more with {edges}, and the limits are {DEPENDENTS_MAX} and {EDGES_MAX}; try again when some have run"
    )
    return cmd.Refused(cmd.TOO_MANY_DEPENDENTS, message)


def _refused(code: cmd.RefusalCode, field: str, fault: str) -> cmd.Refused:
    return cmd.Refused(code, f"{field}: {fault}", ((field, fault),))


def _circle(state: State, new: Mapping[str, Spec], made: Mapping[str, Spec]) -> str:
    """Returns the id of one of these tasks that would come after itself and names others; empty: none would.

    Args:
        state: the state. What is there already has no circle.
        new: the tasks.
        made: all new tasks of the same decision.
    """
    after: dict[str, list[str]] = {}
    for id, spec in made.items():
        for up in spec.after:
            after.setdefault(up, []).append(id)
    groups = state.dependents.groups

    def following(id: str) -> Iterator[str]:
        yield from state.dependents.of.get(id, ())
        yield from after.get(id, ())
        parent = id.rpartition("/")[0]
        if parent in groups or (parent in made and made[parent].group is not None):
            yield parent

    done: set[str] = set()
    for first in new:
        if first in done:
            continue
        # The way to where it is, with what is left to be tried at each place.
        path = {first: following(first)}
        while path:
            id = next(reversed(path))
            for follower in path[id]:
                if follower in path:
                    circle = list(path)[list(path).index(follower) :]
                    return next((id for id in circle if id in new and new[id].after), "")
                if follower not in done:
                    path[follower] = following(follower)
                    break
            else:
                done.add(id)
                del path[id]
    return ""

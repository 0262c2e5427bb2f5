"""Decides on groups: which tasks become children, when one is sealed, and what comes of one that no handler runs.

A group is a task, and comes after its children as `dependents` says. It is open until it is known how many there will
be. Then it is sealed, and gets no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.decision import Decision
from gowork.leader._core.dependents import Children
from gowork.leader._core.model import Spec
from gowork.leader._core.state import State

_encode_json = msgspec.json.Encoder().encode


def seal_group(state: State, command: cmd.SealGroup) -> Decision:
    """Says how many children a group has. The same once more is fine."""
    id, children = command.id, command.children
    group = state.dependents.groups.get(id)
    if group is None or group.children is None:
        message = f"no unfinished group has the id {id!r}; it was never opened, or has ended"
        return Decision(cmd.Refused(cmd.GROUP_UNKNOWN, message))
    there, expected = group.children.there, group.children.expected
    if children is None:
        children = there if expected is None else expected
    if expected is not None and children != expected:
        message = f"group {id!r} is sealed with {expected} children, and can't have {children}"
        return Decision(cmd.Refused(cmd.GROUP_SEALED, message))
    if children < there:
        message = f"children: is {children}, and group {id!r} has {there} already"
        violation = ("children", f"is {children}, and group {id!r} has {there} already")
        return Decision(cmd.Refused(cmd.INVALID, message, (violation,)))
    decision = Decision()
    if expected is None:
        decision.changes.append(ch.GroupSealed(id, children))
    decision.answer = state_of(group.children, children)
    return decision


def state_of(children: Children, expected: int | None) -> cmd.GroupState:
    """Returns how far a group is that is to have `expected` children."""
    unfinished = children.there - children.ended
    return cmd.GroupState(expected, unfinished, children.completed, children.failed, children.cancelled)


def result_of(children: Children) -> str:
    """Returns the result of a group that no handler runs: how its children have ended, as JSON."""
    numbers = {
        "children": children.there,
        "completed": children.completed,
        "failed": children.failed,
        "cancelled": children.cancelled,
    }
    return _encode_json(numbers).decode()


def fault_of_children(state: State, specs: Sequence[Spec], made: Mapping[str, Spec], prefix: str) -> cmd.Refused | None:
    """Returns why one of these tasks can't be a group, or a child of the group that its id names; None when all can.

    Args: see `upstream.fault_of`.
    """
    begun = {spec.id for spec in made.values() if spec.group is not None}
    if not state.dependents.groups and not begun:
        return None
    order = {id: place for place, id in enumerate(made)}
    arriving = Counter(parent_of(id) for id in made)
    for place, spec in enumerate(specs):
        id, parent = spec.id, parent_of(spec.id)
        code, fault = cmd.NO_CHILD, ""
        group = state.dependents.groups.get(parent)
        if id in begun and id in state.agenda.names:
            code, fault = cmd.ID_RESERVED, f"{id!r} is the name of a schedule, whose tasks would be children"
        elif group is None and parent not in begun:
            continue
        elif (task := state.tasks.get(id)) is not None:
            if not state.dependents.group_of(id, task.seq):
                fault = f"task {id!r} is older than the group {parent!r}"
        elif id not in made:
            fault = f"another task has the unique key of {id!r}, so that group {parent!r} would wait for it for ever"
        elif parent in begun and order[id] < order[parent]:
            fault = f"task {id!r} comes before its group {parent!r}; schedule the group first"
        else:
            expected, there = _room(group.children if group is not None else None, made.get(parent))
            if expected is not None and there + arriving[parent] > expected:
                code, fault = cmd.GROUP_SEALED, f"group {parent!r} is sealed; children: {there} of {expected}"
        if fault:
            field = f"{prefix}[{place}].id"
            return cmd.Refused(code, f"{field}: {fault}; use another id", ((field, fault),))
    return None


def parent_of(id: str) -> str:
    """Returns the id of the group that a task with this id is in, if there is such a group; empty: it is in none."""
    return id.rpartition("/")[0]


def _room(children: Children | None, begun: Spec | None) -> tuple[int | None, int]:
    """Returns how many children a group will have, and how many it has. It is there, or has just begun."""
    if children is not None:
        return children.expected, children.there
    return begun.group.children if begun is not None and begun.group is not None else None, 0

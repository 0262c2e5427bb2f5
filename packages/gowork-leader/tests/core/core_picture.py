"""What a state is, as plain values that can be compared."""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from gowork.leader._core.lanes import Lane

_PLAIN = (str, bytes, int, float, bool, type(None), Enum, type)
#: What says nothing of a task but whether its lane still has a stale entry, which is tidied up at any time.
_UNTOLD = {"queued"}


def picture(thing: Any) -> Any:
    """Returns all that a state says, in order. Two states with the same picture decide alike from then on."""
    if isinstance(thing, _PLAIN):
        return thing
    if callable(thing):
        return getattr(thing, "__qualname__", type(thing).__name__)
    if isinstance(thing, dict):
        return [(picture(key), picture(value)) for key, value in thing.items()]
    if isinstance(thing, list | tuple):
        return [picture(each) for each in thing]
    if isinstance(thing, set | frozenset):
        return sorted(map(repr, thing))
    if isinstance(thing, Lane):
        # Without its group, which has the lane.
        return [thing.key, thing.live, thing.weight, thing.stored, thing.horizon, [task.seq for task in thing]]
    return [type(thing).__name__, *((name, picture(getattr(thing, name))) for name in _fields(thing))]


def _fields(thing: object) -> list[str]:
    if isinstance(thing, Struct):
        return [name for name in thing.__struct_fields__ if name not in _UNTOLD]
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*slots, *getattr(thing, "__dict__", ())]

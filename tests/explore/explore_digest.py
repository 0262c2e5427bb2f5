"""What a process is about to do, as a digest: where its coroutines stand, and all that they can reach.

Two processes with the same digest go on in the same way. What is not understood makes them differ. The search checks
that: it takes each step from two processes of the same digest, if it knows two, and compares what they do.
"""

from __future__ import annotations

import asyncio
import enum
import gc
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from hashlib import blake2b
from typing import Any

from explore_liveness import live_names
from google.protobuf.message import Message
from msgspec import Struct

from gowork.leader.log.etcd import EtcdLog

#: Attributes that decide nothing here: what never changes, and what was counted.
_LEFT_OUT = {"_channels", "_endpoints", "_keys", "_weight"}
#: {function: variables that it reads again only if who it tells of a leader waits for the next one}. Nobody does: each
#: lets go of it, or has not awaited anything.
_UNUSED = {"EtcdLog.leaders": frozenset({"answer"})}
#: What coroutines await: a future, or the next value of a generator.
_AWAITED = {"FutureIter", "async_generator_asend", "anext_awaitable"}
#: Numbers above this are times of a process. Only how far they are from now tells processes apart.
EPOCH_SECONDS = 1e8
#: No two timers of a process are shorter than this at once, in seconds.
_SHORT_SECONDS = 0.05


class Outside:
    """Base class of what is no part of a process, and is not looked into."""


class ProcessDigest:
    """Collects what a process is about to do.

    Args:
        now: the time of its clock, in seconds.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._parts: list[str] = []
        self._known: dict[int, int] = {}
        #: Keeps what is known from being collected, because ids would be given again.
        self._kept: list[object] = []

    def digest(self) -> bytes:
        return blake2b("\n".join(self._parts).encode(), digest_size=16).digest()

    def is_known(self, value: object) -> bool:
        """Whether it was reached already."""
        return id(value) in self._known

    def add(self, value: Any) -> None:
        """Adds a value, with all that it can reach."""
        kind = type(value)
        if kind in _PLAIN:
            self._parts.append(repr(value))
            return
        how = _hows.get(kind)
        if how is None:
            how = _hows[kind] = _how(kind)
        known = self._known
        if how in _PLAIN_HOWS:
            how(self, value)
        elif (number := known.get(id(value))) is not None:
            self._parts.append(f"#{number}")
        else:
            known[id(value)] = len(known)
            self._kept.append(value)
            self._parts.append(kind.__qualname__)
            how(self, value)

    def _add_plain(self, value: object) -> None:
        self._parts.append(repr(value))

    def _add_number(self, value: float) -> None:
        if value < EPOCH_SECONDS or value == float("inf"):
            self._parts.append(repr(value))
        else:
            self._parts.append("past" if value <= self._now else f"in {value - self._now:.3f}")

    def _add_error(self, value: BaseException) -> None:
        """Adds its type, and what it says to programs. Its words are for people."""
        self._all(vars(value).values())

    def _add_message(self, value: Message) -> None:
        self._parts.append(value.SerializeToString(deterministic=True).hex())

    def _add_nothing(self, value: object) -> None:
        """Adds no more than its type."""

    def _add_dict(self, value: dict[object, object]) -> None:
        for key, each in value.items():
            self.add(key)
            self.add(each)

    def _add_set(self, value: set[object]) -> None:
        self._all(sorted(value, key=_order))

    def _add_awaited(self, value: object) -> None:
        self._all(gc.get_referents(value))

    def _add_coroutine(self, value: types.CoroutineType[Any, Any, Any]) -> None:
        self._frame(value, value.cr_frame)

    def _add_generator(self, value: types.AsyncGeneratorType[Any, Any]) -> None:
        self._frame(value, value.ag_frame)

    def _add_task(self, value: Any) -> None:
        self._parts.append(str(value.done()))
        if not value.done():
            self.add(value.get_coro())
            self.add(value._fut_waiter)

    def _add_future(self, value: Any) -> None:
        self._parts.append(value._state)
        if value.done() and not value.cancelled():
            self.add(value.exception() or value.result())

    def _add_method(self, value: types.MethodType) -> None:
        self._parts.append(value.__name__)
        self.add(value.__self__)

    def _add_function(self, value: types.FunctionType) -> None:
        self._parts.append(value.__qualname__)
        self._all(value.__closure__ or ())

    def _add_cell(self, value: types.CellType) -> None:
        self.add(_content(value))

    def _add_event(self, value: asyncio.Event) -> None:
        self._parts.append(str(value.is_set()))

    def _add_iterator(self, value: Any) -> None:
        self._all(value.__reduce__()[1:])

    def _add_timer(self, value: Any) -> None:
        """Adds what its time decides: which timer fires first. All that are shorter than any pause are alike."""
        self._add_number(value.when() if value.when() <= self._now else max(value.when(), self._now + _SHORT_SECONDS))
        self._all(value._args)

    def _add_struct(self, value: Struct) -> None:
        self._all(getattr(value, field) for field in value.__struct_fields__)

    def _add_object(self, value: object) -> None:
        for name, each in value.__dict__.items():
            # Only the end of the process looks at the log's last leadership.
            if name not in _LEFT_OUT and not (name == "_leadership" and isinstance(value, EtcdLog)):
                self._parts.append(name)
                self.add(each)

    def _frame(self, suspended: object, frame: types.FrameType | None) -> None:
        """Adds where a coroutine or generator stands, and what it still uses: variables, and what it works with."""
        if frame is None:
            return
        code = frame.f_code
        where, live = _standing(code, frame.f_lasti)
        self._parts.append(where)
        if code.co_filename == asyncio.tasks.__file__:
            # Where it stands says all, because what it waits for is found by other ways.
            return
        names = frame.f_locals
        for name in live:
            if name in names:
                self._parts.append(name)
                self.add(names[name])
        # A frame refers to its code, then to its variables, and then to what it works with, such as iterators.
        refers = gc.get_referents(suspended)
        place = max(place for place, each in enumerate(refers) if each is code)
        # In the end there may be the exception that is being handled, or None.
        for each in refers[place + 1 + len(names) :]:
            if each is not None:
                self.add(each)

    def _all(self, values: Iterable[object]) -> None:
        for value in values:
            self.add(value)


@cache
def _standing(code: types.CodeType, offset: int) -> tuple[str, tuple[str, ...]]:
    """Returns where a frame stands, and the variables that it still uses, in order."""
    live = live_names(code, offset) - _UNUSED.get(code.co_qualname, frozenset())
    return f"{code.co_qualname} {_places(code)[offset // 2]}", tuple(sorted(live))


@cache
def _places(code: types.CodeType) -> list[object]:
    """Returns where each instruction is in the source. A loop may begin twice in instructions, and does once there."""
    return list(code.co_positions())


def _order(value: object) -> tuple[str, int]:
    """Returns what orders a set, whatever the addresses of its elements are."""
    if isinstance(value, asyncio.Task):
        coroutine: Any = value.get_coro()
        return str(coroutine.__qualname__), value.made  # type: ignore[attr-defined]
    return repr(value), 0


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None


#: How values of each type are added. The first type that fits counts.
_TABLE: list[tuple[type | tuple[type, ...], Callable[[ProcessDigest, Any], None]]] = [
    ((int, str, bytes, enum.Enum, type(None)), ProcessDigest._add_plain),
    (BaseException, ProcessDigest._add_error),
    (float, ProcessDigest._add_number),
    (Message, ProcessDigest._add_message),
    ((Outside, type, types.ModuleType, types.BuiltinFunctionType), ProcessDigest._add_nothing),
    (asyncio.AbstractEventLoop, ProcessDigest._add_nothing),
    ((tuple, list, deque), ProcessDigest._all),
    (dict, ProcessDigest._add_dict),
    ((set, frozenset), ProcessDigest._add_set),
    (types.CoroutineType, ProcessDigest._add_coroutine),
    (types.AsyncGeneratorType, ProcessDigest._add_generator),
    (asyncio.Task, ProcessDigest._add_task),
    (asyncio.Future, ProcessDigest._add_future),
    (types.MethodType, ProcessDigest._add_method),
    (types.FunctionType, ProcessDigest._add_function),
    (types.CellType, ProcessDigest._add_cell),
    (asyncio.Event, ProcessDigest._add_event),
    (asyncio.TimerHandle, ProcessDigest._add_timer),
    (Struct, ProcessDigest._add_struct),
    (Iterator, ProcessDigest._add_iterator),
]
#: Types of which `repr` says all, and what adds such values: values that need not be known again.
_PLAIN = {int, str, bytes, bool, type(None)}
_PLAIN_HOWS = {ProcessDigest._add_plain, ProcessDigest._add_number}
#: {type: how its values are added}
_hows: dict[type, Callable[[ProcessDigest, Any], None]] = {}


def _how(kind: type) -> Callable[[ProcessDigest, Any], None]:
    """Returns how values of a type are added. Of most things that are not understood, `repr` has the address."""
    if kind.__name__ in _AWAITED:
        return ProcessDigest._add_awaited
    found = next((how for kinds, how in _TABLE if issubclass(kind, kinds)), None)
    if found is not None:
        return found
    return ProcessDigest._add_object if kind.__dictoffset__ else ProcessDigest._add_plain

"""Facts: small records that outlive a leader, each under a kind and a key.

Owns what all kinds have in common: how values become bytes, and how many there may be. What a value means is decided
where its kind is used. `kinds` lists the kinds that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from gowork.leader._core.model import Now

if TYPE_CHECKING:
    from gowork.leader._core.changes import Change
    from gowork.leader._core.state import State

V = TypeVar("V")

#: The longest key, in bytes of UTF-8: room for two ids and something between them.
KEY_BYTES_MAX = 1024
#: The largest value, in bytes: room for a task with the largest payload.
VALUE_BYTES_MAX = 2 << 20

_encode = msgspec.msgpack.Encoder().encode


class Kind(Generic[V]):
    """A kind of facts.

    Args:
        name: its name in stores, which never changes.
        values: the type of its values: a msgspec struct with `array_like`. New fields go at its end and have defaults.
        rows_max: how many facts of this kind there may be. Code that puts a new one asks `Facts.is_full` first, and
            refuses.
        follows: returns the changes that follow from a stored fact when a leader starts; None: none follow.
    """

    __slots__ = ("_decoder", "follows", "name", "rows_max")

    def __init__(
        self,
        name: str,
        values: type[V],
        *,
        rows_max: int,
        follows: Callable[[State, str, V, Now], Iterable[Change]] | None = None,
    ) -> None:
        self.name = name
        self.rows_max = rows_max
        self.follows = follows
        self._decoder = msgspec.msgpack.Decoder(values)

    def encode(self, value: V) -> bytes:
        """Returns the value as it is stored."""
        data = _encode(value)
        assert len(data) <= VALUE_BYTES_MAX, f"the value of a {self.name} is too large"
        return data

    def decode(self, data: bytes) -> V:
        """Reads what `encode` wrote, in this version or another.

        Raises:
            msgspec.DecodeError: the bytes are not a value of this kind.
        """
        return self._decoder.decode(data)


class Facts:
    """The facts that hold."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        #: {name of the kind: {key: value}}
        self._rows: dict[str, dict[str, Any]] = {}

    def of(self, kind: Kind[V]) -> Mapping[str, V]:
        """Returns a view of all facts of a kind, {key: value}, in the order in which they were first put."""
        return MappingProxyType(self._rows.setdefault(kind.name, {}))

    def is_full(self, kind: Kind[Any]) -> bool:
        """Whether there are as many facts of this kind as there may be."""
        return len(self._rows.get(kind.name, ())) >= kind.rows_max

    def put(self, kind: Kind[V], key: str, value: V) -> None:
        """Sets the fact under this key."""
        assert key, f"a {kind.name} has no key"
        assert len(key.encode()) <= KEY_BYTES_MAX, f"the key of a {kind.name} is too long"
        self._rows.setdefault(kind.name, {})[key] = value

    def remove(self, kind: Kind[Any], key: str) -> None:
        """Removes the fact under this key, if there is one."""
        self._rows.get(kind.name, {}).pop(key, None)

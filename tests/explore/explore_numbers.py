"""Gives equal things one number, so that states are tuples of small numbers."""

from __future__ import annotations

from collections.abc import Hashable, Set
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Numbers(Generic[_T]):
    """Numbers from 0 on, in the order in which things are first seen."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._values: list[_T] = []

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, number: int) -> _T:
        return self._values[number]

    def keys(self) -> Set[Hashable]:
        """Returns the keys of all things."""
        return self._numbers.keys()

    def find(self, key: Hashable) -> int | None:
        """Returns the number of the thing with this key; None: there is none yet."""
        return self._numbers.get(key)

    def of(self, key: Hashable, value: _T) -> int:
        """Returns the number of the thing with this key, which is `value` if it is new."""
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._values)
            self._values.append(value)
        return number

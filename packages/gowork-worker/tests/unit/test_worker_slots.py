"""Who is given a slot that has become free."""

from __future__ import annotations

from typing import Any

import pytest

from gowork.worker._runner.lending import Lending
from gowork.worker._runner.slots import Slots
from gowork.worker._runner.table import SlotTable


class Waiting:
    """A thread, or a job for the loop, that waits for a slot."""

    def __init__(self, name: str, given: list[str]) -> None:
        self.name = name
        self._given = given

    @property
    def slots_given(self) -> Waiting:
        return self

    def put(self, slot: int) -> None:
        self._given.append(self.name)


class Stand:
    """The slots of a runner, all in use."""

    def __init__(self, slots: int) -> None:
        #: Who was given a slot, in order.
        self.given: list[str] = []
        self.withheld: list[int] = []
        self.broken: list[BaseException] = []
        table = SlotTable.private(slots, 0)
        self.slots = Slots(
            table,
            Lending(0, {}, lambda: None),
            lambda job, slot: self.given.append(job.name),  # type: ignore[attr-defined]
            self.withheld.append,
            self.broken.append,
        )
        self.slots.free.clear()

    def waiting(self, name: str) -> Any:
        return Waiting(name, self.given)


@pytest.fixture
async def stand() -> Stand:
    return Stand(2)


async def test_threads_and_the_loop_are_given_slots_by_turns_as_long_as_both_wait(stand: Stand) -> None:
    stand.slots.for_loop.extend(stand.waiting(name) for name in ("loop 1", "loop 2", "loop 3"))
    stand.slots.starving.extend(stand.waiting(name) for name in ("thread 1", "thread 2"))
    for _ in range(5):
        stand.slots.handed.append(0)
        stand.slots.pump()
    assert stand.given == ["loop 1", "thread 1", "loop 2", "thread 2", "loop 3"]
    assert stand.broken == []


async def test_slots_that_are_to_be_withheld_go_through_the_loop_when_they_are_freed(stand: Stand) -> None:
    stand.slots.limit(1)
    assert (stand.slots.contended, stand.withheld) == (True, [])
    stand.slots.handed.append(0)
    stand.slots.pump()
    assert (stand.slots.contended, stand.withheld, stand.slots.free) == (False, [1], [])


async def test_the_slot_of_an_attempt_that_has_waited_goes_through_the_loop(stand: Stand) -> None:
    class Hand:
        def give_slot(self, extend: Any) -> None:
            extend([0])

    hand: Any = Hand()
    # A thread could take it from `free` before the loop hears of the end, and withholds it.
    stand.slots.release(hand, has_waited=True)
    assert (stand.slots.free, list(stand.slots.handed)) == ([], [0])
    stand.slots.handed.clear()
    stand.slots.release(hand, has_waited=False)
    assert (stand.slots.free, list(stand.slots.handed)) == ([0], [])

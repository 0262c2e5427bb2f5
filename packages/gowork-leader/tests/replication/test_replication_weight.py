"""The bytes of the log's entries are counted as they pass."""

from __future__ import annotations

import asyncio

import pytest

from gowork.leader._replication import weight as weight_module
from gowork.leader._replication.weight import Weight


@pytest.fixture(autouse=True)
def blocks_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_module, "BLOCK_BYTES", 1)


def weight_of(*sizes: int, after: int = 0) -> Weight:
    weight = Weight(after)
    for index, size in enumerate(sizes, after + 1):
        weight.add(index, size)
    return weight


def test_entries_after_an_index_are_added_up() -> None:
    weight = weight_of(1, 2, 4, 8, after=10)
    assert (weight.first, weight.last, weight.passed) == (11, 14, 15)
    assert [weight.after(index) for index in (0, 10, 11, 12, 13, 14, 15)] == [15, 15, 14, 12, 8, 0, 0]


def test_an_entry_that_comes_again_counts_once() -> None:
    weight = weight_of(1, 2)
    weight.add(2, 2)
    weight.add(1, 1)
    assert (weight.after(0), weight.passed, weight.last) == (3, 3, 2)


def test_after_a_gap_only_what_comes_then_counts() -> None:
    weight = weight_of(1, 2)
    weight.add(5, 16)
    assert (weight.first, weight.last, weight.after(0)) == (5, 5, 16)


def test_what_was_pruned_counts_no_more() -> None:
    weight = weight_of(1, 2, 4, 8)
    weight.drop(3)
    assert (weight.first, weight.after(0), weight.passed) == (3, 12, 15)
    weight.drop(2)
    assert (weight.first, weight.after(0)) == (3, 12)
    weight.drop(9)
    assert (weight.first, weight.last, weight.after(0)) == (5, 4, 0)
    weight.add(5, 16)
    assert weight.after(0) == 16


def test_what_was_in_the_log_before_is_put_before_it() -> None:
    weight = weight_of(4, 8, after=2)
    weight.put_before(weight_of(1, after=1))
    assert (weight.first, weight.after(0), weight.passed) == (2, 13, 12)
    weight.put_before(weight_of(32, after=5))
    assert (weight.first, weight.after(0)) == (2, 13)


def test_small_entries_are_counted_in_blocks_so_a_pruned_one_counts_a_little_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_module, "BLOCK_BYTES", 10)
    weight = weight_of(*[3] * 1_000)
    assert weight.after(0) == 3_000
    assert weight.after(1) == 3_000
    assert weight.after(4) == 2_988
    assert len(weight._blocks) == 250


def test_only_the_last_entries_are_counted_while_nobody_drops_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_module, "BLOCKS_MAX", 10)
    weight = weight_of(*[3] * 1_000)
    assert (weight.first, weight.after(0), len(weight._blocks)) == (991, 30, 10)


async def test_who_waits_for_bytes_is_woken_when_they_have_passed() -> None:
    weight = weight_of(1)
    await weight.until(1)
    waiting = asyncio.ensure_future(weight.until(4))
    await asyncio.sleep(0)
    weight.add(2, 2)
    await asyncio.sleep(0)
    assert not waiting.done()
    weight.add(3, 1)
    await waiting
    assert weight._waiting == []

"""All interleavings of two leaders and one log, within small bounds; and bugs that are planted, each found by its rule.

`nox -s explore` explores more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pytest
from explore_draft import State
from explore_life import keys_of
from explore_local import DifferError
from explore_plants import PLANTS, Plant
from explore_process import Process
from explore_search import Found, explore
from explore_world import USUAL, Fault, World

#: How many states find each planted bug at the latest.
STATES_MAX = 20_000


@pytest.fixture(autouse=True)
def nothing_is_logged() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_two_leaders_that_start_together_break_no_rule() -> None:
    counts = explore(World(1))
    print(counts)
    assert counts.is_whole
    assert counts.ends
    assert counts.compared


def test_an_answer_that_is_in_doubt_breaks_no_rule() -> None:
    counts = explore(World(1, [Fault.DOUBT], 1, in_order=True), leads=True)
    print(counts)
    assert counts.is_whole


class _Kept(World):
    """A world that keeps in which states it ended."""

    def __init__(self, batches: int, faults: Sequence[Fault], *, reduces: bool) -> None:
        super().__init__(batches, faults, len(faults), in_order=True, reduces=reduces)
        self.ends: set[object] = set()

    def check_end(self, state: State) -> None:
        super().check_end(state)
        stores = sorted(f"{each.position} {sorted(keys_of(each))}" for each in map(self.content, state.machines))
        self.ends.add((self.etcds[state.etcd].sim.state(), self.pasts[state.past], *stores, state.faults_left))


@pytest.mark.parametrize(
    ("batches", "faults"), [(1, []), (1, [Fault.DOUBT]), (0, [Fault.CRASH]), (0, [Fault.PAUSE])], ids=str
)
def test_what_is_left_out_changes_no_outcome(batches: int, faults: Sequence[Fault]) -> None:
    whole, reduced = _Kept(batches, faults, reduces=False), _Kept(batches, faults, reduces=True)
    all_states, states = explore(whole, leads=bool(faults)), explore(reduced, leads=bool(faults))
    print(all_states, states)
    assert reduced.ends == whole.ends
    # All that a leader, etcd and the log can become is seen.
    assert reduced.locals.digests() == whole.locals.digests()
    assert reduced.etcds.keys() == whole.etcds.keys()
    assert reduced.pasts.keys() == whole.pasts.keys()
    assert states.states < all_states.states / 2


@pytest.mark.longer
@pytest.mark.parametrize(("batches", "faults"), [(1, []), (0, [Fault.PAUSE])], ids=str)
def test_with_enough_deviations_all_states_are_visited(batches: int, faults: Sequence[Fault]) -> None:
    whole, ordered = (World(batches, faults, len(faults), reduces=False) for _ in range(2))
    all_states, counts = explore(whole, leads=bool(faults)), explore(ordered, leads=bool(faults), deviations_max=100)
    print(all_states, counts)
    assert counts.is_whole
    assert (counts.states, counts.changes, counts.ends) == (all_states.states, all_states.changes, all_states.ends)
    assert sum(counts.deviating) == counts.states
    assert 0 < counts.deviating[0] < counts.states / 4


def test_three_batches_and_a_fault_break_no_rule_in_order() -> None:
    counts = explore(World(3, USUAL, 1, reduces=False), deviations_max=0)
    print(counts)
    assert counts.ends
    assert not counts.is_whole


@pytest.mark.parametrize("plant", PLANTS[:3], ids=lambda plant: plant.name.replace(" ", "-"))
def test_few_deviations_find_a_bug(plant: Plant) -> None:
    with plant.planted(reduces=False) as world, pytest.raises(Found) as found:
        explore(world, STATES_MAX, leads=plant.leads, deviations_max=2)
    assert found.value.violation.rule == plant.rule


@pytest.mark.parametrize("plant", PLANTS[:3], ids=lambda plant: plant.name.replace(" ", "-"))
def test_what_is_left_out_hides_no_bug(plant: Plant) -> None:
    with plant.planted(reduces=False) as world, pytest.raises(Found) as found:
        explore(world, STATES_MAX, leads=plant.leads)
    assert found.value.violation.rule == plant.rule


def test_a_digest_that_leaves_something_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(process: Process) -> bytes:
        kinds = [call.key[0] for call in process.calls]
        return repr((kinds, [stream.is_read() for stream in process.streams], process.copied is None)).encode()

    monkeypatch.setattr(Process, "digest", careless)
    with pytest.raises(DifferError):
        explore(World(1))


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "-"))
def test_planted_bug_is_found_by_the_rule_that_it_breaks(plant: Plant) -> None:
    with plant.planted() as world, pytest.raises(Found) as found:
        explore(world, STATES_MAX, leads=plant.leads)
    print(found.value)
    assert found.value.violation.rule == plant.rule

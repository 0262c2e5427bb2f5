"""How often what Activity answers is worked out anew, by a clock that moves when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gowork.leader._core.effects import Effect
from gowork.leader._core.model import Now
from gowork.leader._core.state import Settings, State
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.activity import CHEAP_SECONDS, SHARED_TIMES, ActivityView
from gowork.leader.store.sqlite import SqliteStore


class SteppingClock:
    """Each reading is later than the one before by the same span."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.mono = 100.0

    def now(self) -> Now:
        self.mono += self.step
        return Now(1_000_000, self.mono)

    def wall_ns(self) -> int:
        return 1_000_000 * 1_000_000


class NoDelivery:
    def deliver(self, effects: Sequence[Effect]) -> None: ...


def view_by(clock: SteppingClock, folder: Path) -> ActivityView:
    counts = Counts()
    return ActivityView(Engine(SqliteStore(folder / "leader.db"), NoDelivery(), counts, clock=clock), counts, "1.0")


def test_what_is_worked_out_in_no_time_is_never_old(tmp_path: Path) -> None:
    clock = SteppingClock(CHEAP_SECONDS / 2)
    view, state = view_by(clock, tmp_path), State(Settings(), fence=0, next_seq=1)
    first = view.look(state)
    assert view.look(state) is not first


def test_what_took_long_is_given_again_for_ten_times_as_long(tmp_path: Path) -> None:
    clock = SteppingClock(CHEAP_SECONDS * 2)
    view, state = view_by(clock, tmp_path), State(Settings(), fence=0, next_seq=1)
    first = view.look(state)
    # Each look reads the clock once, and once more when it works something out.
    for _ in range(SHARED_TIMES - 2):
        assert view.look(state) is first
    clock.mono += 2 * clock.step
    assert view.look(state) is not first

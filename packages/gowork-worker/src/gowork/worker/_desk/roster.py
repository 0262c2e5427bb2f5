"""Which runners there are, and when one that has ended is started again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from gowork.worker._desk.instructions import EndRunner, Instruction, NoteRunnerLost, StartRunner
from gowork.worker._desk.runner import Runner, RunnerId

#: A runner that lives shorter than this, in seconds, is started again later and later.
_STABLE_AFTER = 5.0
_RESTART_DELAYS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)


class _Place:
    """What one ordinary runner after another is started for."""

    __slots__ = ("due", "name", "quick_deaths", "runner", "slots", "spare")

    def __init__(self, name: str, slots: int, spare: int) -> None:
        self.name = name
        self.slots = slots
        self.spare = spare
        #: Runners in a row that did not live long.
        self.quick_deaths = 0
        #: Who is there; None while nobody is.
        self.runner: Runner | None = None
        #: When the next one is started, while nobody is there.
        self.due = 0.0


class Roster:
    """All runners of the worker."""

    def __init__(self, slots: int, runners: int, lent_slots_max: int, instruct: Callable[[Instruction], None]) -> None:
        """Args:
        slots: the worker's slots.
        runners: how many processes there are; 0 for one runner within this process.
        lent_slots_max: how many tasks may lend their slots while they wait for others. Each runner has an equal share.
        instruct: takes instructions.
        """
        self._slots = slots
        self._processes = runners
        self._lent_slots_max = lent_slots_max
        self._instruct = instruct
        self._ids = itertools.count(1)
        #: {id: runner}, those that are being started included
        self.runners: dict[RunnerId, Runner] = {}
        #: Those of ordinary tasks.
        self.ordinary: list[Runner] = []
        #: Runners end because the worker does: none is started again.
        self.is_closing = False
        self._places: list[_Place] = []
        #: Runners for isolated tasks in a row that have ended before they were ready, and when the next may be started.
        self._alone_failures = 0
        self._alone_from = 0.0

    def start(self, now: float) -> None:
        """Starts the runners of ordinary tasks."""
        shares = split(self._slots, self._processes)
        for index, slots in enumerate(shares):
            self._places.append(_Place(f"runner-{index}", slots, self._lent_slots_max // len(shares)))
        if not shares:
            self._places.append(_Place("in-process", self._slots, self._lent_slots_max))
        self.start_due(now)

    def start_due(self, now: float) -> None:
        """Starts again the runners that have waited long enough."""
        for place in self._places:
            if place.runner is None and now >= place.due and not self.is_closing:
                is_process = self._processes > 0
                place.runner = self._add(place.name, place.slots, spare=place.spare, is_process=is_process, now=now)
                self.ordinary.append(place.runner)

    @property
    def is_short(self) -> bool:
        """Whether a runner waits for being started again."""
        return not self.is_closing and any(place.runner is None for place in self._places)

    def start_alone(self, only: tuple[str, ...] | None, now: float) -> Runner | None:
        """Starts a runner for isolated tasks; None when it is too early for that, or too late.

        Args:
            only: the plugins that it imports; None for all.
            now: the time.
        """
        if self.is_closing or now < self._alone_from:
            return None
        # Counted before it is known: `note_ready` sets it back.
        self._alone_failures += 1
        # It runs one task at a time. The spare slot stays empty: with it the task may lend the one that it counts for.
        return self._add("alone", 1, spare=min(1, self._lent_slots_max), alone=True, only=only, now=now)

    def close(self) -> None:
        """From now on runners end, and none is started again."""
        self.is_closing = True

    def note_ready(self, runner: Runner) -> None:
        """A runner is ready, so nothing keeps it from that any more."""
        if runner.alone:
            self._alone_failures = 0

    def note_lost(self, runner: Runner, reason: str) -> None:
        """Says that a runner has ended, unless it was to."""
        if not (self.is_closing or runner.was_stopped):
            self._instruct(NoteRunnerLost(runner.id, reason))

    def remove(self, runner: Runner, now: float) -> None:
        """A runner has ended; another one takes its place."""
        del self.runners[runner.id]
        if runner.alone:
            if self._alone_failures > 1:
                self._alone_from = now + _RESTART_DELAYS[min(self._alone_failures, len(_RESTART_DELAYS)) - 1]
            return
        self.ordinary.remove(runner)
        place = next(place for place in self._places if place.runner is runner)
        place.runner = None
        place.quick_deaths = place.quick_deaths + 1 if now - runner.started_at < _STABLE_AFTER else 0
        place.due = now + _RESTART_DELAYS[min(max(1, place.quick_deaths), len(_RESTART_DELAYS)) - 1]
        if runner.is_process:
            self.start_due(now)
        else:
            self._places.remove(place)

    def ready(self) -> list[Runner]:
        """The runners that take ordinary tasks."""
        return [runner for runner in self.ordinary if runner.is_ready]

    def answering(self) -> list[Runner]:
        """Those of them whose loops tick."""
        return [runner for runner in self.ordinary if runner.is_ready and not runner.pulse.is_blocked]

    def end(self, runners: Iterable[Runner], *, fault: str = "", on_purpose: bool = False) -> None:
        """Ends runners; see `Runner.end`. One within this process ends by itself, unless it is not ready yet."""
        for runner in list(runners):
            if runner.is_process or not runner.is_ready:
                runner.end(fault=fault, on_purpose=on_purpose)
                self._instruct(EndRunner(runner.id, fault))

    def _add(
        self,
        name: str,
        slots: int,
        *,
        spare: int,
        now: float,
        alone: bool = False,
        only: tuple[str, ...] | None = None,
        is_process: bool = True,
    ) -> Runner:
        id = RunnerId(next(self._ids))
        runner = Runner(id, name, slots, spare=spare, alone=alone, only=only, is_process=is_process, now=now)
        self.runners[id] = runner
        self._instruct(StartRunner(id, name, slots, spare, alone, only))
        return runner


def split(slots: int, runners: int) -> list[int]:
    """Slots for each runner: never none, so there may be fewer runners than asked for."""
    runners = min(slots, runners)
    return [slots // runners + (index < slots % runners) for index in range(runners)]

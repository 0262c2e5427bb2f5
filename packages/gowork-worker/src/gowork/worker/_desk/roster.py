"""Which runners there are, and when another one is started in place of one that has ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from gowork.worker._desk.instructions import EndRunner, Instruction, NoteRunnerLost, StartRunner
from gowork.worker._desk.runner import Runner, RunnerId

#: A runner that ends within this number of seconds counts as short-lived.
_STABLE_AFTER = 5.0
#: Seconds until the next runner is started: after one short-lived runner, after two in a row, and so on.
_RESTART_DELAYS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
#: When this number of runners of an environment in a row have ended before they were ready, the worker hands back the
#: tasks that wait for the next one, and those that come. Otherwise these would keep its slots.
_DEATHS_MAX = 3
#: Seconds that a runner of an environment has to load the plugins there and to enter their lifespans. One that needs
#: longer is ended, and counts as _DEATHS_MAX deaths.
READY_SECONDS_MAX = 300.0


class _Place:
    """A place for one ordinary runner, which the next one takes when it ends."""

    __slots__ = ("due", "name", "quick_deaths", "runner", "slots", "spare")

    def __init__(self, name: str, slots: int, spare: int) -> None:
        self.name = name
        self.slots = slots
        self.spare = spare
        #: How many runners in a row have ended within `_STABLE_AFTER`.
        self.quick_deaths = 0
        #: The runner that has the place; None while none has.
        self.runner: Runner | None = None
        #: When the next runner is started, while none has the place.
        self.due = 0.0


class _Alone:
    """How the runners for isolated tasks of one environment fare."""

    __slots__ = ("deaths", "failures", "from_", "reason")

    def __init__(self) -> None:
        #: How many in a row were started and not ready yet.
        self.failures = 0
        #: How many in a row have ended before they were ready.
        self.deaths = 0
        #: How the last one of these has ended, in words.
        self.reason = ""
        #: When the next one may be started.
        self.from_ = 0.0


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
        #: {id: runner}, including those that are being started
        self.runners: dict[RunnerId, Runner] = {}
        #: The runners of ordinary tasks.
        self.ordinary: list[Runner] = []
        #: Whether runners end because the worker stops. Then none is started.
        self.is_closing = False
        self._places: list[_Place] = []
        #: {environment: how its runners for isolated tasks fare}, so that a broken one delays no other.
        self._alone: dict[str, _Alone] = {}

    def start(self, now: float) -> None:
        """Starts the runners of ordinary tasks."""
        shares = split(self._slots, self._processes)
        for index, slots in enumerate(shares):
            self._places.append(_Place(f"runner-{index}", slots, self._lent_slots_max // len(shares)))
        if not shares:
            self._places.append(_Place("in-process", self._slots, self._lent_slots_max))
        self.start_due(now)

    def start_due(self, now: float) -> None:
        """Starts a runner in each place whose time has come."""
        for place in self._places:
            if place.runner is None and now >= place.due and not self.is_closing:
                is_process = self._processes > 0
                place.runner = self._add(place.name, place.slots, spare=place.spare, is_process=is_process, now=now)
                self.ordinary.append(place.runner)

    @property
    def is_short(self) -> bool:
        """Whether a place waits for its next runner."""
        return not self.is_closing and any(place.runner is None for place in self._places)

    def start_alone(self, only: tuple[str, ...] | None, environment: str, now: float) -> Runner | None:
        """Starts a runner for isolated tasks. Returns None when it is too early for that, or the worker stops.

        Args:
            only: the plugins that it imports; None for all.
            environment: the one whose Python runs it; empty for the worker's own.
            now: the time.
        """
        kind = self._alone.setdefault(environment, _Alone())
        if self.is_closing or now < kind.from_:
            return None
        # Counted as a failure until it is ready: then `note_ready` sets the count to 0.
        kind.failures += 1
        # It runs one task at a time. The spare slot stays empty: it allows the task to lend the slot that it uses.
        spare = min(1, self._lent_slots_max)
        name = f"alone in {environment}" if environment else "alone"
        return self._add(name, 1, spare=spare, alone=True, only=only, environment=environment, now=now)

    def is_broken(self, environment: str) -> bool:
        """Whether runners of an environment that is not the worker's own end again and again before they are ready."""
        kind = self._alone.get(environment)
        return bool(environment) and kind is not None and kind.deaths >= _DEATHS_MAX

    def last_death(self, environment: str) -> str:
        """Returns how the last runner of an environment has ended that was not ready before, in words."""
        return self._alone[environment].reason

    @staticmethod
    def is_late(runner: Runner, now: float) -> bool:
        """Whether a runner of an environment has not got ready in its time."""
        is_starting = bool(runner.environment) and not (runner.was_ready or runner.was_stopped)
        return is_starting and now - runner.started_at > READY_SECONDS_MAX

    def close(self) -> None:
        """The worker stops: from now on no runner is started."""
        self.is_closing = True

    def note_ready(self, runner: Runner) -> None:
        """A runner is ready: what kept runners of isolated tasks from that is over."""
        if runner.alone:
            kind = self._alone[runner.environment]
            kind.failures = kind.deaths = 0

    def note_lost(self, runner: Runner, reason: str) -> None:
        """Notes that a runner has ended, unless it was told to stop or the worker stops."""
        if not (self.is_closing or runner.was_stopped):
            self._instruct(NoteRunnerLost(runner.id, reason))

    def remove(self, runner: Runner, reason: str, now: float) -> None:
        """A runner has ended, for a reason in words. Another one takes its place, at once or later."""
        del self.runners[runner.id]
        if runner.alone:
            kind = self._alone[runner.environment]
            if not runner.was_ready and not runner.was_stopped:
                kind.deaths += _DEATHS_MAX if self.is_late(runner, now) else 1
                kind.reason = reason
            if kind.failures > 1:
                kind.from_ = now + _RESTART_DELAYS[min(kind.failures, len(_RESTART_DELAYS)) - 1]
            return
        self.ordinary.remove(runner)
        place = next(place for place in self._places if place.runner is runner)
        place.runner = None
        stopped = runner.was_stopped
        place.quick_deaths = place.quick_deaths + 1 if now - runner.started_at < _STABLE_AFTER and not stopped else 0
        place.due = now + _RESTART_DELAYS[min(max(1, place.quick_deaths), len(_RESTART_DELAYS)) - 1]
        if runner.is_process:
            self.start_due(now)
        else:
            self._places.remove(place)

    def ready(self) -> list[Runner]:
        """Returns the runners of ordinary tasks that are told what holds for all."""
        return [runner for runner in self.ordinary if runner.is_ready]

    def taking(self) -> list[Runner]:
        """Returns the runners that take ordinary tasks: not one that is being replaced."""
        return [runner for runner in self.ordinary if runner.is_ready and not runner.is_retiring]

    def answering(self) -> list[Runner]:
        """Returns the runners that take ordinary tasks and are not blocked."""
        # Not by `taking`: a frame with one task asks several times.
        return [
            runner
            for runner in self.ordinary
            if runner.is_ready and not runner.is_retiring and not runner.pulse.is_blocked
        ]

    def end(self, runners: Iterable[Runner], *, fault: str = "", on_purpose: bool = False) -> None:
        """Ends runners; see `Runner.end`. A runner within this process is ended only while it is not ready."""
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
        environment: str = "",
        is_process: bool = True,
    ) -> Runner:
        id = RunnerId(next(self._ids))
        runner = Runner(
            id,
            name,
            slots,
            spare=spare,
            alone=alone,
            only=only,
            environment=environment,
            is_process=is_process,
            now=now,
        )
        self.runners[id] = runner
        self._instruct(StartRunner(id, name, slots, spare, alone, only, environment))
        return runner


def split(slots: int, runners: int) -> list[int]:
    """Returns how many slots each runner has: at least one, so there may be fewer runners than `runners`."""
    runners = min(slots, runners)
    return [slots // runners + (index < slots % runners) for index in range(runners)]

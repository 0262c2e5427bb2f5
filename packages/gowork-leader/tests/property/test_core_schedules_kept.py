"""Whatever happens, a tick of a schedule makes one task at most, and each is made, skipped for a reason, or waits."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from leader_core import spec
from msgspec.structs import replace
from test_core_invariants import Cluster

from gowork.leader._core import commands as cmd
from gowork.leader._core.calendars import Calendar, Cron, Every
from gowork.leader._core.kinds import SCHEDULES, TICKS
from gowork.leader._core.schedules import Definition, Overlap, count_of, is_reserved, ticks_of

NAMES = st.sampled_from(["s1", "s2"])
CALENDARS = st.sampled_from(
    [Every(1000, 0), Every(3000, 500_000), Cron("*/2 * * * * *", ""), Cron("* * * * *", "Asia/Tokyo")]
)


class Scheduled(Cluster):
    """As Cluster, with schedules that tick every few seconds, and times without a leader."""

    compares = True

    def __init__(self) -> None:
        super().__init__()
        #: {id of each task that a tick ever had: its seq}
        self.ticked: dict[str, int] = {}
        self.triggered = 0

    @rule(
        name=NAMES,
        calendar=CALENDARS,
        overlap=st.sampled_from(Overlap),
        catch_up_ms=st.sampled_from([2000, 60_000]),
        jitter_ms=st.sampled_from([0, 0, 1500]),
        paused=st.booleans(),
    )
    def add_schedule(
        self, name: str, calendar: Calendar, overlap: Overlap, catch_up_ms: int, jitter_ms: int, paused: bool
    ) -> None:
        definition = Definition(calendar, replace(spec(""), body=b""), overlap, catch_up_ms, jitter_ms)
        self.core.do(cmd.AddSchedule(name, definition, replace=True, paused=paused))

    @rule(name=NAMES)
    def pause_schedule(self, name: str) -> None:
        self.core.do(cmd.PauseSchedule(name))

    @rule(name=NAMES, catch_up=st.booleans())
    def resume_schedule(self, name: str, catch_up: bool) -> None:
        before = self.core.state.facts.of(TICKS).get(name)
        answer = self.core.do(cmd.ResumeSchedule(name, catch_up)).answer
        if before is not None and before.pause is not None:
            assert isinstance(answer, cmd.ScheduleResumed)
            assert answer.skipped >= (0 if catch_up else before.pause.skipped)

    @rule(name=NAMES)
    def trigger(self, name: str) -> None:
        self.triggered += 1
        ticks = self.core.state.facts.of(TICKS).get(name)
        self.core.do(cmd.TriggerSchedule(name, f"r{self.triggered}", () if ticks is None else ticks.unfinished))

    @rule(name=NAMES)
    def backfill(self, name: str) -> None:
        schedule = self.core.state.facts.of(SCHEDULES).get(name)
        if schedule is not None:
            ticks = self.core.state.facts.of(TICKS)[name]
            due = [tick for tick, _ in zip(ticks_of(schedule.definition, ticks.last_ms), range(2), strict=False)]
            # Of ticks that were dealt with, nobody knows whether they had tasks that have been purged since.
            due = [tick for tick in due if tick <= self.core.wall_ms]
            self.core.do(cmd.BackfillSchedule(name, schedule.definition, tuple(due)))

    @rule(name=NAMES)
    def remove_schedule(self, name: str) -> None:
        self.core.do(cmd.RemoveSchedule(name))

    @rule(seconds=st.sampled_from([0.5, 5.0, 100.0]))
    def nobody_leads(self, seconds: float) -> None:
        self.core.wall_ms += int(seconds * 1000)
        self.core.restart()
        # A leader that starts deals at once with what has come due.
        self.core.tick()

    @rule(data=st.data())
    def purge_a_run(self, data: st.DataObject) -> None:
        runs = sorted(id for id in self.core.stored if "/" in id)
        if runs:
            self.core.do(cmd.Purge([data.draw(st.sampled_from(runs))]))

    @rule(data=st.data())
    def cancel_a_run(self, data: st.DataObject) -> None:
        runs = sorted(id for id in self.core.stored if "/" in id)
        if runs:
            self.core.do(cmd.Cancel(data.draw(st.sampled_from(runs))))

    @invariant()
    def a_tick_has_one_task(self) -> None:
        for id, (seq, _, _) in self.core.stored.items():
            if is_reserved(("s1", "s2"), id):
                assert self.ticked.setdefault(id, seq) == seq

    @invariant()
    def each_tick_is_accounted_for(self) -> None:
        facts = self.core.state.facts
        for name, schedule in facts.of(SCHEDULES).items():
            ticks = facts.of(TICKS)[name]
            if schedule.changed_ms == schedule.created_ms:
                passed, _ = count_of(schedule.definition, schedule.created_ms, ticks.last_ms, 100_000)
                assert ticks.made + sum(ticks.skipped) + bool(ticks.waiting_ms) == passed
            assert all(number >= 0 for number in ticks.skipped)

    @invariant()
    def every_schedule_is_on_the_agenda(self) -> None:
        state = self.core.state
        assert set(state.agenda.names) == set(state.facts.of(SCHEDULES)) == set(state.facts.of(TICKS))
        assert len(state.agenda.heap) >= sum(at is not None for at in state.agenda.names.values())

    def end(self) -> None:
        for name in ("s1", "s2"):
            self.core.do(cmd.RemoveSchedule(name))
        # They are far more than the rounds of the end can grant.
        for id in sorted(self.core.stored):
            if "/" in id:
                self.core.do(cmd.Cancel(id))
        super().end()


TestScheduled = Scheduled.TestCase
TestScheduled.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)

"""Any sequence of events keeps the desk's invariants (ARCHITECTURE.md names them)."""

from __future__ import annotations

from collections import Counter, deque

from desk_fleet import ModelFleet, ModelRunner
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.desk import Desk
from gowork.worker._desk.events import (
    CutOff,
    DrainBegun,
    Event,
    FrameReceived,
    GivenUp,
    HandBackBegun,
    HandBackForced,
    LeaseLost,
    Looked,
    Progressed,
    SessionStarted,
    WorkerStarted,
)
from gowork.worker._desk.instructions import Instruction, StartTasks
from gowork.worker._desk.next_frame import FEW
from gowork.worker._runner import messages

SLOTS, RUNNERS = 4, 2
READY = messages.Ready(
    (
        messages.HandlerNote("plain", "", None, 100, "p"),
        messages.HandlerNote("apart", "process", None, 100, "p"),
        messages.HandlerNote("aside", "process", None, 100, "q"),
    ),
    "plain",
    (),
)
PICK = st.integers(0, 1 << 16)


class Worker(RuleBasedStateMachine):
    """A leader that grants, cancels, releases and vanishes; runners that end tasks, block and die."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.desk = Desk(
            slots=SLOTS, runners=RUNNERS, unacknowledged_bytes_max=150, blocked_timeout=5.0, lent_slots_max=1000
        )
        self.events: deque[Event] = deque()
        self.is_telling = False
        self.fleet = ModelFleet(self.tell)
        self.fence = 0
        self.granted: set[int] = set()
        self.released: set[int] = set()
        self.acknowledged: set[int] = set()
        #: What was ever kept for the leader, and how often.
        self.kept: Counter[int] = Counter()
        #: What this session was told.
        self.told: list[int] = []
        #: What the leader has the right to acknowledge.
        self.heard: set[int] = set()
        self.credit = 0
        #: Whether the session's leader takes reports by columns.
        self.reads_completions = False
        self.granted_now = 0
        #: A slot may be used twice for a moment when its lender dies, or when a task goes on that has waited.
        self.is_exact = True
        self._watch_reports()
        self.tell(WorkerStarted())
        self.tell(SessionStarted())

    def _watch_reports(self) -> None:
        keep, keep_completions = self.desk.frame.keep, self.desk.frame.keep_completions

        def watched_completions(completions: session.Completions, fences: list[int]) -> None:
            assert fences == list(completions.fences)
            self.kept.update(fences)
            keep_completions(completions, fences)

        def watched(reports: list[session.Report], size: int) -> None:
            self.kept.update(report.fence for report in reports)
            begun = self.fleet.begun
            assert not [report.fence for report in reports if report.not_started and report.fence in begun]
            keep(reports, size)

        self.desk.frame.keep = watched  # type: ignore[method-assign]
        self.desk.frame.keep_completions = watched_completions  # type: ignore[method-assign]

    def tell(self, event: Event) -> None:
        self.events.append(event)
        if self.is_telling:
            return
        self.is_telling = True
        while self.events:
            for instruction in self.desk.handle(self.events.popleft(), self.now):
                self._check_still(instruction)
                self.fleet.perform(instruction)
        self.is_telling = False

    def _check_still(self, instruction: Instruction) -> None:
        if isinstance(instruction, StartTasks):
            runner = self.desk.roster.runners[instruction.runner]
            # Others keep what they are given until they are told that they have slots.
            assert not (runner.alone and self.desk.pause.is_on), "STILL"

    def runner(self, pick: int, condition: object = True) -> ModelRunner | None:
        runners = list(self.fleet.runners.values())
        return runners[pick % len(runners)] if runners else None

    # The leader

    @rule(count=st.integers(1, 5), handler=st.sampled_from(["", "", "plain", "apart", "aside"]), alone=st.booleans())
    def grant(self, count: int, handler: str, alone: bool) -> None:
        grants = []
        for _ in range(min(count, self.credit - self.granted_now)):
            self.fence += 1
            self.granted_now += 1
            self.granted.add(self.fence)
            task = tasks.Task(id=f"t{self.fence}", handler=handler).SerializeToString()
            grants.append(session.Grant(fence=self.fence, id=f"t{self.fence}", task=task, alone=alone and count == 1))
        self.tell(FrameReceived(session.ConnectResponse(grants=grants)))

    @rule(pick=PICK, release=st.booleans())
    def stop(self, pick: int, release: bool) -> None:
        fence = 1 + pick % (self.fence + 1)
        frame = session.ConnectResponse(cancelled=[] if release else [fence], released=[fence] if release else [])
        if release and fence in self.granted:
            self.released.add(fence)
        self.tell(FrameReceived(frame))

    @rule(bytes_max=st.sampled_from([1, 30, 1000]), waits=st.booleans())
    def take(self, bytes_max: int, waits: bool) -> None:
        owed = self.desk.unacknowledged
        frame = self.desk.next_frame(bytes_max, self.now)
        due = self.desk.frame.due
        assert due is None or (frame is None and owed > FEW), "a lone report waits"
        if due is not None and waits:
            self.now = max(self.now, due)
            frame = self.desk.next_frame(bytes_max, self.now)
            assert frame is not None, "what has gathered does not leave"
        if frame is None:
            return
        fences = [report.fence for report in frame.reports]
        assert self.reads_completions or not frame.completions
        for completions in frame.completions:
            assert [f"t{fence}" for fence in completions.fences] == list(completions.ids)
            fences += completions.fences
        assert self.released.isdisjoint(fences), "RELEASED"
        assert self.acknowledged.isdisjoint(fences), "ONCE"
        assert self.released.isdisjoint(word.fence for word in frame.progress), "RELEASED"
        self.told += fences
        self.heard.update(fences)
        assert len(self.told) == len(set(self.told)), "ONCE"
        self.credit = max([self.credit, *frame.credit])

    @rule(count=st.integers(1, 5))
    def acknowledge(self, count: int) -> None:
        fences = sorted(self.heard - self.acknowledged)[:count]
        self.acknowledged.update(fences)
        self.tell(FrameReceived(session.ConnectResponse(acknowledged=fences)))

    @rule(count=st.integers(0, 3), release=st.integers(0, 2), reads=st.booleans())
    def start_session(self, count: int, release: int, reads: bool) -> None:
        named = self.desk.hello_held({fence for each in self.fleet.runners.values() for fence in each.running})
        finished = [each.fence for each in named if each.state == session.HELD_STATE_FINISHED]
        open_ones = [each.fence for each in named if each.state != session.HELD_STATE_FINISHED]
        assert self.released.isdisjoint(each.fence for each in named), "RELEASED"
        fences = [fence for fence in finished if fence in self.heard][:count]
        released = [*open_ones, *finished][:release]
        self.acknowledged.update(fences)
        self.released.update(released)
        self.told = []
        self.credit = self.granted_now = 0
        self.reads_completions = reads
        welcome = session.Welcome(reads_completions=reads)
        first = session.ConnectResponse(welcome=welcome, acknowledged=fences, released=released)
        self.tell(SessionStarted(first))

    @rule(lease=st.booleans())
    def lose_touch(self, lease: bool) -> None:
        self.tell(LeaseLost() if lease else CutOff())

    # The runners

    @rule(pick=PICK)
    def get_ready(self, pick: int) -> None:
        starting = [runner for runner in self.fleet.runners.values() if not runner.is_ready]
        if starting:
            starting[pick % len(starting)].get_ready(READY)

    @rule(
        pick=PICK,
        count=st.integers(1, 4),
        form=st.sampled_from(["reports", "reports", "columns", "columns", "lost"]),
    )
    def end_tasks(self, pick: int, count: int, form: str) -> None:
        runner = self.runner(pick)
        if runner is not None:
            done = list(runner.running)[:count]
            outcome = tasks.ATTEMPT_OUTCOME_LOST if form == "lost" else tasks.ATTEMPT_OUTCOME_COMPLETED
            runner.report(done, outcome, by_columns=form == "columns")

    @rule(pick=PICK, on=st.booleans())
    def wait(self, pick: int, on: bool) -> None:
        runner = self.runner(pick)
        if runner is not None and runner.running:
            fences = list(runner.running)
            self.is_exact = False
            runner.wait(fences[pick % len(fences)], on=on)

    @rule(pick=PICK)
    def progress(self, pick: int) -> None:
        runner = self.runner(pick)
        if runner is not None:
            self.tell(Progressed([session.ProgressReport(fence=fence, fraction=0.5) for fence in runner.running]))

    @rule(pick=PICK)
    def crash(self, pick: int) -> None:
        runner = self.runner(pick)
        if runner is not None:
            self.is_exact = False
            self.fleet.crash(runner, "it crashed")

    @rule(pick=PICK, deaf=st.booleans())
    def block(self, pick: int, deaf: bool) -> None:
        runner = self.runner(pick)
        if runner is not None:
            runner.is_deaf = deaf

    @rule(seconds=st.sampled_from([0.05, 0.3, 2.0, 40.0]), limit=st.sampled_from([0, 0, 0, 10**9]))
    def look(self, seconds: float, limit: int) -> None:
        self.now += seconds
        for runner in list(self.fleet.runners.values()):
            if runner.is_stopping:
                self.is_exact = self.is_exact and runner.alone
                self.fleet.crash(runner, "it was stopped")
        shown = self.desk.to_look_at()
        clock = int(self.now * 1e9)
        for each in self.fleet.runners.values():
            each.now_ns = clock
        rows = {each.id: self.fleet.runners[each.id].rows(limit) for each in shown}
        if limit or any(each.is_deaf for each in self.fleet.runners.values()):
            self.is_exact = False
        self.tell(Looked(rows, {}, clock))

    @precondition(lambda self: self.now > 100)
    @rule()
    def drain(self) -> None:
        self.tell(DrainBegun())

    @precondition(lambda self: self.now > 100)
    @rule(step=st.integers(0, 2))
    def stop_worker(self, step: int) -> None:
        """The steps in their order, however far this comes."""
        events: list[Event] = [HandBackBegun("the worker stops"), HandBackForced(), GivenUp("the worker stops")]
        for event in events[: step + 1]:
            self.tell(event)

    # What always holds

    @invariant()
    def every_granted_task_is_held_until_its_report(self) -> None:
        held, kept = set(self.desk.held), set(self.kept)
        assert held.isdisjoint(kept), "OWED"
        assert self.granted - self.released <= held | kept, "OWED"
        assert held | kept <= self.granted, "OWED"

    @invariant()
    def nothing_is_kept_twice(self) -> None:
        assert set(self.kept.values()) <= {1}, "ONCE"

    @invariant()
    def what_is_kept_is_what_was_not_acknowledged(self) -> None:
        left = {fence for fence, _ in self.desk.frame.unacknowledged.names()}
        assert left == set(self.kept) - self.acknowledged - self.released, "KEPT"
        assert (self.desk.frame.unacknowledged.bytes == 0) == (not left), "KEPT"

    @invariant()
    def every_held_task_is_in_one_place(self) -> None:
        places = Counter(fence for runner in self.desk.roster.runners.values() for fence in runner.tasks)
        places.update(iter(self.desk.work._backlog))
        places.update(task.fence for task in self.desk.solo._queue)
        assert set(self.desk.held) <= set(places), "OWED"
        assert set(places.values()) <= {1}, "OWED"
        # What was given up may run on.
        assert set(places) - set(self.desk.held) <= set(self.kept) | self.released, "OWED"

    @invariant()
    def runners_hold_what_the_desk_thinks(self) -> None:
        for id, runner in self.desk.roster.runners.items():
            model = self.fleet.runners[id]
            assert set(runner.tasks) == {*model.queue, *model.running}

    @invariant()
    def nothing_starts_while_the_leader_is_away(self) -> None:
        if self.desk.pause.is_on:
            ordinary = [each for each in self.fleet.runners.values() if each.is_ready and not each.alone]
            assert all(each.limit == 0 for each in ordinary if not each.is_stopping), "STILL"

    @invariant()
    def slots_are_lent_once(self) -> None:
        lent: Counter[int] = Counter()
        for runner in self.desk.roster.runners.values():
            lent.update(task.lender.id for task in runner.tasks.values() if task.lender is not None)
        for runner in self.desk.roster.ordinary:
            assert 0 <= runner.lent <= runner.reserved <= runner.slots, "ROOM"
            assert runner.lent == lent[runner.id], "ROOM"

    @invariant()
    def no_more_runs_than_there_are_slots(self) -> None:
        if self.is_exact:
            assert sum(runner.used for runner in self.fleet.runners.values()) <= SLOTS, "ROOM"

    def teardown(self) -> None:
        """When everything behaves, everything ends."""
        self.start_session(0, 0, reads=True)
        for _ in range(200):
            for runner in list(self.fleet.runners.values()):
                runner.is_deaf = False
                if not runner.is_ready:
                    runner.get_ready(READY)
                for fence in list(runner.waiting):
                    runner.wait(fence, on=False)
                runner.report(list(runner.running), tasks.ATTEMPT_OUTCOME_COMPLETED)
            self.look(0.3, 0)
            self.take(1000, waits=True)
            self.acknowledge(100)
            if not self.desk.held and not self.desk.unacknowledged:
                return
        raise AssertionError(f"stuck: {sorted(self.desk.held)} held, {self.desk.unacknowledged} reports")


TestWorker = Worker.TestCase
TestWorker.settings = settings(max_examples=60, stateful_step_count=50, deadline=None, derandomize=True, database=None)

"""The parts of the desk, each by itself."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.credit import Credit
from gowork.worker._desk.instructions import Instruction, Note, StartTasks, Tell
from gowork.worker._desk.next_frame import NextFrame
from gowork.worker._desk.recycling import Recycling
from gowork.worker._desk.roster import Roster, split
from gowork.worker._desk.runner import Runner, RunnerId
from gowork.worker._desk.settlement import settle_dead
from gowork.worker._desk.sharing import share_out
from gowork.worker._desk.solo import LENT_PROCESSES_MAX, Solo
from gowork.worker._desk.stops import Stops
from gowork.worker._desk.tasks import HeldTask
from gowork.worker._desk.unacknowledged import Unacknowledged
from gowork.worker._desk.work import Work
from gowork.worker._runner import messages
from gowork.worker._runner.messages import StopKind


def held(fence: int) -> HeldTask:
    return HeldTask(session.Grant(fence=fence, id=f"task-{fence}"))


class Scene:
    """Parts of a desk, and what they instruct."""

    def __init__(self) -> None:
        self.ids = itertools.count(1)
        self.instructions: list[Instruction] = []

    def runner(self, slots: int, load: int = 0, *, alone: bool = False, only: tuple[str, ...] | None = None) -> Runner:
        runner = Runner(RunnerId(next(self.ids)), "quiet", slots, alone=alone, only=only)
        runner.tasks.update({-number: held(number) for number in range(1, load + 1)})
        runner.get_ready()
        return runner

    def said(self, runner: Runner) -> list[Any]:
        """What a runner was told, and the fences that it was given."""
        said: list[Any] = []
        for instruction in self.instructions:
            if isinstance(instruction, Tell) and instruction.runner == runner.id:
                said.append(instruction.message)
            elif isinstance(instruction, StartTasks) and instruction.runner == runner.id:
                said += [grant.fence for grant in instruction.grants]
        return said


class SoloScene(Scene):
    """Isolated tasks, for whom the test provides runners."""

    def __init__(self, slots: int, *ordinary: tuple[int, int]) -> None:
        super().__init__()
        #: The plugins of what was to be started, and their environments.
        self.spawned: list[tuple[str, ...] | None] = []
        self.environments: list[str] = []
        self.ordinary = [self.runner(slots, load) for slots, load in ordinary]
        roster = Roster(slots, 1, 1000, self.instructions.append)
        self.work = Work(
            slots,
            roster,
            Stops(),
            NextFrame(),
            Recycling(roster, 0, 0, self.instructions.append),
            self.instructions.append,
        )
        self.solo = Solo(slots, self.ordinary, self._spawn, self.work.give, self.instructions.append)

    def _spawn(self, only: tuple[str, ...] | None, environment: str, now: float) -> None:
        self.spawned.append(only)
        self.environments.append(environment)

    def withhold(self, runner: Runner, slots: int) -> None:
        """An ordinary runner has heard all Slots, and leaves `slots` of its slots."""
        self.solo.withheld(runner, slots, runner.told)

    def add(self, *, load: int = 0, only: tuple[str, ...] | None = None) -> Runner:
        """Another process for isolated tasks, which is ready."""
        runner = self.runner(1, load, alone=True, only=only)
        self.solo.runners.append(runner)
        return runner


@pytest.mark.parametrize(
    ("tasks_count", "slots", "loads", "shares"),
    [
        (1, [4, 4], [0, 0], [1, 0]),
        (2, [4, 4], [1, 0], [0, 2]),
        (8, [4, 4], [0, 0], [4, 4]),
        (3, [2, 1], [0, 0], [2, 1]),
        (3, [1, 2], [0, 0], [1, 2]),
        (100, [4, 4], [0, 0], [50, 50]),
        (100, [4, 4], [50, 0], [25, 75]),
        (10, [4, 4], [100, 0], [0, 10]),
        (7, [3, 2, 2], [0, 0, 0], [3, 2, 2]),
        (5, [0, 4], [0, 4], [0, 5]),
        (5, [4], [9], [5]),
    ],
)
def test_tasks_go_to_free_slots_first_and_then_level(
    tasks_count: int, slots: list[int], loads: list[int], shares: list[int]
) -> None:
    scene = Scene()
    runners = [scene.runner(count, load) for count, load in zip(slots, loads, strict=True)]
    given = [held(number) for number in range(tasks_count)]
    parts = share_out(given, runners)
    assert [sum(len(part) for other, part in parts if other is runner) for runner in runners] == shares
    assert [task for _, part in parts for task in part] == given


def test_credit_begins_with_the_slots_and_is_told_once() -> None:
    credit = Credit()
    assert credit.next(0, 4) == 4
    assert credit.next(0, 4) is None


def test_credit_counts_only_what_this_session_granted() -> None:
    credit = Credit()
    credit.next(0, 4)
    credit.granted(4, 0.0)
    credit.start_session()
    # One of them is still held: three may come.
    assert credit.next(1, 4) == 3


def test_no_credit_is_given_when_nothing_is_wanted() -> None:
    assert Credit().next(0, 0) is None


def run_at(credit: Credit, rate: float, seconds: float, held: int = 100) -> None:
    """Lets tasks finish steadily, in steps of 5 ms."""
    credit.granted(held, 0.0)
    steps = int(seconds / 0.005)
    for step in range(1, steps + 1):
        credit.finished(round(rate * 0.005), held, step * 0.005)


def test_buffer_is_worth_50_ms_of_measured_work() -> None:
    credit = Credit()
    run_at(credit, 20_000, 1.0)
    assert 900 <= credit.buffer <= 1100


def test_buffer_is_bounded() -> None:
    credit = Credit()
    run_at(credit, 1_000_000, 1.0)
    assert credit.buffer == 4000


def test_long_tasks_are_not_hoarded() -> None:
    credit = Credit()
    credit.granted(8, 0.0)
    for second in range(1, 5):
        credit.finished(8, 8, float(second))
    assert credit.buffer == 0


def test_short_bursts_are_measured_by_their_busy_time() -> None:
    credit = Credit()
    for burst in range(100):
        # 8 tasks in 1 ms, once a second.
        credit.granted(8, float(burst))
        credit.finished(8, 0, burst + 0.001)
    assert 300 <= credit.buffer <= 450


def test_buffer_is_dropped_when_something_in_it_waited() -> None:
    credit = Credit()
    run_at(credit, 20_000, 1.0)
    credit.waited()
    assert credit.buffer == 0


def report(fence: int) -> session.Report:
    return session.Report(fence=fence, id=f"task-{fence}")


def completions(*fences: int) -> session.Completions:
    rows = [str(fence) for fence in fences]
    ids = [f"task-{fence}" for fence in fences]
    return session.Completions(ids=ids, fences=fences, execution_us=fences, results=rows)


def test_reports_are_kept_until_acknowledged_and_sent_once_in_a_session() -> None:
    kept = Unacknowledged()
    kept.add([report(1), report(2)], 101)
    assert [item.fence for item in kept.take(10)[0]] == [1, 2]
    assert kept.take(10) == ([], [])
    kept.acknowledge([1, 99])
    kept.resend()
    assert [item.fence for item in kept.take(10)[0]] == [2]
    kept.acknowledge([2])
    assert (len(kept), kept.bytes) == (0, 0)


def test_frame_takes_no_further_batch_past_its_size() -> None:
    kept = Unacknowledged()
    kept.add([report(1)], 60)
    kept.add([report(2)], 60)
    assert [item.fence for item in kept.take(100)[0]] == [1]
    assert kept.unsent
    assert [item.fence for item in kept.take(100)[0]] == [2]
    assert not kept.unsent


def test_frame_takes_no_further_columns_past_its_size() -> None:
    kept = Unacknowledged()
    for fence in (1, 2):
        kept.add_completions(completions(fence), [fence])
    first, second = kept.take(completions(1).ByteSize()), kept.take(1)
    assert ([list(each.fences) for each in first[1]], [list(each.fences) for each in second[1]]) == ([[1]], [[2]])
    assert (kept.unsent, kept.unsent_bytes) == (0, 0)


def test_of_reports_by_columns_those_are_sent_again_that_are_not_acknowledged() -> None:
    kept = Unacknowledged()
    kept.add([report(9)], 50)
    kept.add_completions(completions(1, 2, 3, 4), [1, 2, 3, 4])
    kept.take(1_000)
    kept.acknowledge([2, 3])
    assert list(kept.names()) == [(9, "task-9"), (1, "task-1"), (4, "task-4")]
    for left in ([1, 4], [1, 4], [4]):
        kept.acknowledge({1, 4}.difference(left))
        kept.resend()
        assert kept.unsent == 1 + len(left)
        reports, columns = kept.take(1_000)
        assert [item.fence for item in reports] == [9]
        assert columns == [completions(*left)]
    kept.acknowledge([4, 9])
    assert (len(kept), kept.bytes, list(kept.names())) == (0, 0, [])


def test_of_reports_by_columns_those_are_never_sent_that_are_released() -> None:
    kept = Unacknowledged()
    kept.add_completions(completions(1, 2, 3), [1, 2, 3])
    kept.add_completions(completions(4), [4])
    kept.drop([2, 4])
    assert (kept.unsent, len(kept), [fence for fence, _ in kept.names()]) == (2, 2, [1, 3])
    assert kept.take(1_000) == ([], [completions(1, 3)])


def stopped(fence: int, kind: StopKind) -> HeldTask:
    task = held(fence)
    task.stop_kind = kind
    return task


def test_dead_runner_loses_what_ran_and_returns_the_rest() -> None:
    left = [held(1), held(2), stopped(3, StopKind.CANCEL), stopped(4, StopKind.TIMEOUT), stopped(5, StopKind.INTERRUPT)]
    reports = settle_dead(left, {1, 3, 4, 5}, "the runner exited with code 1", on_purpose=False, ran_one_by_one=False)
    assert [item.outcome for item in reports] == [
        tasks.ATTEMPT_OUTCOME_LOST,
        tasks.ATTEMPT_OUTCOME_INTERRUPTED,
        tasks.ATTEMPT_OUTCOME_CANCELLED,
        tasks.ATTEMPT_OUTCOME_TIMED_OUT,
        tasks.ATTEMPT_OUTCOME_INTERRUPTED,
    ]
    assert reports[0].reason == "the runner exited with code 1"


def test_runner_ended_on_purpose_blames_nobody_else() -> None:
    left = [held(1), stopped(2, StopKind.TIMEOUT)]
    reports = settle_dead(left, {1, 2}, "killed", on_purpose=True, ran_one_by_one=False)
    assert [item.outcome for item in reports] == [tasks.ATTEMPT_OUTCOME_INTERRUPTED, tasks.ATTEMPT_OUTCOME_TIMED_OUT]


def test_what_a_dead_runner_had_not_started_is_certain_only_where_it_ran_one_task_at_a_time() -> None:
    # With several, some may have ended whose reports were lost with it.
    for one_by_one in (True, False):
        for on_purpose in (True, False):
            left = [held(1), held(2), stopped(3, StopKind.INTERRUPT)]
            reports = settle_dead(left, {1}, "killed", on_purpose=on_purpose, ran_one_by_one=one_by_one)
            assert [item.not_started for item in reports] == [False, one_by_one, one_by_one]


def test_isolated_task_starts_once_a_slot_is_left_to_it() -> None:
    scene = SoloScene(2, (2, 2))
    (ordinary,) = scene.ordinary
    task = held(1)
    scene.solo.put(task)
    scene.solo.pump(0.0)
    assert len(scene.spawned) == 1
    assert scene.said(ordinary) == [messages.Slots(1)]
    apart = scene.add()
    scene.solo.pump(0.0)
    assert scene.said(apart) == []
    scene.withhold(ordinary, 1)
    scene.solo.pump(0.0)
    assert scene.said(apart) == [1]
    assert ordinary.lent == 1
    apart.tasks.clear()
    scene.solo.finished(task)
    assert scene.said(ordinary) == [messages.Slots(1), messages.Slots(2)]
    assert (ordinary.lent, ordinary.reserved) == (0, 0)


def test_isolated_task_that_waits_gives_its_slot_back_until_it_goes_on() -> None:
    scene = SoloScene(1, (1, 0))
    (ordinary,) = scene.ordinary
    apart = scene.add()
    scene.solo.put(held(1))
    scene.solo.pump(0.0)
    scene.withhold(ordinary, 1)
    scene.solo.pump(0.0)
    assert (scene.said(apart), ordinary.lent) == ([1], 1)
    apart.waiting = 1
    scene.solo.lend(apart)
    scene.solo.pump(0.0)
    assert (ordinary.lent, ordinary.reserved, scene.said(ordinary)[-1]) == (0, 0, messages.Slots(1))
    apart.waiting = 0
    scene.solo.pump(0.0)
    # It runs: the slot is asked for, and counts as used once it is left.
    assert (ordinary.lent, ordinary.reserved, scene.said(ordinary)[-1]) == (0, 1, messages.Slots(0))
    scene.withhold(ordinary, 1)
    scene.solo.pump(0.0)
    assert ordinary.lent == 1
    (task,) = apart.tasks.values()
    apart.tasks.clear()
    scene.solo.finished(task)
    assert (ordinary.lent, ordinary.reserved) == (0, 0)


def test_isolated_tasks_that_wait_make_room_for_so_many_processes_at_most() -> None:
    scene = SoloScene(2, (2, 0))
    apart = [scene.add(load=1) for _ in range(LENT_PROCESSES_MAX + 2)]
    for runner in apart:
        runner.waiting = 1
    assert scene.solo.waiting == LENT_PROCESSES_MAX
    scene.solo.put(held(1))
    scene.solo.pump(0.0)
    assert scene.spawned == []
    apart[0].waiting = apart[1].waiting = 0
    apart[0].stop(0.0)
    scene.solo.pump(0.0)
    assert len(scene.spawned) == 1


def test_the_log_is_told_once_that_too_many_isolated_tasks_wait() -> None:
    scene = SoloScene(2, (2, 0))
    apart = [scene.add(load=1) for _ in range(LENT_PROCESSES_MAX + 1)]
    for runner in apart:
        runner.waiting = 1
        scene.solo.lend(runner)
    scene.solo.lend(apart[0])
    assert [each.fields for each in scene.instructions if isinstance(each, Note)] == [{"lent_max": LENT_PROCESSES_MAX}]


def test_a_slot_that_is_left_when_it_is_not_asked_for_any_more_is_not_used() -> None:
    scene = SoloScene(2, (2, 0))
    (ordinary,) = scene.ordinary
    task = held(1)
    scene.solo.put(task)
    scene.solo.pump(0.0)
    scene.solo.take_back(task)
    # It was on its way when the runner was told to use all its slots again.
    scene.withhold(ordinary, 1)
    apart = scene.add()
    scene.solo.put(held(2))
    scene.solo.pump(0.0)
    assert scene.said(apart) == []


def test_isolated_task_that_is_taken_back_reserves_nothing() -> None:
    scene = SoloScene(2, (2, 0))
    task = held(1)
    scene.solo.put(task)
    scene.solo.pump(0.0)
    assert scene.solo.take_back(task)
    assert not scene.solo.take_back(task)
    assert scene.ordinary[0].reserved == 0


def test_isolated_tasks_that_are_all_taken_back_reserve_nothing() -> None:
    scene = SoloScene(2, (2, 0))
    scene.solo.put(held(1))
    scene.solo.pump(0.0)
    assert scene.ordinary[0].reserved == 1
    assert [task.fence for task in scene.solo.take_back_all()] == [1]
    assert scene.ordinary[0].reserved == 0


def test_isolated_tasks_never_need_more_processes_than_slots() -> None:
    scene = SoloScene(2, (2, 0))
    for fence in range(5):
        scene.solo.put(held(fence))
    scene.solo.pump(0.0)
    assert len(scene.spawned) == 2


def held_for(fence: int, *plugins: str) -> HeldTask:
    task = held(fence)
    task.only = plugins
    return task


def test_an_isolated_task_waits_for_a_process_that_has_imported_its_plugin() -> None:
    scene = SoloScene(4, (4, 0))
    other = scene.add(only=("b",))
    scene.solo.put(held_for(1, "a"))
    scene.solo.put(held_for(2, "b"))
    scene.solo.pump(0.0)
    scene.withhold(scene.ordinary[0], 4)
    scene.solo.pump(0.0)
    assert scene.said(other) == [2]
    assert scene.spawned[0] == ("a",)
    assert ("b",) not in scene.spawned


def test_an_idle_process_of_another_plugin_makes_room_for_the_first_task_that_has_none() -> None:
    scene = SoloScene(1, (1, 0))
    (ordinary,) = scene.ordinary
    other = scene.add(only=("b",))
    scene.solo.put(held_for(1, "a"))
    scene.solo.put(held_for(2, "b"))
    scene.solo.pump(0.0)
    assert scene.said(other) == [messages.Stop()]
    assert scene.spawned == [("a",)]
    own = scene.add(only=("a",))
    scene.withhold(ordinary, 1)
    scene.solo.pump(0.0)
    assert scene.said(own) == [1]


def test_idle_process_of_isolated_tasks_is_ended_after_a_while() -> None:
    scene = SoloScene(2)
    apart = scene.add()
    scene.solo.retire(29.0)
    assert scene.said(apart) == []
    scene.solo.retire(31.0)
    assert scene.said(apart) == [messages.Stop()]


def test_isolated_task_owes_its_slot_to_whoever_follows_the_runner_that_lent_it() -> None:
    scene = SoloScene(1, (1, 0))
    (first,) = scene.ordinary
    apart = scene.add()
    scene.solo.put(held(1))
    scene.solo.pump(0.0)
    scene.withhold(first, 1)
    scene.solo.pump(0.0)
    assert scene.said(apart) == [1]
    scene.ordinary.remove(first)
    scene.solo.lender_ended(first)
    second = scene.runner(1)
    scene.ordinary.append(second)
    scene.solo.pump(0.0)
    assert scene.said(second) == [messages.Slots(0)]
    scene.withhold(second, 1)
    scene.solo.pump(0.0)
    assert second.lent == 1


def test_end_of_an_isolated_task_gives_no_slot_back_while_nothing_is_started() -> None:
    scene = SoloScene(2, (2, 0))
    (ordinary,) = scene.ordinary
    apart = scene.add()
    scene.solo.put(held(1))
    scene.solo.pump(0.0)
    scene.withhold(ordinary, 1)
    scene.solo.pump(0.0)
    (task,) = apart.tasks.values()
    scene.solo.pause(on=True)
    apart.tasks.clear()
    scene.solo.finished(task)
    scene.solo.pump(0.0)
    assert ordinary.reserved == 0
    assert scene.said(ordinary) == [messages.Slots(1)]


def test_word_of_slots_that_were_given_back_since_is_not_taken_for_the_answer_to_a_later_request() -> None:
    scene = SoloScene(2, (2, 2))
    (ordinary,) = scene.ordinary
    apart = scene.add()
    scene.solo.put(held(1))
    scene.solo.pump(0.0)
    (first,) = scene.solo.take_back_all()
    scene.solo.put(first)
    scene.solo.pump(0.0)
    assert scene.said(ordinary) == [messages.Slots(1), messages.Slots(2), messages.Slots(1)]
    # It may have started another task between the second and the third.
    for slots, heard in ((1, 1), (0, 2)):
        scene.solo.withheld(ordinary, slots, heard=heard)
        scene.solo.pump(0.0)
        assert scene.said(apart) == []
    scene.solo.withheld(ordinary, 1, heard=3)
    scene.solo.pump(0.0)
    assert scene.said(apart) == [1]


def test_word_of_slots_counts_while_only_more_of_them_were_asked_for() -> None:
    scene = SoloScene(2, (2, 2))
    (ordinary,) = scene.ordinary
    apart = scene.add()
    for fence in (1, 2):
        scene.solo.put(held(fence))
        scene.solo.pump(0.0)
    assert scene.said(ordinary) == [messages.Slots(1), messages.Slots(0)]
    # A long task may be in the other slot, which would keep the first isolated one waiting.
    scene.solo.withheld(ordinary, 1, heard=1)
    scene.solo.pump(0.0)
    assert scene.said(apart) == [1]


def test_slots_are_split_over_runners_and_none_goes_without() -> None:
    assert split(8, 3) == [3, 3, 2]
    assert split(1, 4) == [1]
    assert split(4, 0) == []

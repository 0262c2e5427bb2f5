"""When the desk replaces a runner that has run many tasks or has grown, and what becomes of its tasks."""

from __future__ import annotations

from desk_stage import FakeRunner, Stage

from gowork.worker._desk.events import CutOff, Looked, Ponged, RunnerEnded, RunnerReady
from gowork.worker._desk.instructions import Level, Note, NoteRunnerLost
from gowork.worker._runner import messages
from gowork.worker._runner.messages import Stop


def look(stage: Stage) -> None:
    stage.tell(Looked({}, {}, 0))


def is_stopped(runner: FakeRunner) -> bool:
    return Stop() in runner.said


def successor(stage: Stage, runner: FakeRunner) -> FakeRunner:
    """The runner that is started when this one has ended, which it has."""
    before = set(stage.runners)
    stage.tell(RunnerEnded(runner.id, set(), "the runner exited with code 0"))
    (id,) = set(stage.runners) - before
    return stage.runners[id]


def test_a_runner_that_has_finished_its_number_of_tasks_is_replaced() -> None:
    stage = Stage(runner_tasks_max=2)
    runner = stage.ready()
    stage.grant(1)
    stage.report(runner, 1)
    look(stage)
    assert not is_stopped(runner)
    stage.grant(2)
    stage.report(runner, 2)
    look(stage)
    assert is_stopped(runner)
    following = successor(stage, runner)
    stage.tell(RunnerReady(following.id, messages.Ready((), "echo", ())))
    stage.grant(3)
    assert following.granted == [3]
    assert not [each for each in stage.instructions if isinstance(each, NoteRunnerLost)]


def test_a_runner_that_is_replaced_finishes_its_tasks_and_gets_no_others() -> None:
    stage = Stage(runner_tasks_max=1)
    first, second = stage.ready(), stage.ready()
    stage.grant(1, 2, 3)
    one, two = first.granted
    stage.report(first, one)
    look(stage)
    stage.grant(4)
    assert second.granted[-1] == 4
    assert (first.granted, is_stopped(first)) == ([one, two], False)
    stage.report(first, two)
    look(stage)
    assert is_stopped(first)


def test_the_only_runner_s_successor_gets_what_is_granted_meanwhile() -> None:
    stage = Stage(runner_tasks_max=1)
    runner = stage.ready()
    stage.grant(1)
    stage.report(runner, 1)
    look(stage)
    stage.grant(2)
    following = successor(stage, runner)
    stage.tell(RunnerReady(following.id, messages.Ready((), "echo", ())))
    assert (runner.granted, following.granted) == ([1], [2])


def test_one_runner_is_replaced_at_a_time() -> None:
    stage = Stage(runner_tasks_max=1)
    first, second = stage.ready(), stage.ready()
    stage.grant(1, 2, 3, 4)
    stage.report(first, *first.granted)
    stage.report(second, *second.granted)
    look(stage)
    assert [is_stopped(first), is_stopped(second)] == [True, False]
    following = successor(stage, first)
    look(stage)
    assert not is_stopped(second)
    stage.tell(RunnerReady(following.id, messages.Ready((), "echo", ())))
    look(stage)
    assert is_stopped(second)


def test_a_runner_that_has_grown_is_replaced() -> None:
    stage = Stage(runner_memory_bytes_max=1000)
    runner = stage.ready()
    stage.grant(1)
    stage.report(runner, 1)
    stage.tell(Ponged(runner.id, 999))
    look(stage)
    assert not is_stopped(runner)
    stage.tell(Ponged(runner.id, 1000))
    look(stage)
    assert is_stopped(runner)


def test_a_runner_that_is_too_large_before_its_first_task_is_replaced_after_that_and_one_line_says_so() -> None:
    stage = Stage(runner_memory_bytes_max=300 << 20)
    runner = stage.ready()
    for _ in range(2):
        stage.tell(Ponged(runner.id, 400 << 20))
        look(stage)
    assert not is_stopped(runner)
    (note,) = [each for each in stage.instructions if isinstance(each, Note) and each.level is Level.WARNING]
    assert (note.runner, note.fields["memory_mib"], note.fields["runner_memory_max"]) == (runner.id, 400, 300)
    stage.grant(1)
    stage.report(runner, 1)
    look(stage)
    assert is_stopped(runner)


def test_without_a_bound_no_runner_is_replaced() -> None:
    stage = Stage()
    runner = stage.ready()
    for fence in range(1, 100):
        stage.grant(fence)
        stage.report(runner, fence)
    stage.tell(Ponged(runner.id, 1 << 40))
    look(stage)
    assert not is_stopped(runner)


def test_a_runner_within_the_worker_s_own_process_is_not_replaced() -> None:
    stage = Stage(runners=0, runner_tasks_max=1)
    runner = stage.ready()
    stage.grant(1)
    stage.report(runner, 1)
    look(stage)
    assert not is_stopped(runner)


def test_a_runner_that_is_replaced_starts_nothing_in_a_pause() -> None:
    stage = Stage(runner_tasks_max=1)
    runner = stage.ready()
    stage.grant(1, 2)
    stage.report(runner, 1)
    look(stage)
    stage.tell(CutOff())
    assert runner.said[-1] == messages.Slots(0)


def test_runners_that_are_replaced_do_not_count_as_dying_young() -> None:
    stage = Stage(runner_tasks_max=1)
    runner = stage.ready()
    for fence in range(1, 8):
        stage.grant(fence)
        stage.report(runner, fence)
        look(stage)
        assert is_stopped(runner)
        # At once, although none of them has lived for long.
        runner = successor(stage, runner)
        stage.tell(RunnerReady(runner.id, messages.Ready((), "echo", ())))


def test_a_process_of_isolated_tasks_is_replaced_too() -> None:
    stage = Stage(runner_tasks_max=1)
    ordinary = stage.ready()
    stage.grant(1, alone=True)
    alone = stage.alone()
    stage.withhold(ordinary, 1)
    assert alone.granted == [1]
    stage.report(alone, 1)
    assert is_stopped(alone)


def test_a_runner_that_asks_for_it_is_replaced_when_it_has_finished_its_tasks() -> None:
    stage = Stage()
    runner = stage.ready()
    stage.grant(1, 2)
    stage.report(runner, 1)
    stage.say(runner, messages.Worn("it is full"))
    look(stage)
    assert not is_stopped(runner)
    stage.report(runner, 2)
    look(stage)
    assert is_stopped(runner)


def test_a_runner_that_asks_for_it_before_its_first_task_is_replaced_after_that() -> None:
    stage = Stage()
    runner = stage.ready()
    stage.say(runner, messages.Worn("its plugins fill it"))
    look(stage)
    assert not is_stopped(runner)
    stage.grant(1)
    stage.report(runner, 1)
    look(stage)
    assert is_stopped(runner)

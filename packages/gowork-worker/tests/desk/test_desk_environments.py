"""What the desk makes of environments besides the worker's own."""

from __future__ import annotations

import pytest
from desk_stage import FakeRunner, Stage

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.events import CutOff, EnvironmentsKnown, EnvironmentsRefused, FrameReceived, RunnerReady
from gowork.worker._desk.instructions import LearnHandlers, RefuseEnvironments
from gowork.worker._desk.merging import clashes, merged
from gowork.worker._desk.roster import READY_SECONDS_MAX
from gowork.worker._runner import messages

A, B = "/envs/a", "/envs/b"


def ready_with(*names: str, default: str = "", errors: tuple[str, ...] = (), description: str = "") -> messages.Ready:
    notes = tuple(
        messages.HandlerNote(name, "shared", None, 5000, f"of-{name}", plugin_version="1", description=description)
        for name in names
    )
    return messages.Ready(notes, default, errors, ("hooks",))


OWN = ready_with("noop", default="noop")


def granted(stage: Stage, fence: int, handler: str) -> None:
    task = tasks.Task(id=f"t{fence}", handler=handler).SerializeToString()
    grant = session.Grant(fence=fence, id=f"t{fence}", attempt=1, task=task)
    stage.tell(FrameReceived(session.ConnectResponse(grants=[grant])))


def alone(stage: Stage) -> list[FakeRunner]:
    """The runners of isolated tasks, which may have ended."""
    return [runner for runner in stage.runners.values() if runner.known.alone]


def leave_slots(stage: Stage, runner: FakeRunner) -> None:
    """The ordinary runner leaves as many slots as it is asked for."""
    stage.withhold(runner, runner.known.reserved)


def end(stage: Stage, runner: FakeRunner, seconds: float = 10.0) -> None:
    """A runner ends, and after `seconds` the next one may be started."""
    stage.end(runner)
    stage.now += seconds
    stage.look()


@pytest.fixture
def stage() -> Stage:
    stage = Stage(slots=4)
    stage.tell(EnvironmentsKnown({A: ready_with("a", "a2"), B: ready_with("b")}))
    return stage


def test_a_task_runs_in_a_process_of_the_environment_that_has_its_handler(stage: Stage) -> None:
    ordinary = stage.ready(4, OWN)
    granted(stage, 1, "b")
    granted(stage, 2, "noop")
    leave_slots(stage, ordinary)
    (runner,) = alone(stage)
    assert (runner.known.environment, runner.known.only, runner.known.name) == (B, None, f"alone in {B}")
    stage.tell(RunnerReady(runner.id, ready_with("b")))
    assert (runner.granted, ordinary.granted) == ([1], [2])


def test_a_process_runs_tasks_of_all_plugins_of_its_environment_and_of_no_other(stage: Stage) -> None:
    ordinary = stage.ready(4, OWN)
    granted(stage, 1, "a")
    leave_slots(stage, ordinary)
    (first,) = alone(stage)
    stage.tell(RunnerReady(first.id, ready_with("a", "a2")))
    stage.report(first, 1)
    granted(stage, 2, "b")
    granted(stage, 3, "a2")
    leave_slots(stage, ordinary)
    assert first.granted == [1, 3]
    assert [runner.known.environment for runner in alone(stage)] == [A, B]


def test_what_an_environment_describes_goes_to_the_leader_under_its_plugin(stage: Stage) -> None:
    stage.ready(4, OWN)
    (learned,) = [each.ready for each in stage.instructions if isinstance(each, LearnHandlers)]
    assert [(note.name, note.plugin, note.environment) for note in learned.handlers] == [
        ("noop", "of-noop", ""),
        ("a", "of-a", A),
        ("a2", "of-a2", A),
        ("b", "of-b", B),
    ]
    assert (learned.default_handler, learned.shared) == ("noop", ("hooks",))


def test_environments_that_offer_a_handler_of_the_worker_end_it(stage: Stage) -> None:
    stage.ready(4, ready_with("noop", "b"))
    (refused,) = [each.reason for each in stage.instructions if isinstance(each, RefuseEnvironments)]
    assert f"'b': the worker's own environment (of-b 1) and {B} (of-b 1)" in refused
    assert stage.desk.handlers is None
    assert not [each for each in stage.instructions if isinstance(each, LearnHandlers)]


def test_environments_at_fault_end_the_worker(stage: Stage) -> None:
    assert RefuseEnvironments("why") in stage.tell(EnvironmentsRefused("why"))


def test_many_handlers_that_clash_are_counted() -> None:
    names = [f"h{number}" for number in range(7)]
    told = clashes(ready_with(*names), {A: ready_with(*names)})
    assert "'h4'" in told
    assert "'h5'" not in told
    assert "; and 2 more. Leave" in told
    assert clashes(OWN, {A: ready_with("a"), B: ready_with("b")}) == ""


def test_the_default_handler_may_be_in_any_environment() -> None:
    assert merged(ready_with("noop"), {A: ready_with("a"), B: ready_with("b", default="b")}).default_handler == "b"
    assert merged(OWN, {A: ready_with("a", default="a")}).default_handler == "noop"


def test_an_error_of_an_environment_names_it_and_absence_counts_when_it_is_everywhere() -> None:
    nobody, other = "nobody: no plugin of this name is installed", "a: no plugin of this name is installed"
    choice = "(selection): no plugin gives the handler 'a'"
    own = ready_with("noop", errors=("c: broken", nobody, other, choice))
    found = merged(own, {A: ready_with("a", errors=(nobody, "d: broken"))})
    assert found.plugin_errors == ("c: broken", nobody, f"{A}: d: broken")


def test_all_environments_together_keep_to_the_bound_of_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "DESCRIPTIONS_BYTES_MAX", 10)
    found = merged(ready_with("noop", description="12345678"), {A: ready_with("a", "a2", description="12")})
    assert [note.description for note in found.handlers] == ["12345678", "12", ""]


def test_tasks_of_an_environment_whose_runners_never_get_ready_are_handed_back(stage: Stage) -> None:
    ordinary = stage.ready(4, OWN)
    granted(stage, 1, "a")
    granted(stage, 2, "b")
    leave_slots(stage, ordinary)
    broken, whole = alone(stage)
    end(stage, broken)
    end(stage, alone(stage)[-1])
    assert stage.reported() == {}
    stage.end(alone(stage)[-1])
    assert ordinary.known.reserved == 1
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_INTERRUPTED}
    stage.tell(RunnerReady(whole.id, ready_with("b")))
    assert whole.granted == [2]


def test_a_broken_environment_delays_no_other(stage: Stage) -> None:
    ordinary = stage.ready(4, OWN)
    granted(stage, 1, "a")
    leave_slots(stage, ordinary)
    end(stage, alone(stage)[-1])
    end(stage, alone(stage)[-1], 0.0)
    assert [runner.known.environment for runner in alone(stage)] == [A, A]
    granted(stage, 2, "b")
    assert alone(stage)[-1].known.environment == B


def test_runners_that_die_after_they_were_ready_hand_nothing_back(stage: Stage) -> None:
    ordinary = stage.ready(4, OWN)
    for fence in range(1, 5):
        granted(stage, fence, "a")
    leave_slots(stage, ordinary)
    for runner in alone(stage)[:3]:
        stage.tell(RunnerReady(runner.id, ready_with("a")))
    for runner in alone(stage)[:3]:
        end(stage, runner, 0.0)
    assert 4 not in stage.reported()


@pytest.fixture
def broken(stage: Stage) -> Stage:
    """The runners of A end before they are ready, one after another. There are four slots."""
    leave_slots(stage, stage.ready(4, OWN))
    granted(stage, 1, "a")
    for _ in range(2):
        end(stage, alone(stage)[-1])
    stage.end(alone(stage)[-1], "no Python")
    assert stage.reported() == {1: tasks.ATTEMPT_OUTCOME_INTERRUPTED}
    return stage


def test_tasks_that_come_for_a_broken_environment_are_handed_back_at_once(broken: Stage) -> None:
    ordinary = broken.desk.roster.ordinary[0]
    broken.now += 10.0
    for fence in (2, 3):
        granted(broken, fence, "a")
        assert ordinary.reserved == 0
    (report, other) = broken.take().reports
    assert (report.fence, other.fence) == (2, 3)
    assert report.reason == f"no runner of {A} gets ready: no Python"
    granted(broken, 4, "b")
    assert ordinary.reserved == 1


def test_one_runner_of_a_broken_environment_is_tried_again_and_then_tasks_run(broken: Stage) -> None:
    known = len(alone(broken))
    granted(broken, 2, "a")
    # It is too early.
    assert len(alone(broken)) == known
    broken.now += 10.0
    granted(broken, 3, "a")
    granted(broken, 4, "a")
    assert len(alone(broken)) == known + 1
    broken.tell(RunnerReady(alone(broken)[-1].id, ready_with("a", "a2")))
    granted(broken, 5, "a")
    leave_slots(broken, broken.runners[broken.desk.roster.ordinary[0].id])
    assert alone(broken)[-1].granted == [5]


def test_a_broken_environment_is_tried_again_in_place_of_an_idle_process(broken: Stage) -> None:
    ordinary = broken.runners[broken.desk.roster.ordinary[0].id]
    for fence in range(2, 6):
        granted(broken, fence, "b")
    leave_slots(broken, ordinary)
    busy = alone(broken)[-4:]
    for runner in busy:
        broken.tell(RunnerReady(runner.id, ready_with("b")))
    broken.now += 10.0
    granted(broken, 6, "a")
    assert alone(broken)[-4:] == busy
    broken.report(busy[0], *busy[0].granted)
    granted(broken, 7, "a")
    assert busy[0].said == [messages.Stop()]
    assert alone(broken)[-1].known.environment == A


def test_a_broken_environment_is_not_tried_again_in_a_pause(broken: Stage) -> None:
    known = len(alone(broken))
    broken.now += 10.0
    broken.tell(CutOff())
    granted(broken, 2, "a")
    assert len(alone(broken)) == known


def test_a_process_of_a_broken_environment_that_was_ready_runs_tasks(stage: Stage) -> None:
    # As when the environment was removed meanwhile.
    ordinary = stage.ready(4, OWN)
    granted(stage, 1, "a")
    leave_slots(stage, ordinary)
    (old,) = alone(stage)
    stage.tell(RunnerReady(old.id, ready_with("a", "a2")))
    granted(stage, 2, "a")
    leave_slots(stage, ordinary)
    for _ in range(3):
        end(stage, alone(stage)[-1])
    stage.report(old, 1)
    stage.take()
    granted(stage, 3, "a")
    leave_slots(stage, ordinary)
    assert old.granted == [1, 3]


def test_a_runner_of_an_environment_that_does_not_get_ready_is_ended_and_tasks_are_handed_back(stage: Stage) -> None:
    leave_slots(stage, stage.ready(4, OWN))
    granted(stage, 1, "a")
    (hanging,) = alone(stage)
    stage.now += READY_SECONDS_MAX
    stage.look()
    assert not hanging.ended
    stage.now += 1.0
    stage.look()
    stage.look()
    assert hanging.ended == ["it was not ready within 300 s"]
    stage.end(hanging, hanging.ended[0])
    (report,) = stage.take().reports
    assert report.reason == f"no runner of {A} gets ready: it was not ready within 300 s"


def test_a_runner_of_an_environment_that_is_ready_may_be_old(stage: Stage) -> None:
    leave_slots(stage, stage.ready(4, OWN))
    granted(stage, 1, "a")
    (runner,) = alone(stage)
    stage.tell(RunnerReady(runner.id, ready_with("a")))
    stage.now += READY_SECONDS_MAX + 1.0
    stage.look()
    assert "it was not ready within 300 s" not in runner.ended

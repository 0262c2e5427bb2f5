"""Groups: when they end, who may be a child, and what is kept of them."""

from __future__ import annotations

import json

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.kinds import AFTER
from gowork.leader._core.model import AfterRule, FailureKind, Group, Outcome, Place, Spec, Status

ALL_COMPLETED, ALL_FINISHED, ANY_FAILED = AfterRule
CANCELLED, COMPLETED, ERROR, PENDING = Status.CANCELLED, Status.COMPLETED, Status.ERROR, Status.PENDING
OPEN = Group()


def group(
    id: str = "g",
    children: int | None = None,
    *,
    handler: str = "work",
    rule: AfterRule = ALL_COMPLETED,
    after: tuple[str, ...] = (),
) -> Spec:
    return spec(id, handler=handler, group=Group(children), rule=rule, after=after)


def run(core: Core, connection: int, *ends: tuple[str, Outcome]) -> None:
    """Grants what can be granted, which must be these tasks, and has each end so."""
    granted = core.dispatch().get(connection, [])
    assert granted == [id for id, _ in ends]
    for id, outcome in ends:
        core.report(connection, id, outcome)
    core.tick()


def counts(core: Core, id: str = "g") -> tuple[int, int, int, int]:
    """Returns how many children are unfinished, completed, failed and cancelled."""
    answer = core.do(cmd.SealGroup(id)).answer
    assert isinstance(answer, cmd.GroupState)
    return answer.unfinished, answer.completed, answer.failed, answer.cancelled


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    ("rule", "outcomes", "status"),
    [
        (ALL_COMPLETED, (Outcome.COMPLETED, Outcome.COMPLETED), COMPLETED),
        (ALL_COMPLETED, (Outcome.COMPLETED, Outcome.FAILED), CANCELLED),
        (ALL_FINISHED, (Outcome.COMPLETED, Outcome.FAILED), COMPLETED),
        (ALL_FINISHED, (Outcome.FAILED, Outcome.FAILED), COMPLETED),
        (ANY_FAILED, (Outcome.COMPLETED, Outcome.FAILED), COMPLETED),
        (ANY_FAILED, (Outcome.COMPLETED, Outcome.COMPLETED), CANCELLED),
    ],
)
def test_a_group_runs_when_its_rule_holds_for_its_children(
    rule: AfterRule, outcomes: tuple[Outcome, Outcome], status: Status, restarts: bool
) -> None:
    core = Core(compares=True)
    core.submit(group(children=2, rule=rule), spec("g/0"), spec("g/1"))
    assert core.task("g").place is Place.BLOCKED
    worker = core.connect()
    assert core.dispatch() == {worker: ["g/0", "g/1"]}
    core.report(worker, "g/0", outcomes[0])
    core.tick()
    if outcomes[0] is Outcome.COMPLETED:
        assert core.dispatch() == {}
    if restarts:
        fence = core.standing("g/1").fence
        core.restart()
        worker = core.connect(held=(cmd.HeldTask("g/1", fence, finished=False),))
    core.report(worker, "g/1", outcomes[1])
    core.tick()
    if status is COMPLETED:
        run(core, worker, ("g", Outcome.COMPLETED))
    assert core.status("g") is status
    if status is CANCELLED:
        assert core.failure("g").kind is FailureKind.UPSTREAM
    else:
        assert not core.state.facts.of(AFTER)
        assert not core.state.dependents.groups


def test_a_group_without_a_handler_completes_by_itself_and_tells_how_its_children_ended() -> None:
    core = Core(compares=True)
    core.submit(group(children=3, handler="", rule=ALL_FINISHED), spec("g/0"), spec("g/1"), spec("g/2"))
    worker = core.connect(default="work")
    core.do(cmd.Cancel("g/2"))
    run(core, worker, ("g/0", Outcome.COMPLETED), ("g/1", Outcome.FAILED))
    assert core.status("g") is COMPLETED
    assert json.loads(core.standing("g").result) == {"children": 3, "completed": 1, "failed": 1, "cancelled": 1}
    assert core.standing("g").finished_ms == core.wall_ms
    assert core.dispatch() == {}
    assert not core.state.facts.of(AFTER)
    assert core.state.queues.delayed == 0


def test_an_open_group_waits_until_it_is_sealed() -> None:
    core = Core(compares=True)
    core.submit(group())
    core.submit(spec("g/0"))
    worker = core.connect()
    run(core, worker, ("g/0", Outcome.COMPLETED))
    assert core.dispatch() == {}
    core.submit(spec("g/1"))
    run(core, worker, ("g/1", Outcome.COMPLETED))
    assert core.dispatch() == {}
    core.restart()
    worker = core.connect()
    assert core.do(cmd.SealGroup("g")).answer == cmd.GroupState(2, 0, 2, 0, 0)
    core.tick()
    run(core, worker, ("g", Outcome.COMPLETED))


@pytest.mark.parametrize("rule", [ALL_FINISHED, ANY_FAILED])
def test_no_handler_runs_before_the_seal_even_if_the_rule_holds(rule: AfterRule) -> None:
    core = Core()
    core.submit(group(rule=rule), spec("g/0"))
    worker = core.connect()
    run(core, worker, ("g/0", Outcome.FAILED))
    assert core.dispatch() == {}
    core.do(cmd.SealGroup("g", 1))
    core.tick()
    assert core.dispatch() == {worker: ["g"]}


def test_an_open_group_ends_as_soon_as_its_rule_cannot_hold() -> None:
    core = Core()
    core.submit(group(), spec("g/0"))
    run(core, core.connect(), ("g/0", Outcome.FAILED))
    assert core.status("g") is CANCELLED
    assert "'g/0' has not" in core.failure("g").message


def test_a_sealed_group_waits_for_children_that_are_to_come() -> None:
    core = Core()
    core.submit(group(children=2))
    core.submit(spec("g/a"))
    worker = core.connect()
    run(core, worker, ("g/a", Outcome.COMPLETED))
    assert core.dispatch() == {}
    core.restart()
    worker = core.connect()
    core.submit(spec("g/b"))
    run(core, worker, ("g/b", Outcome.COMPLETED))
    assert core.dispatch() == {worker: ["g"]}


@pytest.mark.parametrize("sealed_later", [False, True])
def test_a_group_without_children_ends_at_once(sealed_later: bool) -> None:
    core = Core()
    core.submit(group(children=None if sealed_later else 0))
    if sealed_later:
        core.do(cmd.SealGroup("g"))
    core.tick()
    worker = core.connect()
    assert core.dispatch() == {worker: ["g"]}


def test_a_seal_is_repeated_and_not_changed() -> None:
    core = Core()
    core.submit(group(), spec("g/0"))
    assert core.refusal(cmd.SealGroup("g", 0)).violations == (("children", "is 0, and group 'g' has 1 already"),)
    assert core.do(cmd.SealGroup("g", 2)).answer == cmd.GroupState(2, 1, 0, 0, 0)
    for children in (None, 2):
        decision = core.do(cmd.SealGroup("g", children))
        assert decision.answer == cmd.GroupState(2, 1, 0, 0, 0)
        assert not decision.changes
    assert core.refusal(cmd.SealGroup("g", 3)).code is cmd.GROUP_SEALED
    for id in ("x", "g/0"):
        assert core.refusal(cmd.SealGroup(id)).code is cmd.GROUP_UNKNOWN


def test_a_sealed_group_takes_no_more_children() -> None:
    core = Core()
    core.submit(group(children=1))
    refusal = core.refusal(cmd.Submit((spec("g/0"), spec("g/1"))))
    assert refusal.code is cmd.GROUP_SEALED
    assert core.submit(spec("g/0")) == cmd.Submitted(1, 0)
    # The same once more is none more.
    assert core.submit(spec("g/0")) == cmd.Submitted(0, 1)
    refusal = core.refusal(cmd.Submit((spec("x"), spec("g/1"))))
    assert refusal.message.startswith("tasks[1].id: group 'g' is sealed; children: 1 of 1; use")
    assert core.refusal(cmd.Submit((group("h", 1), spec("h/0"), spec("h/1")))).code is cmd.GROUP_SEALED


def test_tasks_of_another_depth_and_older_ones_are_no_children() -> None:
    core = Core()
    core.submit(spec("g/old"))
    core.submit(group(), spec("g/0"), spec("g/0/1"), spec("gg/0"), spec("/g/0"))
    assert counts(core) == (1, 0, 0, 0)
    assert core.refusal(cmd.Submit((spec("g/old"),))).code is cmd.NO_CHILD
    core.restart()
    assert counts(core) == (1, 0, 0, 0)


def test_a_child_comes_behind_its_group() -> None:
    core = Core()
    refusal = core.refusal(cmd.Submit((spec("g/0"), group())))
    assert refusal.code is cmd.NO_CHILD
    assert refusal.message.startswith("tasks[0].id: task 'g/0' comes before its group 'g'")


def test_a_child_whose_unique_key_is_taken_is_refused() -> None:
    core = Core()
    core.submit(group(), spec("x", unique="k"))
    refusal = core.refusal(cmd.Submit((spec("g/0", unique="k"),)))
    assert refusal.code is cmd.NO_CHILD
    assert "unique key" in refusal.message


def test_groups_are_children_of_groups() -> None:
    core = Core(compares=True)
    core.submit(group("g", 2), spec("g/0"), group("g/1", 1, handler=""), spec("g/1/0"))
    worker = core.connect()
    run(core, worker, ("g/0", Outcome.COMPLETED), ("g/1/0", Outcome.COMPLETED))
    assert core.status("g/1") is COMPLETED
    assert core.dispatch() == {worker: ["g"]}


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_no_child_comes_after_its_group_on_any_way(first: int) -> None:
    core = Core()
    specs = [group("g"), group("g/1"), spec("x", after=("g",)), spec("y", after=("x",))]
    if first:
        core.submit(*specs[:first])
    for child in ("g/0", "g/1/0"):
        refusal = core.refusal(cmd.Submit((*specs[first:], spec(child, after=("y" if first < 4 else "g",)))))
        assert refusal.code is cmd.UPSTREAM_IN_CIRCLE
    assert core.submit(*specs[first:], spec("z", after=("y",))) == cmd.Submitted(5 - first, 0)
    assert core.refusal(cmd.Submit((spec("g/0", after=("y",)),))).code is cmd.UPSTREAM_IN_CIRCLE
    assert core.refusal(cmd.Submit((spec("g/1/0", after=("g",)),))).code is cmd.UPSTREAM_IN_CIRCLE


def test_children_come_after_one_another() -> None:
    core = Core()
    core.submit(group(children=3), spec("g/0"), spec("g/1", after=("g/0",)), spec("g/2", after=("g/1",)))
    worker = core.connect()
    for id in ("g/0", "g/1", "g/2", "g"):
        run(core, worker, (id, Outcome.COMPLETED))


def test_a_group_comes_after_others_too() -> None:
    core = Core()
    core.submit(spec("a"), group(children=1, after=("a",)), spec("g/0"))
    worker = core.connect()
    assert core.dispatch() == {worker: ["a", "g/0"]}
    core.report(worker, "g/0", Outcome.COMPLETED)
    core.tick()
    assert core.dispatch() == {}
    core.report(worker, "a", Outcome.COMPLETED)
    core.tick()
    assert core.dispatch() == {worker: ["g"]}


@pytest.mark.parametrize("handler", ["work", ""])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_retry_of_a_child_has_its_group_wait_again(handler: str, restarts: bool) -> None:
    core = Core(compares=True)
    core.submit(group(children=2, handler=handler), spec("g/0"), spec("g/1"), spec("z", after=("g",)))
    worker = core.connect(slots=8)
    run(core, worker, ("g/0", Outcome.COMPLETED), ("g/1", Outcome.FAILED))
    core.tick()
    assert (core.status("g"), core.status("z")) == (CANCELLED, CANCELLED)
    if restarts:
        core.restart()
        worker = core.connect()
    core.do(cmd.RetryTask("g/1"))
    core.tick()
    assert (core.status("g"), core.status("z")) == (PENDING, PENDING)
    run(core, worker, ("g/1", Outcome.COMPLETED))
    if handler:
        run(core, worker, ("g", Outcome.COMPLETED))
    core.tick()
    assert core.status("g") is COMPLETED
    assert core.dispatch() == {worker: ["z"]}


def test_a_retry_that_was_not_looked_at_has_its_group_wait_again_after_a_restart() -> None:
    core = Core()
    core.submit(group(children=1), spec("g/0"))
    run(core, core.connect(), ("g/0", Outcome.FAILED))
    core.do(cmd.RetryTask("g/0"))
    core.restart()
    core.tick()
    assert core.status("g") is PENDING


def test_a_group_that_no_handler_runs_is_not_retried() -> None:
    core = Core()
    core.submit(group(children=1, handler=""), spec("g/0"))
    run(core, core.connect(), ("g/0", Outcome.FAILED))
    assert core.refusal(cmd.RetryTask("g")).code is cmd.GROUP_ENDED
    chosen = (cmd.Chosen("g", core.task("g").seq),)
    answer = core.do(cmd.RetryTasks(chosen, lambda *_: True, core.task("g").changed)).answer
    assert isinstance(answer, cmd.Retried)
    assert (answer.tasks, answer.left) == (0, 1)
    assert core.status("g") is CANCELLED


def test_children_are_kept_until_their_group_has_ended() -> None:
    core = Core()
    core.submit(group(children=2, rule=ALL_FINISHED), spec("g/0"), spec("g/1"))
    worker = core.connect()
    assert core.dispatch() == {worker: ["g/0", "g/1"]}
    core.report(worker, "g/0", Outcome.COMPLETED)
    assert core.state.dependents.kept == 1
    assert core.do(cmd.Purge(("g/0",))).answer == cmd.Purged(0)
    refusal = core.refusal(cmd.Purge(("g/0",), strict=True))
    assert refusal.code is cmd.HAS_DEPENDENTS
    assert "'g'" in refusal.message
    core.report(worker, "g/1", Outcome.FAILED)
    core.tick()
    run(core, worker, ("g", Outcome.COMPLETED))
    assert core.state.dependents.kept == 0
    assert core.do(cmd.Purge(("g/0", "g/1"))).answer == cmd.Purged(2)


def test_the_removal_of_a_child_of_a_cancelled_group_is_the_end_of_its_revival() -> None:
    core = Core()
    core.submit(group(children=2), spec("g/0"), spec("g/1"))
    run(core, core.connect(), ("g/0", Outcome.FAILED), ("g/1", Outcome.COMPLETED))
    assert core.status("g") is CANCELLED
    core.do(cmd.Purge(("g/1",)))
    assert not core.state.facts.of(AFTER)
    assert not core.state.dependents.groups
    core.do(cmd.RetryTask("g/0"))
    core.tick()
    assert core.status("g") is CANCELLED


def test_a_group_that_is_cancelled_leaves_its_children_alone() -> None:
    core = Core()
    core.submit(group(children=2), spec("g/0"))
    core.do(cmd.Cancel("g"))
    assert not core.state.dependents.groups
    assert not core.state.facts.of(AFTER)
    worker = core.connect()
    assert core.dispatch() == {worker: ["g/0"]}
    assert core.submit(spec("g/1"), spec("g/2")) == cmd.Submitted(2, 0)


def test_children_that_are_changed_stay_children() -> None:
    core = Core()
    core.submit(spec("g/old"))
    core.submit(group(children=2), spec("g/0"))
    core.do(cmd.UpdateTask("g/0", lambda spec, *_: (spec, ("priority",)), moves_start=False))
    assert counts(core) == (1, 0, 0, 0)
    # A task that was older is a newer one when it is changed.
    core.do(cmd.UpdateTask("g/old", lambda spec, *_: (spec, ("priority",)), moves_start=False))
    assert counts(core) == (2, 0, 0, 0)
    core.restart()
    assert counts(core) == (2, 0, 0, 0)
    core.do(cmd.UpdateTask("g", lambda spec, *_: (spec, ("priority",)), moves_start=False))
    assert counts(core) == (2, 0, 0, 0)
    core.restart()
    assert counts(core) == (2, 0, 0, 0)
    run(core, core.connect(), ("g/0", Outcome.COMPLETED), ("g/old", Outcome.COMPLETED))
    assert core.dispatch() != {}


def test_a_handler_adds_children_by_its_follow_ups() -> None:
    core = Core(compares=True)
    core.submit(group(), spec("g/0"))
    worker = core.connect()
    core.dispatch()
    core.report(worker, "g/0", Outcome.COMPLETED, follow_ups=(spec("g/1"), spec("g/2")))
    assert counts(core) == (2, 1, 0, 0)
    core.dispatch()
    core.report(worker, "g/1", Outcome.COMPLETED, follow_ups=(spec("g/3"),))
    assert core.status("g/1") is ERROR
    assert "follow_ups[0].id: group 'g' is sealed; children: 3 of 3" in core.failure("g/1").message


def test_a_group_and_a_schedule_have_different_names() -> None:
    core = Core()
    core.state.agenda.names["s"] = None
    assert core.refusal(cmd.Submit((group("s"),))).code is cmd.ID_RESERVED


def test_a_group_counts_as_a_dependent() -> None:
    core = Core()
    core.submit(group("g"), group("h", 0))
    assert (core.state.dependents.live, core.state.dependents.edges) == (2, 0)
    core.tick()
    run(core, core.connect(), ("h", Outcome.COMPLETED))
    assert core.state.dependents.live == 1

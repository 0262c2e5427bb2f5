"""A handler that workers have in several forms: a payload that does not fit one goes to a worker with another."""

from __future__ import annotations

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.effects import GrantTasks
from gowork.leader._core.explain import explain
from gowork.leader._core.forms import UNFIT_FORMS_MAX, open_forms, with_form
from gowork.leader._core.model import Failure, FailureKind, Outcome, RetryPolicy, Status, WaitCode


def grants(core: Core) -> dict[str, tuple[int, bool]]:
    """Who was granted each id, and whether others have its handler in another form."""
    decision = core.do(cmd.Dispatch())
    return {
        grant.spec.id: (effect.connection, grant.others)
        for effect in decision.effects
        if isinstance(effect, GrantTasks)
        for grant in effect.grants
    }


def does_not_fit(core: Core, connection: int, id: str) -> None:
    core.report(connection, id, Outcome.INTERRUPTED, unfit=True, reason="payload: no such field")


def test_a_grant_says_whether_others_have_its_handler_in_another_form() -> None:
    core = Core()
    old = core.connect("old", form="1")
    core.submit(spec("a"))
    assert grants(core) == {"a": (old, False)}
    core.connect("same", form="1", slots=1, credit=0)
    core.submit(spec("b"))
    assert grants(core) == {"b": (old, False)}
    core.connect("new", form="2", slots=1, credit=0)
    core.submit(spec("c"))
    assert grants(core) == {"c": (old, True)}


def test_what_does_not_fit_goes_to_a_worker_with_another_form_whoever_has_more_room() -> None:
    core = Core()
    old, new = core.connect("old", form="1", slots=9), core.connect("new", form="2", slots=1)
    core.submit(spec("a"))
    assert grants(core) == {"a": (old, True)}
    does_not_fit(core, old, "a")
    # The last form that there is: what does not fit it either is refused for good.
    assert grants(core) == {"a": (new, False)}
    core.report(new, "a")
    assert core.status("a") is Status.COMPLETED


def test_of_the_workers_with_another_form_the_one_with_the_most_room_gets_what_does_not_fit() -> None:
    core = Core()
    old = core.connect("old", form="1", slots=9)
    core.connect("small", form="2", slots=1)
    large = core.connect("large", form="3", slots=5)
    core.submit(spec("a"))
    assert grants(core) == {"a": (old, True)}
    does_not_fit(core, old, "a")
    assert grants(core) == {"a": (large, True)}


def test_what_waits_for_another_form_holds_up_nothing_behind_it_and_why_says_so() -> None:
    core = Core()
    old, new = core.connect("old", form="1", slots=2, credit=9), core.connect("new", form="2", slots=1, credit=1)
    core.submit(spec("a"), spec("b"))
    assert {who for who, _ in grants(core).values()} == {old}
    for id in ("a", "b"):
        does_not_fit(core, old, id)
    core.submit(spec("c"))
    assert grants(core) == {"a": (new, False), "c": (old, True)}
    verdicts = {v.worker: v.code for v in explain(core.state, core.task("b"), core.now, verbose=True).verdicts}
    assert verdicts == {"old": WaitCode.UNFIT, "new": WaitCode.NO_SLOT}


def test_what_fits_no_form_is_granted_to_anybody_without_a_way_out() -> None:
    core = Core()
    old, new = core.connect("old", form="1"), core.connect("new", form="2", credit=1)
    core.submit(spec("a"))
    first = grants(core)["a"][0]
    does_not_fit(core, first, "a")
    second = grants(core)["a"][0]
    assert {first, second} == {old, new}
    does_not_fit(core, second, "a")
    assert explain(core.state, core.task("a"), core.now).reasons == ()
    (granted,) = grants(core).values()
    assert not granted[1]
    core.report(granted[0], "a", Outcome.FAILED, failure=Failure(FailureKind.REJECTED, "does not fit"))
    assert core.status("a") is Status.ERROR


def test_a_worker_with_another_form_that_comes_later_gets_it() -> None:
    core = Core()
    old = core.connect("old", form="1")
    new = core.connect("new", form="2", slots=1)
    core.submit(spec("a", retry=RetryPolicy(max_attempts=2)))
    while core.standing("a").unfit != ("1", "2") and core.standing("a").unfit != ("2", "1"):
        does_not_fit(core, grants(core)["a"][0], "a")
    third = core.connect("third", form="3")
    assert grants(core) == {"a": (third, False)}
    # It is remembered over an attempt that fails, and forgotten when the task has ended.
    core.report(third, "a", Outcome.FAILED, retry_delay_ms=0)
    assert grants(core)["a"][0] == third
    core.report(third, "a", Outcome.FAILED)
    assert core.standing("a").unfit == ()
    assert {old, new, third} == set(core.state.connections)


def test_forms_are_those_of_the_workers_that_are_there() -> None:
    core = Core()
    connection = core.connect("w", form="1", default="work")
    core.connect("other", form="2")
    workers = core.state.workers
    for handler in ("work", ""):
        assert "1" in open_forms(workers.values(), handler, (), "")
    assert core.state.forms.are_mixed("work")
    # The same worker with another form, then gone.
    connection = core.connect("w", form="2")
    assert not core.state.forms.are_mixed("work")
    assert open_forms(workers.values(), "", (), "") == frozenset()
    core.do(cmd.ReceiveFrame(connection, leaving=True))
    assert open_forms(workers.values(), "work", (), "") == {"2"}
    core.do(cmd.ReceiveFrame(2, leaving=True))
    assert open_forms(workers.values(), "work", (), "") == frozenset()
    # What has gone is not counted beside what comes.
    core.connect("third", form="3")
    assert not core.state.forms.are_mixed("work")


@pytest.mark.parametrize("why", ["it lacks the label", "it drains"])
def test_no_task_waits_for_the_form_of_a_worker_that_may_not_be_given_it(why: str) -> None:
    core = Core()
    here = core.connect("here", form="1", labels={"zone": "a"})
    zone = "b" if why == "it lacks the label" else "a"
    there = core.connect("there", form="2", labels={"zone": zone}, credit=0)
    core.submit(spec("a", selector=(("zone", "a"),)))
    granted = grants(core)
    if why == "it drains":
        assert granted == {"a": (here, True)}
        core.do(cmd.ReceiveFrame(there, draining=True))
        does_not_fit(core, here, "a")
        granted = grants(core)
    assert granted == {"a": (here, False)}
    # Even if it is said to be unfit all the same.
    does_not_fit(core, here, "a")
    assert explain(core.state, core.task("a"), core.now).reasons == ()
    assert grants(core) == {"a": (here, False)}


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.CANCELLED])
def test_a_task_that_has_ended_remembers_no_form(outcome: Outcome) -> None:
    core = Core()
    old, new = core.connect("old", form="1", slots=9), core.connect("new", form="2", slots=1)
    core.submit(spec("a"))
    grants(core)
    does_not_fit(core, old, "a")
    assert core.standing("a").unfit == ("1",)
    grants(core)
    core.report(new, "a", outcome)
    assert core.standing("a").unfit == ()


def test_a_retry_by_hand_tries_all_forms_anew() -> None:
    core = Core()
    old = core.connect("old", form="1", slots=9)
    core.connect("new", form="2", slots=1, credit=0)
    core.submit(spec("a"))
    grants(core)
    does_not_fit(core, old, "a")
    core.do(cmd.Cancel("a"))
    core.do(cmd.RetryTask("a"))
    assert core.standing("a").unfit == ()
    assert grants(core) == {"a": (old, True)}


def test_so_many_forms_are_remembered() -> None:
    unfit: tuple[str, ...] = ()
    for number in range(20):
        unfit = with_form(unfit, str(number))
    assert unfit == tuple(str(number) for number in range(20 - UNFIT_FORMS_MAX, 20))
    assert with_form(unfit, "19") == unfit

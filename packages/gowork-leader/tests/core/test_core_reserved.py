"""A worker that names queues is given their tasks alone; one that names none is given those of all."""

from __future__ import annotations

from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.effects import StartWork
from gowork.leader._core.explain import explain, waiting_by_reason
from gowork.leader._core.model import HandlerPolicy, Outcome, WaitCode
from gowork.leader._core.queries import members


def told(core: Core, id: str) -> tuple[list[WaitCode], str]:
    """Why it waits: the codes, and the first reason with its advice."""
    reasons = explain(core.state, core.task(id), core.now).reasons
    return [reason.code for reason in reasons], f"{reasons[0].message}; {reasons[0].advice}"


def reasons(core: Core) -> dict[tuple[str, str], int]:
    return waiting_by_reason(core.state, core.now)


def test_a_worker_is_given_tasks_of_the_queues_that_it_names_alone() -> None:
    core = Core()
    images = core.connect("images", slots=9, queues=("images", "thumbnails"))
    core.submit(spec("a", queue="images"), spec("b", queue="mail"), spec("c", queue="thumbnails"), spec("d"))
    assert core.dispatch() == {images: ["a", "c"]}
    rest = core.connect("any", slots=9)
    assert core.dispatch() == {rest: ["b", "d"]}


def test_queues_that_a_worker_names_are_for_workers_too_that_name_none() -> None:
    core = Core()
    named, free = core.connect("named", slots=1, queues=("images",)), core.connect("free", slots=2)
    core.submit(*(spec(id, queue="images") for id in "abc"), spec("d", queue="mail"))
    granted = core.dispatch()
    assert len(granted[named]) == 1
    assert len(granted[free]) == 2
    assert "d" not in granted[named]


def test_what_a_worker_names_counts_from_its_session_to_the_next() -> None:
    core = Core()
    core.submit(spec("a", queue="images"))
    core.connect("w", queues=("mail",))
    assert core.dispatch() == {}
    again = core.connect("w", queues=("images",))
    assert core.dispatch() == {again: ["a"]}
    core.report(again, "a")
    core.submit(spec("b", queue="images"))
    core.connect("w", queues=("mail",))
    assert core.dispatch() == {}
    assert core.state.reserved.need_of("images") == ""
    all_of_them = core.connect("w")
    assert core.dispatch() == {all_of_them: ["b"]}
    assert core.state.reserved.need_of("mail") == ""


def test_a_worker_that_has_gone_names_no_queue() -> None:
    core = Core()
    connection = core.connect("w", queues=("images",))
    assert core.state.reserved.need_of("images") == "images"
    core.do(cmd.ReceiveFrame(connection, leaving=True))
    assert core.state.workers == {}
    assert core.state.reserved.need_of("images") == ""


def test_tasks_that_come_back_go_to_workers_of_their_queue() -> None:
    core = Core()
    first = core.connect("first", queues=("images",))
    core.submit(spec("a", queue="images"))
    assert core.dispatch() == {first: ["a"]}
    core.connect("mail", queues=("mail",))
    second = core.connect("second", queues=("images",))
    core.report(first, "a", Outcome.INTERRUPTED)
    core.do(cmd.ReceiveFrame(first, draining=True))
    assert core.dispatch() == {second: ["a"]}


def test_why_names_the_queue_and_what_workers_take() -> None:
    core = Core()
    core.connect("a", queues=("images",))
    core.connect("b", queues=("q1", "q2", "q3", "q4", "q5"))
    core.connect("c", handlers=("other",))
    core.submit(spec("a", queue="mail"))
    assert core.dispatch() == {}
    assert told(core, "a") == (
        [WaitCode.QUEUE_NOT_TAKEN],
        "none of the 2 worker(s) that have the handler takes tasks of the queue 'mail'; "
        "start a worker that does: `--queue mail`",
    )
    verdicts = explain(core.state, core.task("a"), core.now, verbose=True).verdicts
    assert [(verdict.worker, verdict.code) for verdict in verdicts] == [
        ("a", WaitCode.QUEUE_NOT_TAKEN),
        ("b", WaitCode.QUEUE_NOT_TAKEN),
        ("c", WaitCode.NO_HANDLER),
    ]
    assert verdicts[0].message == "it takes tasks of 'images' alone, and this one is in 'mail'"
    assert "'q1', 'q2', 'q3' and 2 more alone" in verdicts[1].message
    assert reasons(core) == {("mail", "queue_not_taken"): 1}


def test_a_full_worker_of_the_queue_is_told_before_those_of_other_queues() -> None:
    core = Core()
    core.connect("a", slots=1, queues=("images",))
    core.connect("b", queues=("mail",))
    core.submit(spec("a", queue="images"))
    core.dispatch()
    core.submit(spec("b", queue="images"), spec("c", queue="other"))
    core.dispatch()
    assert told(core, "b")[0] == [WaitCode.NO_SLOT]
    assert "1 slot is held by work x1" in told(core, "b")[1]
    assert reasons(core) == {("images", "no_slot"): 1, ("other", "queue_not_taken"): 1}


def test_a_payload_waits_for_no_form_that_only_a_worker_of_other_queues_has() -> None:
    core = Core()
    old = core.connect("old", form="1")
    core.connect("new", form="2", queues=("mail",))
    core.submit(spec("a", queue="images"))
    assert core.dispatch() == {old: ["a"]}
    core.report(old, "a", Outcome.INTERRUPTED, unfit=True, reason="payload: no such field")
    # Nobody else may be given it, so the worker is asked again, and rejects it.
    assert core.dispatch() == {old: ["a"]}


def test_a_callback_worker_takes_tasks_of_all_queues() -> None:
    core = Core()
    core.connect("w", default="work", queues=("images",))
    core.do(cmd.Join("c", "127.0.0.1:1", ""))
    core.submit(spec("a", handler="", queue="mail"))
    assert [type(effect) for effect in core.do(cmd.Dispatch()).effects] == [StartWork]


def test_members_tell_their_queues() -> None:
    core = Core()
    core.connect("b", queues=("mail", "images"))
    core.connect("c")
    assert {view.id: view.queues for view in members(core.state)} == {"b": ("images", "mail"), "c": ()}


def test_rankings_are_told_apart_by_queues_that_workers_name_and_by_no_others() -> None:
    core = Core()
    core.connect("named", slots=50, queues=("q1",))
    core.connect("free", slots=50)
    core.submit(*(spec(f"t{number}", queue=f"q{number}") for number in range(40)))
    core.dispatch()
    needs = {need for need in core.state.roster._rankings if need is not None}
    assert needs == {("work", (), ""), ("work", (), "q1")}


def test_policies_stay_those_of_the_worker() -> None:
    core = Core()
    core.connect("w", queues=("images",))
    (worker,) = core.state.connections.values()
    assert worker.policy_for("work") == HandlerPolicy("work", False, None, "", None)
    assert worker.can_run("work", (), "images")
    assert not worker.can_run("work", (), "")

"""A task that asks for a range of versions runs only by a plugin with such a version, and holds up no other task."""

from __future__ import annotations

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core import tasks
from gowork.leader._core.effects import StartWork
from gowork.leader._core.explain import explain, waiting_by_reason
from gowork.leader._core.model import Outcome, Plugin, Spec, Status, WaitCode
from gowork.leader._core.ranges import RANGE_KEY, labels_of, range_of

OLD, NEW = Plugin("images", "1.2.0"), Plugin("images", "2.0.0")
GPU = ("gpu", "yes")


def ranged(id: str, wanted: str, *labels: tuple[str, str], handler: str = "work") -> Spec:
    return spec(id, handler=handler, selector=((RANGE_KEY, wanted), *labels))


def told(core: Core, id: str) -> tuple[list[WaitCode], str]:
    """Why it waits: the codes, and the first reason with its advice."""
    reasons = explain(core.state, core.task(id), core.now).reasons
    return [reason.code for reason in reasons], f"{reasons[0].message}; {reasons[0].advice}"


def test_a_range_sorts_before_every_label_and_is_told_from_them() -> None:
    selector = tuple(sorted([GPU, (" ", "blank"), (RANGE_KEY, ">=1")]))
    assert (range_of(selector), labels_of(selector)) == (">=1", ((" ", "blank"), GPU))
    assert (range_of((GPU,)), labels_of((GPU,))) == ("", (GPU,))
    assert (range_of(()), labels_of(())) == ("", ())


def test_a_task_goes_to_the_worker_whose_plugin_is_within_its_range_whoever_has_more_room() -> None:
    core = Core()
    old, new = core.connect("old", slots=9, plugin=OLD), core.connect("new", slots=1, plugin=NEW)
    core.submit(ranged("a", ">=2"), ranged("b", "<2"), spec("c"))
    assert core.dispatch() == {old: ["b", "c"], new: ["a"]}


def test_a_task_without_a_version_that_it_takes_waits_and_holds_up_nothing() -> None:
    core = Core()
    old = core.connect(plugin=OLD)
    core.submit(ranged("a", ">=2"), spec("b"), ranged("c", "<2"))
    assert core.dispatch() == {old: ["b", "c"]}
    new = core.connect("new", plugin=NEW)
    assert core.dispatch() == {new: ["a"]}


@pytest.mark.parametrize("plugin", [None, Plugin("images"), Plugin("images", "unknown")], ids=str)
def test_a_worker_whose_version_is_not_known_gets_only_tasks_without_a_range(plugin: Plugin | None) -> None:
    core = Core()
    worker = core.connect(plugin=plugin)
    core.submit(ranged("a", ">=0"), spec("b"))
    assert core.dispatch() == {worker: ["b"]}


def test_the_range_is_that_of_the_default_handler_for_tasks_that_name_none() -> None:
    core = Core()
    core.connect("old", handlers=("work",), default="work", plugin=OLD)
    new = core.connect("new", handlers=("work",), default="work", plugin=NEW)
    core.submit(ranged("a", ">=2", handler=""), ranged("b", ">=2", handler=""))
    assert core.dispatch() == {new: ["a", "b"]}


def test_a_range_and_labels_hold_together() -> None:
    core = Core()
    core.connect("old", plugin=OLD, labels=dict([GPU]))
    core.connect("plain", plugin=NEW)
    core.submit(ranged("a", ">=2", GPU))
    assert core.dispatch() == {}
    worker = core.connect("both", plugin=NEW, labels=dict([GPU]))
    assert core.dispatch() == {worker: ["a"]}


def test_a_callback_worker_gets_no_task_with_a_range() -> None:
    core = Core()
    core.do(cmd.Join("c", "127.0.0.1:1", ""))
    core.submit(ranged("a", ">=1", handler=""))
    assert not any(isinstance(effect, StartWork) for effect in core.do(cmd.Dispatch()).effects)
    assert told(core, "a")[0] == [WaitCode.PLUGIN_VERSION]


def test_a_range_outlives_the_leader() -> None:
    core = Core()
    core.submit(ranged("a", ">=2"))
    core.restart()
    core.connect("old", plugin=OLD)
    assert core.dispatch() == {}
    new = core.connect("new", plugin=NEW)
    assert core.dispatch() == {new: ["a"]}


def test_a_worker_that_comes_back_with_another_version_gets_what_that_may_run() -> None:
    core = Core()
    core.connect(plugin=OLD)
    core.submit(ranged("a", ">=2"))
    assert core.dispatch() == {}
    upgraded = core.connect(plugin=NEW)
    assert core.dispatch() == {upgraded: ["a"]}


def test_what_does_not_fit_one_form_stays_within_its_range() -> None:
    core = Core()
    first = core.connect("first", form="1", plugin=OLD)
    core.connect("outside", form="2", plugin=NEW)
    core.submit(ranged("a", "<2"))
    assert core.dispatch() == {first: ["a"]}
    core.report(first, "a", Outcome.INTERRUPTED, unfit=True, reason="payload: no such field")
    # No form within the range is left, so the same worker gets it again, and refuses it for good.
    assert core.dispatch() == {first: ["a"]}


def test_what_one_version_does_not_read_another_one_tries_and_the_record_shows_both() -> None:
    core = Core()
    old, new = core.connect("old", form="1", slots=9, plugin=OLD), core.connect("new", form="2", plugin=NEW)
    core.submit(spec("a"))
    assert core.dispatch() == {old: ["a"]}
    core.report(old, "a", Outcome.INTERRUPTED, unfit=True, reason="payload: no such field")
    assert core.dispatch() == {new: ["a"]}
    core.report(new, "a")
    assert core.status("a") is Status.COMPLETED
    attempts = [(each.outcome, each.plugin, each.reason) for each in core.standing("a").attempts]
    assert attempts == [(Outcome.INTERRUPTED, OLD, "payload: no such field"), (Outcome.COMPLETED, NEW, "")]


def test_why_names_the_versions_that_are_connected_and_that_none_is_within() -> None:
    core = Core()
    for name, plugin in (("a", OLD), ("b", OLD), ("c", Plugin("images", "1.9")), ("d", None), ("e", Plugin("x"))):
        core.connect(name, plugin=plugin)
    core.submit(ranged("t", ">=2,<3"))
    core.dispatch()
    codes, words = told(core, "t")
    assert codes == [WaitCode.PLUGIN_VERSION]
    assert words == (
        "no worker has the handler 'work' from a plugin whose version is within >=2,<3; there is images 1.2.0 (2 "
        "workers), images 1.9 (1 worker), a plugin without a version (1 worker), x without a version (1 worker); start "
        "a worker with such a version, or schedule the task anew with another range"
    )
    verdicts = explain(core.state, core.task("t"), core.now, verbose=True).verdicts
    assert {verdict.code for verdict in verdicts} == {WaitCode.PLUGIN_VERSION}
    assert verdicts[0].message == "it has images 1.2.0, and the task takes >=2,<3"
    assert waiting_by_reason(core.state, core.now) == {("default", "plugin_version"): 1}


def test_why_names_a_few_versions_of_very_many() -> None:
    core = Core()
    for number in range(8):
        core.connect(f"w{number}", plugin=Plugin("images", f"1.{number}"))
    core.submit(ranged("t", ">=2"))
    core.dispatch()
    assert "images 1.4 (1 worker), 3 more; " in told(core, "t")[1]


def test_why_gives_what_comes_nearest_to_running_it() -> None:
    core = Core()
    core.submit(ranged("t", ">=2", GPU))
    assert told(core, "t")[0] == [WaitCode.NO_HANDLER]
    core.connect("plain", plugin=NEW)
    codes, words = told(core, "t")
    assert (codes, "carries the labels gpu=yes;" in words) == ([WaitCode.SELECTOR], True)
    core.connect("old", plugin=OLD, labels=dict([GPU]))
    codes, words = told(core, "t")
    assert (codes, "there is images 1.2.0 (1 worker);" in words) == ([WaitCode.PLUGIN_VERSION], True)
    core.connect("busy", plugin=NEW, labels=dict([GPU]), credit=0)
    assert told(core, "t")[0] == [WaitCode.NO_SLOT]


def test_waiting_tasks_ask_for_a_bounded_number_of_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "RANGES_MAX", 3)
    core = Core()
    core.submit(*(ranged(f"t{number}", f"<{number + 1}") for number in range(3)))
    refused = core.submit(ranged("u", ">=9"), ranged("v", ">=9"), spec("w"))
    assert isinstance(refused, cmd.Refused)
    assert refused.code == cmd.TOO_MANY_RANGES
    assert refused.message.startswith("plugin_version: the tasks that wait ask for 3 ranges, these for 1 more, and the")
    # A known range, and none, are taken.
    assert isinstance(core.submit(ranged("x", "<2"), spec("y")), cmd.Submitted)
    core.do(cmd.Cancel("t2"))
    # The last one, beside a task that asks for a label alone.
    assert isinstance(core.submit(ranged("u", ">=9"), spec("z", selector=(GPU,))), cmd.Submitted)
    assert core.state.queues.ranges == {"<1": 1, "<2": 1, ">=9": 1}

"""Tasks that are granted and changes that are applied in runs come to what they come to one by one; runs do occur."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from core_picture import picture
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from leader_core import Core, spec
from test_core_invariants import HANDLERS, KEYS, QUEUES, Cluster, reporting

from gowork.leader._core import commands as cmd
from gowork.leader._core import dispatch, runs
from gowork.leader._core.lanes import Lane
from gowork.leader._core.model import Outcome, Priority, Status
from gowork.leader._core.queues import Queues
from gowork.leader._core.state import Settings

#: Windows in which a run begins and ends, and that a run may fill.
ROOMY = Settings(window=12, lane_page=4, lane_min=3, timers_max=8)


class Runs(Cluster):
    """As Cluster, but several tasks are submitted and reported at once."""

    compares = True
    # Runs are longer where every worker takes tasks of all queues, and lost tasks run again.
    names_queues = False
    comes_after = False
    once = ()
    bounds = ROOMY
    rounds = 40

    def __init__(self) -> None:
        super().__init__()
        self.submitted = 0

    @rule(
        number=st.integers(2, 9),
        handler=HANDLERS,
        queue=QUEUES,
        key=KEYS,
        odd=st.sampled_from(["", "", "delayed", "expiring", "other", "unique", "after"]),
        place=st.integers(0, 8),
    )
    def submit_many(self, number: int, handler: str, queue: str, key: str, odd: str, place: int) -> None:
        ids = [f"m{self.submitted + each}" for each in range(number)]
        bodies = {id: bytes(2 << 10) for id in ids if id.endswith("7")}
        specs = [spec(id, handler=handler, queue=queue, key=key, body=bodies.get(id, b"")) for id in ids]
        self.submitted += number
        if odd and place < number:
            # One among them is not like the others.
            specs[place] = spec(
                specs[place].id,
                handler="other" if odd == "other" else handler,
                queue=queue,
                key=key,
                run_in_ms=1000 if odd == "delayed" else 0,
                expires_in_ms=3000 if odd == "expiring" else 0,
                unique="u1" if odd == "unique" else "",
                after=(specs[place - 1].id,) if odd == "after" else (),
            )
        self.core.submit(*specs)

    @precondition(lambda self: any(worker.held for worker in self.core.state.connections.values()))
    @rule(data=st.data(), odd=st.sampled_from([Outcome.COMPLETED, Outcome.COMPLETED, *Outcome]))
    def report_all_that_is_held(self, data: st.DataObject, odd: Outcome) -> None:
        connections = [number for number, worker in self.core.state.connections.items() if worker.held]
        connection = data.draw(st.sampled_from(sorted(connections)))
        held = self.core.state.connections[connection].held
        fences = data.draw(st.permutations(list(held)))
        reports = [
            report
            for place, fence in enumerate(fences)
            for report in reporting(
                connection,
                fence,
                held[fence],
                odd if place == len(fences) // 2 else Outcome.COMPLETED,
                by_columns=False,
            ).reports
        ]
        ids = [held[fence] for fence in fences]
        self.core.do(cmd.ReceiveFrame(connection, reports))
        for id in ids:
            if self.core.status(id) is Status.COMPLETED:
                self.accepted[id, self.core.task(id).seq] = self.accepted.get((id, self.core.task(id).seq), 0) + 1


@pytest.mark.longer
def test_changes_in_runs_come_to_what_they_come_to_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: Counter[str] = Counter()
    for kind, name in (
        (Queues, "add_run"),
        (Queues, "start_run"),
        (Lane, "remove_run"),
        (dispatch._Turn, "_take_more"),
    ):
        whole = getattr(kind, name)

        def counted(self: object, *arguments: Any, whole=whole, name=name) -> None:
            whole(self, *arguments)
            lengths[name] += len(arguments[-1]) > 1

        monkeypatch.setattr(kind, name, counted)
    # The same histories each time, so that runs are sure to occur. They are slow, so a failing one is not made shorter.
    chosen = settings(
        max_examples=60,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
    )
    run_state_machine_as_test(Runs, settings=chosen)
    assert len(lengths) == 4
    assert min(lengths.values()) > 5, lengths


def grown(number: int) -> Core:
    """A core with a worker and `number` submitted tasks, all of one lane."""
    core = Core(compares=True)
    core.connect(slots=number, credit=number)
    core.submit(*[spec(f"t{each}") for each in range(number)])
    return core


def test_a_lane_that_a_run_empties_is_dropped() -> None:
    core = grown(5)
    core.dispatch()
    assert core.state.queues.lanes == 0
    assert core.state.queues.waiting == core.state.queues.loaded == 0
    queue = core.state.queues.get("default")
    assert queue is not None
    assert queue.running == 5


def test_a_lane_that_a_run_brings_low_asks_for_more() -> None:
    core = Core(Settings(window=4, lane_min=4, lane_page=4), compares=True)
    core.submit(*[spec(f"t{each}") for each in range(9)])
    core.connect(slots=4, credit=4)
    assert core.state.queues.loaded == 4
    core.dispatch()
    # The core of the tests pages in after each command.
    assert core.state.queues.loaded == 4
    assert core.state.queues.waiting == 5


def test_a_queue_with_nothing_left_after_a_run_is_forgotten() -> None:
    core = grown(3)
    (ids,) = core.dispatch().values()
    reports = [cmd.Report(core.standing(id).fence, id, Outcome.COMPLETED) for id in ids]
    core.do(cmd.ReceiveFrame(1, reports))
    assert core.state.queues.get("default") is None
    assert core.state.finished_tasks == 3


def test_queues_whose_last_task_starts_alone_keep_the_order_that_single_grants_give_them() -> None:
    core = Core(compares=True)
    core.submit(spec("a"), spec("b", queue="mail"))
    core.connect(slots=2, credit=2)
    core.dispatch()
    assert [queue.name for queue in core.state.queues] == ["default", "mail"]
    assert core.state.queues.waiting == 0


def test_workers_hold_what_each_of_them_was_given() -> None:
    core = Core(compares=True)
    core.connect("w1", slots=2, credit=2)
    core.connect("w2", slots=3, credit=3)
    core.submit(*[spec(f"t{each}") for each in range(5)])
    core.dispatch()
    assert {worker.name: len(worker.held) for worker in core.state.workers.values()} == {"w1": 2, "w2": 3}
    assert {worker.name: worker.granted for worker in core.state.workers.values()} == {"w1": 2, "w2": 3}


@settings(max_examples=60, deadline=None)
@given(
    rooms=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=4),
    queues=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(0, 12)), min_size=1, max_size=2),
    is_dialled=st.booleans(),
)
def test_workers_get_in_runs_what_they_get_one_by_one(
    rooms: list[tuple[int, int]], queues: list[tuple[int, int, int]], is_dialled: bool
) -> None:
    core = Core(compares=True)
    for number, (slots, credit) in enumerate(rooms):
        core.connect(f"w{number}", slots=slots, credit=credit, default="work")
    if is_dialled:
        core.do(cmd.Join("callback", "127.0.0.1:9"))
    for number, (tasks, weight, limit) in enumerate(queues):
        name = f"q{number}"
        core.do(cmd.ConfigureQueue(name, weight=weight, concurrency_limit=limit))
        handler = "" if is_dialled else "work"
        core.submit(*[spec(f"{name}-{each}", queue=name, handler=handler) for each in range(tasks)])
    # The core of the tests compares.
    core.dispatch()


def limited(**settings: Any) -> Core:
    """A core with a worker, ten tasks, and these settings of their queue."""
    core = Core(compares=True)
    core.do(cmd.ConfigureQueue("default", **settings))
    core.submit(*[spec(f"t{each}") for each in range(10)])
    core.connect(slots=10, credit=10)
    return core


def test_a_run_of_grants_keeps_to_the_limit_of_its_queue() -> None:
    core = limited(concurrency_limit=4)
    assert core.dispatch() == {1: ["t0", "t1", "t2", "t3"]}


def test_a_queue_that_gets_a_run_moves_back_in_the_order_of_queues_by_each_grant() -> None:
    core = limited(weight=4)
    core.dispatch()
    queue = core.state.queues.get("default")
    assert queue is not None
    assert queue.virtual == 2.5


def test_a_run_of_grants_passes_over_no_lower_priority_for_ever() -> None:
    core = Core(compares=True)
    core.submit(spec("low"))
    core.wall_ms += dispatch.STARVING_MS
    core.submit(*[spec(f"h{each}", priority=Priority.HIGH) for each in range(20)])
    core.connect(slots=12, credit=12)
    assert core.dispatch()[1].index("low") == dispatch.STARVING_TURNS - 1


def test_a_run_of_grants_ends_before_a_task_that_has_expired() -> None:
    core = Core(compares=True)
    core.connect(slots=9, credit=9)
    core.submit(spec("a"), spec("b"), spec("late", expires_in_ms=10), spec("c"))
    core.wall_ms += 20
    assert core.dispatch() == {1: ["a", "b", "c"]}


def test_a_run_of_grants_ends_before_a_task_with_a_concurrency_key() -> None:
    core = Core(compares=True)
    core.do(cmd.ConfigureQueue("default", key_concurrency_limit=1))
    core.connect(slots=9, credit=9)
    core.submit(spec("a"), spec("b"), spec("k1", key="k"), spec("k2", key="k"), spec("c"), spec("d"))
    assert core.dispatch() == {1: ["a", "b", "k1", "c", "d"]}


def test_a_run_of_grants_counts_for_the_rate_limit() -> None:
    core = limited(rate_limit=1.0, rate_burst=6)
    assert len(core.dispatch()[1]) == 6
    core.mono += 2
    core.submit(*[spec(f"u{each}") for each in range(9)])
    core.do(cmd.ReceiveFrame(1, credit=30))
    assert len(core.dispatch()[1]) == 2


def test_a_run_of_grants_ends_before_a_task_that_does_not_fit_every_worker() -> None:
    core = Core(compares=True)
    old = core.connect("old", slots=2, credit=2, form="1")
    core.submit(spec("a"), spec("b"))
    core.dispatch()
    new = core.connect("new", slots=1, credit=1, form="2")
    core.report(old, "a", Outcome.INTERRUPTED)
    core.report(old, "b", Outcome.INTERRUPTED, unfit=True)
    core.do(cmd.ReceiveFrame(old, credit=4))
    core.submit(spec("c"))
    assert core.dispatch() == {old: ["a", "c"], new: ["b"]}


def test_a_worker_that_reports_a_run_is_given_tasks_again() -> None:
    core = grown(4)
    (ids,) = core.dispatch().values()
    core.submit(spec("next"))
    core.do(cmd.ReceiveFrame(1, credit=8))
    assert core.dispatch() == {1: ["next"]}
    core.do(cmd.ReceiveFrame(1, [cmd.Report(core.standing(id).fence, id, Outcome.COMPLETED) for id in ids]))
    core.submit(spec("last"))
    assert core.dispatch() == {1: ["last"]}


def test_a_run_ends_before_a_change_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    whole = runs._granted

    def granting(*arguments: object) -> int:
        after = whole(*arguments)  # type: ignore[arg-type]
        taken.append(after - arguments[2])  # type: ignore[operator]
        return after

    monkeypatch.setattr(runs, "_granted", granting)
    core = Core(compares=True)
    core.connect(slots=6, credit=6)
    core.submit(spec("a"), spec("b"), spec("c", handler="work", key="k"), spec("d"), spec("e"))
    core.dispatch()
    assert taken == [2, 2]


def test_two_states_that_differ_have_different_pictures() -> None:
    one, other = grown(3), grown(3)
    assert picture(one.state) == picture(other.state)
    other.dispatch()
    assert picture(one.state) != picture(other.state)

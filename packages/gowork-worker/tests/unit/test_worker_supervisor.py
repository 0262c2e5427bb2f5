from __future__ import annotations

import signal
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import ConfigurationError
from gowork.worker._desk.credit import Credit
from gowork.worker._desk.unacknowledged import Unacknowledged
from gowork.worker._runner import messages
from gowork.worker._runner.messages import StopKind
from gowork.worker._supervisor.fleet import _split
from gowork.worker._supervisor.held import Held
from gowork.worker._supervisor.measures import EXECUTIONS_MAX, HANDLERS_MAX, OTHER, QUEUES_MAX, Measures
from gowork.worker._supervisor.options import Options, default_name
from gowork.worker._supervisor.process import describe_exit
from gowork.worker._supervisor.runner import Runner
from gowork.worker._supervisor.settlement import settle_dead
from gowork.worker._supervisor.sharing import share_out
from gowork.worker._supervisor.solo import LENT_PROCESSES_MAX, Solo


def held(fence: int) -> Held:
    return Held(session.Grant(fence=fence, id=f"task-{fence}"))


class QuietRunner(Runner):
    """A runner that only notes what is said to it."""

    def __init__(self, slots: int, load: int = 0, *, alone: bool = False) -> None:
        super().__init__("quiet", slots, None, alone=alone)  # type: ignore[arg-type]
        self.tasks = {-number: held(number) for number in range(1, load + 1)}
        self.is_ready = True
        self.said: list[Any] = []

    def send_grants(self, grants: list[session.Grant]) -> None:
        self.said += [grant.fence for grant in grants]

    def send(self, message: messages.ToRunner) -> None:
        self.said.append(message)


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
    runners = [QuietRunner(count, load) for count, load in zip(slots, loads, strict=True)]
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


def test_reports_are_kept_until_acknowledged_and_sent_once_in_a_session() -> None:
    kept = Unacknowledged()
    kept.add([report(1), report(2)], 101)
    assert [item.fence for item in kept.take(10)] == [1, 2]
    assert kept.take(10) == []
    kept.acknowledge([1, 99])
    kept.resend()
    assert [item.fence for item in kept.take(10)] == [2]
    kept.acknowledge([2])
    assert (len(kept), kept.bytes) == (0, 0)


def test_frame_takes_no_further_batch_past_its_size() -> None:
    kept = Unacknowledged()
    kept.add([report(1)], 60)
    kept.add([report(2)], 60)
    assert [item.fence for item in kept.take(100)] == [1]
    assert kept.has_unsent
    assert [item.fence for item in kept.take(100)] == [2]
    assert not kept.has_unsent


def stopped(fence: int, kind: StopKind) -> Held:
    task = held(fence)
    task.stop_kind = kind
    return task


def test_dead_runner_loses_what_ran_and_returns_the_rest() -> None:
    left = [held(1), held(2), stopped(3, StopKind.CANCEL), stopped(4, StopKind.TIMEOUT), stopped(5, StopKind.INTERRUPT)]
    reports = settle_dead(left, {1, 3, 4, 5}, "the runner exited with code 1", on_purpose=False)
    assert [item.outcome for item in reports] == [
        tasks.ATTEMPT_OUTCOME_LOST,
        tasks.ATTEMPT_OUTCOME_INTERRUPTED,
        tasks.ATTEMPT_OUTCOME_CANCELLED,
        tasks.ATTEMPT_OUTCOME_TIMED_OUT,
        tasks.ATTEMPT_OUTCOME_INTERRUPTED,
    ]
    assert reports[0].reason == "the runner exited with code 1"


def test_runner_ended_on_purpose_blames_nobody_else() -> None:
    reports = settle_dead([held(1), stopped(2, StopKind.TIMEOUT)], {1, 2}, "killed", on_purpose=True)
    assert [item.outcome for item in reports] == [tasks.ATTEMPT_OUTCOME_INTERRUPTED, tasks.ATTEMPT_OUTCOME_TIMED_OUT]


def test_isolated_task_starts_once_a_slot_is_left_to_it() -> None:
    ordinary = [QuietRunner(2, load=2)]
    spawned: list[bool] = []
    solo = Solo(2, ordinary, lambda only: spawned.append(True))
    task = held(1)
    solo.put(task)
    solo.pump(0.0)
    assert spawned == [True]
    assert ordinary[0].said == [messages.Slots(1)]
    apart = QuietRunner(1, alone=True)
    solo.add(apart)
    solo.pump(0.0)
    assert apart.said == []
    ordinary[0].withheld = 1
    solo.pump(0.0)
    assert apart.said == [1]
    assert ordinary[0].lent == 1
    apart.tasks.clear()
    solo.finished(task)
    assert ordinary[0].said == [messages.Slots(1), messages.Slots(2)]
    assert (ordinary[0].lent, ordinary[0].reserved) == (0, 0)


def test_isolated_task_that_waits_gives_its_slot_back_until_it_goes_on() -> None:
    ordinary, apart = QuietRunner(1), QuietRunner(1, alone=True)
    ordinary.withheld = 1
    solo = Solo(1, [ordinary], lambda only: None)
    solo.add(apart)
    solo.put(held(1))
    solo.pump(0.0)
    assert (apart.said, ordinary.lent) == ([1], 1)
    apart.waiting = 1
    solo.lend(apart)
    solo.pump(0.0)
    assert (ordinary.lent, ordinary.reserved, ordinary.said[-1]) == (0, 0, messages.Slots(1))
    apart.waiting = 0
    solo.pump(0.0)
    # It runs: the slot is asked for, and counts as used once it is left.
    assert (ordinary.lent, ordinary.reserved, ordinary.said[-1]) == (0, 1, messages.Slots(0))
    ordinary.withheld = 1
    solo.pump(0.0)
    assert ordinary.lent == 1
    (task,) = apart.tasks.values()
    apart.tasks.clear()
    solo.finished(task)
    assert (ordinary.lent, ordinary.reserved) == (0, 0)


def test_isolated_task_owes_its_slot_to_whoever_follows_the_runner_that_lent_it() -> None:
    first, apart = QuietRunner(2), QuietRunner(1, alone=True)
    first.withheld = 1
    ordinary = [first]
    solo = Solo(2, ordinary, lambda only: None)
    solo.add(apart)
    solo.put(held(1))
    solo.pump(0.0)
    assert apart.said == [1]
    solo.lender_ended(first)
    second = QuietRunner(2)
    ordinary[:] = [second]
    solo.pump(0.0)
    assert second.said == [messages.Slots(1)]
    second.withheld = 1
    solo.pump(0.0)
    assert second.lent == 1


def test_end_of_an_isolated_task_gives_no_slot_back_while_nothing_is_started() -> None:
    ordinary, apart = QuietRunner(2), QuietRunner(1, alone=True)
    ordinary.withheld = 1
    solo = Solo(2, [ordinary], lambda only: None)
    solo.add(apart)
    task = held(1)
    solo.put(task)
    solo.pump(0.0)
    ordinary.said.clear()
    solo.paused = True
    apart.tasks.clear()
    solo.finished(task)
    solo.pump(0.0)
    assert (ordinary.reserved, ordinary.said) == (0, [])


def test_isolated_tasks_that_wait_make_room_for_so_many_processes_at_most() -> None:
    ordinary = QuietRunner(2)
    spawned: list[object] = []
    solo = Solo(2, [ordinary], spawned.append)
    for _ in range(LENT_PROCESSES_MAX + 2):
        runner = QuietRunner(1, load=1, alone=True)
        runner.waiting = 1
        solo.add(runner)
    assert solo.waiting == LENT_PROCESSES_MAX
    solo.put(held(1))
    solo.pump(0.0)
    assert spawned == []
    solo.runners[0].waiting = solo.runners[1].waiting = 0
    solo.runners[0].was_stopped = True
    solo.pump(0.0)
    assert len(spawned) == 1


def test_isolated_task_that_is_taken_back_reserves_nothing() -> None:
    ordinary = [QuietRunner(2)]
    solo = Solo(2, ordinary, lambda only: None)
    task = held(1)
    solo.put(task)
    solo.pump(0.0)
    assert solo.take_back(task)
    assert not solo.take_back(task)
    assert ordinary[0].reserved == 0


def test_isolated_tasks_never_need_more_processes_than_slots() -> None:
    spawned: list[bool] = []
    solo = Solo(2, [QuietRunner(2)], lambda only: spawned.append(True))
    for fence in range(5):
        solo.put(held(fence))
    solo.pump(0.0)
    assert len(spawned) == 2


def apart_for(*plugins: str) -> QuietRunner:
    runner = QuietRunner(1, alone=True)
    runner.only = plugins
    return runner


def held_for(fence: int, *plugins: str) -> Held:
    task = held(fence)
    task.only = plugins
    return task


def test_an_isolated_task_waits_for_a_process_that_has_imported_its_plugin() -> None:
    ordinary = QuietRunner(4)
    ordinary.withheld = 4
    spawned: list[object] = []
    solo = Solo(4, [ordinary], spawned.append)
    other = apart_for("b")
    solo.add(other)
    solo.put(held_for(1, "a"))
    solo.put(held_for(2, "b"))
    solo.pump(0.0)
    assert other.said == [2]
    assert spawned == [("a",)]


def test_an_idle_process_of_another_plugin_makes_room_for_the_first_task_that_has_none() -> None:
    ordinary = QuietRunner(1)
    ordinary.withheld = 1
    spawned: list[object] = []
    solo = Solo(1, [ordinary], spawned.append)
    other = apart_for("b")
    solo.add(other)
    solo.put(held_for(1, "a"))
    solo.put(held_for(2, "b"))
    solo.pump(0.0)
    assert other.said == [messages.Stop()]
    assert spawned == [("a",)]
    own = apart_for("a")
    solo.add(own)
    solo.pump(0.0)
    assert own.said == [1]


def test_idle_process_of_isolated_tasks_is_ended_after_a_while() -> None:
    solo = Solo(2, [], lambda only: None)
    apart = QuietRunner(1, alone=True)
    solo.add(apart)
    solo.retire(29.0)
    assert apart.said == []
    solo.retire(31.0)
    assert apart.said == [messages.Stop()]


def test_slots_are_split_over_runners_and_none_goes_without() -> None:
    assert _split(8, 3) == [3, 3, 2]
    assert _split(1, 4) == [1]
    assert _split(4, 0) == []


def test_end_of_a_process_is_put_in_words() -> None:
    assert describe_exit(3) == "the runner exited with code 3"
    assert describe_exit(-signal.SIGSEGV) == "the runner was killed by signal 11 (SIGSEGV)"
    assert describe_exit(-99) == "the runner was killed by signal 99 (unknown)"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"slots": 0}, "slots is 1 to 10,000"),
        ({"slots": 10_001}, "slots"),
        ({"slots": 2.5}, "slots: 2.5 is no whole number"),
        ({"drain_timeout": float("nan")}, "drain_timeout is 0 to 86,400, not nan"),
        ({"drain_timeout": float("inf")}, "drain_timeout"),
        ({"runners": -1}, "runners"),
        ({"name": ""}, "name"),
        ({"name": "a\tb"}, "printable"),
        ({"labels": {"": "x"}}, "label"),
        ({"labels": {"k": "x" * 254}}, "253"),
        ({"labels": {str(number): "" for number in range(65)}}, "64"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        Options(**options)


def test_default_names_differ() -> None:
    assert default_name() != default_name()


def test_executions_add_up() -> None:
    measures = Measures()
    row = messages.ExecutedRow("q", "h", "completed", (1,) + (0,) * 9 + (2,), 1.5)
    measures.executed([row])
    measures.executed([row])
    buckets = measures.executions["q", "h", "completed"]
    assert (buckets.counts[0], buckets.counts[-1], buckets.total) == (2, 4, 3.0)


def executed(queue: str, handler: str, status: str = "completed", trace_id: str = "") -> messages.ExecutedRow:
    traced = (messages.TracedRow(0, trace_id, 0.5, 7.0),) if trace_id else ()
    return messages.ExecutedRow(queue, handler, status, (1,) + (0,) * 10, 0.5, traced)


def test_queues_and_handlers_beyond_the_first_are_counted_as_others() -> None:
    measures = Measures()
    measures.executed(executed(f"q{number}", "h") for number in range(QUEUES_MAX + 5))
    measures.executed(executed("q1", f"h{number}") for number in range(HANDLERS_MAX + 5))
    assert measures.executions[OTHER, "h", "completed"].counts[0] == 5
    assert measures.executions["q1", OTHER, "completed"].counts[0] == 6
    measures.executed([executed("q1", "h")])
    assert measures.executions["q1", "h", "completed"].counts[0] == 2


def test_combinations_of_queue_handler_and_status_are_bounded_and_none_is_lost() -> None:
    measures = Measures()
    rows = [executed(f"q{queue}", f"h{handler}") for queue in range(QUEUES_MAX) for handler in range(HANDLERS_MAX)]
    measures.executed(rows)
    assert len(measures.executions) == EXECUTIONS_MAX + 1
    assert sum(buckets.counts[0] for buckets in measures.executions.values()) == len(rows)


def test_the_last_traced_attempt_of_a_bucket_is_its_exemplar() -> None:
    measures = Measures()
    measures.executed([executed("q", "h", trace_id="aa"), executed("q", "h", trace_id="bb"), executed("q", "h")])
    assert measures.executions["q", "h", "completed"].exemplars == {0: ("bb", 0.5, 7.0)}

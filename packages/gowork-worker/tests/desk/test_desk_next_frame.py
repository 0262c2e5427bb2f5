"""What there is to say to the leader, and when it has been said."""

from __future__ import annotations

from collections.abc import Callable

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.next_frame import FEW, GATHER_SECONDS, NextFrame


def take(
    coming: NextFrame, bytes_max: int = 1_000, now: float = 0.0, *, held: int = 1, slots: int = 0
) -> session.ConnectRequest | None:
    return coming.take(bytes_max, now, held=held, slots=slots, blocked=False, draining=False)


def fences(frame: session.ConnectRequest | None) -> list[int] | None:
    """The tasks that a frame reports; None: there is no frame."""
    return None if frame is None else [report.fence for report in frame.reports]


def sent(*fences_sent: int) -> NextFrame:
    """One that has sent these reports, none of which is acknowledged."""
    coming = NextFrame()
    coming.keep([session.Report(fence=fence) for fence in fences_sent], 10 * len(fences_sent))
    assert fences(take(coming, slots=16)) == list(fences_sent)
    return coming


def test_a_report_leaves_at_once_after_few_and_gathers_after_several() -> None:
    coming = sent(*range(1, FEW))
    coming.keep([session.Report(fence=FEW)], 10)
    assert fences(take(coming, now=1.0, slots=16)) == [FEW]
    coming.keep([session.Report(fence=5)], 10)
    assert take(coming, now=1.0, slots=16) is None
    assert coming.due == 1.0 + GATHER_SECONDS
    coming.keep([session.Report(fence=6)], 10)
    assert take(coming, now=1.001, slots=16) is None
    assert coming.due == 1.0 + GATHER_SECONDS
    assert fences(take(coming, now=coming.due, slots=16)) == [5, 6]
    assert coming.due is None


def test_a_time_that_came_counts_for_those_that_it_was_set_for() -> None:
    coming = sent(1, 2, 3, 4)
    coming.keep([session.Report(fence=5)], 10)
    assert take(coming, now=1.0, slots=16) is None
    earlier = coming.due
    assert earlier is not None
    # Before the clock has it.
    coming.come_due(earlier)
    assert fences(take(coming, now=1.0, slots=16)) == [5]
    coming.keep([session.Report(fence=6)], 10)
    assert take(coming, now=1.001, slots=16) is None
    coming.come_due(earlier)
    assert take(coming, now=1.001, slots=16) is None


def test_what_gathers_leaves_when_the_leader_has_acknowledged_all_but_few_before_it() -> None:
    coming = sent(1, 2, 3, 4, 5)
    coming.keep([session.Report(fence=6)], 10)
    coming.acknowledge([1])
    assert take(coming, slots=16) is None
    coming.acknowledge([2])
    assert fences(take(coming, slots=16)) == [6]


def test_what_gathers_leaves_when_it_is_half_of_the_window_or_fills_a_frame() -> None:
    coming = sent(1, 2, 3, 4)
    coming.keep([session.Report(fence=fence) for fence in range(5, 12)], 70)
    assert take(coming, slots=16) is None
    coming.keep([session.Report(fence=12)], 10)
    assert fences(take(coming, slots=16)) == list(range(5, 13))
    coming.keep([session.Report(fence=13)], 1_000)
    assert fences(take(coming, slots=16)) == [13]


def test_reports_gather_for_no_ping_no_change_of_the_worker_and_no_goodbye() -> None:
    urges: list[Callable[[NextFrame], None]] = [lambda frame: frame.answer([7]), NextFrame.leave]
    for urge in urges:
        coming = sent(1, 2, 3, 4)
        coming.keep([session.Report(fence=5)], 10)
        assert take(coming, slots=16) is None
        urge(coming)
        assert fences(take(coming, slots=16)) == [5]
    coming = sent(1, 2, 3, 4)
    coming.keep([session.Report(fence=5)], 10)
    assert fences(coming.take(1_000, 0.0, held=1, slots=16, blocked=True, draining=False)) == [5]


def test_nothing_gathers_where_no_task_is_held() -> None:
    coming = sent(1, 2, 3, 4)
    coming.keep([session.Report(fence=5)], 10)
    assert take(coming, slots=16) is None
    assert fences(take(coming, held=0, slots=16)) == [5]


def test_a_new_session_is_told_at_once_what_gathered() -> None:
    coming = sent(1, 2, 3, 4)
    coming.keep([session.Report(fence=5)], 10)
    assert take(coming, slots=16) is None
    coming.start_session()
    assert coming.due is None
    assert fences(take(coming, slots=16)) == [1, 2, 3, 4, 5]


def test_reports_that_were_dropped_unsent_are_not_counted() -> None:
    coming = sent(1, 2, 3, 4)
    coming.keep([session.Report(fence=5), session.Report(fence=6)], 20)
    coming.drop([5])
    assert (coming.unacknowledged.unsent, coming.unacknowledged.awaited) == (1, 4)


def test_credit_alone_is_told_when_a_quarter_of_the_window_is_free_or_nothing_waits() -> None:
    coming = NextFrame()
    coming.credit._rate = 320.0
    assert coming.credit.buffer == 16
    frame = take(coming, held=0, slots=16)
    assert frame is not None
    assert list(frame.credit) == [32]
    coming.credit.granted(32, 0.0)
    assert take(coming, held=32, slots=16) is None
    assert take(coming, held=25, slots=16) is None
    frame = take(coming, held=24, slots=16)
    assert frame is not None
    assert list(frame.credit) == [40]
    coming.credit.granted(8, 0.0)
    assert take(coming, held=32, slots=16) is None
    coming.credit.waited()
    # The buffer is gone, and a slot is free.
    frame = take(coming, held=15, slots=16)
    assert frame is not None
    assert list(frame.credit) == [41]


def test_credit_goes_with_reports_however_little_it_is() -> None:
    coming = NextFrame()
    coming.credit._rate = 320.0
    take(coming, held=0, slots=16)
    coming.credit.granted(32, 0.0)
    coming.keep([session.Report(fence=1)], 10)
    frame = take(coming, held=31, slots=16)
    assert fences(frame) == [1]
    assert frame is not None
    assert list(frame.credit) == [33]


def test_all_is_acknowledged_once_each_report_is() -> None:
    coming = NextFrame()
    coming.keep([session.Report(fence=1), session.Report(fence=2)], 10)
    coming.acknowledge([1])
    assert coming.unacknowledged
    coming.acknowledge([2])
    assert not coming.unacknowledged


def test_a_leader_that_does_not_read_columns_is_told_the_same_by_reports() -> None:
    coming = NextFrame()
    columns = session.Completions(ids=["a", "b"], fences=[1, 2], execution_us=[5, 0], results=["1", ""])
    columns.result_data.extend([b"", b"two"])
    columns.traceparents.extend(["", "00-1-2-01"])
    coming.keep_completions(columns, [1, 2])
    frame = take(coming)
    completed = tasks.ATTEMPT_OUTCOME_COMPLETED
    one = session.Report(fence=1, id="a", outcome=completed, result="1", execution_us=5)
    two = session.Report(fence=2, id="b", outcome=completed, result_data=b"two", traceparent="00-1-2-01")
    assert frame == session.ConnectRequest(reports=[one, two])
    coming.start_session(reads_completions=True)
    assert take(coming) == session.ConnectRequest(completions=[columns])
    coming.start_session()
    assert take(coming) == session.ConnectRequest(reports=[one, two])


def test_the_goodbye_comes_with_the_last_report() -> None:
    coming = NextFrame()
    coming.leave()
    for fence in (1, 2):
        coming.keep([session.Report(fence=fence)], 100)
    said = []
    while (frame := take(coming, 100)) is not None:
        said.append(([report.fence for report in frame.reports], any(each.leaving for each in frame.conditions)))
    assert said == [([1], False), ([2], True)]
    assert coming.has_left


def test_a_word_of_progress_is_said_once() -> None:
    coming = NextFrame()
    coming.progress[1] = session.ProgressReport(fence=1, fraction=0.5)
    frame = take(coming)
    assert frame is not None
    assert [word.fraction for word in frame.progress] == [0.5]
    assert take(coming) is None


def test_pings_of_an_earlier_session_are_not_answered() -> None:
    coming = NextFrame()
    coming.answer([7])
    coming.start_session()
    assert take(coming) is None


def test_each_session_is_told_all_that_no_earlier_one_has_acknowledged() -> None:
    coming = NextFrame()
    coming.keep([session.Report(fence=1), session.Report(fence=2)], 10)
    for left in ([1, 2], [2]):
        coming.start_session()
        frame = take(coming)
        assert frame is not None
        assert [report.fence for report in frame.reports] == left
        coming.acknowledge([1])


def test_a_leader_that_would_drop_what_a_follow_up_asks_for_is_told_of_a_failure_and_the_next_one_of_the_completion():
    coming = NextFrame()
    plain = session.Report(fence=1, id="a", outcome=tasks.ATTEMPT_OUTCOME_COMPLETED, follow_ups=[tasks.Task(id="b")])
    once = session.Report(fence=2, id="c", outcome=tasks.ATTEMPT_OUTCOME_COMPLETED, execution_us=5)
    once.follow_ups.add(id="d", on_lost=tasks.ON_LOST_FAIL)
    coming.start_session(heeds_on_lost=False)
    coming.keep([plain, once], 100)
    frame = coming.take(1000, 0.0, held=0, slots=1, blocked=False, draining=False)
    assert frame is not None
    assert frame.reports[0] == plain
    failed = frame.reports[1]
    assert (failed.fence, failed.outcome, failed.execution_us) == (2, tasks.ATTEMPT_OUTCOME_FAILED, 5)
    assert failed.failure.kind == tasks.FAILURE_KIND_REJECTED
    assert "asks for on_lost, which this leader is too old to know" in failed.failure.message
    assert not failed.follow_ups
    coming.start_session()
    again = coming.take(1000, 0.0, held=0, slots=1, blocked=False, draining=False)
    assert again is not None
    assert list(again.reports) == [plain, once]


def test_a_leader_without_unique_keys_gets_no_follow_up_that_has_one() -> None:
    coming = NextFrame()
    reports = [session.Report(fence=fence, outcome=tasks.ATTEMPT_OUTCOME_COMPLETED) for fence in (1, 2)]
    reports[0].follow_ups.add(id="once", on_lost=tasks.ON_LOST_FAIL)
    reports[1].follow_ups.add(id="keyed", on_lost=tasks.ON_LOST_FAIL, unique_key="k")
    coming.start_session(heeds_unique_keys=False)
    coming.keep(reports, 100)
    frame = coming.take(1000, 0.0, held=0, slots=1, blocked=False, draining=False)
    assert frame is not None
    assert frame.reports[0] == reports[0]
    assert "asks for unique_key, which this leader is too old to know" in frame.reports[1].failure.message
    later = session.Report(
        fence=3, outcome=tasks.ATTEMPT_OUTCOME_COMPLETED, follow_ups=[tasks.Task(id="x", after=["a"])]
    )
    coming.acknowledge([1, 2])
    coming.keep([later], 100)
    frame = coming.take(1000, 0.0, held=0, slots=1, blocked=False, draining=False)
    assert frame is not None
    assert "asks for after, which this leader is too old to know" in frame.reports[0].failure.message

"""What there is to say to the leader, and when it has been said."""

from __future__ import annotations

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.next_frame import NextFrame


def take(coming: NextFrame, bytes_max: int = 1_000) -> session.ConnectRequest | None:
    return coming.take(bytes_max, held=0, slots=0, blocked=False, draining=False)


def test_all_is_acknowledged_once_each_report_is() -> None:
    coming = NextFrame()
    coming.keep([session.Report(fence=1), session.Report(fence=2)], 10)
    coming.acknowledge([1])
    assert coming.unacknowledged
    coming.acknowledge([2])
    assert not coming.unacknowledged


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

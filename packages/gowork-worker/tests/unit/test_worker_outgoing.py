"""What there is to say to the leader, and when it has been said."""

from __future__ import annotations

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._supervisor.outgoing import Outgoing


def take(outgoing: Outgoing, bytes_max: int = 1_000) -> session.ConnectRequest | None:
    return outgoing.take(bytes_max, held=0, slots=0, blocked=False, draining=False)


def test_all_is_acknowledged_once_each_report_is() -> None:
    outgoing = Outgoing()
    outgoing.keep([session.Report(fence=1), session.Report(fence=2)], 10)
    outgoing.acknowledge([1])
    assert not outgoing.all_acknowledged.is_set()
    outgoing.acknowledge([2])
    assert outgoing.all_acknowledged.is_set()


def test_the_goodbye_comes_with_the_last_report() -> None:
    outgoing = Outgoing()
    outgoing.leaving = True
    for fence in (1, 2):
        outgoing.keep([session.Report(fence=fence)], 100)
    said = []
    while (frame := take(outgoing, 100)) is not None:
        said.append(([report.fence for report in frame.reports], any(each.leaving for each in frame.conditions)))
    assert said == [([1], False), ([2], True)]
    assert outgoing.has_left


def test_a_word_of_progress_is_said_once() -> None:
    outgoing = Outgoing()
    outgoing.progress[1] = session.ProgressReport(fence=1, fraction=0.5)
    frame = take(outgoing)
    assert frame is not None
    assert [word.fraction for word in frame.progress] == [0.5]
    assert take(outgoing) is None


def test_pings_of_an_earlier_session_are_not_answered() -> None:
    outgoing = Outgoing()
    outgoing.answer([7])
    outgoing.start_session()
    assert take(outgoing) is None


def test_each_session_is_told_all_that_no_earlier_one_has_acknowledged() -> None:
    outgoing = Outgoing()
    outgoing.keep([session.Report(fence=1), session.Report(fence=2)], 10)
    for left in ([1, 2], [2]):
        outgoing.start_session()
        frame = take(outgoing)
        assert frame is not None
        assert [report.fence for report in frame.reports] == left
        outgoing.acknowledge([1])

"""The frames that views of the cluster show: their order, their rates, and what stays when nobody answers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gowork.client import (
    Activity,
    Client,
    DeadlineExceeded,
    LeaderUnreachable,
    Liveness,
    Member,
    MemberKind,
    Queue,
    QueueActivity,
    QueueCounts,
)
from gowork.client.frames import Film, Lookout, QueueRow, member_place, queue_place, unanswered
from gowork.client.rates import Flow

SEEN = datetime(2026, 11, 24, 18, tzinfo=UTC)
NOTHING = QueueCounts(0, 0, 0, 0, ())


def member(id: str, liveness: Liveness = Liveness.LIVE) -> Member:
    return Member(id, "", "", liveness, MemberKind.SESSION, 8, 0, ("h",), {}, "", SEEN, SEEN, ())


def row(name: str, waiting: int = 0, running: int = 0, flow: Flow | None = None) -> QueueRow:
    queue = Queue(name, False, 1, 0, 0, 0.0, 0, waiting, 0, running)
    return QueueRow(QueueActivity(queue, None, {}, None), flow)


def activity(uptime: float, **completed: int) -> Activity:
    """An answer in which each queue has completed this many tasks."""
    rows = tuple(
        QueueActivity(Queue(name, False, 1, 0, 0, 0.0, 0, 0, 0, 0), None, {}, QueueCounts(0, count, 0, 0, ()))
        for name, count in completed.items()
    )
    return Activity(rows, len(rows), NOTHING, (0.1, 1.0), (), (), 0, 0, "", 1, None, uptime)


class TestOrder:
    def test_members_in_trouble_come_first_and_those_who_left_last(self) -> None:
        livenesses = (Liveness.LEFT, Liveness.LIVE, Liveness.DRAINING, Liveness.LOST, Liveness.BLOCKED, Liveness.LIVE)
        members = [member(f"{number}", liveness) for number, liveness in enumerate(livenesses)]
        assert [each.id for each in sorted(members, key=member_place)] == ["3", "4", "2", "1", "5", "0"]

    def test_members_in_a_condition_that_is_not_known_come_last(self) -> None:
        members = [member("1", Liveness.UNSPECIFIED), member("2", Liveness.LEFT)]
        assert [each.id for each in sorted(members, key=member_place)] == ["2", "1"]

    def test_queues_where_most_waits_come_first_then_those_that_do_most(self) -> None:
        fast, slow = Flow(0, 9.0, 0, None, None), Flow(0, 1.0, 0, None, None)
        rows = [row("b"), row("a"), row("slow", flow=slow), row("fast", flow=fast), row("runs", running=1), row("w", 5)]
        names = [each.activity.queue.name for each in sorted(rows, key=queue_place)]
        assert names == ["w", "runs", "fast", "slow", "a", "b"]


class TestFilm:
    def test_a_frame_sorts_what_was_answered_and_has_rates_from_the_second_answer_on(self) -> None:
        film = Film("leader:50052")
        first = film.frame(activity(1.0, a=0, b=0), [member("1"), member("0", Liveness.LOST)], 10.0)
        assert [each.id for each in first.members] == ["0", "1"]
        assert (first.address, first.answered_mono, first.total, first.error) == ("leader:50052", 10.0, None, "")
        second = film.frame(activity(3.0, a=2, b=8), [], 12.0)
        assert [(each.activity.queue.name, each.flow and each.flow.finished) for each in second.queues] == [
            ("b", 4.0),
            ("a", 1.0),
        ]
        assert second.total is not None
        assert second.total.finished == 5.0


class TestNoAnswer:
    def test_the_last_frame_stays_with_the_reason(self) -> None:
        last = Film("leader:50052").frame(activity(1.0, a=1), [member("1")], 10.0)
        late = unanswered(last, DeadlineExceeded("too late"))
        assert late.error == "the leader at leader:50052 does not answer"
        assert (late.members, late.queues, late.answered_mono) == (last.members, last.queues, last.answered_mono)

    @pytest.mark.parametrize(
        ("answered", "told"),
        [(False, "no leader answers at other:50052"), (True, "the leader at leader:50052 can't serve now: it stops")],
    )
    def test_a_leader_that_says_why_it_cannot_serve_is_not_called_silent(
        self, monkeypatch: pytest.MonkeyPatch, answered: bool, told: str
    ) -> None:
        def refuse(*_: object, **__: object) -> Activity:
            error = LeaderUnreachable("the leader at leader:50052 can't serve now: it stops")
            error.address, error.answered = "other:50052", answered
            raise error

        monkeypatch.setattr(Client, "activity", refuse)
        last = Film("leader:50052").frame(activity(1.0), (), 0.0)
        with Client("leader:50052") as client:
            assert Lookout(client).look_again(last).error == told

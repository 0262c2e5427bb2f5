"""Rates and latencies from two answers of a leader."""

from __future__ import annotations

import dataclasses

import pytest

from gowork.client import Activity, Queue, QueueActivity, QueueCounts
from gowork.client.rates import Flow, History, quantile, since, summed

BOUNDS = (0.1, 1.0, 10.0)
NOTHING = QueueCounts(0, 0, 0, 0, ())


def counts(submitted: int, completed: int = 0, failed: int = 0, starts: tuple[int, ...] = ()) -> QueueCounts:
    return QueueCounts(submitted, completed, 0, failed, starts)


def answer(
    uptime: float,
    queues: dict[str, QueueCounts | None],
    *,
    term: int = 1,
    queues_total: int | None = None,
    others: QueueCounts = NOTHING,
) -> Activity:
    rows = tuple(
        QueueActivity(Queue(name, False, 1, 0, 0, 0.0, 0, 0, 0, 0), None, {}, row) for name, row in queues.items()
    )
    total = len(rows) if queues_total is None else queues_total
    return Activity(rows, total, others, BOUNDS, (), (), 0, 0, "", term, None, uptime)


def history(*answers: Activity, window: float = 5.0) -> History:
    made = History(window)
    for each in answers:
        made.add(each)
    return made


class TestHistory:
    def test_rates_are_differences_by_the_leaders_uptime(self) -> None:
        before = answer(10.0, {"q": counts(100, 80, 10, (50, 0, 0, 0))})
        latest = answer(14.0, {"q": counts(140, 100, 14, (50, 30, 0, 10))})
        flows, total = history(before, latest).flows()
        flow = flows["q"]
        assert (flow.submitted, flow.finished, flow.failed) == (10.0, 6.0, 1.0)
        # Of the 40 that were started the twentieth lies at two thirds of the second interval.
        assert flow.start_p50 == pytest.approx(0.1 + 0.9 * 20 / 30)
        assert flow.start_p99 == 10.0
        assert total == flow

    def test_cancelled_tasks_are_finished_ones(self) -> None:
        latest = QueueCounts(10, 3, 4, 2, ())
        flows, _ = history(answer(1.0, {"q": NOTHING}), answer(2.0, {"q": latest})).flows()
        assert (flows["q"].finished, flows["q"].failed) == (9.0, 2.0)

    def test_counts_of_another_term_are_not_compared(self) -> None:
        before = answer(1.0, {"q": counts(100)}, term=1)
        assert history(before, answer(2.0, {"q": counts(300)}, term=2)).flows() == ({}, None)

    def test_the_last_two_answers_are_kept_however_short_the_window(self) -> None:
        _, total = history(*(answer(at, {"q": counts(0)}) for at in (1.0, 2.0, 3.0)), window=0.0).flows()
        assert total is not None

    def test_one_answer_alone_tells_no_rates(self) -> None:
        assert history(answer(10.0, {"q": counts(5)})).flows() == ({}, None)

    def test_nothing_started_has_no_latency(self) -> None:
        row = counts(5, 5, 0, (5, 0, 0, 0))
        flows, _ = history(answer(1.0, {"q": row}), answer(2.0, {"q": row})).flows()
        assert flows["q"] == Flow(0.0, 0.0, 0.0, None, None)

    def test_a_queue_that_is_new_began_at_zero(self) -> None:
        flows, total = history(answer(1.0, {}), answer(3.0, {"q": counts(8, 4)})).flows()
        assert (flows["q"].submitted, flows["q"].finished) == (4.0, 2.0)
        assert total is not None
        assert total.submitted == 4.0

    def test_a_queue_that_was_not_told_of_before_is_not_taken_for_new(self) -> None:
        before = answer(1.0, {"q": counts(1)}, queues_total=2)
        flows, total = history(before, answer(2.0, {"q": counts(3), "was-there": counts(1_000)})).flows()
        assert flows.keys() == {"q"}
        assert total is not None
        assert total.submitted == 2.0

    def test_a_queue_without_counts_of_its_own_has_no_rates_and_is_in_the_whole(self) -> None:
        before = answer(1.0, {"q": counts(1), "many": None}, others=counts(10))
        flows, total = history(before, answer(2.0, {"q": counts(2), "many": None}, others=counts(15))).flows()
        assert flows.keys() == {"q"}
        assert total is not None
        assert total.submitted == 6.0

    def test_another_term_begins_anew(self) -> None:
        made = history(answer(100.0, {"q": counts(900)}), answer(1.0, {"q": counts(3)}, term=2))
        assert made.flows() == ({}, None)
        made.add(answer(2.0, {"q": counts(4)}, term=2))
        assert made.flows()[0]["q"].submitted == 1.0

    def test_a_count_that_began_at_zero_again_gives_no_negative_rate(self) -> None:
        before = answer(1.0, {"q": counts(1_000, 990, 10, (500, 500, 0, 0))})
        flows, _ = history(before, answer(2.0, {"q": counts(4, 2, 0, (2, 0, 0, 0))})).flows()
        assert dataclasses.astuple(flows["q"]) == (4.0, 2.0, 0.0, pytest.approx(0.05), pytest.approx(0.099))

    def test_the_rates_are_those_of_the_window(self) -> None:
        answers = [answer(float(second), {"q": counts(second**2)}) for second in range(20)]
        flows, _ = history(*answers, window=5.0).flows()
        assert flows["q"].submitted == (19**2 - 14**2) / 5

    def test_answers_that_are_further_apart_than_the_window_are_compared_all_the_same(self) -> None:
        answers = [answer(60.0 * minute, {"q": counts(60 * minute)}) for minute in range(4)]
        flows, _ = history(*answers, window=5.0).flows()
        assert flows["q"].submitted == 1.0

    def test_an_answer_of_the_same_moment_tells_no_rates(self) -> None:
        assert history(answer(1.0, {"q": counts(1)}), answer(1.0, {"q": counts(2)})).flows() == ({}, None)


class TestQuantile:
    @pytest.mark.parametrize(
        ("share", "numbers", "value"),
        [
            (0.5, (10, 0, 0, 0), 0.05),
            (0.5, (0, 10, 0, 0), 0.55),
            (1.0, (0, 10, 0, 0), 1.0),
            (0.99, (99, 0, 1, 0), 0.1),
            (0.999, (99, 0, 1, 0), 1.0 + 9.0 * 0.9),
            (0.5, (0, 0, 0, 3), 10.0),
            (0.5, (0, 0, 0, 0), None),
            (0.5, (), None),
        ],
    )
    def test_values_lie_evenly_within_an_interval(
        self, share: float, numbers: tuple[int, ...], value: float | None
    ) -> None:
        found = quantile(share, numbers, BOUNDS)
        assert found == (None if value is None else pytest.approx(value))


def test_rows_are_summed_by_place_whatever_their_lengths() -> None:
    assert summed([(1, 2, 3), (), (10,)]) == [11, 2, 3]


def test_every_count_that_fell_shows_that_all_began_anew() -> None:
    before = counts(5, 5, 0, (5, 0, 0, 0))
    assert since(counts(6, 6, 0, (4, 2, 0, 0)), before) == counts(6, 6, 0, (4, 2, 0, 0))
    assert since(counts(6, 6, 0, (5, 1, 0, 0)), before) == counts(1, 1, 0, (0, 1, 0, 0))

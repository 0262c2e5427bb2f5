"""Buckets count what histograms show."""

from __future__ import annotations

from gowork.base.buckets import Buckets


def test_a_value_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    buckets = Buckets((1, 2.5))
    for value in (0.5, 1, 1.5, 2.5, 7):
        buckets.observe(value)
    assert [row[:2] for row in buckets.cumulative()] == [("1.0", 2), ("2.5", 4), ("+Inf", 5)]
    assert buckets.total == 12.5


def test_each_bucket_keeps_the_last_traced_value() -> None:
    buckets = Buckets((1, 2))
    buckets.observe(0.25, "aa")
    buckets.observe(0.5, "bb")
    buckets.observe(0.75)
    buckets.observe(3, "cc")
    exemplars = [exemplar and exemplar[:2] for _, _, exemplar in buckets.cumulative()]
    assert exemplars == [("bb", 0.5), None, ("cc", 3)]


def test_buckets_add_up() -> None:
    one, other = Buckets((1,)), Buckets((1,))
    one.observe(0.5, "aa")
    other.observe(0.5, "bb")
    other.observe(2)
    one.add(other)
    assert one.counts == [2, 1]
    assert one.total == 3
    assert one.exemplars[0].trace_id == "bb"
